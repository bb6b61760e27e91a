import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable

import pytest

from sampan.model.container import ContainerState
from sampan.model.errors import Unavailable
from sampan.model.process import ProcessRef
from sampan.runtime import stops
from tests.runtime.system import System, until, wire


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
    system.world.groups.survivors = ("pid 7 `dd` is in state D in nfs_wait_bit_killable",)
    with caplog.at_level(logging.WARNING), pytest.raises(Unavailable) as error:
        await system.containers.stop(id, 0)
    for told in (str(error.value), caplog.text):
        assert (
            "pid 7 `dd` is in state D in nfs_wait_bit_killable; state D is a wait that no signal ends" in told
        )
    monkeypatch.setattr(system.machine.oci, "signal", killed)
    await until(lambda: system.state.containers[id].state is ContainerState.EXITED)  # nobody asked again
    await system.containers.stop(id, 0)


async def _in_vain(*_: object) -> bool:
    return True


NO_DESCRIPTORS = OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("error", [NO_DESCRIPTORS, Unavailable("runc kill did not end within 60 s")])
@pytest.mark.parametrize("failing", ["signal", "survivors"])
async def test_the_kill_goes_on_when_the_machine_refuses_for_a_moment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failing: str, error: Exception
) -> None:
    monkeypatch.setattr(stops, "FIRST_KILL_WAIT", 0.01)
    system = wire()
    id = await system.started(await system.pod())
    oci = system.machine.oci
    kill, refusals = oci.signal, 3

    async def signal(process: ProcessRef, number: int) -> bool:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0 and failing == "signal":
            raise error
        return refusals >= 0 or await kill(process, number)

    async def survivors(*_: object) -> tuple[str, ...]:
        raise error

    monkeypatch.setattr(oci, "signal", signal)
    if failing == "survivors":
        monkeypatch.setattr(oci, "survivors", survivors)
    stop = asyncio.ensure_future(system.containers.stop(id, 0))
    await until(lambda: refusals < 3)
    stop.cancel()  # nobody is left to be told
    await until(lambda: system.state.containers[id].state is ContainerState.EXITED)
    assert str(error) in caplog.text and id in caplog.text


async def test_who_waits_is_told_even_if_what_is_stuck_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    system = wire()
    id = await system.started(await system.pod())
    monkeypatch.setattr(stops, "PATIENCE", 0.01)
    monkeypatch.setattr(system.machine.oci, "signal", _in_vain)

    async def survivors(*_: object) -> tuple[str, ...]:
        raise NO_DESCRIPTORS

    monkeypatch.setattr(system.machine.oci, "survivors", survivors)
    with pytest.raises(Unavailable, match=rf"{id} does not die of SIGKILL: .*Too many open files"):
        await system.containers.stop(id, 0)
    system.world.end(id, 137)
    await until(lambda: system.state.containers[id].state is ContainerState.EXITED)


# --- beside a start -----------------------------------------------------------------------------------------


async def _stopped_while_it_starts(
    system: System, seconds: int
) -> tuple[str, Callable[[], Awaitable[object]]]:
    """A start that hangs, and a stop that came meanwhile; what is returned lets the start go on."""
    system.world.ignores_term = seconds < 3600
    id = await system.container(await system.pod())
    go_on = system.world.hang("oci.start")
    start = asyncio.ensure_future(system.containers.start(id))
    await until(lambda: "oci.start" in system.world.calls)
    stop = asyncio.ensure_future(system.containers.stop(id, seconds))

    async def release() -> None:
        go_on.set()
        await asyncio.gather(start, stop, return_exceptions=True)

    return id, release


async def test_what_is_being_started_gets_the_stop_signal_too() -> None:
    system = wire()
    id, release = await _stopped_while_it_starts(system, 3600)
    process = system.world.processes[id]
    for _ in range(20):
        await asyncio.sleep(0)
    assert process.signals == []
    await release()
    assert process.signals == [15] and system.state.containers[id].exit_code == 143


async def test_a_start_that_hangs_holds_a_stop_no_longer_than_its_grace() -> None:
    system = wire()
    id, release = await _stopped_while_it_starts(system, 1)
    process = system.world.processes[id]
    await system.containers.stop(id, 0)
    assert process.signals == [9] and system.state.containers[id].exit_code == 137
    await release()


async def test_a_stop_that_failed_leaves_no_deadline_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    system = wire()
    system.world.ignores_term = True
    id = await system.started(await system.pod())
    send, late = system.machine.oci.signal, []

    async def refused(*_: object) -> bool:
        # runs after the stop's work has ended, and before that is noticed
        late.append(asyncio.ensure_future(system.containers.stop(id, 0)))
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(system.machine.oci, "signal", refused)
    with pytest.raises(OSError, match="Too many open files"):
        await system.containers.stop(id, 3600)
    await asyncio.gather(*late, return_exceptions=True)
    monkeypatch.setattr(system.machine.oci, "signal", send)
    third = asyncio.ensure_future(system.containers.stop(id, 3600))
    process = system.world.processes[id]
    await until(lambda: process.signals)
    for _ in range(20):
        await asyncio.sleep(0)
    assert process.signals == [15]
    await system.containers.stop(id, 0)
    await third
