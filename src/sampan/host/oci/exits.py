"""How a container ended: conmon's exit file, and where nobody saw it, that it is not known.

An unknown end is never turned into success. The exit file alone is never waited for: a killed conmon or a
full disk leaves none. What is waited for is conmon's end, by pidfd; it has written the file by then.
"""

import time
from pathlib import Path

from sampan.host.cgroup import oom
from sampan.host.oci.runtime_state import RuntimeState
from sampan.host.processes import gone, read_small
from sampan.host.threads import in_thread
from sampan.model.process import ProcessRef
from sampan.runtime.ports import Exit
from sampan.wire import conmon

UNKNOWN = 255


async def ended(init: ProcessRef, monitor: ProcessRef, exit_file: Path, state: RuntimeState) -> Exit:
    """Wait for the end of a container and say how it was, also for one that ended long ago.

    OSError when it cannot be told now, for want of descriptors or memory: ask again.
    """
    await gone(monitor)
    seen = await in_thread(_read, exit_file, state, init)
    if seen is None:  # conmon was killed, and the container may live on
        await gone(init)
        seen = await in_thread(_read, exit_file, state, init)
    if seen is None:
        return await in_thread(_unseen, state, init)
    return seen


def _read(exit_file: Path, state: RuntimeState, init: ProcessRef) -> Exit | None:
    """What conmon wrote; None if it wrote nothing that can be believed."""
    try:
        code = conmon.exit_code(read_small(exit_file))
        at = exit_file.stat().st_mtime_ns
    except FileNotFoundError:
        return None
    return None if code is None else _exit(code, at, state, init)


def _unseen(state: RuntimeState, init: ProcessRef) -> Exit:
    return _exit(UNKNOWN, time.time_ns(), state, init, lost=True)


def _exit(code: int, at: int, state: RuntimeState, init: ProcessRef, *, lost: bool = False) -> Exit:
    kill = oom.killed(state, init.pid, code)
    return Exit(code, at, oom=kill is not None, lost=lost, kill=kill)
