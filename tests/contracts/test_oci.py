"""What every Oci does: the fake that use cases are tested with, and real runtimes under real conmon."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sampan.config import Handler
from sampan.model.errors import ToolFailed
from sampan.model.process import ProcessRef
from sampan.runtime.ports import Launch, Oci
from tests import cgroup_drivers, oci_runtimes
from tests.fakes import FakeOci, World
from tests.host.containers import Lab


@dataclass
class Subject:
    """An implementation, how to get a bundle that sleeps until it is killed, and what it runs under."""

    oci: Oci
    launch: Callable[[], Launch]
    handler: Handler


REAL = [(runtime, driver) for runtime in oci_runtimes.RUNTIMES for driver in cgroup_drivers.DRIVERS]


@pytest.fixture(
    params=["fake", *(pytest.param(one, marks=pytest.mark.root, id="-".join(one)) for one in REAL)]
)
async def subject(request: pytest.FixtureRequest, short_tmp: Path) -> AsyncIterator[Subject]:
    if request.param != "fake":
        runtime, driver = request.param
        oci_runtimes.require(runtime)
        lab = Lab(short_tmp, driver, runtime)
        try:
            yield Subject(lab.oci, lambda: lab.launch("sleep", "100000"), lab.handler)
        finally:
            await lab.close()
        return
    handler = Handler("crun", "crun", "conmon", Path("/state"))
    numbers = iter(range(100))
    yield Subject(FakeOci(World()), lambda: Launch(f"c{next(numbers)}", Path("/bundle"), handler), handler)


async def soon(work: Awaitable[object]) -> object:
    async with asyncio.timeout(10):
        return await work


async def test_created_is_not_started(subject: Subject) -> None:
    launch = subject.launch()
    launched = await subject.oci.create(launch)
    assert launched.init != launched.monitor
    assert not await subject.oci.running(subject.handler, launch.id)
    await subject.oci.start(subject.handler, launch.id)
    assert await subject.oci.running(subject.handler, launch.id)


async def test_an_id_is_created_once(subject: Subject) -> None:
    launch = subject.launch()
    launched = await subject.oci.create(launch)
    with pytest.raises(ToolFailed, match="already exists"):
        await subject.oci.create(launch)
    # and the one that was there is unharmed
    assert await subject.oci.signal(launched.init, 0)
    await subject.oci.start(subject.handler, launch.id)
    assert await subject.oci.running(subject.handler, launch.id)


async def test_a_kill_is_137_and_seen_by_everyone_who_waits(subject: Subject) -> None:
    launch = subject.launch()
    launched = await subject.oci.create(launch)
    await subject.oci.start(subject.handler, launch.id)
    waiting = [asyncio.ensure_future(subject.oci.wait(launch.id, launched)) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(waiter.done() for waiter in waiting)
    assert await subject.oci.signal(launched.init, signal.SIGKILL)
    first, second = [await soon(waiter) for waiter in waiting]
    assert first == second == await soon(subject.oci.wait(launch.id, launched))
    assert (first.code, first.lost) == (137, False)  # type: ignore[attr-defined]
    assert not await subject.oci.signal(launched.init, signal.SIGKILL)


async def test_kill_all_ends_it(subject: Subject) -> None:
    launch = subject.launch()
    launched = await subject.oci.create(launch)
    await subject.oci.start(subject.handler, launch.id)
    await subject.oci.kill_all(subject.handler, launch.id)
    assert (await soon(subject.oci.wait(launch.id, launched))).code == 137  # type: ignore[attr-defined]
    await subject.oci.kill_all(subject.handler, launch.id)
    await subject.oci.kill_all(subject.handler, "f" * 64)


@pytest.mark.parametrize("started", [True, False])
async def test_delete_ends_it_and_can_be_repeated(subject: Subject, started: bool) -> None:
    launch = subject.launch()
    launched = await subject.oci.create(launch)
    if started:
        await subject.oci.start(subject.handler, launch.id)
    for _ in range(2):
        await subject.oci.delete(subject.handler, launch.id)
    assert not await subject.oci.signal(launched.init, 0)
    assert not await subject.oci.running(subject.handler, launch.id)
    await subject.oci.delete(subject.handler, "f" * 64)


async def test_an_end_that_nobody_saw_is_255_and_lost(subject: Subject) -> None:
    launch = subject.launch()
    launched = await subject.oci.create(launch)
    await subject.oci.delete(subject.handler, launch.id)
    ending = await soon(subject.oci.wait(launch.id, launched))
    assert (ending.code, ending.lost) == (255, True)  # type: ignore[attr-defined]


async def test_a_signal_for_another_process_goes_nowhere(subject: Subject) -> None:
    launched = await subject.oci.create(subject.launch())
    other = ProcessRef(launched.init.pid, launched.init.start + 1)
    assert not await subject.oci.signal(other, signal.SIGKILL)
    assert await subject.oci.signal(launched.init, signal.SIGKILL)


async def test_one_that_runs_nothing_for_clients_has_no_sessions_to_end(subject: Subject) -> None:
    launch = subject.launch()
    await subject.oci.create(launch)
    await subject.oci.start(subject.handler, launch.id)
    assert await subject.oci.end_sessions(subject.handler, launch.id) == 0
    await subject.oci.delete(subject.handler, launch.id)
    assert await subject.oci.end_sessions(subject.handler, launch.id) == 0
