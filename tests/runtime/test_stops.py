import asyncio
import logging

import pytest

from sampan.model.container import ContainerState
from sampan.model.errors import Unavailable
from sampan.runtime import stops
from tests.runtime.system import until, wire


async def test_the_stop_signal_is_sent_once_and_then_kill_after_the_grace() -> None:
    system = wire()
    system.world.ignores_term = True
    id = await system.started(await system.pod())
    first = asyncio.ensure_future(system.containers.stop(id, 3600))
    await until(lambda: system.world.processes[id].signals)
    process = system.world.processes[id]
    second = asyncio.ensure_future(system.containers.stop(id, 1800))
    await asyncio.sleep(0)
    assert process.signals == [15]
    await system.containers.stop(id, 0)  # shortens it to nothing
    await asyncio.gather(first, second)
    assert process.signals == [15, 9]
    assert system.state.containers[id].exit_code == 137


async def test_a_longer_timeout_does_not_lengthen_the_wait() -> None:
    system = wire()
    system.world.ignores_term = True
    id = await system.started(await system.pod())
    begin = asyncio.get_running_loop().time()
    short = asyncio.ensure_future(system.containers.stop(id, 1))
    await asyncio.sleep(0)
    await asyncio.gather(short, system.containers.stop(id, 3600))
    assert asyncio.get_running_loop().time() - begin < 60


async def test_the_kill_goes_on_when_the_caller_leaves() -> None:
    system = wire()
    system.world.ignores_term = True
    id = await system.started(await system.pod())
    stop = asyncio.ensure_future(system.containers.stop(id, 1))
    await until(lambda: system.world.processes[id].signals)
    stop.cancel()
    await until(lambda: system.state.containers[id].state is ContainerState.EXITED)
    assert system.state.containers[id].exit_code == 137


async def test_one_that_obeys_is_not_killed() -> None:
    system = wire()
    id = await system.started(await system.pod())
    process = system.world.processes[id]
    await system.containers.stop(id, 3600)
    assert process.signals == [15] and system.state.containers[id].exit_code == 143


async def test_a_container_that_never_started_is_killed_at_once() -> None:
    system = wire()
    id = await system.container(await system.pod())
    process = system.world.processes[id]
    await system.containers.stop(id, 3600)
    assert process.signals == [9] and system.state.containers[id].state is ContainerState.EXITED


async def test_stopping_what_is_not_there_or_has_ended_is_fine() -> None:
    system = wire()
    id = await system.started(await system.pod())
    await system.containers.stop(id, -5)
    await system.containers.stop(id, 10)
    await system.containers.stop("nothing", 10)


async def test_a_shorter_stop_in_the_same_turn_wins() -> None:
    system = wire()
    system.world.ignores_term = True
    id = await system.started(await system.pod())
    begin = asyncio.get_running_loop().time()
    await asyncio.gather(system.containers.stop(id, 3600), system.containers.stop(id, 0))
    assert asyncio.get_running_loop().time() - begin < 60


async def test_what_not_even_sigkill_ends_is_named_and_killed_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    system = wire()
    id = await system.started(await system.pod())
    killed = system.machine.oci.signal
    monkeypatch.setattr(stops, "PATIENCE", 0.1)
    monkeypatch.setattr(stops, "FIRST_KILL_WAIT", 0.01)
    monkeypatch.setattr(stops, "LAST_KILL_WAIT", 0.05)
    monkeypatch.setattr(system.machine.oci, "signal", _in_vain)
    system.world.groups.survivors = ("pid 7 (dd) is in state D in nfs_wait_bit_killable",)
    with caplog.at_level(logging.WARNING), pytest.raises(Unavailable) as error:
        await system.containers.stop(id, 0)
    for told in (str(error.value), caplog.text):
        assert (
            "pid 7 (dd) is in state D in nfs_wait_bit_killable; state D is a wait that no signal ends" in told
        )
    monkeypatch.setattr(system.machine.oci, "signal", killed)
    await until(lambda: system.state.containers[id].state is ContainerState.EXITED)  # nobody asked again
    await system.containers.stop(id, 0)


async def _in_vain(*_: object) -> bool:
    return True
