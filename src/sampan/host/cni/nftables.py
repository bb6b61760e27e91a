"""Our one nftables table, `inet sampan`: what is in it, and its maps' elements read and written by
netlink.

Rules are loaded by `nft` once per network (`PORTS`, `masquerade` and `hairpin` are its input); what changes
with each pod are map elements, for which no program is started. An element's comment names the attachment
that owns it. Blocking; for threads. Sources: man 8 nft; linux/include/uapi/linux/netfilter/nf_tables.h.
"""

import errno
import hashlib
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from sampan.host.cni.netlink import (
    ACK,
    CREATE,
    DUMP,
    EXCL,
    NETFILTER,
    Netlink,
    attribute,
    attributes,
    each_attribute,
    nested,
    text,
)

TABLE = "sampan"
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
MAPS = ("host4", "any4", "published4", "host6", "any6", "published6")

_NFPROTO_INET = 1
_SUBSYSTEM = 10 << 8
_GETCHAIN = _SUBSYSTEM | 4
_NEWSETELEM, _GETSETELEM, _DELSETELEM = _SUBSYSTEM | 12, _SUBSYSTEM | 13, _SUBSYSTEM | 14
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_USE = 1, 3, 6
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ELEMENT = 1, 2, 3, 1
_ELEMENT_KEY, _ELEMENT_DATA, _ELEMENT_USERDATA, _DATA_VALUE = 1, 2, 6, 1
_COMMENT = 0  # the kind of user data that nft shows as a comment

PORTS_CHAIN, PORTS_RULES = "martians", 1  # the last thing that PORTS makes: if it is there, all of it is
# What a packet to a published port meets. `host*` map a port of one host address, `any*` of every local one;
# both lead to a pod's address and port. `published*` holds those pod ends whose callers on the same bridge or
# on the host's loopback are masqueraded, else the answer would take the short way back. The last chain closes
# what route_localnet opens (CVE-2020-8558): nobody outside reaches 127.0.0.0/8. Loading it twice is harmless.
PORTS = b"""
table inet sampan {
 map host4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
 map any4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
 set published4 { type inet_proto . ipv4_addr . inet_service; }
 map host6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
 map any6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
 set published6 { type inet_proto . ipv6_addr . inet_service; }
 chain ports { }
 chain prerouting { type nat hook prerouting priority -100; }
 chain output { type nat hook output priority -100; }
 chain postrouting { type nat hook postrouting priority 99; }
 chain martians { type filter hook prerouting priority -300; }
}
flush chain inet sampan ports
flush chain inet sampan prerouting
flush chain inet sampan output
flush chain inet sampan postrouting
flush chain inet sampan martians
table inet sampan {
 chain ports {
  dnat ip to ip daddr . meta l4proto . th dport map @host4
  dnat ip to meta l4proto . th dport map @any4
  dnat ip6 to ip6 daddr . meta l4proto . th dport map @host6
  dnat ip6 to meta l4proto . th dport map @any6
 }
 chain prerouting { fib daddr type local jump ports; }
 chain output { fib daddr type local jump ports; }
 chain postrouting {
  ct status dnat ip saddr 127.0.0.1 meta l4proto . ip daddr . th dport @published4 masquerade
 }
 chain martians { iifname != "lo" ip daddr 127.0.0.0/8 drop; }
}
"""

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain of one network: its name says what is in it, so that it need only be looked for."""

    name: str
    ruleset: bytes
    rules: int


def masquerade(network: str, subnets: Sequence[Network]) -> Chain:
    """What leaves these subnets for elsewhere gets the address of the host; multicast does not leave."""
    rules = [
        f"{_ip(subnet)} saddr {subnet} {_ip(subnet)} daddr != {subnet} "
        f"{_ip(subnet)} daddr != {'224.0.0.0/4' if subnet.version == 4 else 'ff00::/8'} masquerade"
        for subnet in subnets
    ]
    return _chain("masquerade", network, 100, rules)


def hairpin(network: str, subnets: Sequence[Network]) -> Chain:
    """A pod that calls a port published by a pod of its own subnet must be answered through the host."""
    rules = [
        f"{_ip(subnet)} saddr {subnet} ct status dnat "
        f"meta l4proto . {_ip(subnet)} daddr . th dport @published{subnet.version} masquerade"
        for subnet in subnets
    ]
    return _chain("hairpin", network, 99, rules)


def _chain(purpose: str, network: str, priority: int, rules: Sequence[str]) -> Chain:
    name = f"{purpose}_{hashlib.sha256(repr((network, rules)).encode()).hexdigest()[:12]}"
    chain = f"inet {TABLE} {name}"
    lines = [
        f"add table inet {TABLE}",
        f"add chain {chain} {{ type nat hook postrouting priority {priority}; }}",
        f"flush chain {chain}",
        *(f'add rule {chain} {rule} comment "network {network[:80]}"' for rule in rules),
    ]
    return Chain(name, "\n".join([*lines, ""]).encode(), len(rules))


def _ip(subnet: Network) -> str:
    return "ip" if subnet.version == 4 else "ip6"


@dataclass(frozen=True, slots=True)
class Element:
    """An element of one of `MAPS`; `data` is empty in a set."""

    map: str
    key: bytes
    data: bytes = b""
    owner: str = ""


def endpoint(address: Address, port: int) -> bytes:
    """`address . port` as a key or as data: every part is padded to four bytes."""
    return address.packed + struct.pack("!HH", port, 0)


def protocol_key(protocol: str) -> bytes:
    return struct.pack("=Bxxx", PROTOCOLS[protocol])


def port_key(protocol: str, port: int) -> bytes:
    return protocol_key(protocol) + struct.pack("!HH", port, 0)


def port_name(key: bytes) -> str:
    """The port and protocol of a `host*` or `any*` key, such as 80/tcp."""
    number, port = key[-8], int.from_bytes(key[-4:-2], "big")
    return f"{port}/{next((name for name, each in PROTOCOLS.items() if each == number), number)}"


class Nftables:
    """A socket to nf_tables of the namespace it was opened in."""

    def __init__(self) -> None:
        self._netlink = Netlink(NETFILTER)

    def close(self) -> None:
        self._netlink.close()

    def has_chain(self, name: str, rules: int) -> bool:
        """Whether our table has this chain with at least so many rules in it."""
        payload = _header() + text(_CHAIN_TABLE, TABLE) + text(_CHAIN_NAME, name)
        try:
            answers = self._netlink.request(_GETCHAIN, payload, what=f"chain {name}")
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        used = attributes(answers[0][4:]).get(_CHAIN_USE, bytes(4))
        return int.from_bytes(used, "big") >= rules

    def elements(self, map: str) -> list[Element]:
        """Everything in a map or set; nothing if it does not exist."""
        payload = _header() + text(_LIST_TABLE, TABLE) + text(_LIST_SET, map)
        try:
            answers = self._netlink.request(_GETSETELEM, payload, DUMP, f"map {map}")
        except OSError as error:
            if error.errno == errno.ENOENT:
                return []
            raise
        lists = (attributes(answer[4:]).get(_LIST_ELEMENTS, b"") for answer in answers)
        return [_decode(map, element) for each in lists for _, element in each_attribute(each)]

    def add(self, elements: Iterable[Element]) -> None:
        """Add all or none. FileExistsError if a key is taken."""
        self._batch(_NEWSETELEM, CREATE | EXCL, elements)

    def delete(self, elements: Iterable[Element]) -> None:
        """Delete all or none. FileNotFoundError if one is gone."""
        self._batch(_DELSETELEM, 0, elements)

    def _batch(self, kind: int, flags: int, elements: Iterable[Element]) -> None:
        begin = struct.pack("!BBH", 0, 0, 10)
        body = [(kind, flags, _encode(element)) for element in elements]
        if body:
            body[-1] = (kind, flags | ACK, body[-1][2])
            self._netlink.batch([(_BATCH_BEGIN, 0, begin), *body, (_BATCH_END, 0, begin)], "published ports")


_host: list[Nftables] = []
_turn = threading.Lock()


@contextmanager
def opened() -> Iterator[Nftables]:
    """The host's nf_tables, one user at a time; call it from a thread that is in the host's namespace.

    The socket stays open: closing one makes the kernel finish every deletion there and then, some 10 ms.
    """
    with _turn:
        if not _host:
            _host.append(Nftables())
        yield _host[0]


def close() -> None:
    """Close it; the next user opens another."""
    with _turn:
        if _host:
            _host.pop().close()


def _header() -> bytes:
    return struct.pack("!BBH", _NFPROTO_INET, 0, 0)


def _encode(element: Element) -> bytes:
    parts = [nested(_ELEMENT_KEY, attribute(_DATA_VALUE, element.key))]
    if element.data:
        parts.append(nested(_ELEMENT_DATA, attribute(_DATA_VALUE, element.data)))
    if element.owner:
        comment = element.owner.encode() + b"\0"
        parts.append(attribute(_ELEMENT_USERDATA, bytes((_COMMENT, len(comment))) + comment))
    listed = nested(_LIST_ELEMENTS, nested(_LIST_ELEMENT, *parts))
    return _header() + text(_LIST_TABLE, TABLE) + text(_LIST_SET, element.map) + listed


def _decode(map: str, raw: bytes) -> Element:
    found = attributes(raw)
    user = found.get(_ELEMENT_USERDATA, b"")
    comment = user[2 : 2 + user[1]] if len(user) > 2 and user[0] == _COMMENT else b""
    return Element(
        map,
        attributes(found.get(_ELEMENT_KEY, b"")).get(_DATA_VALUE, b""),
        attributes(found.get(_ELEMENT_DATA, b"")).get(_DATA_VALUE, b""),
        comment.rstrip(b"\0").decode(errors="replace"),
    )
