"""Links, addresses and routes by rtnetlink: just what the built-in plugins do. Blocking; for threads.

A `Links` works in the network namespace of the thread that opened it, also after that thread has moved on.
Source: man 7 rtnetlink, linux/include/uapi/linux/{if_link,rtnetlink,if_addr}.h.
"""

import errno
import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from socket import AF_INET, AF_INET6

from sampan.host.cni.netlink import (
    CREATE,
    DUMP,
    EXCL,
    Netlink,
    attribute,
    attributes,
    nested,
    text,
    u8,
    u32,
)

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _GETROUTE = 24, 26
UP, PROMISC = 0x1, 0x100
OPERSTATE_UP = 6

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER = 1, 3, 4, 10
_IFLA_OPERSTATE, _IFLA_LINKINFO, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 16, 18, 28, 29
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_PEER, _BRPORT_HAIRPIN = 1, 4
_SKIP_STATS = 1 << 3
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_IFA_F_NODAD = 0x2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_TABLE_MAIN, _PROTO_BOOT, _SCOPE_UNIVERSE, _TYPE_UNICAST = 254, 3, 0, 1

_INFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")

IpInterface = IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface as the kernel shows it."""

    index: int
    name: str
    mac: str
    kind: str
    flags: int
    operstate: int
    master: int

    @property
    def up(self) -> bool:
        return bool(self.flags & UP)


def random_mac() -> str:
    """A locally administered unicast address."""
    raw = bytearray(os.urandom(6))
    raw[0] = raw[0] & 0xFC | 0x02
    return raw.hex(":")


class Links:
    """Operations on the links of one network namespace."""

    def __init__(self) -> None:
        self._netlink = Netlink()

    def __enter__(self) -> "Links":
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def get(self, name: str) -> Link | None:
        """The link of that name, or None."""
        payload = _INFO.pack(0, 0, 0, 0, 0) + u32(_IFLA_EXT_MASK, _SKIP_STATS) + text(_IFLA_IFNAME, name)
        try:
            answers = self._netlink.request(_GETLINK, payload, what=name)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return _link(answers[0])

    def all(self) -> list[Link]:
        """Every link of the namespace."""
        payload = _INFO.pack(0, 0, 0, 0, 0) + u32(_IFLA_EXT_MASK, _SKIP_STATS)
        return [_link(answer) for answer in self._netlink.request(_GETLINK, payload, DUMP, "links")]

    def add_bridge(self, name: str, mtu: int = 0) -> None:
        """A bridge with an address of its own, so that its ports' coming and going does not change it."""
        payload = (
            _INFO.pack(0, 0, 0, UP, UP)
            + text(_IFLA_IFNAME, name)
            + attribute(_IFLA_ADDRESS, bytes.fromhex(random_mac().replace(":", "")))
            + (u32(_IFLA_MTU, mtu) if mtu else b"")
            + nested(_IFLA_LINKINFO, text(_INFO_KIND, "bridge"))
        )
        self._netlink.request(_NEWLINK, payload, CREATE | EXCL, f"bridge {name}")

    def add_veth(self, host: "VethEnd", pod: "VethEnd", netns_fd: int, master: int) -> None:
        """A veth pair: one end here, up, on the bridge `master`; the other in `netns_fd`, down."""
        peer = _INFO.pack(0, 0, 0, 0, 0) + pod.encode() + u32(_IFLA_NET_NS_FD, netns_fd)
        payload = (
            _INFO.pack(0, 0, 0, UP, UP)
            + host.encode()
            + u32(_IFLA_MASTER, master)
            + nested(
                _IFLA_LINKINFO,
                text(_INFO_KIND, "veth"),
                nested(_INFO_DATA, attribute(_VETH_PEER, peer)),
            )
        )
        self._netlink.request(_NEWLINK, payload, CREATE | EXCL, f"veth {host.name} and {pod.name}")

    def set_hairpin(self, name: str) -> None:
        """Let a bridge send a frame back to the port it came from."""
        port = nested(_INFO_SLAVE_DATA, u8(_BRPORT_HAIRPIN, 1))
        payload = (
            _INFO.pack(0, 0, 0, 0, 0)
            + text(_IFLA_IFNAME, name)
            + nested(_IFLA_LINKINFO, text(_INFO_SLAVE_KIND, "bridge"), port)
        )
        self._netlink.request(_NEWLINK, payload, what=f"hairpin mode of {name}")

    def set_flags(self, index: int, flags: int) -> None:
        """Set UP, PROMISC."""
        self._netlink.request(_NEWLINK, _INFO.pack(0, 0, index, flags, flags), what=f"flags of link {index}")

    def delete(self, name: str) -> bool:
        """Delete a link; False if there is none."""
        try:
            self._netlink.request(_DELLINK, _INFO.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name), what=name)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
        return True

    def addresses(self, index: int, family: int) -> list[IpInterface]:
        """The addresses of a link in one family (AF_INET, AF_INET6)."""
        payload = _ADDRESS.pack(family, 0, 0, 0, index)
        answers = self._netlink.request(_GETADDR, payload, DUMP, f"addresses of link {index}")
        return [found for at, found in map(_address, answers) if at == index]

    def add_address(self, index: int, address: IpInterface) -> None:
        """Give a link an address, usable at once: nobody else may have it, so nobody is asked (no DAD)."""
        with suppress(FileExistsError):
            self._address(_NEWADDR, index, address)

    def delete_address(self, index: int, address: IpInterface) -> None:
        self._address(_DELADDR, index, address)

    def _address(self, kind: int, index: int, address: IpInterface) -> None:
        ip = address.ip
        payload = (
            _ADDRESS.pack(_family(ip), address.network.prefixlen, 0, 0, index)
            + attribute(_IFA_LOCAL, ip.packed)
            + attribute(_IFA_ADDRESS, ip.packed)
        )
        if isinstance(address, IPv6Interface):
            payload += u32(_IFA_FLAGS, _IFA_F_NODAD)
        elif address.network.prefixlen < 31:
            payload += attribute(_IFA_BROADCAST, address.network.broadcast_address.packed)
        flags = CREATE | EXCL if kind == _NEWADDR else 0
        self._netlink.request(kind, payload, flags, f"address {address} of link {index}")

    def add_route(
        self, index: int, destination: IPv4Network | IPv6Network, gateway: IPv4Address | IPv6Address | None
    ) -> None:
        """A route through the link; without a gateway the destination is on it."""
        payload = _ROUTE.pack(
            _family(destination.network_address),
            destination.prefixlen,
            0,
            0,
            _TABLE_MAIN,
            _PROTO_BOOT,
            _SCOPE_UNIVERSE,
            _TYPE_UNICAST,
            0,
        )
        if destination.prefixlen:
            payload += attribute(_RTA_DST, destination.network_address.packed)
        payload += u32(_RTA_OIF, index)
        if gateway is not None:
            payload += attribute(_RTA_GATEWAY, gateway.packed)
        self._netlink.request(_NEWROUTE, payload, CREATE | EXCL, f"route {destination} via {gateway}")

    def link_towards(self, address: IPv4Address | IPv6Address) -> int:
        """The index of the link by which packets to `address` leave."""
        payload = _ROUTE.pack(_family(address), len(address.packed) * 8, 0, 0, 0, 0, 0, 0, 0)
        payload += attribute(_RTA_DST, address.packed)
        answer = self._netlink.request(_GETROUTE, payload, what=f"route to {address}")[0]
        return int.from_bytes(attributes(answer[_ROUTE.size :])[_RTA_OIF], "little" if _LITTLE else "big")


@dataclass(frozen=True, slots=True)
class VethEnd:
    """One end of a pair to be made. `mtu` 0 is the kernel's default."""

    name: str
    mac: str
    mtu: int = 0

    def encode(self) -> bytes:
        return (
            text(_IFLA_IFNAME, self.name)
            + attribute(_IFLA_ADDRESS, bytes.fromhex(self.mac.replace(":", "")))
            + (u32(_IFLA_MTU, self.mtu) if self.mtu else b"")
        )


_LITTLE = struct.pack("=H", 1) == b"\1\0"


def _family(address: IPv4Address | IPv6Address) -> int:
    return int(AF_INET if address.version == 4 else AF_INET6)


def _link(answer: bytes) -> Link:
    _, _, index, flags, _ = _INFO.unpack_from(answer)
    found = attributes(answer[_INFO.size :])
    info = attributes(found.get(_IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=_text(found[_IFLA_IFNAME]),
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
        kind=_text(info.get(_INFO_KIND, b"")),
        flags=flags,
        operstate=found.get(_IFLA_OPERSTATE, b"\0")[0],
        master=struct.unpack("=I", found.get(_IFLA_MASTER, bytes(4)))[0],
    )


def _address(answer: bytes) -> tuple[int, IpInterface]:
    family, prefix, _, _, index = _ADDRESS.unpack_from(answer)
    found = attributes(answer[_ADDRESS.size :])
    packed = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
    if family == AF_INET:
        return index, IPv4Interface((packed, prefix))
    return index, IPv6Interface((packed, prefix))


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
