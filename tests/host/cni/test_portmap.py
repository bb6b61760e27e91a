"""Ports of the host that lead to a pod, called from where callers are."""

import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from sampan.host.cni import nftables
from sampan.host.cni.network import CniNetwork
from sampan.model.errors import Unavailable
from sampan.runtime.ports import Attachment, PortMapping
from tests.host.cni.lab import Echo, Lab, ask_tcp, ask_udp, attached, inside, output

pytestmark = pytest.mark.root
V4, V6 = socket.AF_INET, socket.AF_INET6
ASK: dict[str, Callable[[str, int, int], str]] = {"tcp": ask_tcp, "udp": ask_udp}


@pytest_asyncio.fixture
async def lab(short_tmp: Path) -> AsyncIterator[Lab]:
    lab = Lab(short_tmp)
    try:
        yield lab
    finally:
        await lab.close()


async def published(lab: Lab, *ports: PortMapping, snat: bool = True) -> tuple[CniNetwork, Attachment]:
    """An attached dual-stack pod that publishes `ports`."""
    conf = lab.conf(dual=True)
    conf["plugins"][1]["snat"] = snat
    network = lab.network()
    pod = lab.pod(lab.write(conf), *ports)
    return network, attached(pod, await network.attach(pod))


def both(port: int, inside_: int = 80, host_ip: str = "") -> tuple[PortMapping, PortMapping]:
    return PortMapping("tcp", inside_, port, host_ip), PortMapping("UDP", inside_, port, host_ip)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_the_hosts_own_addresses_lead_to_the_pod(lab: Lab, protocol: str) -> None:
    network, pod = await published(lab, *both(24311))
    server = Echo(pod.netns, 80)
    try:
        ask = ASK[protocol]
        assert ask("127.0.0.1", 24311, V4) == f"{lab.v4}.1"  # masqueraded: the pod cannot answer 127.0.0.1
        assert ask(f"{lab.v4}.1", 24311, V4) == f"{lab.v4}.1"
        await network.detach(pod)
        with pytest.raises(OSError):
            ask("127.0.0.1", 24311, V4)
    finally:
        server.close()
    assert lab.leftovers(pod) == []


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_ipv6_leads_to_the_pods_ipv6_address(lab: Lab, protocol: str) -> None:
    network, pod = await published(lab, *both(24312))
    server = Echo(pod.netns, 80, V6)
    try:
        assert ASK[protocol](f"{lab.v6}:1", 24312, V6) == f"{lab.v6}:1"
    finally:
        server.close()
    await network.detach(pod)
    assert lab.leftovers(pod) == []


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("caller", ["the pod itself", "a neighbour", "a pod of another network"])
async def test_pods_may_call_a_published_port(lab: Lab, tmp_path: Path, protocol: str, caller: str) -> None:
    network, pod = await published(lab, *both(24313))
    server = Echo(pod.netns, 80)
    other = Lab(tmp_path)
    try:
        calling = pod
        if caller == "a neighbour":
            calling = lab.pod(pod.conflist)
            calling = attached(calling, await network.attach(calling))
        elif caller == "a pod of another network":
            calling = other.pod(other.write(other.conf(ipMasq=False)))
            calling = attached(calling, await network.attach(calling))
        seen = inside(calling.netns, lambda: ASK[protocol](f"{lab.v4}.1", 24313, V4))
        # on the same bridge the answer must come back through the host; from elsewhere the caller is seen
        assert seen == (f"{other.v4}.2" if caller == "a pod of another network" else f"{lab.v4}.1")
        if calling is not pod:
            await network.detach(calling)
    finally:
        server.close()
        await other.close()
    await network.detach(pod)


async def test_a_host_address_publishes_there_only(lab: Lab) -> None:
    network, pod = await published(lab, *both(24314, host_ip="127.0.0.1"))
    server = Echo(pod.netns, 80)
    try:
        assert ask_tcp("127.0.0.1", 24314)
        with pytest.raises(OSError):
            ask_tcp(f"{lab.v4}.1", 24314)
    finally:
        server.close()
    await network.detach(pod)
    assert lab.leftovers(pod) == []


async def test_one_port_may_be_published_on_two_addresses(lab: Lab) -> None:
    ports = (PortMapping("tcp", 80, 24315, "127.0.0.1"), PortMapping("tcp", 81, 24315, f"{lab.v4}.1"))
    network, pod = await published(lab, *ports)
    servers = [Echo(pod.netns, 81)]
    try:
        assert ask_tcp(f"{lab.v4}.1", 24315)
        with pytest.raises(OSError):
            ask_tcp("127.0.0.1", 24315)  # nobody listens on 80
    finally:
        servers[0].close()
    await network.detach(pod)


@pytest.mark.parametrize(
    ("address", "maps"), [("0.0.0.0", {"any4"}), ("::", {"any6"}), ("fd00::9", {"host6"})]
)
async def test_an_address_concerns_its_own_family_only(lab: Lab, address: str, maps: set[str]) -> None:
    network, pod = await published(lab, PortMapping("tcp", 80, 24316, address), snat=False)
    with nftables.opened() as tables:
        found = {
            name for name in nftables.MAPS for e in tables.elements(name) if e.owner.startswith(pod.pod_id)
        }
    assert found == maps
    await network.detach(pod)


async def test_without_snat_nothing_is_masqueraded(lab: Lab) -> None:
    network, pod = await published(lab, *both(24317), snat=False)
    server = Echo(pod.netns, 80)
    try:
        assert ask_tcp(f"{lab.v4}.1", 24317)
    finally:
        server.close()
    assert "hairpin" not in "".join(
        line for line in output("nft", "list", "chains").splitlines() if lab.name in line
    )
    await network.detach(pod)


async def test_a_taken_port_is_refused_with_its_owner_and_the_owner_keeps_it(lab: Lab) -> None:
    network, first = await published(lab, PortMapping("tcp", 80, 24318))
    second = lab.pod(first.conflist, PortMapping("tcp", 80, 24319), PortMapping("tcp", 80, 24318))
    with pytest.raises(Unavailable, match=f"24318/tcp is already published by pod {first.pod_id}"):
        await network.attach(second)
    await network.detach(second)
    await network.check(first)
    server = Echo(first.netns, 80)
    try:
        assert ask_tcp("127.0.0.1", 24318)
    finally:
        server.close()
    await network.detach(first)
    assert lab.leftovers(first, second) == []


async def test_a_udp_flow_follows_its_port_to_the_next_pod(lab: Lab) -> None:
    """Without forgetting, the kernel would go on sending the client's packets to the pod that is gone."""
    ports = (PortMapping("udp", 80, 24320),)
    network, first = await published(lab, *ports)
    server = Echo(first.netns, 80)
    with socket.socket(V4, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((f"{lab.v4}.1", 24320))
        client.send(b"?")
        assert client.recv(100)
        server.close()
        await network.detach(first)
        second = lab.pod(first.conflist, *ports)
        second = attached(second, await network.attach(second))
        server = Echo(second.netns, 80)
        try:
            client.send(b"?")
            assert client.recv(100)
        finally:
            server.close()
    await network.detach(second)


async def test_every_protocol_and_many_ports(lab: Lab) -> None:
    ports = [PortMapping(protocol, 80, 24330 + i) for i in range(20) for protocol in ("tcp", "udp", "sctp")]
    network, pod = await published(lab, *ports)
    listed = output("nft", "list", "map", "inet", "sampan", "any4")
    assert sum(pod.pod_id in part for part in listed.split(",")) == 60
    assert "sctp . 24330" in listed
    await network.detach(pod)
    assert lab.leftovers(pod) == []


async def test_a_port_without_a_host_port_is_not_published(lab: Lab) -> None:
    network, pod = await published(lab, PortMapping("tcp", 80, 0))
    assert not any("any" in each for each in lab.leftovers(pod))
    await network.detach(pod)


async def test_a_rule_set_that_was_lost_is_loaded_again(lab: Lab) -> None:
    """Somebody may flush the whole rule set; the next pod must not be cut off for it."""
    network, first = await published(lab, PortMapping("tcp", 80, 24321))
    await network.detach(first)
    chains = [
        line.split()[1]
        for line in output("nft", "list", "table", "inet", "sampan").splitlines()
        if "chain " in line
    ]
    mine = [chain for chain in chains if lab.name in output("nft", "list", "chain", "inet", "sampan", chain)]
    assert len(mine) == 2
    for chain in mine:
        output("nft", "delete", "chain", "inet", "sampan", chain)
    await network.attach(first)
    assert all(lab.name in output("nft", "list", "chain", "inet", "sampan", chain) for chain in mine)
    await network.detach(first)


async def test_outside_the_host_nobody_reaches_its_loopback(lab: Lab) -> None:
    """route_localnet, which published ports need, would let pods send to 127.0.0.1 (CVE-2020-8558)."""
    network, pod = await published(lab, PortMapping("tcp", 80, 24322))
    name = Path(pod.netns).name
    output("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    output("ip", "-n", name, "route", "add", "127.0.0.9", "via", f"{lab.v4}.1", "dev", "eth0", "onlink")
    output("ip", "-n", name, "addr", "del", "127.0.0.1/8", "dev", "lo")
    output("ip", "-n", name, "rule", "add", "pref", "0", "to", "127.0.0.9", "lookup", "main")
    with socket.create_server(("127.0.0.9", 0)) as server:
        port = server.getsockname()[1]

        def call() -> str:
            with socket.socket() as client:
                client.settimeout(0.5)
                client.connect(("127.0.0.9", port))
                return "reached"

        with pytest.raises(OSError):
            inside(pod.netns, call)
    await network.detach(pod)
