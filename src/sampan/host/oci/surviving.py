"""What is done to, and said of, the processes that are alive in a container's group. For code that runs in a thread.

Sources: proc_pid_oom_score_adj(5), proc_pid_wchan(5).
"""

import errno
import os
from collections.abc import Callable

from sampan.host.cgroup.container_cgroup import ContainerCgroup
from sampan.host.processes import read_small
from sampan.model.errors import Denied
from sampan.wire import proc

_ROUNDS = 20  # looks for processes that were forked meanwhile
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
        name = read_small(f"/proc/{pid}/comm").decode(errors="replace").strip()
        where = read_small(f"/proc/{pid}/wchan").decode(errors="replace").strip("\0\n ")
    except (OSError, ValueError):
        return ""
    if proc.stat(stat).dead:
        return ""
    waits = f" in {where}" if where not in ("", "0") else ""
    return f"pid {pid} ({name}) is in state {state}{waits}"


def adjust_oom_score(cgroup: Callable[[], ContainerCgroup], before: int, after: int) -> None:
    """Set the oom_score_adj of those that have the value `before`, until none is found that was not looked at."""
    seen: set[int] = set()
    for _ in range(_ROUNDS):
        fresh = cgroup().processes() - seen
        if not fresh:
            return
        opened = {pid: file for pid in fresh if (file := _open(pid)) is not None}
        try:
            # a number that was given to another process before we opened it is not in the group any more
            for pid in cgroup().processes() & set(opened):
                _adjust(opened[pid], before, after)
        finally:
            for file in opened.values():
                os.close(file)
        seen |= fresh


def _open(pid: int) -> int | None:
    try:
        return os.open(f"/proc/{pid}/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise


def _adjust(file: int, before: int, after: int) -> None:
    try:
        if int(os.read(file, 16)) == before:
            os.pwrite(file, str(after).encode(), 0)
    except PermissionError as error:
        raise Denied(
            f"the kernel refuses an oom_score_adj of {after}: a process started with a higher one, and this daemon "
            f"has no CAP_SYS_RESOURCE"
        ) from error
    except OSError as error:
        if error.errno not in _GONE:
            raise
