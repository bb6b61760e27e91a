import asyncio

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
