"""Our table, in a namespace of the test's own: rules by nft, elements by netlink, both readable by either."""

import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from sampan.host.cni import nftables
from sampan.host.cni.nftables import Element, Nftables, endpoint, port_key, port_name, protocol_key
from tests.host.cni.lab import Lab, inside, output

pytestmark = pytest.mark.root
POD = ip_address("10.88.0.5")
SUBNETS = [ip_network("10.88.0.0/16"), ip_network("fd00:88::/64")]


@pytest.fixture
def netns(short_tmp: Path) -> Iterator[str]:
    lab = Lab(short_tmp)
    try:
        yield lab.netns()
    finally:
        lab.clear()


@pytest.fixture
def tables(netns: str) -> Iterator[Nftables]:
    tables = inside(netns, Nftables)
    try:
        yield tables
    finally:
        tables.close()


def load(netns: str, rules: bytes) -> None:
    subprocess.run(["ip", "netns", "exec", Path(netns).name, "nft", "-f", "-"], input=rules, check=True)


def listed(netns: str) -> str:
    return output("ip", "netns", "exec", Path(netns).name, "nft", "list", "ruleset")


def test_nothing_is_there_before_it_is_loaded(tables: Nftables) -> None:
    assert not tables.has_chain(nftables.PORTS_CHAIN, nftables.PORTS_RULES)
    assert tables.elements("any4") == []


def test_loading_twice_is_loading_once_and_keeps_the_elements(tables: Nftables, netns: str) -> None:
    load(netns, nftables.PORTS)
    once = listed(netns)
    assert tables.has_chain(nftables.PORTS_CHAIN, nftables.PORTS_RULES)
    element = Element("any4", port_key("tcp", 80), endpoint(POD, 8080), "a")
    tables.add([element])
    load(netns, nftables.PORTS)
    assert tables.elements("any4") == [element]
    tables.delete([element])
    assert listed(netns) == once


@pytest.mark.parametrize("make", [nftables.masquerade, nftables.hairpin])
def test_a_networks_chain_is_found_again_and_loading_it_twice_changes_nothing(
    tables: Nftables, netns: str, make: object
) -> None:
    assert callable(make)
    load(netns, nftables.PORTS)
    chain = make("lab", SUBNETS)
    assert not tables.has_chain(chain.name, chain.rules)
    load(netns, chain.ruleset)
    once = listed(netns)
    assert tables.has_chain(chain.name, chain.rules)
    load(netns, chain.ruleset)
    assert listed(netns) == once
    assert make("lab", SUBNETS) == chain
    assert make("lab", SUBNETS[:1]).name != chain.name
    assert make("other", SUBNETS).name != chain.name


def test_a_chain_that_somebody_emptied_is_not_there(tables: Nftables, netns: str) -> None:
    chain = nftables.masquerade("lab", SUBNETS)
    load(netns, chain.ruleset)
    load(netns, f"flush chain inet sampan {chain.name}".encode())
    assert not tables.has_chain(chain.name, chain.rules)


ELEMENTS = [
    (
        Element("any4", port_key("tcp", 80), endpoint(POD, 8080), "o"),
        'tcp . 80 comment "o" : 10.88.0.5 . 8080',
    ),
    (
        Element("host4", ip_address("192.0.2.7").packed + port_key("udp", 53), endpoint(POD, 5353), "o"),
        '192.0.2.7 . udp . 53 comment "o" : 10.88.0.5 . 5353',
    ),
    (
        Element("published4", protocol_key("sctp") + endpoint(POD, 9), b"", "o"),
        'sctp . 10.88.0.5 . 9 comment "o"',
    ),
    (
        Element("any6", port_key("tcp", 443), endpoint(ip_address("fd00::5"), 443), "o"),
        'tcp . 443 comment "o" : fd00::5 . 443',
    ),
    (
        Element(
            "host6",
            ip_address("fd00::1").packed + port_key("tcp", 1),
            endpoint(ip_address("fd00::5"), 2),
            "o",
        ),
        'fd00::1 . tcp . 1 comment "o" : fd00::5 . 2',
    ),
    (
        Element("published6", protocol_key("udp") + endpoint(ip_address("fd00::5"), 2), b"", "o"),
        "udp . fd00::5 . 2",
    ),
]


@pytest.mark.parametrize(("element", "words"), ELEMENTS, ids=[each.map for each, _ in ELEMENTS])
def test_an_element_is_read_back_and_nft_shows_what_was_meant(
    tables: Nftables, netns: str, element: Element, words: str
) -> None:
    load(netns, nftables.PORTS)
    tables.add([element])
    assert tables.elements(element.map) == [element]
    assert words.replace("443", "443") in listed(netns)
    tables.delete([element])
    assert tables.elements(element.map) == []


def test_a_taken_key_keeps_all_the_others_out(tables: Nftables, netns: str) -> None:
    load(netns, nftables.PORTS)
    first = Element("any4", port_key("tcp", 80), endpoint(POD, 80), "first")
    tables.add([first])
    for _ in range(2):
        with pytest.raises(FileExistsError):
            tables.add(
                [
                    Element("any4", port_key("tcp", 79), endpoint(POD, 80), "second"),
                    Element("any4", port_key("tcp", 80), endpoint(POD, 81), "second"),
                    Element("any4", port_key("tcp", 81), endpoint(POD, 80), "second"),
                ]
            )
    assert tables.elements("any4") == [first]
    tables.add([Element("any4", port_key("udp", 80), endpoint(POD, 80), "second")])


def test_deleting_what_is_gone_deletes_nothing_else(tables: Nftables, netns: str) -> None:
    load(netns, nftables.PORTS)
    kept = Element("any4", port_key("tcp", 80), endpoint(POD, 80), "o")
    tables.add([kept])
    with pytest.raises(FileNotFoundError):
        tables.delete([kept, Element("any4", port_key("tcp", 81))])
    assert tables.elements("any4") == [kept]
    tables.delete([])


def test_many_elements_fit(tables: Nftables, netns: str) -> None:
    load(netns, nftables.PORTS)
    owner = f"{'c' * 64}/eth0/12345678"
    elements = [Element("any4", port_key("tcp", port), endpoint(POD, port), owner) for port in range(1, 1201)]
    tables.add(elements[:600])
    tables.add(elements[600:])
    assert set(tables.elements("any4")) == set(elements)
    tables.delete(elements)


def test_a_key_is_named_for_people() -> None:
    assert port_name(port_key("udp", 5353)) == "5353/udp"
    assert port_name(ip_address("fd00::1").packed + port_key("sctp", 1)) == "1/sctp"


def test_the_hosts_socket_is_opened_anew_after_closing() -> None:
    with nftables.opened() as first:
        assert first.elements("nosuchmap") == []
    nftables.close()
    nftables.close()
    with nftables.opened() as second:
        assert second is not first
    nftables.close()


def test_a_large_batch_that_fails_is_known_to_have_failed(tables: Nftables, netns: str) -> None:
    load(netns, nftables.PORTS)
    elements = [
        Element("any4", port_key("tcp", port), endpoint(POD, port), "o" * 100) for port in range(1, 2001)
    ]
    tables.add(elements)
    with pytest.raises(FileExistsError):
        tables.add(elements)
    assert len(tables.elements("any4")) == 2000
