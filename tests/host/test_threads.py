"""Tests of host.threads."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from sampan.host import syscalls
from sampan.host.threads import in_own_thread, in_slow_thread, in_thread


@pytest.mark.parametrize("run", [in_thread, in_slow_thread])
async def test_blocking_work_runs_beside_the_loop(run: object) -> None:
    def work(number: int, *, plus: int) -> tuple[int, int]:
        return threading.get_ident(), number + plus

    ident, result = await run(work, 1, plus=2)  # type: ignore[operator]
    assert result == 3
    assert ident != threading.get_ident()


async def test_slow_work_does_not_hold_up_quick_work() -> None:
    gate = threading.Event()
    waiting = [asyncio.ensure_future(in_slow_thread(gate.wait)) for _ in range(20)]
    try:
        assert await in_thread(lambda: "quick") == "quick"
    finally:
        gate.set()
        await asyncio.gather(*waiting)


async def test_an_own_thread_ends_with_its_call() -> None:
    first = await in_own_thread(lambda: Path("/proc/thread-self").readlink().name)
    assert first != str(os.getpid())


async def test_a_failure_reaches_the_caller() -> None:
    def fail() -> None:
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        await in_own_thread(fail)
    with pytest.raises(LookupError, match="no"):
        await in_thread(fail)


async def test_a_cancelled_caller_leaves_the_work_to_end() -> None:
    gate, ended = threading.Event(), threading.Event()

    def work() -> None:
        gate.wait()
        ended.set()

    task = asyncio.ensure_future(in_own_thread(work))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    assert await in_thread(ended.wait, 5)


@pytest.mark.root
async def test_a_namespace_made_in_an_own_thread_stays_there() -> None:
    def namespace() -> str:
        return str(Path("/proc/thread-self/ns/uts").readlink())

    def work() -> str:
        syscalls.unshare(syscalls.CLONE_NEWUTS)
        return namespace()

    here = namespace()
    assert await in_own_thread(work) != here
    assert namespace() == here
    assert await in_thread(namespace) == here
