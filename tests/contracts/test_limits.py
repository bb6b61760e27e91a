"""Limits: what every Oci is told, every Cgroups reads back; the fakes, and the real OCI runtimes on the kernel."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sampan.config import Handler
from sampan.host.cgroup import cgroups as host_cgroups
from sampan.model.errors import ToolFailed
from sampan.runtime.ports import Cgroups, Launch, Oci
from sampan.wire.cgroupfs import Limits
from tests import cgroup_drivers, oci_runtimes
from tests.fakes import FakeCgroups, FakeOci, World
from tests.host.containers import Lab

MIB = 1 << 20
SMALL = {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}, "cpu": {"quota": 50_000, "period": 100_000}}
REAL = [(runtime, driver) for runtime in oci_runtimes.RUNTIMES for driver in cgroup_drivers.DRIVERS]


@dataclass
class Subject:
    """Both ports over one machine."""

    oci: Oci
    cgroups: Cgroups
    launch: Callable[[dict[str, Any]], Launch]
    handler: Handler
    parent: str

    async def created(self, resources: dict[str, Any]) -> str:
        launch = self.launch(resources)
        await self.oci.create(launch)
        return launch.id

    async def limits(self, id: str) -> Limits:
        return await self.cgroups.read_back(self.parent, id)


@pytest.fixture(
    params=["fake", *(pytest.param(one, marks=pytest.mark.root, id="-".join(one)) for one in REAL)]
)
async def subject(request: pytest.FixtureRequest, short_tmp: Path) -> AsyncIterator[Subject]:
    if request.param == "fake":
        yield fake()
        return
    runtime, driver = request.param
    oci_runtimes.require(runtime)
    lab = Lab(short_tmp, driver, runtime)
    try:
        yield Subject(
            lab.oci,
            await host_cgroups.detect(driver),
            lambda resources: lab.launch("sleep", "100000", config={"linux": {"resources": resources}}),
            lab.handler,
            lab.parent,
        )
    finally:
        await lab.close()


def fake() -> Subject:
    world, numbers = World(), iter(range(100))
    handler = Handler("crun", "crun", "conmon", Path("/state"))

    def launch(resources: dict[str, Any]) -> Launch:
        id = f"c{next(numbers)}"
        world.bundles[id] = {"linux": {"resources": resources}}
        return Launch(id, Path("/bundle"), handler)

    return Subject(FakeOci(world), FakeCgroups(world), launch, handler, "/pod")


def essence(limits: Limits) -> tuple[int | None, int | None, int | None]:
    return (limits.memory, limits.cpu_quota, limits.cpu_period)


async def test_what_it_was_created_with_is_read_back(subject: Subject) -> None:
    id = await subject.created(SMALL)
    limits = await subject.limits(id)
    assert essence(limits) == (64 * MIB, 50_000, 100_000)
    assert limits.memory_swap in (64 * MIB, None)  # None: the kernel does not account swap


@pytest.mark.parametrize("started", [False, True], ids=["created", "running"])
async def test_an_update_replaces_what_it_names(subject: Subject, started: bool) -> None:
    id = await subject.created(SMALL)
    if started:
        await subject.oci.start(subject.handler, id)
    await subject.oci.update(subject.handler, id, {"memory": {"limit": 32 * MIB, "swap": 32 * MIB}})
    assert essence(await subject.limits(id)) == (32 * MIB, 50_000, 100_000)
    await subject.oci.update(subject.handler, id, {"memory": {"limit": 96 * MIB, "swap": 96 * MIB}})
    assert essence(await subject.limits(id)) == (96 * MIB, 50_000, 100_000)


async def test_limits_can_be_lifted(subject: Subject) -> None:
    id = await subject.created(SMALL)
    lifted = {"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1, "period": 100_000}}
    await subject.oci.update(subject.handler, id, lifted)
    assert essence(await subject.limits(id)) == (None, None, 100_000)


async def test_a_group_that_is_gone_has_no_limits(subject: Subject) -> None:
    id = await subject.created(SMALL)
    await subject.oci.delete(subject.handler, id)
    assert await subject.limits(id) == Limits()
    assert await subject.oci.survivors(subject.handler, id) == ()


async def test_files_that_are_not_there_are_left_out(subject: Subject) -> None:
    id = await subject.created(SMALL)
    await subject.oci.delete(subject.handler, id)
    assert (await subject.cgroups.read_back(subject.parent, id, ["memory.high"])).files == {}


async def test_what_does_not_exist_cannot_be_updated(subject: Subject) -> None:
    with pytest.raises(ToolFailed):
        await subject.oci.update(subject.handler, "f" * 64, SMALL)


async def test_an_oom_score_is_set_again_and_again(subject: Subject) -> None:
    id = await subject.created({})
    await subject.oci.adjust_oom_score(subject.handler, id, 0, 100)
    await subject.oci.adjust_oom_score(subject.handler, id, 100, 200)
    await subject.oci.adjust_oom_score(subject.handler, "f" * 64, 0, 100)
