"""The network port: readiness, configuration, what plugins are told about a pod."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sampan.host.cni.network import CniNetwork, _Gate
from sampan.model.errors import Invalid, Unavailable
from sampan.runtime.ports import Attachment, PortMapping

BRIDGE: dict[str, Any] = {"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}}
RESULT = '{"cniVersion": "1.1.0", "ips": [{"address": "10.1.2.3/24"}, {"address": "fd00::3/64"}]}'


class Site:
    """A configuration and a plugin directory, and a clock that only moves when told."""

    def __init__(self, root: Path) -> None:
        self.conf_dir, self.bin_dir = root / "net.d", root / "bin"
        self.conf_dir.mkdir()
        self.bin_dir.mkdir()
        self.now = 0.0
        self.network = CniNetwork(self.conf_dir, [self.bin_dir], clock=lambda: self.now)

    def write(self, *plugins: dict[str, Any], version: str = "1.1.0", name: str = "n") -> bytes:
        text = json.dumps({"cniVersion": version, "name": name, "plugins": plugins}).encode()
        (self.conf_dir / "10-n.conflist").write_bytes(text)
        return text

    def plugin(self, name: str, script: str) -> Path:
        path = self.bin_dir / name
        path.write_text(f'#!/bin/sh\ncat > "$0.$CNI_COMMAND.stdin"\nenv > "$0.$CNI_COMMAND.env"\n{script}\n')
        path.chmod(0o755)
        return path

    def told(self, name: str, command: str = "ADD") -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.bin_dir / f"{name}.{command}.stdin").read_bytes())
        return told


@pytest_asyncio.fixture
async def site(short_tmp: Path) -> AsyncIterator[Site]:
    site = Site(short_tmp)
    yield site
    await site.network.close()


async def test_the_configuration_is_loaded_as_a_list(site: Site) -> None:
    (site.conf_dir / "10.conf").write_bytes(b'{"cniVersion": "0.3.1", "name": "one", "type": "ptp"}')
    loaded = json.loads(await site.network.load())
    assert (loaded["name"], loaded["cniVersion"], len(loaded["plugins"])) == ("one", "0.3.1", 1)


async def test_without_a_configuration_the_error_names_directory_and_faults(site: Site) -> None:
    (site.conf_dir / "10.conf").write_bytes(b"{")
    with pytest.raises(Unavailable, match=rf"{site.conf_dir}: 10\.conf: is not JSON"):
        await site.network.load()
    status = await site.network.status()
    assert (status.ready, status.reason) == (False, "NetworkPluginNotReady")
    assert f"{site.conf_dir}: 10.conf: is not JSON" in status.message


async def test_the_network_gets_ready_without_a_restart(site: Site) -> None:
    assert not (await site.network.status()).ready
    site.write(BRIDGE)
    assert (await site.network.status()).ready
    (site.conf_dir / "10-n.conflist").unlink()
    assert not (await site.network.status()).ready


async def test_a_file_that_was_passed_over_is_remarked_on(site: Site) -> None:
    site.write(BRIDGE)
    (site.conf_dir / "00.conf").write_bytes(b"{")
    status = await site.network.status()
    assert status.ready
    assert status.message.startswith("00.conf: is not JSON")


@pytest.mark.parametrize(
    ("plugin", "words"),
    [({"type": "calico"}, "calico is not built in"), ({**BRIDGE, "vlan": 5}, "option vlan is not built in")],
)
async def test_a_plugin_that_must_be_executed_and_is_missing_makes_it_not_ready(
    site: Site, plugin: dict[str, Any], words: str
) -> None:
    site.write(plugin)
    status = await site.network.status()
    assert not status.ready
    assert f"was not found in {site.bin_dir}" in status.message
    assert words in status.message
    site.plugin(plugin["type"], "true")
    assert (await site.network.status()).ready


async def settled(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not met():  # noqa: ASYNC110 - a process of the test's own is awaited
            await asyncio.sleep(0.005)


async def test_plugins_are_asked_in_the_background_and_their_word_is_kept(site: Site) -> None:
    site.write({"type": "p"})
    path = site.plugin("p", 'echo \'{"code": 50, "msg": "no addresses"}\'; exit 1')
    assert (await site.network.status()).ready  # nobody has said otherwise yet
    await settled(lambda: bool(site.network._complaint))
    status = await site.network.status()
    assert not status.ready
    assert "CNI plugin p is not ready" in status.message
    assert "no addresses" in status.message
    assert site.told("p", "STATUS") == {"type": "p", "cniVersion": "1.1.0", "name": "n"}
    path.write_text("#!/bin/sh\nexit 0\n")
    assert not (await site.network.status()).ready  # not asked again yet
    site.now += 11
    await site.network.status()
    await settled(lambda: not site.network._complaint)
    assert (await site.network.status()).ready


async def test_a_new_configuration_is_not_blamed_for_the_old_one(site: Site) -> None:
    site.write({"type": "p"})
    site.plugin("p", "exit 1")
    await site.network.status()
    await settled(lambda: bool(site.network._complaint))
    site.write({"type": "p"}, name="other")
    assert (await site.network.status()).ready


async def test_a_plugin_that_hangs_does_not_hold_up_the_answer(site: Site) -> None:
    site.write({"type": "p"})
    site.plugin("p", "sleep 60")
    async with asyncio.timeout(5):
        assert (await site.network.status()).ready
        site.now += 100
        assert (await site.network.status()).ready
        await site.network.close()


async def test_older_protocols_have_no_status(site: Site) -> None:
    site.write({"type": "p"}, version="1.0.0")
    site.plugin("p", "exit 1")
    await site.network.status()
    assert site.network._tasks._tasks == set()


def pod(conflist: bytes, **more: Any) -> Attachment:
    return Attachment("c" * 64, "", "web-0", "default", "u-1", conflist, **more)


@pytest.mark.root
async def test_a_pod_is_described_to_the_plugins_that_ask_for_it(site: Site, lab_netns: str) -> None:
    every = ["portMappings", "bandwidth", "dns", "cgroupPath", "io.kubernetes.cri.pod-annotations", "mac"]
    site.plugin("all", f"echo '{RESULT}'")
    conflist = site.write({"type": "all", "capabilities": dict.fromkeys(every, True)})
    attachment = replace(
        pod(
            conflist,
            port_mappings=(PortMapping("TCP", 80, 8080, "192.0.2.1"), PortMapping("udp", 53, 0)),
            annotations={"kubernetes.io/ingress-bandwidth": "10M", "a": "b"},
            cgroup_path="/kubepods/x",
            dns={"servers": ["10.0.0.10"]},
        ),
        netns=lab_netns,
    )
    attached = await site.network.attach(attachment)
    assert attached.ips == ("10.1.2.3", "fd00::3")
    assert site.told("all")["runtimeConfig"] == {
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1"}],
        "bandwidth": {"ingressRate": 10_000_000, "ingressBurst": (1 << 32) - 1},
        "dns": {"servers": ["10.0.0.10"]},
        "cgroupPath": "/kubepods/x",
        "io.kubernetes.cri.pod-annotations": {"kubernetes.io/ingress-bandwidth": "10M", "a": "b"},
    }
    env = (site.bin_dir / "all.ADD.env").read_text()
    assert f"CNI_CONTAINERID={'c' * 64}\n" in env
    assert "CNI_IFNAME=eth0\n" in env
    assert "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;" in env


@pytest.fixture
def lab_netns(short_tmp: Path) -> Any:
    from tests.host.cni.lab import Lab

    (short_tmp / "lab").mkdir()
    lab = Lab(short_tmp / "lab")
    try:
        yield lab.netns()
    finally:
        lab.clear()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "x;IgnoreUnknown=0"},
        {"namespace": "a=b"},
        {"uid": "1\n2"},
        {"annotations": {"kubernetes.io/egress-bandwidth": "fast"}},
    ],
)
async def test_what_cannot_be_passed_on_is_refused_before_any_plugin_runs(
    site: Site, change: dict[str, Any]
) -> None:
    site.plugin("p", "true")
    attachment = replace(pod(site.write({"type": "p"})), **change)
    with pytest.raises(Invalid):
        await site.network.attach(attachment)
    assert not (site.bin_dir / "p.ADD.env").exists()
    await site.network.detach(attachment)  # and never stands in the way of DEL
    assert (site.bin_dir / "p.DEL.env").exists()


async def test_without_a_recorded_configuration_nothing_is_owed(site: Site) -> None:
    await site.network.detach(pod(b""))


async def test_a_damaged_record_is_said_to_be_one(site: Site) -> None:
    with pytest.raises(Invalid, match="JSON"):
        await site.network.detach(pod(b"{"))


async def test_garbage_collection_tells_the_plugins_what_lives(site: Site) -> None:
    site.plugin("p", "true")
    site.write({"type": "p"})
    await site.network.collect(lambda: ["c1"])
    assert site.told("p", "GC")["cni.dev/valid-attachments"] == [{"containerID": "c1", "ifname": "eth0"}]


@pytest.mark.parametrize("how", ["protocol 1.0.0", "disableGC"])
async def test_garbage_collection_is_not_forced_on_anybody(site: Site, how: str) -> None:
    site.plugin("p", "true")
    text = site.write({"type": "p"}, version="1.1.0" if how == "disableGC" else "1.0.0")
    if how == "disableGC":
        (site.conf_dir / "10-n.conflist").write_text(json.dumps({**json.loads(text), "disableGC": True}))
    await site.network.collect(lambda: ["c1"])
    assert not (site.bin_dir / "p.GC.env").exists()


async def test_garbage_collection_waits_for_attachments_and_they_for_it() -> None:
    gate, order = _Gate(), []
    inside, leave = asyncio.Event(), asyncio.Event()

    async def attachment(name: str) -> None:
        async with gate.shared():
            order.append(f"{name} in")
            inside.set()
            await leave.wait()
            order.append(f"{name} out")

    async def collection() -> None:
        async with gate.alone():
            order.append("gc")

    first = asyncio.ensure_future(attachment("a"))
    await inside.wait()
    gc = asyncio.ensure_future(collection())
    await asyncio.sleep(0)
    second = asyncio.ensure_future(attachment("b"))
    await asyncio.sleep(0)
    leave.set()
    await asyncio.gather(first, gc, second)
    assert order == ["a in", "a out", "gc", "b in", "b out"]


async def test_a_cancelled_garbage_collection_opens_the_gate_again() -> None:
    gate = _Gate()
    async with gate.shared():
        waiting = asyncio.ensure_future(gate.alone().__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    async with asyncio.timeout(1), gate.shared():
        pass
