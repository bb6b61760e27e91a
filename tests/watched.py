"""sampand with a window: at SIGUSR1 it writes what it holds, as nobody outside could count it, to `counts.json` beside
its configuration. Run as a program in sampand's place.

With SAMPAN_LEAK in the environment every hundredth command leaks one of everything: what looks for leaks has to see
that.
"""

import asyncio
import gc
import heapq
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from sampan.host.cgroup import exec_places
from sampan.host.oci import exec_child

LEAK = "SAMPAN_LEAK"
EVERY = 100  # commands
POOLS = ("quick_", "slow_")  # of `host.threads`: they grow to their bounds, and stay
_kept: list[object] = []
_begin = exec_child.begin


def counts() -> dict[str, Any]:
    """Tasks by name, blocks of memory that Python has given out, threads, groups of commands."""
    forget_cancelled_timers()
    gc.collect()
    tasks = asyncio.all_tasks()
    names = Counter(getattr(task.get_coro(), "__qualname__", "?") for task in tasks)
    known = exec_places._hierarchy.path() if exec_places._hierarchy.known else ""
    groups = [name for name in os.listdir(known) if exec_places._RUN in name] if known else []  # noqa: PTH208
    return {
        "tasks": len(tasks),
        "task_names": dict(names),
        "blocks": sys.getallocatedblocks(),
        "cgroups": len(groups),
        "pools": sum(thread.name.startswith(POOLS) for thread in threading.enumerate()),
    }


def forget_cancelled_timers() -> None:
    """The loop keeps them until there are a hundred: as many blocks of memory as that are no leak."""
    loop: Any = asyncio.get_running_loop()
    loop._scheduled = [handle for handle in loop._scheduled if not handle.cancelled()]
    heapq.heapify(loop._scheduled)
    loop._timer_cancelled_count = 0


def tell(place: Path) -> None:
    """Write them, whole or not at all."""
    part = place.with_suffix(".part")
    part.write_text(json.dumps(counts()))
    part.replace(place)


async def leaking(*arguments: Any, **more: Any) -> Any:
    """`exec_child.begin`, and one of everything at each hundredth call."""
    _leaked.calls += 1
    if _leaked.calls % EVERY == 0:
        _leaked(_leaked.calls)
    return await _begin(*arguments, **more)


class Leak:
    """One of everything."""

    def __init__(self, state: Path) -> None:
        self.calls = 0
        self._state = state

    def __call__(self, number: int) -> None:
        _kept.append(os.dup(0))
        _kept.append(asyncio.get_running_loop().create_task(asyncio.Event().wait()))
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        _kept.append(subprocess.Popen(["sleep", "100000"], start_new_session=True))
        (self._state / f"leak-{number}").touch()
        _kept.append([object() for _ in range(1000)])
        os.mkdir(f"{exec_places._hierarchy.path()}/leak.{exec_places._RUN}-x{number}")  # noqa: PTH102


_leaked: Leak


def main() -> None:
    global _leaked
    directory = Path(sys.argv[sys.argv.index("--config") + 1]).parent
    _leaked = Leak(directory / "state")
    if LEAK in os.environ:
        exec_child.begin = leaking
    signal.signal(signal.SIGUSR1, lambda *_: tell(directory / "counts.json"))
    from sampan import daemon  # after `begin` has been replaced, which others import by name

    daemon.main()


if __name__ == "__main__":
    main()
