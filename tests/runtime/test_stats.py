import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from sampan.runtime import stats
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
    assert system.stats.layer(system.state.containers[id])
    assert system.stats.filesystem()
    before = detailed()
    await until(wanting(system, lambda: detailed() > before))
    monkeypatch.setattr(stats, "METRICS_WANTED", 0.0)
    await asyncio.sleep(0.05)
    before = detailed()
    await system.stats.of(list(system.state.containers.values()))
    await asyncio.sleep(0.05)
    assert detailed() == before
    await system.tasks.stop()


async def test_what_has_ended_is_forgotten_but_what_it_wrote_is_not(quick: None) -> None:
    system, id = await collecting()
    container = system.state.containers[id]
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
