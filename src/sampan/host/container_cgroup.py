"""One container's control group: kill all that is in it, say whether the kernel killed for memory, remove it.

For v1, v2 and the hybrid of both. Not the parents that pods share, and no statistics (`host.cgroups`).
Everything here is for code that runs in a thread. Sources: Documentation/admin-guide/cgroup-v2.rst,
cgroup-v1/freezer-subsystem.rst.
"""

import os
import signal
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from sampan.host.processes import find, read_small, send_now
from sampan.wire import cgroupfs, mountinfo, proc
from sampan.wire.cgroup_paths import Layout, layout

_KILL_ROUNDS = 20


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

    def oom_killed(self) -> bool:
        """Whether the kernel has killed a process of the group because its memory was used up."""
        memory = self._layout.v1.get("memory")
        file = f"{memory}/{self.below}/memory.oom_control" if memory else ""
        if not file and self._layout.v2:
            file = f"{self._layout.v2}/{self.below}/memory.events"
        if not self._folders or not file:
            return False
        try:
            return bool(cgroupfs.table(read_small(file)).get(b"oom_kill"))
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL to everything in the group and below, fork bombs included."""
        if self._folders and not self._kill_at_once():
            frozen = self._freeze(b"FROZEN")
            self._kill_each()
            if frozen:
                self._freeze(b"THAWED")

    def _kill_at_once(self) -> bool:
        """By `cgroup.kill` (Linux 5.14), where the processes are in the unified hierarchy."""
        if not self._layout.v2:
            return False
        try:
            _write(f"{self._layout.v2}/{self.below}/cgroup.kill", b"1")
        except OSError:
            return False
        return self._layout.unified

    def _freeze(self, state: bytes) -> bool:
        """On v1, stop the group, so that nothing forks while it is killed. The signals act once it is
        thawed."""
        freezer = self._layout.v1.get("freezer")
        if freezer is None:
            return False
        try:
            _write(f"{freezer}/{self.below}/freezer.state", state)
        except OSError:
            return False
        return True

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
            for directory, _, _ in os.walk(folder):
                with suppress(OSError):
                    found.update(proc.pids(Path(directory, "cgroup.procs").read_bytes()))
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
    for directory, _, _ in os.walk(folder, topdown=False):
        try:
            os.rmdir(directory)  # noqa: PTH106
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


def _write(path: str, text: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)
