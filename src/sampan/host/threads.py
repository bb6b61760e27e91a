"""Where blocking work runs: two pools and threads of one call.

Not a scheduler. A call that is cancelled leaves its thread running to the end (a syscall cannot be taken
back): wrap work whose outcome must be known in `tasks.finish`.
"""

import _thread
import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from sampan.model.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")

# Two pools, so that forty layers being measured never queue a mount. Threads are made on demand.
_quick = ThreadPoolExecutor(max_workers=16, thread_name_prefix="quick")
_slow = ThreadPoolExecutor(max_workers=4, thread_name_prefix="slow")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a short blocking call (a few syscalls, a small file) without holding up the loop."""
    return await _on(_quick, work, *args, **kwargs)


async def in_slow_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a long blocking call (walking a tree, deleting a layer) where it cannot delay the short ones."""
    return await _on(_slow, work, *args, **kwargs)


async def _on(pool: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, partial(work, *args, **kwargs))


async def in_own_thread(work: Callable[[], T]) -> T:
    """Run work that changes its thread's namespaces, root or credentials, or that must not queue: the thread ends with
    the call.

    A thread that unshared or joined a namespace must never return to a pool: the next job would run in it. Whoever
    calls this says how many such threads there can be.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def body() -> None:
        try:
            _tell(loop, outcome, partial(outcome.set_result, work()))
        except BaseException as error:  # noqa: BLE001 - carried to the caller, whatever it is
            _tell(loop, outcome, partial(outcome.set_exception, error))

    _thread.start_new_thread(body, ())  # threading.Thread.start() would block the loop until the thread runs
    return await outcome


STUCK_LOOKS = 32  # a thread each
_stuck: dict[tuple[str, ...], object] = {}  # looks whose callers have left, by their places
_ending = _thread.allocate_lock()  # of a look and the leaving of its caller: one comes first


async def look_at(places: Iterable[str], work: Callable[[], T]) -> T:
    """`in_own_thread` for a look at file systems of others, of which one may be dead: cancelled, it leaves its thread
    there. Unavailable at once while an earlier such look at the same places has not ended, or STUCK_LOOKS have not."""
    key = tuple(places)
    if key in _stuck:
        raise Unavailable(f"an earlier look at {', '.join(key[:5])} has not ended: is its file system dead?")
    if len(_stuck) >= STUCK_LOOKS:
        known = ", ".join(sorted({place for each in _stuck for place in each})[:5])
        raise Unavailable(f"{len(_stuck)} looks at file systems have not ended ({known}): is one dead?")
    running = {key}

    def body() -> T:
        try:
            return work()
        finally:
            with _ending:
                running.clear()
                if _stuck.get(key) is running:
                    del _stuck[key]

    try:
        return await in_own_thread(body)
    except asyncio.CancelledError:
        with _ending:
            if running:
                _stuck[key] = running
        raise


def _tell(loop: asyncio.AbstractEventLoop, outcome: "asyncio.Future[T]", tell: Callable[[], None]) -> None:
    def settle() -> None:
        if not outcome.done():  # else: the caller was cancelled and nobody listens
            tell()

    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)
