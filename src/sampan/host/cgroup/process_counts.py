"""What the processes of a control group hold open, counted in /proc. Source: proc_pid_fd(5), proc_pid_limits(5).

Not a look at every process of a machine: a container with very many processes or descriptors is counted in part and
then said to be unknown, rather than measured for seconds.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sampan.host.processes import read_small
from sampan.wire import proc

MAX_PROCESSES = 4096  # of one container whose descriptors are counted
MAX_LINKS = 16384  # descriptors of one container that are looked at one by one, to tell sockets from the rest


def pids(group: str) -> list[int]:
    """The processes of a group and of the groups in it."""
    return [pid for folder in _folders(group) for pid in _pids(folder)]


def descriptors(pids: Sequence[int]) -> tuple[int | None, int | None]:
    """How many descriptors these processes have open, and how many of them are sockets; None where that is too many to
    count. One that ends meanwhile has none."""
    if len(pids) > MAX_PROCESSES:
        return None, None
    open_ones, sockets = 0, 0
    for pid in pids:
        names = _names(f"/proc/{pid}/fd")
        open_ones += len(names)
        if open_ones <= MAX_LINKS:
            sockets += sum(_is_socket(f"/proc/{pid}/fd/{name}") for name in names)
    return open_ones, sockets if open_ones <= MAX_LINKS else None


def open_files_limit(pid: int) -> int | None:
    """The soft limit of open files of a process; None if it is gone or has no limit."""
    try:
        return proc.soft_limit(read_small(f"/proc/{pid}/limits"), b"Max open files")
    except OSError:
        return None


def _folders(group: str) -> Iterator[str]:
    yield group
    try:
        if os.stat(group).st_nlink <= 2:  # noqa: PTH116 - in the hot path; no group in it, as of nearly every one
            return
        inner = [entry.path for entry in os.scandir(group) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for folder in inner:
        yield from _folders(folder)


def _pids(folder: str) -> list[int]:
    try:
        return proc.pids(Path(f"{folder}/cgroup.procs").read_bytes())
    except OSError:  # gone; or a threaded group, whose processes the one above names
        return []


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names are all we want, many of them
    except OSError:
        return []


def _is_socket(path: str) -> bool:
    try:
        return os.readlink(path).startswith("socket:")  # noqa: PTH115 - in the hot path
    except OSError:
        return False
