"""Tests of host.threads."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from sampan.host import syscalls, threads
from sampan.host.threads import in_own_thread, in_slow_thread, in_thread, look_at
from sampan.model.errors import Unavailable


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


async def given_up(places: list[str], gate: threading.Event) -> None:
    """A look that hangs, and whose caller leaves."""
    begun = threading.Event()

    def work() -> None:
        begun.set()
        gate.wait(20)

    looking = asyncio.ensure_future(look_at(places, work))
    assert await in_thread(begun.wait, 10)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking


async def ended(places: list[str]) -> None:
    """Wait until that look has ended after all."""
    async with asyncio.timeout(10):
        while True:
            try:
                await look_at(places, lambda: None)
            except Unavailable:
                await asyncio.sleep(0.005)
            else:
                return


async def test_a_look_that_hangs_costs_one_thread_however_often_it_is_tried_again() -> None:
    gate = threading.Event()
    try:
        await given_up(["/dead", "/fine"], gate)
        for _ in range(3):
            with pytest.raises(Unavailable, match=r"/dead, /fine has not ended.*dead"):
                await look_at(["/dead", "/fine"], lambda: pytest.fail("a second thread"))
        assert await look_at(["/fine"], lambda: "seen") == "seen"  # others go on
    finally:
        gate.set()
    await ended(["/dead", "/fine"])


async def test_looks_that_hang_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "STUCK_LOOKS", 2)
    gate = threading.Event()
    try:
        await given_up(["/1"], gate)
        await given_up(["/2"], gate)
        with pytest.raises(Unavailable, match="2 looks at file systems have not ended"):
            await look_at(["/3"], lambda: pytest.fail("a third thread"))
    finally:
        gate.set()
    await ended(["/3"])


async def test_a_look_that_fails_says_so() -> None:
    with pytest.raises(ZeroDivisionError):
        await look_at(["/x"], lambda: 1 // 0)
    assert await look_at(["/x"], lambda: 1) == 1


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
