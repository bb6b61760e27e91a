"""The async kit: owned tasks, clean-up that outlives cancellation, keyed locks, and the numbered steps.

Nothing here knows what a pod is. Every background task of the daemon is started through `Tasks`; every side
effect on the machine is announced through `step`, which tests use to kill, fail or delay the daemon there.
"""

import asyncio
import errno
import fcntl
import json
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sampan.model.errors import Unavailable

T = TypeVar("T")
log = logging.getLogger("sampan")


class Tasks:
    """Owns every background task: none outlives the daemon, none fails in silence."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run `work` in the background under `name`; a failure is logged with its traceback."""
        task = asyncio.get_running_loop().create_task(self._logged(name, work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # one cancelled before it began was never awaited
        return task

    async def _logged(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            log.exception("background task failed: %s", name)

    async def stop(self) -> None:
        """Cancel what still runs and wait for it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end even if the caller is cancelled, once or often; then cancel the caller.

    This is what makes a teardown run whole when a client's deadline cancels its RPC half way.
    """
    task = asyncio.get_running_loop().create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except Exception:  # noqa: BLE001 - the task's own failure; raised below by result()
            break
    if cancelled is not None:
        task.exception()  # retrieved, so that asyncio does not complain; the cancellation wins
        raise cancelled
    return task.result()


@dataclass
class _Entry:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class KeyedLock:
    """One lock per key, kept only while somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}

    @asynccontextmanager
    async def __call__(self, key: Hashable) -> AsyncIterator[None]:
        entry = self._entries.setdefault(key, _Entry())
        entry.users += 1
        try:
            async with entry.lock:
                yield
        finally:
            entry.users -= 1
            if not entry.users:
                self._entries.pop(key, None)


@dataclass(frozen=True, slots=True)
class _Flight:
    task: "asyncio.Task[Any]"
    request: object


class Joined:
    """Work that concurrent callers with the same key share: the first starts it, all get its result.

    The work belongs to nobody's request: a caller that goes away leaves it running for the others and for
    the retry that will come.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, _Flight] = {}

    def running(self, key: Hashable) -> bool:
        """Whether work under `key` is in flight."""
        return key in self._running

    def request(self, key: Hashable) -> object:
        """What the work in flight under `key` was asked for; None without any, or for work that nobody asked for."""
        flight = self._running.get(key)
        return flight and flight.request

    async def wait(self, key: Hashable) -> None:
        """Wait until nothing is in flight under `key`, whatever comes of it."""
        while (flight := self._running.get(key)) is not None:
            await asyncio.wait([flight.task])

    async def run(self, key: Hashable, work: Coroutine[Any, Any, T], request: object = None) -> T:
        """The result of the work in flight under `key`, or of `work`, started now and remembered with `request`."""
        flight = self._running.get(key)
        if flight is None:
            task = asyncio.get_running_loop().create_task(work, name=f"joined {key}")
            flight = self._running[key] = _Flight(task, request)
            task.add_done_callback(lambda done: self._ended(key, done))
        else:
            work.close()
        result: T = await asyncio.shield(flight.task)
        return result

    def _ended(self, key: Hashable, task: "asyncio.Task[Any]") -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # the callers raise it; without any it must not be reported as lost

    async def settle(self) -> None:
        """Wait until nothing is in flight (for an orderly stop)."""
        while self._running:
            await asyncio.gather(*(flight.task for flight in self._running.values()), return_exceptions=True)


@asynccontextmanager
async def bounded(seconds: float, what: str) -> AsyncIterator[None]:
    """Give the block `seconds`; past them, raise Unavailable that says what took too long."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise Unavailable(str(error) or f"{what} did not end within {seconds:g} s") from error


# --- numbered steps ---------------------------------------------------------------------------------------

FAULTS_VARIABLE = "SAMPAN_FAULTS"
_faults = os.environ.get(FAULTS_VARIABLE, "")


async def step(name: str, subject: str = "") -> None:
    """Announce the side effect that follows; in a test build, do what the fault table says for it.

    `subject` is the id of the object worked on. The fault table is the JSON file that $SAMPAN_FAULTS names: a list
    of {"step", "action": kill | fail | delay | enospc, "seconds", "subject", "skip"}; a used line is removed.
    """
    if _faults and (seconds := _strike(name, subject)):
        await asyncio.sleep(
            seconds
        )  # not when 0: a step must not yield in a test where it does not in production


def step_now(name: str, subject: str = "") -> None:
    """`step` for code that runs in a thread of its own."""
    if _faults:
        time.sleep(_strike(name, subject))


def _strike(name: str, subject: str) -> float:
    """Seconds to wait, after the step is recorded and its fault, if there is one, is met. Steps of several threads take
    turns at the table."""
    table = Path(_faults)
    with table.with_suffix(".seen").open("a") as seen:
        fcntl.flock(seen, fcntl.LOCK_EX)
        seen.write(name + "\n")
        fault = _take(table, name, subject)
    return _act(fault, name) if fault else 0.0


def _take(table: Path, name: str, subject: str) -> dict[str, Any] | None:
    """The fault that is written for this step, taken out of the table; None, and one skip less, if it is not due."""
    try:
        faults: list[dict[str, Any]] = json.loads(table.read_text())
    except (OSError, ValueError):
        return None
    for fault in faults:
        if fault["step"] not in (name, "*") or fault.get("subject", subject) != subject:
            continue
        due = fault.get("skip", 0) <= 0
        fault["skip"] = fault.get("skip", 0) - 1
        table.write_text(json.dumps([other for other in faults if not (due and other is fault)]))
        return fault if due else None
    return None


def _act(fault: dict[str, Any], name: str) -> float:
    match fault["action"]:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "fail":
            raise RuntimeError(f"injected failure at {name}")
        case "enospc":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        case "delay":
            return float(fault["seconds"])
    return 0.0


async def both(first: Awaitable[object], second: Awaitable[object]) -> None:
    """Run two effects side by side; if one fails, wait for the other to settle, then raise the first failure."""
    results = await asyncio.gather(first, second, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
