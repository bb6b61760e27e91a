"""What is done to, and said of, the processes that are alive in a container's group. For code that runs in a thread.

Sources: proc_pid_oom_score_adj(5), proc_pid_wchan(5).
"""

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from sampan.host.cgroup.container_cgroup import ContainerCgroup
from sampan.host.processes import read_small
from sampan.model.errors import Denied
from sampan.wire import proc

_ROUNDS = 20  # looks for processes that were forked meanwhile
_AT_ONCE = 100  # processes, whose files are open together
_SHOWN = 10  # processes, in an error message
_GONE = (errno.ENOENT, errno.ESRCH)


def described(cgroup: Callable[[], ContainerCgroup]) -> tuple[str, ...]:
    """One phrase for each process alive: its pid, its name, its state, and the kernel function it waits in."""
    lines = (_described(pid) for pid in sorted(cgroup().processes()))
    return tuple(line for line in lines if line)[:_SHOWN]


def _described(pid: int) -> str:
    try:
        stat = read_small(f"/proc/{pid}/stat")
        state = proc.state(stat)
        name = _name(f"/proc/{pid}/comm")
        where = _name(f"/proc/{pid}/wchan")
    except (OSError, ValueError):
        return ""
    if proc.stat(stat).dead:
        return ""
    waits = f" in {where}" if where not in ("", "0") else ""
    return f"pid {pid} `{name}` is in state {state}{waits}"


def _name(file: str) -> str:
    return proc.printable(read_small(file).decode(errors="replace").strip("\0\n "))


def adjust_oom_score(cgroup: Callable[[], ContainerCgroup], before: int, after: int) -> None:
    """Set the oom_score_adj of those that have the value `before`, until none is found that was not looked at. Raises
    Denied, when all have been tried, if the kernel refused it for some."""
    seen: set[int] = set()
    refused: list[int] = []
    for _ in range(_ROUNDS):
        fresh = cgroup().processes() - seen
        if not fresh:
            break
        pids = sorted(fresh)
        for first in range(0, len(pids), _AT_ONCE):
            refused += _adjust(cgroup, pids[first : first + _AT_ONCE], before, after)
        seen |= fresh
    if refused:
        raise Denied(
            f"the kernel refuses an oom_score_adj of {after} for {len(refused)} processes (pid {refused[0]} for one): "
            f"they started with a higher one, and this daemon has no CAP_SYS_RESOURCE"
        )


def _adjust(cgroup: Callable[[], ContainerCgroup], pids: Sequence[int], before: int, after: int) -> list[int]:
    """Those of the processes for which the kernel refuses it."""
    with ExitStack() as opened:
        files = {pid: file for pid in pids if (file := _open(pid, opened)) is not None}
        # a number that was given to another process before we opened it is not in the group any more
        ours = cgroup().processes() & files.keys()
        return [pid for pid in sorted(ours) if not _adjusted(files[pid], before, after)]


def _open(pid: int, opened: ExitStack) -> int | None:
    try:
        file = os.open(f"/proc/{pid}/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    opened.callback(os.close, file)
    return file


def _adjusted(file: int, before: int, after: int) -> bool:
    try:
        if int(os.read(file, 16)) == before:
            os.pwrite(file, str(after).encode(), 0)
    except PermissionError:
        return False
    except OSError as error:
        if error.errno not in _GONE:
            raise
    return True
