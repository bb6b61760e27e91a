"""What the processes of a control group hold open, counted in /proc. Source: proc_pid_fd(5), proc_pid_limits(5).

Not a look at everything: what one container may cost here is bounded, in groups, in processes and in descriptors, and
what would take more is said to be unknown. How many descriptors a process has open, Linux 6.2 tells as the size of
/proc/PID/fd; before, and to know which of them are sockets, they are gone through one by one.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from sampan.host.processes import read_small
from sampan.wire import proc

MAX_GROUPS = 1024  # in one container's, its own included; a systemd in it makes some hundred
MAX_PROCESSES = 4096  # of one container whose descriptors are counted
MAX_LINKS = 16384  # descriptors of one container that are looked at one by one


def pids(group: str) -> list[int] | None:
    """The processes of a group and of the groups in it; None where those are too many."""
    folders = _folders(group)
    return None if folders is None else [pid for folder in folders for pid in _pids(folder)]


def descriptors(pids: Sequence[int]) -> tuple[int | None, int | None]:
    """How many descriptors these processes have open, and how many of them are sockets; None where that is too many to
    count. One that ends meanwhile has none."""
    if len(pids) > MAX_PROCESSES:
        return None, None
    open_ones = sockets = 0
    for pid in pids:
        folder, left = f"/proc/{pid}/fd", MAX_LINKS - open_ones
        told = _told(folder)
        if told > left:
            open_ones += told
            continue
        names = _names(folder, left + 1)
        open_ones += len(names)
        if len(names) <= left:
            sockets += sum(_is_socket(f"{folder}/{name}") for name in names)
        elif not told:
            return None, None
    return open_ones, sockets if open_ones <= MAX_LINKS else None


def open_files_limit(pid: int) -> int | None:
    """The soft limit of open files of a process; None if it is gone or has no limit."""
    try:
        return proc.soft_limit(read_small(f"/proc/{pid}/limits"), b"Max open files")
    except OSError:
        return None


def _folders(group: str) -> list[str] | None:
    """The group and those in it, however deep: a privileged container makes them as it likes."""
    found = [group]
    for folder in found:  # which grows meanwhile
        with suppress(OSError):  # gone
            if os.stat(folder).st_nlink <= 2:  # noqa: PTH116 - in the hot path; no group in it, as of nearly every one
                continue
            with os.scandir(folder) as entries:
                inner = (entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
                found += islice(inner, MAX_GROUPS + 1 - len(found))
        if len(found) > MAX_GROUPS:
            return None
    return found


def _pids(folder: str) -> list[int]:
    try:
        return proc.pids(Path(f"{folder}/cgroup.procs").read_bytes())
    except OSError:  # gone; or a threaded group, whose processes the one above names
        return []


def _told(folder: str) -> int:
    """How many descriptors there are by the kernel's own count; 0 where it does not tell."""
    try:
        return os.stat(folder).st_size  # noqa: PTH116 - in the hot path
    except OSError:
        return 0


def _names(folder: str, most: int) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, most)]
    except OSError:
        return []


def _is_socket(path: str) -> bool:
    try:
        return os.readlink(path).startswith("socket:")  # noqa: PTH115 - in the hot path
    except OSError:
        return False
