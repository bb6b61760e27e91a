"""What the kernel says about control groups, on v1, v2 and the hybrid of both: the everyday figures, and the details.

A place is a group's directory relative to its hierarchy's mount point (`wire.cgroup_paths`). All of this is for
threads. What the texts mean: `wire.cgroupfs`, `wire.cgroup_stats`, `wire.psi`.
"""

import errno
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from sampan.host.cgroup import process_counts
from sampan.host.filesystems import block_device
from sampan.runtime.ports import CgroupDetails, CgroupUsage
from sampan.wire import cgroup_stats, cgroupfs, psi
from sampan.wire.cgroup_paths import Layout
from sampan.wire.cgroup_stats import FILES_V1, FILES_V2
from sampan.wire.cgroupfs import Limits

CRUN_GROUP = "container"  # crun(1), run.oci.systemd.subgroup
_PRESSURES = ("cpu.pressure", "memory.pressure", "io.pressure")


class Readings:
    """Groups of this machine, read."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def usage(self, place: str) -> CgroupUsage | None:
        """The figures of every sweep; None if the group is gone."""
        return self._usage_v2(place) if self._layout.unified else self._usage_v1(place)

    def details(self, place: str, limits: Limits, init: int = 0) -> CgroupDetails | None:
        """All else; None if the group is gone. With `init`, its first process, what its processes hold open too."""
        open_files = process_counts.open_files_limit(init) if init else None
        pids = process_counts.pids(self._processes_of(place))
        threads = read(f"{self._directory('pids', place)}/pids.current")
        stats = self._details(place)
        if stats.cpu_user_ns is None and stats.cache is None:
            return None
        open_ones, sockets = process_counts.descriptors(pids) if init and pids is not None else (None, None)
        return CgroupDetails(
            at=time.time_ns(),
            stats=stats,
            limits=limits,
            processes=None if pids is None else len(pids),
            threads=cgroupfs.number(threads),
            descriptors=open_ones,
            sockets=sockets,
            open_files_limit=open_files if init in (pids or ()) else None,  # the number may be another's
            devices={one.device: block_device(one.device) for one in stats.io},
        )

    def group_v2(self, place: str) -> str:
        """The directory with the figures of a group. In a scope crun makes one group more for the container, and
        only that one has the limits that were asked for: 1.8 gives the scope none, 1.21 a wrong one for swap."""
        group = f"{self._layout.v2}/{place}"
        inner = f"{group}/{CRUN_GROUP}"
        return inner if place.endswith(".scope") and Path(inner).is_dir() else group

    def _usage_v1(self, place: str) -> CgroupUsage | None:
        v1 = self._layout.v1
        cpu = read(f"{v1.get('cpuacct', '')}/{place}/cpuacct.usage")
        group = f"{v1.get('memory', '')}/{place}"
        used, stat = read(f"{group}/memory.usage_in_bytes"), read(f"{group}/memory.stat")
        if cpu is None and used is None:
            return None
        pids = read(f"{v1.get('pids', '')}/{place}/pids.current")
        # a hybrid's v2 groups have no controllers, but the kernel keeps the pressure of every group there is
        unified = f"{self._layout.v2}/{place}" if self._layout.v2 else ""
        return _reading(cgroupfs.number(cpu), cgroupfs.memory_v1(used, stat), pids, unified)

    def _usage_v2(self, place: str) -> CgroupUsage | None:
        group = self.group_v2(place)
        cpu = read(f"{group}/cpu.stat")
        if cpu is None:  # every group has it, whatever controllers are on
            return None
        memory = cgroupfs.memory_v2(
            read(f"{group}/memory.current"),
            read(f"{group}/memory.max"),
            read(f"{group}/memory.stat"),
            read(f"{group}/memory.swap.current"),
            read(f"{group}/memory.swap.max"),
        )
        return _reading(cgroupfs.cpu_v2(cpu), memory, read(f"{group}/pids.current"), group)

    def _details(self, place: str) -> cgroup_stats.Details:
        sizes = self._page_sizes
        if self._layout.unified:
            group = self.group_v2(place)
            names = (*FILES_V2, *(cgroup_stats.huge_file_v2(size) for size in sizes))
            return cgroup_stats.details_v2(_read_all(group, names), sizes)
        files: dict[str, bytes | None] = {}
        huge = {"hugetlb": tuple(name for size in sizes for name in cgroup_stats.huge_files_v1(size))}
        for controller, names in {**FILES_V1, **huge}.items():
            if controller in self._layout.v1:
                files |= _read_all(self._directory(controller, place), names)
        return cgroup_stats.details_v1(files, sizes)

    def _directory(self, controller: str, place: str) -> str:
        if self._layout.unified:
            return self.group_v2(place)
        return f"{self._layout.v1.get(controller, '')}/{place}"

    def _processes_of(self, place: str) -> str:
        """The directory whose processes are those of the group."""
        if self._layout.unified:
            return f"{self._layout.v2}/{place}"
        known = (name for name in ("pids", "memory", "cpuacct") if name in self._layout.v1)
        return self._directory(next(known, ""), place)

    @cached_property
    def _page_sizes(self) -> tuple[str, ...]:
        """The sizes of huge pages that this machine knows; they are settled when it boots."""
        with suppress(FileNotFoundError):
            names = sorted(path.name for path in Path("/sys/kernel/mm/hugepages").iterdir())
            sizes = (name.removeprefix("hugepages-").removesuffix("kB") for name in names)
            return tuple(cgroup_stats.page_size(int(size)) for size in sizes if size.isdigit())
        return ()


def read(path: str) -> bytes | None:
    """A kernel file in one read (the largest, memory.stat, has 2 KiB); None if it is not there, or its group
    is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.EOPNOTSUPP):  # a pressure file where pressure is not measured
            return None
        raise
    try:
        return os.read(fd, 1 << 16)
    except OSError as error:
        if error.errno in (
            errno.ENODEV,
            errno.EOPNOTSUPP,
        ):  # removed since we opened it; or v2's root has no such figure
            return None
        raise
    finally:
        os.close(fd)


def _read_all(group: str, names: Iterable[str]) -> dict[str, bytes | None]:
    return {name: read(f"{group}/{name}") for name in names}


def _reading(cpu_ns: int | None, memory: cgroupfs.Memory, pids: bytes | None, pressures: str) -> CgroupUsage:
    cpu, of_memory, io = (
        psi.parse(read(f"{pressures}/{name}")) if pressures else None for name in _PRESSURES
    )
    return CgroupUsage(
        at=time.time_ns(),
        cpu_ns=cpu_ns,
        memory_usage=memory.usage,
        memory_working_set=memory.working_set,
        memory_available=memory.available,
        memory_rss=memory.rss,
        page_faults=memory.page_faults,
        major_page_faults=memory.major_page_faults,
        swap_usage=memory.swap_usage,
        swap_available=memory.swap_available,
        processes=cgroupfs.number(pids),
        cpu_pressure=cpu,
        memory_pressure=of_memory,
        io_pressure=io,
    )
