"""One container's control group: kill all that is in it, count what the kernel killed for memory, remove it.

For v1, v2 and the hybrid of both. Not the parents that pods share, and no statistics (`host.cgroup.cgroups`).
Everything here is for code that runs in a thread. Sources: Documentation/admin-guide/cgroup-v2.rst,
cgroup-v1/freezer-subsystem.rst.
"""

import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from sampan.host.processes import find, read_small, send_now
from sampan.wire import cgroupfs, mountinfo, proc
from sampan.wire.cgroup_paths import Layout, layout

_KILL_ROUNDS = 20
_CRUN_GROUP = "container"  # crun(1), run.oci.systemd.subgroup
# EOPNOTSUPP: a threaded group on v2 has no cgroup.procs of its own (its processes are listed above it) and no
# cgroup.kill; every group has, once it is not threaded.
_ABSENT = (errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.EOPNOTSUPP)


@cache
def machine_layout() -> Layout:
    """The hierarchies as they were mounted when the first container was looked at."""
    return layout(mountinfo.parse(Path("/proc/self/mountinfo").read_bytes()))


class ContainerCgroup:
    """The group at `path` below each hierarchy. Made for "" or the root, it owns nothing and does nothing."""

    def __init__(self, path: str, hierarchies: Layout | None = None) -> None:
        self._layout = hierarchies or machine_layout()
        below = path.strip("/")
        owned = bool(below) and ".." not in below.split("/")
        self._folders = [f"{top}/{below}" for top in self._layout.hierarchies] if owned else []
        self.below = below

    def __bool__(self) -> bool:
        """Whether there is such a group anywhere."""
        return any(Path(folder).is_dir() for folder in self._folders)

    @property
    def root(self) -> str:
        """The group that is the container's alone: under systemd its scope, in which crun makes one group more."""
        above, _, last = self.below.rpartition("/")
        return above if last == _CRUN_GROUP and above.endswith(".scope") else self.below

    @property
    def memory_v1(self) -> bool:
        """Whether memory is accounted by cgroup v1."""
        return "memory" in self._layout.v1

    def memory_file(self, group: str, name: str) -> str:
        """Where the file `name` of a group's memory controller is."""
        return f"{self._layout.v1.get('memory') or self._layout.v2}/{group}/{name}"

    def memory_limit(self, group: str) -> int | None:
        """A group's own limit in bytes; None without one, or if the group is gone."""
        name = "memory.limit_in_bytes" if self.memory_v1 else "memory.max"
        limit = cgroupfs.number(_read(self.memory_file(group, name)))
        return limit if limit is not None and limit < cgroupfs.UNLIMITED else None

    def oom_kills(self) -> int:
        """How many processes of the group the kernel has killed for memory; 0 if the group is gone."""
        if not self._folders:
            return 0
        name = "memory.oom_control" if self.memory_v1 else "memory.events"
        return cgroupfs.table(_read(self.memory_file(self.below, name))).get(b"oom_kill", 0)

    def lift_cpu_quota(self) -> None:
        """Lift the limit on CPU time of a group on v1. Raises OSError."""
        _write(f"{self._layout.v1['cpu']}/{self.below}/cpu.cfs_quota_us", b"-1")

    def kill(self) -> None:
        """SIGKILL to everything in the group and below, fork bombs included."""
        if self._folders and not self._kill_at_once():
            with self.frozen():
                self._kill_each()

    def _kill_at_once(self) -> bool:
        """By `cgroup.kill` (Linux 5.14), where the processes are in the unified hierarchy."""
        if not self._layout.v2:
            return False
        return _written(f"{self._layout.v2}/{self.below}/cgroup.kill", b"1") and self._layout.unified

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """On v1, the group stopped, so that nothing forks while it is killed. The signals act once it is thawed, by
        the descriptor that stopped it: there may be no other left."""
        freezer = self._layout.v1.get("freezer")
        file = _opened(f"{freezer}/{self.below}/freezer.state") if freezer else None
        if file is None:
            yield
            return
        try:
            _told(file, b"FROZEN")
            yield
        finally:
            try:
                _told(file, b"THAWED")
            finally:
                os.close(file)

    def _kill_each(self) -> None:
        killed: set[int] = set()
        for _ in range(_KILL_ROUNDS):
            fresh = self.processes() - killed
            if not fresh:
                return
            for pid in fresh:
                process = find(pid)
                if process is not None:
                    send_now(process, signal.SIGKILL)
            killed |= fresh

    def processes(self) -> set[int]:
        """The pids in the group and all groups below, in any hierarchy."""
        found: set[int] = set()
        for folder in self._folders:
            for directory, _, _ in os.walk(folder, onerror=_unless_absent):
                found.update(proc.pids(_read(f"{directory}/cgroup.procs") or b""))
        return found - {os.getpid()}

    def kill_and_remove(self, seconds: float) -> bool:
        """`kill` and `remove` until the group is gone, for at most `seconds`: the dead take a moment to
        leave it."""
        deadline = time.monotonic() + seconds
        pause = 0.001
        while not self.remove():
            self.kill()
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
        return True

    def remove(self) -> bool:
        """Remove the group and those below; whether it is gone everywhere. Something alive in it keeps it."""
        # a list, not a generator: each is to be tried
        return all([_remove(folder) for folder in self._folders])


def _remove(folder: str) -> bool:
    try:
        os.rmdir(folder)  # noqa: PTH106 - nearly always enough, and Path costs more than the call
        return True
    except FileNotFoundError:
        return True
    except OSError:
        pass
    for directory, _, _ in os.walk(folder, topdown=False, onerror=_unless_absent):
        try:
            os.rmdir(directory)  # noqa: PTH106
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


def _unless_absent(error: OSError) -> None:
    """A group that is gone has nothing in it; one that cannot be looked at may."""
    if error.errno not in _ABSENT:
        raise error


def _read(path: str) -> bytes | None:
    """A file of a group; None if it is not there, or its group is gone. All else (no descriptors, no memory) raises
    OSError: it says nothing about the group."""
    try:
        return read_small(path)
    except OSError as error:
        _unless_absent(error)
        return None


def _written(path: str, text: bytes) -> bool:
    """Write; False if the file is not there."""
    try:
        _write(path, text)
    except OSError as error:
        _unless_absent(error)
        return False
    return True


def _opened(path: str) -> int | None:
    """To be written to; None if it is not there."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        _unless_absent(error)
        return None


def _told(file: int, text: bytes) -> None:
    """Write to an open file; nothing if the group has gone meanwhile."""
    try:
        os.pwrite(file, text, 0)
    except OSError as error:
        _unless_absent(error)


def _write(path: str, text: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)
