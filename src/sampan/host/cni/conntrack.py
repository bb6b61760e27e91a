"""Forgetting UDP flows to a port that has just been published: they would go on to where it led before.

Blocking; for threads. Source: linux/include/uapi/linux/netfilter/nfnetlink_conntrack.h.
"""

import struct
from contextlib import suppress
from socket import AF_INET, AF_INET6

from sampan.host.cni.netlink import DUMP, NETFILTER, Netlink, attribute, attributes, nested

UDP = 17
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK
_TUPLE_ORIG, _ID, _FILTER = 1, 12, 25
_TUPLE_PROTO, _PROTO_NUM, _PROTO_DST_PORT = 2, 1, 3
_FILTER_ORIG = 1
_BY_PROTOCOL_AND_PORT = 1 << 3 | 1 << 5


def forget_udp(port: int) -> None:
    """Delete the tracked UDP flows whose original destination port this is. FileNotFoundError without
    conntrack."""
    with Netlink(NETFILTER) as netlink:
        for family in (AF_INET, AF_INET6):
            for found in netlink.request(_GET, _request(family, port), DUMP, "UDP flows"):
                flow = attributes(found[4:])
                if _port(flow.get(_TUPLE_ORIG, b"")) == port:  # kernels before 5.8 do not filter
                    which = nested(_TUPLE_ORIG, flow[_TUPLE_ORIG]) + attribute(_ID, flow.get(_ID, bytes(4)))
                    with suppress(FileNotFoundError):  # it has timed out
                        netlink.request(_DELETE, struct.pack("!BBH", family, 0, 0) + which, what="UDP flow")


def _request(family: int, port: int) -> bytes:
    protocol = attribute(_PROTO_NUM, struct.pack("B", UDP))
    ports = attribute(_PROTO_DST_PORT, struct.pack("!H", port))
    wanted = nested(_FILTER, attribute(_FILTER_ORIG, struct.pack("=I", _BY_PROTOCOL_AND_PORT)))
    return (
        struct.pack("!BBH", family, 0, 0)
        + nested(_TUPLE_ORIG, nested(_TUPLE_PROTO, protocol, ports))
        + wanted
    )


def _port(tuple_: bytes) -> int:
    """The destination port of a UDP flow; 0 for another protocol."""
    protocol = attributes(attributes(tuple_).get(_TUPLE_PROTO, b""))
    if protocol.get(_PROTO_NUM) != bytes((UDP,)):
        return 0
    return int.from_bytes(protocol.get(_PROTO_DST_PORT, b""), "big")
