"""Links, addresses and routes on the real kernel, in a namespace of the test's own."""

import errno
import socket
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_address
from pathlib import Path

import pytest

from sampan.host.cni.links import PROMISC, UP, Links, VethEnd, random_mac
from tests.host.cni.lab import Lab, inside, output

pytestmark = pytest.mark.root


@pytest.fixture
def lab(short_tmp: Path) -> Iterator[Lab]:
    lab = Lab(short_tmp)
    try:
        yield lab
    finally:
        lab.clear()


@pytest.fixture
def netns(lab: Lab) -> str:
    return lab.netns()


@pytest.fixture
def links(netns: str) -> Iterator[Links]:
    with inside(netns, Links) as links:
        yield links


def shown(netns: str, *args: str) -> str:
    return output("ip", "-n", Path(netns).name, *args)


def test_random_addresses_are_local_and_unicast() -> None:
    macs = {random_mac() for _ in range(64)}
    assert len(macs) == 64
    assert {int(mac[:2], 16) & 3 for mac in macs} == {2}


def test_a_bridge_is_up_and_keeps_its_address(links: Links, netns: str) -> None:
    links.add_bridge("br0", 1400)
    made = links.get("br0")
    assert made is not None
    assert (made.kind, made.up) == ("bridge", True)
    assert "mtu 1400" in shown(netns, "link", "show", "br0")
    with pytest.raises(FileExistsError):
        links.add_bridge("br0")
    pair(links, netns, "a", "b", made.index)
    again = links.get("br0")
    assert again is not None
    assert again.mac == made.mac


def pair(links: Links, netns: str, host: str, pod: str, master: int) -> None:
    with Path(netns).open() as pinned:
        links.add_veth(VethEnd(host, random_mac()), VethEnd(pod, random_mac(), 1300), pinned.fileno(), master)


def test_a_pair_has_the_names_addresses_and_master_asked_for(links: Links, netns: str) -> None:
    links.add_bridge("br0")
    bridge = links.get("br0")
    assert bridge is not None
    pair(links, netns, "outer", "inner", bridge.index)
    links.set_hairpin("outer")
    outer, inner = links.get("outer"), links.get("inner")
    assert outer is not None
    assert inner is not None
    assert (outer.master, outer.up, outer.kind) == (bridge.index, True, "veth")
    assert (inner.master, inner.up) == (0, False)
    assert "hairpin on" in shown(netns, "-d", "link", "show", "outer")
    assert {link.name for link in links.all()} == {"lo", "br0", "outer", "inner"}
    assert links.delete("outer")
    assert links.get("inner") is None
    assert not links.delete("outer")


def test_addresses_are_usable_at_once(links: Links, netns: str) -> None:
    links.add_bridge("br0")
    bridge = links.get("br0")
    assert bridge is not None
    for address in (IPv4Interface("10.9.0.1/24"), IPv6Interface("fd00:9::1/64")):
        links.add_address(bridge.index, address)
        links.add_address(bridge.index, address)  # there already: fine
    assert IPv4Interface("10.9.0.1/24") in links.addresses(bridge.index, socket.AF_INET)
    assert IPv6Interface("fd00:9::1/64") in links.addresses(bridge.index, socket.AF_INET6)
    assert links.addresses(1, socket.AF_INET) == []
    listed = shown(netns, "addr", "show", "br0")
    assert "brd 10.9.0.255" in listed
    assert "tentative" not in "".join(line for line in listed.splitlines() if "fd00" in line)
    links.delete_address(bridge.index, IPv4Interface("10.9.0.1/24"))
    assert links.addresses(bridge.index, socket.AF_INET) == []


def test_routes_lead_where_they_are_told(links: Links, netns: str) -> None:
    links.add_bridge("br0")
    bridge = links.get("br0")
    assert bridge is not None
    links.add_address(bridge.index, IPv4Interface("10.9.0.1/24"))
    links.add_address(bridge.index, IPv6Interface("fd00:9::1/64"))
    links.add_route(bridge.index, IPv4Network("0.0.0.0/0"), ip_address("10.9.0.9"))
    links.add_route(bridge.index, IPv6Network("::/0"), ip_address("fd00:9::9"))
    links.add_route(bridge.index, IPv4Network("192.0.2.0/24"), None)
    routes = shown(netns, "route") + shown(netns, "-6", "route")
    assert "default via 10.9.0.9 dev br0" in routes
    assert "default via fd00:9::9 dev br0" in routes
    assert "192.0.2.0/24 dev br0" in routes
    assert links.link_towards(ip_address("198.51.100.1")) == bridge.index
    assert links.link_towards(ip_address("fd00:9::2")) == bridge.index


def test_a_route_to_nowhere_is_the_kernels_error(links: Links) -> None:
    with pytest.raises(OSError, match="route 10") as caught:
        links.add_route(1, IPv4Network("10.0.0.0/8"), ip_address("10.9.0.9"))
    assert caught.value.errno in (errno.ENETUNREACH, errno.ENETDOWN)


def test_flags_are_set(links: Links) -> None:
    links.add_bridge("br0")
    bridge = links.get("br0")
    assert bridge is not None
    links.set_flags(bridge.index, UP | PROMISC)
    again = links.get("br0")
    assert again is not None
    assert again.flags & PROMISC
