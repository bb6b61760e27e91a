"""Control groups on cgroup v1, v2 and the hybrid of both: the parents of pods, and what a container's group
says.

The groups of containers themselves are made and removed by the OCI runtime. A group that was made here
carries a mark (an extended attribute, which lives and dies with it), so that only those are ever removed,
also after a restart. Sources: cgroups(7), kernel Documentation/admin-guide/cgroup-v2.rst and
cgroup-v1/cpusets.rst. Names: `wire.cgroup_paths`.
"""

import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from sampan.host.cgroup.readings import Readings, read
from sampan.host.threads import in_thread
from sampan.model.errors import Invalid, WrongState
from sampan.runtime.ports import CgroupDetails, CgroupUsage
from sampan.tasks import step_now
from sampan.wire import cgroup_paths, cgroupfs, mountinfo
from sampan.wire.cgroup_paths import Layout

log = logging.getLogger("sampan.cgroups")
R = TypeVar("R")
MARK = "trusted.sampan"
_UNMARKED = 0o1755  # of a group that we made and did not come to mark; the sticky bit means nothing else here
_GRACE_SECONDS = 0.02  # for so long after a move the next is quick
_LIMITS_V1 = {
    "memory": ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    "cpu": ("cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"),
    "cpuset": ("cpuset.cpus", "cpuset.mems"),
    "pids": ("pids.max",),
}
_LIMITS_V2 = (
    "memory.max",
    "memory.swap.max",
    "cpu.weight",
    "cpu.max",
    "cpuset.cpus",
    "cpuset.mems",
    "pids.max",
)


async def detect(configured: str = "auto") -> "HostCgroups":
    """The groups of this machine under the configured driver. Raises Invalid if that driver cannot work
    here."""
    return await in_thread(_detect, configured)


def _detect(configured: str) -> "HostCgroups":
    mounts = mountinfo.parse(Path("/proc/thread-self/mountinfo").read_bytes())
    layout = cgroup_paths.layout(mounts)
    if layout.v2:
        layout = cgroup_paths.layout(mounts, read(f"{layout.v2}/cgroup.controllers") or b"")
    driver = cgroup_paths.choose_driver(
        configured,
        systemd_booted=Path("/run/systemd/system").is_dir(),
        pid_1=Path("/proc/1/comm").read_text().strip(),
        unified=layout.unified,
    )
    return HostCgroups(driver, layout)


class HostCgroups:
    """The `Cgroups` port on the real kernel. `driver` is systemd or cgroupfs."""

    def __init__(self, driver: str, layout: Layout) -> None:
        self.driver = driver
        self.layout = layout
        self._readings = Readings(layout)
        self._moved = 0.0
        self._unreadable: set[str] = set()  # of which that was said

    def container_path(self, parent: str, id: str) -> str:
        """The `cgroupsPath` that the OCI runtime is given for a container in this parent. Raises Invalid."""
        return cgroup_paths.cgroups_path(self.driver, parent, id)

    async def make_parent(self, parent: str) -> bool:
        """Create the parent group where it is absent; True if we made it in some hierarchy. With systemd
        there is nothing to make: it starts a slice together with the first scope in it. Raises Invalid for a
        parent that cannot be."""
        relative = cgroup_paths.parent_directory(self.driver, parent)
        if self.driver == cgroup_paths.SYSTEMD:
            return False
        return await in_thread(self._make, relative)

    async def expect_move(self) -> None:
        """Take the kernel's lock on thread groups once, by moving ourselves to where we are.

        The first move after a pause waits 6 ms for an RCU grace period, those within the next 20 ms don't (measured;
        kernel/locking/percpu-rwsem.c, kernel/rcu/sync.c). Done while a container is being prepared, it costs nobody.
        """
        if time.monotonic() - self._moved > _GRACE_SECONDS:
            self._moved = time.monotonic()
            await in_thread(self._move_to_self)

    async def remove_parent(self, parent: str) -> None:
        """Remove a parent group that we made, and its ancestors that are ours, as far as they are empty."""
        relative = cgroup_paths.parent_directory(self.driver, parent)
        if self.driver != cgroup_paths.SYSTEMD:
            await in_thread(self._remove, relative)

    async def usage_many(self, groups: Sequence[tuple[str, str]]) -> list[CgroupUsage | None]:
        """One reading of each group, given as (parent, container id or ""); None for one that is gone."""
        places = [self._place(parent, id) for parent, id in groups]
        usage = self._readings.usage
        return await in_thread(lambda: [self._read_one(place, usage) for place in places])

    async def details_many(self, groups: Sequence[tuple[str, str, int]]) -> list[CgroupDetails | None]:
        """The rest of what each group says, given as (parent, container id or "", pid of its first process or 0)."""
        places = [(self._place(parent, id), init) for parent, id, init in groups]

        def details(init: int, place: str) -> CgroupDetails | None:
            return self._readings.details(place, self._limits(place), init)

        return await in_thread(
            lambda: [self._read_one(place, partial(details, init)) for place, init in places]
        )

    async def usage(self, parent: str, id: str) -> CgroupUsage | None:
        """One reading of one container's group; None if it is gone."""
        return (await self.usage_many([(parent, id)]))[0]

    async def parent_usage(self, parent: str) -> CgroupUsage | None:
        """One reading of a parent group, everything in it included; None if there is no such group."""
        return await in_thread(self._readings.usage, cgroup_paths.parent_directory(self.driver, parent))

    async def read_back(self, parent: str, id: str, files: Sequence[str] = ()) -> cgroupfs.Limits:
        """The limits as the kernel has them, for comparison with those asked for (a limit may be lost
        silently), and those in `files`, by name. Raises WrongState where the container is from the days of another
        cgroup driver."""
        place = self._place(parent, id)
        if place is None:
            raise WrongState(
                f"container {id} is from the days of another cgroup driver than {self.driver} (its pod's cgroup parent "
                f"is {parent!r}): its limits cannot be read; restart its pod"
            )
        return await in_thread(self._read_back, place, files)

    # --- parents, in a thread -----------------------------------------------------------------------------

    def _move_to_self(self) -> None:
        for line in (read("/proc/self/cgroup") or b"").decode().splitlines():
            _, controllers, group = line.split(":", 2)
            top = self.layout.v1.get(controllers) if controllers else self.layout.v2
            if top and controllers != "memory":  # there a move charges pages
                with suppress(OSError):
                    Path(f"{top}{group}/cgroup.procs").write_text(str(os.getpid()))
                return

    def _make(self, relative: str) -> bool:
        made = [self._make_in(hierarchy, relative) for hierarchy in self.layout.hierarchies]
        return any(made)

    def _make_in(self, hierarchy: str, relative: str) -> bool:
        made, above = False, Path(hierarchy)
        for part in relative.split("/"):
            group = above / part
            if not group.is_dir():
                if hierarchy == self.layout.v2:
                    _enable_controllers(above)
                step_now("cgroup.make", str(group))
                with suppress(FileExistsError):  # by somebody else in this very moment: theirs
                    group.mkdir(mode=_UNMARKED)  # atomically: we may be killed before it has its mark
                    os.setxattr(group, MARK, b"1")
                    group.chmod(0o755)
                    made = True
                if hierarchy == self.layout.v1.get("cpuset"):
                    _inherit_cpuset(above, group)
            above = group
        return made

    def _remove(self, relative: str) -> None:
        for hierarchy in self.layout.hierarchies:
            group, top = Path(hierarchy, relative), Path(hierarchy)
            while group != top and _remove_ours(group):
                group = group.parent

    # --- readings, in a thread ----------------------------------------------------------------------------

    def _read_one(self, place: str | None, read: Callable[[str], R | None]) -> R | None:
        """One of many groups: that it cannot be read must not take the others along. Said once, until it can."""
        if place is None:
            return None
        try:
            found = read(place)
        except Exception as error:
            if place not in self._unreadable:
                log.exception("reading the control group %s failed: %s", place, error)
            self._unreadable.add(place)
            return None
        self._unreadable.discard(place)
        return found

    def _place(self, parent: str, id: str) -> str | None:
        """Where the group of a container is; without an id, the parent itself. None for a parent that this driver
        cannot have: the pod is from the days of another one."""
        try:
            if not id:
                return cgroup_paths.parent_directory(self.driver, parent)
            return cgroup_paths.directory(self.driver, parent, id)
        except Invalid:
            return None

    def _read_back(self, place: str, names: Sequence[str]) -> cgroupfs.Limits:
        files: dict[str, str] = {}
        for name in names:
            mounted = self.layout.v1.get(name.partition(".")[0])
            group = self._readings.group_v2(place) if self.layout.unified else f"{mounted}/{place}"
            if (text := read(f"{group}/{name}")) is not None:
                files[name] = text.decode("ascii", "replace")
        return replace(self._limits(place), files=files)

    def _limits(self, place: str) -> cgroupfs.Limits:
        if self.layout.unified:
            group = self._readings.group_v2(place)
            return cgroupfs.limits_v2({name: read(f"{group}/{name}") for name in _LIMITS_V2})
        files: dict[str, bytes | None] = {}
        for controller, names in _LIMITS_V1.items():
            mounted = self.layout.v1.get(controller)
            files |= {name: read(f"{mounted}/{place}/{name}") if mounted else None for name in names}
        return cgroupfs.limits_v1(files)


def _remove_ours(group: Path) -> bool:
    """Remove this group if it is ours and empty; whether its parent may be looked at next."""
    try:
        os.getxattr(group, MARK)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        if not group.stat().st_mode & stat.S_ISVTX:
            return False  # somebody else's
    step_now("cgroup.remove", str(group))
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True


def _enable_controllers(group: Path) -> None:
    """Let the children of a v2 group have every controller it has itself.

    Not fatal: a group with processes of its own refuses (no-internal-process rule), and the OCI runtime,
    which needs the controllers for the limits it sets, tries again and says what is missing.
    """
    available = set((read(f"{group}/cgroup.controllers") or b"").split())
    missing = available - set((read(f"{group}/cgroup.subtree_control") or b"").split())
    for controller in sorted(missing):
        with suppress(OSError):
            (group / "cgroup.subtree_control").write_bytes(b"+" + controller)


def _inherit_cpuset(above: Path, group: Path) -> None:
    """A new v1 cpuset has no CPU and no memory node, and can hold no process until it gets its parent's."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        value = (read(f"{above}/{name}") or b"").strip()
        if value and not (read(f"{group}/{name}") or b"").strip():
            (group / name).write_bytes(value)
