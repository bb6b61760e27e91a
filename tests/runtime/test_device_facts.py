"""Devices and I/O classes on the way from a request to the config.json."""

from typing import Any

import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.cdi import Device, Edits, Index, Node, Rdt, Source, Spec
from sampan.model.cdi import Mount as CdiMount
from sampan.model.errors import Invalid, NotFound
from sampan.model.io_classes import DeviceLimits, Limits
from sampan.spec.facts import DeviceNode
from sampan.spec.facts import Source as MountSource
from tests.fake_devices import FakeCdi, FakeIoClasses
from tests.runtime.system import System, wire

GPU = "v.com/gpu=0"
TOY = (DeviceNode("/dev/toy", "c", 240, 1, 0o600),)
RDT, BLOCK_IO = "rdt.resources.beta.kubernetes.io/pod", "blockio.resources.beta.kubernetes.io/pod"


def with_cdi(edits: Edits) -> System:
    system = wire()
    assert isinstance(system.machine.cdi, FakeCdi)
    system.machine.cdi.index = Index([Source("/x", 0, Spec("0.6.0", "v.com/gpu", (Device("0", {}, edits),)))])
    return system


def classes(system: System) -> FakeIoClasses:
    assert isinstance(system.machine.io_classes, FakeIoClasses)
    return system.machine.io_classes


async def built(system: System, pod: dict[str, Any] | None = None, **container: Any) -> dict[str, Any]:
    id = await system.container(await system.pod(**(pod or {})), **container)
    return dict(system.world.bundles[id])


async def test_a_cdi_device_is_looked_at_on_the_host() -> None:
    mount = CdiMount("/lib/toy", "/usr/lib/toy")
    system = with_cdi(Edits(env=("TOY=1",), device_nodes=(Node("/dev/gpu", "/dev/toy"),), mounts=(mount,)))
    system.world.devices["/dev/toy"] = TOY
    system.world.sources["/lib/toy"] = MountSource("/lib/toy.9", False, "private")
    spec = await built(system, CDI_devices=[cri.CDIDevice(name=GPU)])
    assert [(device["path"], device["major"]) for device in spec["linux"]["devices"]] == [("/dev/gpu", 240)]
    assert "TOY=1" in spec["process"]["env"]
    assert "/lib/toy.9" in [each["source"] for each in spec["mounts"]]


@pytest.mark.parametrize(("name", "error"), [("v.com/gpu=1", NotFound), ("gpu", Invalid)])
async def test_a_device_that_is_not_there_fails_the_create_and_leaves_nothing(
    name: str, error: type[Exception]
) -> None:
    system = with_cdi(Edits())
    pod = await system.pod()
    before = system.world.census()
    with pytest.raises(error, match=name):
        await system.container(pod, annotations={"cdi.k8s.io/a": name})
    assert system.world.census() == before
    assert not system.state.containers


async def test_a_privileged_container_gets_the_devices_of_now() -> None:
    system = wire()
    context = cri.LinuxContainerSecurityContext(privileged=True)
    pod = await system.pod(
        linux=cri.LinuxPodSandboxConfig(security_context=cri.LinuxSandboxSecurityContext(privileged=True))
    )
    for count in (0, 1):
        id = await system.container(
            pod, f"c{count}", linux=cri.LinuxContainerConfig(security_context=context)
        )
        linux = system.world.bundles[id]["linux"]
        assert [device["path"] for device in linux.get("devices", [])] == ["/dev/toy"] * count
        assert linux["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
        system.world.devices["/dev/toy"] = TOY


async def test_classes_reach_the_spec() -> None:
    system = wire()
    classes(system).resctrl = {"gold"}
    classes(system).limits = {"slow": (DeviceLimits(Limits(weight=50)),)}
    spec = await built(system, {"annotations": {RDT: "gold", BLOCK_IO: "slow"}})
    assert spec["linux"]["intelRdt"] == {"closID": "gold"}
    assert spec["linux"]["resources"]["blockIO"] == {"weight": 50}


@pytest.mark.parametrize("annotation", [RDT, BLOCK_IO])
async def test_a_class_that_is_not_there_is_refused_or_passed_over(annotation: str) -> None:
    system = wire()
    with pytest.raises(Invalid, match="'gold'"):
        await built(system, {"annotations": {annotation: "gold"}, "name": "refused"})
    classes(system).ignored = True
    spec = await built(system, {"annotations": {annotation: "gold"}})
    assert "intelRdt" not in spec["linux"]
    assert "blockIO" not in spec["linux"]["resources"]


async def test_rdt_of_a_cdi_device_needs_resctrl() -> None:
    system = with_cdi(Edits(intel_rdt=Rdt("gold")))
    with pytest.raises(Invalid, match="resctrl is not mounted"):
        await built(system, {"name": "refused"}, CDI_devices=[cri.CDIDevice(name=GPU)])
    classes(system).resctrl = {"gold"}
    spec = await built(system, CDI_devices=[cri.CDIDevice(name=GPU)])
    assert spec["linux"]["intelRdt"] == {"closID": "gold"}
