"""Attachments on the real kernel: built in and executed, switched while pods run, cut off at every step."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sampan import tasks
from sampan.host.cni import bridge
from sampan.host.cni.chain import read
from sampan.model.errors import SampanError, Unavailable
from sampan.runtime.ports import PortMapping
from tests.host.cni.lab import PLUGINS, Lab, attached, inside, output, run

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        not (PLUGINS / "bridge").exists(), reason="containernetworking-plugins is not installed"
    ),
]


@pytest_asyncio.fixture
async def lab(short_tmp: Path) -> AsyncIterator[Lab]:
    lab = Lab(short_tmp)
    try:
        yield lab
    finally:
        await lab.close()


def shape(result: bytes) -> dict[str, Any]:
    """A result without what is new each time: names of veths, hardware addresses, addresses, paths."""
    read: dict[str, Any] = json.loads(result)
    read.pop("dns", None)  # the plugins of before 1.2 write an empty one
    for interface in read["interfaces"]:
        assert len(interface.pop("mac").split(":")) == 6
        interface["name"] = "veth" if interface["name"].startswith("veth") else interface["name"]
        interface["sandbox"] = bool(interface.get("sandbox"))
    for ip in read["ips"]:
        ip["address"] = ip["address"].partition("/")[2]
    return read


def kernel(netns: str) -> dict[str, Any]:
    """The pod's side as the kernel shows it."""
    ip = ("ip", "-n", Path(netns).name, "-j")
    links = {link["ifname"]: link for link in json.loads(output(*ip, "addr"))}
    routes = [*json.loads(output(*ip, "route")), *json.loads(output(*ip, "-6", "route"))]
    eth0 = links["eth0"]
    return {
        "lo": "UP" in links["lo"]["flags"],
        "eth0": (eth0["operstate"], eth0["mtu"], sorted(set(eth0["flags"]))),
        "addresses": sorted(
            (each["family"], each["prefixlen"], each.get("broadcast", "")[-4:], each["scope"])
            for each in eth0["addr_info"]
            if each["scope"] == "global"
        ),
        "routes": sorted(
            (route["dst"], route.get("gateway", ""), route["dev"])
            for route in routes
            if "fe80" not in route["dst"]
        ),
    }


def host_side(lab: Lab, result: bytes) -> dict[str, Any]:
    name = next(each["name"] for each in json.loads(result)["interfaces"] if each["name"].startswith("veth"))
    port = json.loads(output("ip", "-j", "-d", "link", "show", name))[0]
    gateway = json.loads(output("ip", "-j", "addr", "show", lab.bridge))[0]
    return {
        "hairpin": port["linkinfo"]["info_slave_data"]["hairpin"],
        "master": port["master"] == lab.bridge,
        "mtu": port["mtu"],
        "accept_ra": Path(f"/proc/sys/net/ipv6/conf/{name}/accept_ra").read_text().strip(),
        "forward": Path("/proc/sys/net/ipv4/ip_forward").read_text().strip(),
        "gateway": sorted(
            (each["local"], each["prefixlen"]) for each in gateway["addr_info"] if each["scope"] == "global"
        ),
        "promisc": "PROMISC" in gateway["flags"],
    }


VARIANTS: dict[str, dict[str, Any]] = {
    "usual": {},
    "dual stack": {"dual": True},
    "default gateway": {"isDefaultGateway": True},
    "no gateway": {"isGateway": False, "ipMasq": False},
    "promiscuous": {"promiscMode": True, "hairpinMode": False},
    "mtu": {"mtu": 1400},
}


@pytest.mark.parametrize(
    ("variant", "version"),
    [*((variant, "1.0.0") for variant in VARIANTS), ("usual", "0.3.1"), ("dual stack", "0.4.0")],
)
async def test_built_in_and_executed_do_the_same(lab: Lab, variant: str, version: str) -> None:
    conf = lab.conf(**VARIANTS[variant])
    conf["cniVersion"] = version
    if variant == "default gateway":
        conf["plugins"][0]["ipam"]["routes"] = []
    conflist = lab.write(conf)
    seen = []
    for builtin in (True, False):
        pod = lab.pod(conflist)
        network = lab.network(builtin)
        outcome = await network.attach(pod)
        seen.append((shape(outcome.result), kernel(pod.netns), host_side(lab, outcome.result)))
        assert outcome.ips[0].startswith(lab.v4)
        await network.detach(attached(pod, outcome))
        assert lab.leftovers(pod) == []
    assert seen[0] == seen[1]


@pytest.mark.parametrize("first", [True, False], ids=["built in, then executed", "executed, then built in"])
async def test_a_node_is_switched_while_its_pods_run(lab: Lab, first: bool) -> None:
    conflist = lab.write(lab.conf())
    before, after = lab.network(first), lab.network(not first)
    old = lab.pod(conflist, PortMapping("tcp", 80, 23411))
    old = attached(old, await before.attach(old))
    new = lab.pod(conflist, PortMapping("tcp", 80, 23412))
    new = attached(new, await after.attach(new))
    taken = sorted(path.name for path in lab.reservations.glob("10*"))
    assert taken == [f"{lab.v4}.2", f"{lab.v4}.3"]  # one book, kept by both
    await after.detach(old)
    await before.detach(new)
    assert lab.leftovers(old, new) == []


@pytest.mark.parametrize("made_by", [True, False], ids=["built in", "executed"])
@pytest.mark.parametrize("undone_by", [True, False], ids=["built in", "executed"])
async def test_del_works_without_the_namespace(lab: Lab, made_by: bool, undone_by: bool) -> None:
    conflist = lab.write(lab.conf())
    pod = lab.pod(conflist, PortMapping("udp", 53, 23413))
    outcome = await lab.network(made_by).attach(pod)
    lab.drop(pod.netns)
    await lab.network(undone_by).detach(attached(pod, outcome))
    # the executed plugin cannot find its masquerading rules any more without the namespace: not ours to undo
    assert [each for each in lab.leftovers(pod) if made_by or not each.startswith("-A ")] == []


@pytest.mark.parametrize(
    "thing", ["a file", "a directory", "a symbolic link", "a fifo", "nothing", "no path"]
)
async def test_del_works_whatever_lies_where_the_namespace_was(lab: Lab, short_tmp: Path, thing: str) -> None:
    conflist = lab.write(lab.conf())
    network = lab.network()
    pod = lab.pod(conflist)
    pod = attached(pod, await network.attach(pod))
    place = short_tmp / "net"
    match thing:
        case "a file":
            place.write_text("x")
        case "a directory":
            place.mkdir()
        case "a symbolic link":
            place.symlink_to(pod.netns)
        case "a fifo":
            os.mkfifo(place)
    await network.detach(replace(pod, netns="" if thing == "no path" else str(place)))
    assert lab.leftovers(pod) == []


@pytest.mark.parametrize("thing", ["a file", "a directory", "a fifo", "nothing"])
async def test_add_refuses_what_is_no_namespace(lab: Lab, short_tmp: Path, thing: str) -> None:
    place = short_tmp / "net"
    match thing:
        case "a file":
            place.write_text("x")
        case "a directory":
            place.mkdir()
        case "a fifo":
            os.mkfifo(place)
    pod = lab.pod(lab.write(lab.conf()), netns=str(place))
    with pytest.raises(Unavailable, match="namespace"):
        await lab.network().attach(pod)
    assert lab.leftovers(pod) == []


async def test_del_may_be_repeated_and_come_without_an_add(lab: Lab) -> None:
    conflist = lab.write(lab.conf())
    network = lab.network()
    pod = lab.pod(conflist, PortMapping("tcp", 80, 23414))
    await network.detach(pod)
    done = attached(pod, await network.attach(pod))
    await network.detach(done)
    await network.detach(done)
    await network.detach(pod)
    assert lab.leftovers(pod) == []


async def test_add_twice_is_refused_and_leaves_the_first_alone(lab: Lab) -> None:
    conflist = lab.write(lab.conf())
    network = lab.network()
    pod = lab.pod(conflist)
    outcome = await network.attach(pod)
    with pytest.raises(Unavailable, match="not detached"):
        await network.attach(pod)
    await network.check(attached(pod, outcome))
    await network.detach(attached(pod, outcome))
    assert lab.leftovers(pod) == []


async def test_when_the_addresses_are_used_up_the_error_says_so_and_one_detach_helps(lab: Lab) -> None:
    conf = lab.conf()
    conf["plugins"][0]["ipam"]["ranges"] = [[{"subnet": f"{lab.v4}.0/30"}]]
    conflist = lab.write(conf)
    network = lab.network()
    first, second = lab.pod(conflist), lab.pod(conflist)
    done = attached(first, await network.attach(first))
    with pytest.raises(SampanError, match=rf"no address is free in {lab.v4}\.1-{lab.v4}\.2"):
        await network.attach(second)
    await network.detach(second)
    await network.detach(done)
    assert (await network.attach(second)).ips == (f"{lab.v4}.2",)
    await network.detach(second)
    assert lab.leftovers(first, second) == []


async def test_two_networks_do_not_meet(lab: Lab, tmp_path: Path) -> None:
    other = Lab(tmp_path)
    try:
        pods = [(each, each.pod(each.write(each.conf())), each.network()) for each in (lab, other)]
        outcomes = [await network.attach(pod) for _, pod, network in pods]
        assert outcomes[0].ips[0].startswith(lab.v4)
        assert outcomes[1].ips[0].startswith(other.v4)
        await pods[0][2].detach(attached(pods[0][1], outcomes[0]))
        assert lab.leftovers(pods[0][1]) == []
        await pods[1][2].check(attached(pods[1][1], outcomes[1]))
        await pods[1][2].detach(attached(pods[1][1], outcomes[1]))
        assert other.leftovers(pods[1][1]) == []
    finally:
        await other.close()


async def test_many_pods_at_once_get_addresses_of_their_own(lab: Lab) -> None:
    conflist = lab.write(lab.conf())
    network = lab.network()
    pods = [lab.pod(conflist) for _ in range(40)]  # more than any pool has threads
    outcomes = await asyncio.gather(*map(network.attach, pods))
    assert len({outcome.ips for outcome in outcomes}) == 40
    await asyncio.gather(
        *(network.detach(attached(pod, out)) for pod, out in zip(pods, outcomes, strict=True))
    )
    assert lab.leftovers(*pods) == []


async def test_an_option_that_is_not_built_in_is_executed(lab: Lab) -> None:
    mac = "02:00:5e:00:53:01"
    conflist = lab.write(lab.conf(args={"cni": {"mac": mac}}))
    network = lab.network()
    pod = lab.pod(conflist)
    outcome = await network.attach(pod)
    interfaces = json.loads(outcome.result)["interfaces"]
    assert interfaces[2]["mac"] == mac
    assert len(interfaces[1]["name"]) == 12  # the reference plugin's
    await network.detach(attached(pod, outcome))
    assert lab.leftovers(pod) == []


async def test_without_the_program_the_error_names_the_option(lab: Lab, tmp_path: Path) -> None:
    conflist = lab.write(lab.conf(macspoofchk=True))
    pod = lab.pod(conflist)
    with pytest.raises(Unavailable, match=f"bridge was not found in {tmp_path}.*macspoofchk"):
        await lab.network(bin_dirs=[tmp_path]).attach(pod)


async def test_the_built_in_plugins_need_no_program(lab: Lab, tmp_path: Path) -> None:
    conflist = lab.write(lab.conf())
    network = lab.network(bin_dirs=[tmp_path])
    pod = lab.pod(conflist, PortMapping("tcp", 80, 23415))
    await network.detach(pod)
    await network.detach(attached(pod, await network.attach(pod)))
    assert lab.leftovers(pod) == []


async def test_loopback_is_up_with_any_chain(lab: Lab) -> None:
    conf = lab.conf()
    conf["plugins"] = [{"type": "ptp", "ipam": conf["plugins"][0]["ipam"]}, {"type": "loopback"}]
    conflist = lab.write(conf)
    network = lab.network()
    pod = lab.pod(conflist)
    outcome = await network.attach(pod)
    assert kernel(pod.netns)["lo"]
    await network.detach(attached(pod, outcome))
    assert lab.leftovers(pod) == []


async def test_dns_of_the_network_reaches_the_result(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 10.9.9.9\nsearch a b\n")
    conf = lab.conf()
    conf["plugins"][0]["ipam"]["resolvConf"] = str(tmp_path / "resolv.conf")
    conflist = lab.write(conf)
    network = lab.network()
    pod = lab.pod(conflist)
    outcome = await network.attach(pod)
    assert json.loads(outcome.result)["dns"] == {"nameservers": ["10.9.9.9"], "search": ["a", "b"]}
    await network.detach(attached(pod, outcome))


async def test_a_bridge_with_another_address_is_left_alone_unless_forced(lab: Lab) -> None:
    network = lab.network()
    run("ip", "link", "add", lab.bridge, "type", "bridge")
    run("ip", "addr", "add", f"{lab.v4}.77/24", "dev", lab.bridge)
    pod = lab.pod(lab.write(lab.conf()))
    with pytest.raises(Unavailable, match="forceAddress"):
        await network.attach(pod)
    await network.detach(pod)
    forced = replace(pod, conflist=lab.write(lab.conf(forceAddress=True)))
    outcome = await network.attach(forced)
    assert host_side(lab, outcome.result)["gateway"] == [(f"{lab.v4}.1", 24)]
    await network.detach(attached(forced, outcome))


async def test_a_link_of_another_kind_is_not_taken_for_the_bridge(lab: Lab) -> None:
    run("ip", "link", "add", lab.bridge, "type", "veth", "peer", "name", f"{lab.bridge}p")
    pod = lab.pod(lab.write(lab.conf()))
    with pytest.raises(Unavailable, match="is not a bridge"):
        await lab.network().attach(pod)
    await lab.network().detach(pod)
    assert lab.leftovers(pod) == []


async def test_check_finds_what_is_missing(lab: Lab) -> None:
    conflist = lab.write(lab.conf())
    network = lab.network()
    pod = lab.pod(conflist, PortMapping("tcp", 80, 23416))
    pod = attached(pod, await network.attach(pod))
    await network.check(pod)
    await network.check(replace(pod, conflist=lab.write({**lab.conf(), "disableCheck": True})))
    address = json.loads(pod.result)["ips"][0]["address"]
    run("ip", "-n", Path(pod.netns).name, "addr", "del", address, "dev", "eth0")
    with pytest.raises(Unavailable, match="has lost"):
        await network.check(pod)
    run("ip", "link", "del", bridge.host_end(pod.pod_id, "eth0"))
    with pytest.raises(Unavailable, match="not an active port"):
        await network.check(pod)
    await network.detach(pod)
    assert lab.leftovers(pod) == []


async def test_garbage_collection_keeps_what_lives(lab: Lab) -> None:
    conflist = lab.write(lab.conf())
    network = lab.network()
    alive, dead = (lab.pod(conflist, PortMapping("tcp", 80, port)) for port in (23417, 23418))
    alive = attached(alive, await network.attach(alive))
    dead = attached(dead, await network.attach(dead))
    await network.collect(lambda: [alive.pod_id])
    await network.check(alive)
    left = lab.leftovers(dead)
    assert [each for each in left if dead.pod_id in each] == []
    assert not (lab.reservations / json.loads(dead.result)["ips"][0]["address"].partition("/")[0]).exists()
    await network.detach(dead)
    await network.detach(alive)
    assert lab.leftovers(alive, dead) == []


STEPS = [
    "cni.hostlocal.reserve",
    "cni.bridge.create",
    "cni.bridge.veth",
    "cni.bridge.addresses",
    "cni.nft.masquerade",
    "cni.nft.ports",
    "cni.nft.portmap",
    "cni.bridge.unlink",
    "cni.hostlocal.release",
    "cni.nft.withdraw",
]


@pytest.mark.parametrize("step", STEPS)
async def test_a_failure_at_any_step_leaves_nothing(
    lab: Lab, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "faults"
    table.write_text(json.dumps([{"step": step, "action": "fail"}]))
    monkeypatch.setattr(tasks, "_faults", str(table))
    conflist = lab.write(lab.conf())
    network = lab.network()
    pod = lab.pod(conflist, PortMapping("tcp", 80, 23419))
    failed = 0
    try:
        done = attached(pod, await network.attach(pod))
    except (RuntimeError, SampanError):
        failed, done = 1, pod
    try:
        await network.detach(done)
    except (RuntimeError, SampanError):
        failed += 1
        await network.detach(done)
    assert failed == 1
    assert lab.leftovers(pod) == []


KILLED = """
import asyncio, sys, json
from pathlib import Path
from sampan.host.cni.network import CniNetwork
from sampan.runtime.ports import Attachment, PortMapping
conf_dir, pod_id, netns, conflist = sys.argv[1:]
pod = Attachment(pod_id, netns, "web-0", "default", "u-1", conflist.encode(),
                 port_mappings=(PortMapping("tcp", 80, 23420),))
async def main():
    network = CniNetwork(Path(conf_dir), [Path("/usr/lib/cni")])
    outcome = await network.attach(pod)
    import dataclasses
    await network.detach(dataclasses.replace(pod, result=outcome.result))
asyncio.run(main())
"""


def killed(argv: list[str], env: dict[str, str]) -> bool:
    return subprocess.run(argv, env=env, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("step", STEPS)
async def test_a_kill_at_any_step_leaves_nothing_after_one_detach(
    lab: Lab, step: str, tmp_path: Path
) -> None:
    table = tmp_path / "faults"
    table.write_text(json.dumps([{"step": step, "action": "kill"}]))
    conflist = lab.write(lab.conf())
    pod = lab.pod(conflist, PortMapping("tcp", 80, 23420))
    argv = [sys.executable, "-c", KILLED, str(lab.conf_dir), pod.pod_id, pod.netns, conflist.decode()]
    assert killed(argv, {**os.environ, tasks.FAULTS_VARIABLE: str(table)})
    await lab.network().detach(pod)
    assert lab.leftovers(pod) == []
    again = attached(pod, await lab.network().attach(pod))  # and nothing stands in the way of the retry
    await lab.network().detach(again)
    assert lab.leftovers(pod) == []


@pytest.mark.parametrize("seconds", [0.0, 0.0005, 0.001, 0.002, 0.004])
async def test_a_cancelled_attachment_is_undone_by_one_detach(lab: Lab, seconds: float) -> None:
    conflist = lab.write(lab.conf())
    network = lab.network()
    pod = lab.pod(conflist, PortMapping("tcp", 80, 23421))
    attaching = asyncio.ensure_future(network.attach(pod))
    await asyncio.sleep(seconds)
    attaching.cancel()
    await asyncio.wait([attaching])
    await network.detach(pod)
    assert lab.leftovers(pod) == []


async def test_every_plugin_gets_its_turn_when_one_fails(lab: Lab, short_tmp: Path) -> None:
    bad = short_tmp / "bin" / "bad"
    bad.parent.mkdir()
    bad.write_text('#!/bin/sh\necho \'{"code": 999, "msg": "no"}\'; exit 1\n')
    bad.chmod(0o755)
    conf = lab.conf()
    conf["plugins"].append({"type": "bad"})
    conflist = lab.write(conf)
    network = lab.network(bin_dirs=[bad.parent, PLUGINS])
    pod = lab.pod(conflist)
    plain = replace(pod, conflist=lab.write(lab.conf()))
    outcome = await network.attach(plain)
    with pytest.raises(Unavailable, match=r"bad: .*CNI error 999: no"):
        await network.detach(attached(pod, outcome))
    assert lab.leftovers(pod) == []


def test_a_recorded_configuration_is_read_once() -> None:
    text = b'{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "loopback"}, {"type": "ptp"}]}'
    network, steps = read(text)
    assert read(text) == (network, steps)
    assert [each.refusal for each in steps] == ["", "ptp is not built in"]


def test_the_host_end_is_named_for_the_attachment() -> None:
    name = bridge.host_end("a" * 64, "eth0")
    assert name == bridge.host_end("a" * 64, "eth0")
    assert name != bridge.host_end("a" * 64, "eth1")
    assert len(name) == 15


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
async def test_the_pods_first_packet_arrives(lab: Lab, family: socket.AddressFamily) -> None:
    """No waiting for the bridge port, and none for duplicate address detection."""
    network = lab.network()
    pod = lab.pod(lab.write(lab.conf(dual=True)))
    pod = attached(pod, await network.attach(pod))
    address = f"{lab.v4}.1" if family == socket.AF_INET else f"{lab.v6}:1"
    with socket.create_server((address, 0), family=family) as server:
        inside(pod.netns, lambda: connect(family, address, server.getsockname()[1]))
    await network.detach(pod)


def connect(family: int, address: str, port: int) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(0.9)  # a SYN that is lost is sent again after a second
        client.connect((address, port))
