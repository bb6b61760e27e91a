import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from sampan.api import cri_pb2 as cri
from sampan.runtime import stats
from sampan.runtime.pod_usage import Ended
from sampan.runtime.ports import CgroupDetails
from sampan.wire.cgroup_stats import Details, HugePages
from sampan.wire.cgroupfs import Limits
from tests.runtime.system import System, until, wire


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "FRESH", 0.01)


async def collecting() -> tuple[System, str]:
    system = wire()
    system.tasks.start("stats collector", system.stats.collect())
    return system, await system.started(await system.pod())


def sampled_since(system: System, seconds: int) -> bool:
    return system.world.seconds > seconds


def wanting(system: System, condition: Callable[[], bool]) -> Callable[[], bool]:
    """The condition, asked by somebody who wants new samples each time."""

    def ask() -> bool:
        system.stats._wanted.set()
        return condition()

    return ask


async def test_a_new_container_is_measured_soon_and_not_on_a_request(quick: None) -> None:
    system, id = await collecting()
    await until(lambda: system.stats.layer(system.state.containers[id]))
    assert system.stats.written().bytes == 4096
    await system.containers.remove(id)
    assert system.stats.written().bytes == 0
    await system.tasks.stop()


async def test_whoever_gets_an_old_sample_causes_a_new_one(quick: None) -> None:
    system, _ = await collecting()
    containers = list(system.state.containers.values())
    await system.stats.of(containers)
    await asyncio.sleep(0.05)
    before = system.world.calls.count("cgroups.usage_many")
    await system.stats.of(containers)
    assert system.world.calls.count("cgroups.usage_many") == before  # the request itself read nothing
    await until(lambda: system.world.calls.count("cgroups.usage_many") > before)
    await system.tasks.stop()


async def test_details_are_gathered_only_while_somebody_asks_for_metrics(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "METRICS_PERIOD", 0.02)
    system, id = await collecting()

    def detailed() -> int:
        return system.world.calls.count("cgroups.details_many")

    for _ in range(3):
        before = system.world.seconds
        await system.stats.of(list(system.state.containers.values()))
        await until(partial(sampled_since, system, before))
    assert detailed() == 0
    details = await system.stats.details_of([], list(system.state.containers.values()))
    assert details.keys() == {id}
    assert detailed() >= 1
    assert system.stats.filesystem()
    before = detailed()
    await until(lambda: detailed() > before)
    monkeypatch.setattr(stats, "METRICS_WANTED", 0.0)
    await until(lambda: system.stats._idle)
    before = detailed()
    await system.stats.of(list(system.state.containers.values()))
    await asyncio.sleep(0.05)
    assert detailed() == before
    await system.stats.details_of([], list(system.state.containers.values()))  # those that are known are old
    assert detailed() == before + 1
    await system.tasks.stop()


async def test_details_are_gathered_no_more_often_than_every_period(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "METRICS_PERIOD", 1000.0)
    system, _ = await collecting()
    for _ in range(3):
        await system.stats.details_of([], list(system.state.containers.values()))
        before = system.world.seconds
        await until(partial(sampled_since, system, before))
    assert system.world.calls.count("cgroups.details_many") == 1
    await system.tasks.stop()


async def test_details_that_take_long_keep_no_sample_waiting(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "METRICS_PERIOD", 0.02)
    system, _ = await collecting()
    await system.stats.details_of([], list(system.state.containers.values()))
    system.world.hang("cgroups.details_many")
    await until(lambda: not system.world.hanging)
    for _ in range(3):
        await until(wanting(system, partial(sampled_since, system, system.world.seconds)))
    await system.tasks.stop()


async def test_sweeps_keep_their_distance_however_often_somebody_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stats, "FRESH", 1000.0)
    system, _ = await collecting()
    await until(lambda: system.world.seconds == 1)
    for _ in range(50):
        system.stats._wanted.set()
        await asyncio.sleep(0)
    assert system.world.seconds == 1
    await system.tasks.stop()


def walks(system: System) -> int:
    return system.world.calls.count("rootfs.usage")


async def test_layers_are_walked_again_after_a_pause(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "LAYER_PERIODS", (0.03, 0.03))
    system, _ = await collecting()
    await until(lambda: walks(system) >= 3)
    await system.tasks.stop()


async def test_in_the_pause_only_layers_of_new_containers_are_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "FRESH", 0.001)
    system, id = await collecting()
    pod = system.state.containers[id].pod_id
    await until(lambda: system.stats._layers.keys() == {id})
    before = walks(system)
    for number in range(3):
        new = await system.started(pod, f"new{number}")
        await until(partial(system.stats._layers.get, new))
    assert walks(system) == before + 3
    await system.tasks.stop()


@pytest.mark.parametrize(
    ("took", "pause"), [(0.0, 10.0), (0.04, 10.0), (0.1, 20.0), (1.0, 200.0), (1.5, 300.0), (60.0, 300.0)]
)
def test_walking_takes_a_small_share_of_the_time(took: float, pause: float) -> None:
    assert stats._pause(took) == pytest.approx(pause)


async def test_a_stuck_walk_keeps_nobody_waiting(quick: None) -> None:
    system, id = await collecting()
    system.world.hang("rootfs.usage")
    new = await system.started(system.state.containers[id].pod_id, "new")
    await until(lambda: not system.world.hanging)
    containers, pods = list(system.state.containers.values()), list(system.state.pods.values())
    async with asyncio.timeout(5):
        assert (await system.stats.of(containers)).keys() == {id, new}
        assert (await system.stats.details_of(pods, containers)).keys() == {id, new}
        assert (await system.stats.of_pods(pods)).keys() == {pod.id for pod in pods}
    await system.tasks.stop()


async def test_who_asks_for_metrics_of_a_new_container_is_told_what_it_has_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sampan.runtime.stats.FRESH", 3600.0)  # the walk would come much later by itself
    system, id = await collecting()
    container = system.state.containers[id]
    async with asyncio.timeout(5):
        await system.stats.details_of([], [container])
    assert system.stats.layer(container)
    await system.tasks.stop()


async def test_what_has_ended_is_forgotten_but_what_it_wrote_is_not(quick: None) -> None:
    system, id = await collecting()
    container = system.state.containers[id]
    await until(lambda: system.stats.layer(container))
    await system.stats.details_of([], [container])
    assert await system.stats.of([container])
    await system.containers.stop(id, 0)
    assert await system.stats.of([system.state.containers[id]]) == {}
    assert not system.stats._samples and not system.stats._details
    assert system.stats.layer(container)
    pod = system.state.pods[container.pod_id]
    assert await system.stats.of_pods([pod])
    await system.pods.stop(pod.id)
    assert system.stats._pods == {}
    await system.tasks.stop()


async def test_a_failed_sweep_is_followed_by_another(quick: None, caplog: pytest.LogCaptureFixture) -> None:
    system, _ = await collecting()
    await until(lambda: system.world.seconds > 0)
    system.world.fail("cgroups.usage_many", OSError("injected"))
    await until(wanting(system, lambda: "the stats sweep failed" in caplog.text))
    before = system.world.seconds
    await until(wanting(system, partial(sampled_since, system, before)))
    await system.tasks.stop()


async def test_a_container_whose_pod_was_removed_meanwhile_breaks_nothing() -> None:
    system = wire()
    pod = await system.pod()
    id = await system.started(pod)
    container = system.state.containers[id]
    await system.pods.remove(pod)
    assert await system.stats.of([container]) == {}
    assert await system.stats.details_of([], [container]) == {}


def meanwhile(
    monkeypatch: pytest.MonkeyPatch, port: object, name: str, act: Callable[[], Awaitable[object]]
) -> None:
    """Let `act` happen while the answer of this call is on its way."""
    call = getattr(port, name)

    async def slow(*args: object) -> object:
        found = await call(*args)
        await act()
        return found

    monkeypatch.setattr(port, name, slow)


async def own_group() -> tuple[System, str, str]:
    """A system with a pod that has a group of its own, and a container in it."""
    system = wire()
    pod = await system.pod(linux=cri.LinuxPodSandboxConfig(cgroup_parent="/kubepods/poduid-web"))
    return system, pod, await system.started(pod)


async def test_what_ends_while_it_is_measured_leaves_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    system, _, id = await own_group()
    meanwhile(monkeypatch, system.machine.cgroups, "usage_many", lambda: system.containers.stop(id, 0))
    assert await system.stats.of([system.state.containers[id]]) == {}
    assert system.stats._samples == {}


@pytest.mark.parametrize("port", ["cgroups.usage_many", "sandboxes.interfaces"])
async def test_a_pod_that_ends_while_it_is_measured_leaves_no_sample(
    monkeypatch: pytest.MonkeyPatch, port: str
) -> None:
    system, pod, _ = await own_group()
    kind, _, name = port.partition(".")
    meanwhile(monkeypatch, getattr(system.machine, kind), name, lambda: system.pods.stop(pod))
    await system.stats._sweep(system.stats._running(), system.stats._ready())
    assert (system.stats._samples, system.stats._pods) == ({}, {})
    assert system.stats._ended == {}


async def test_what_ends_while_its_details_are_read_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    system, pod, id = await own_group()
    meanwhile(monkeypatch, system.machine.cgroups, "details_many", lambda: system.pods.stop(pod))
    found = await system.stats.details_of([system.state.pods[pod]], [system.state.containers[id]])
    assert (found, system.stats._details) == ({}, {})


async def test_what_is_removed_while_its_layer_is_walked_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    system, _, id = await own_group()
    meanwhile(monkeypatch, system.machine.rootfs, "usage", lambda: system.containers.remove(id))
    await system.stats._walk([system.state.containers[id]])
    assert system.stats._layers == {}
    assert system.stats.written().bytes == 0


async def test_the_most_huge_pages_ever_seen_are_kept_where_the_kernel_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system, _, id = await own_group()
    used = 4

    async def details(groups: list[object]) -> list[CgroupDetails]:
        huge = Details(huge_pages=(HugePages("2MB", used),))
        return [CgroupDetails(at=1, stats=huge, limits=Limits()) for _ in groups]

    monkeypatch.setattr(system.machine.cgroups, "details_many", details)
    containers = [system.state.containers[id]]
    await system.stats._detail(containers, ())
    used = 2
    await system.stats._detail(containers, ())
    assert system.stats._details[id].stats.huge_pages == (HugePages("2MB", 2, 4),)


async def test_what_was_read_long_ago_is_read_again_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    system, pod, id = await own_group()
    ask = partial(system.stats.details_of, [system.state.pods[pod]], [system.state.containers[id]])
    assert (await ask()).keys() == {pod, id}
    old = await ask()
    system.stats._idle = True
    new = await ask()
    assert all(new[one] is not old[one] for one in (pod, id))


async def test_a_pod_remembers_what_its_ended_containers_counted_as_long_as_it_is_ready() -> None:
    system = wire()
    pod = await system.pod()
    record = system.state.pods[pod]
    first, second = await system.started(pod, "a"), await system.started(pod, "b")
    for id in (first, second):
        before = system.stats.ended(record).cpu_ns
        sample = (await system.stats.of([system.state.containers[id]]))[id]
        await system.containers.stop(id, 0)
        assert sample.usage.cpu_ns
        assert system.stats.ended(record).cpu_ns == before + sample.usage.cpu_ns
    await system.containers.remove(first)
    assert system.stats.ended(record).cpu_ns > before
    await system.pods.stop(pod)
    assert system.stats.ended(record) == Ended()
    await system.pods.remove(pod)
    assert system.stats._ended == {}


async def test_a_group_that_cannot_be_read_for_once_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum of containers instead would be another figure."""
    system, pod, _ = await own_group()
    record = system.state.pods[pod]
    group = (await system.stats.of_pods([record]))[pod].group

    async def none(groups: list[object]) -> list[None]:
        return [None] * len(groups)

    monkeypatch.setattr(system.machine.cgroups, "usage_many", none)
    await system.stats._sweep((), [record])
    assert group and (await system.stats.of_pods([record]))[pod].group == group
