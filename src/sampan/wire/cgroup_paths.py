"""Where a container's group lies: drivers, cgroup parents, systemd slices, and the mounted hierarchies.

Pure. The CRI names a parent (`/kubepods/burstable/podX`, or `kubepods-burstable-podX.slice` with the systemd
driver); out come the `cgroupsPath` that the OCI runtime is given and the directory below each hierarchy's
mount point where the group then is. Sources: runtime-spec config-linux.md#cgroups-path, systemd.slice(5),
cgroups(7).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sampan.model.errors import Invalid
from sampan.wire.mountinfo import Mount

SYSTEMD, CGROUPFS = "systemd", "cgroupfs"
UNIT_PREFIX = "sampan"  # a container's scope is sampan-<id>.scope
# fmt: off
_CONTROLLERS = frozenset((
    "blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc", "net_cls",
    "net_prio", "perf_event", "pids", "rdma",
))
# fmt: on
_SLICE = re.compile(r"[A-Za-z0-9:_.\\-]{1,249}\.slice")
_PART = re.compile(r"[^\x00-\x1f\x7f/]{1,255}")


@dataclass(frozen=True, slots=True)
class Layout:
    """The hierarchies of this machine: `v1` by controller (`name=systemd` is one as well), `v2` the unified
    one, "" where it is not mounted. With both it is a hybrid: v1 rules. `controllers` can be used."""

    v1: Mapping[str, str]
    v2: str
    controllers: frozenset[str]

    @property
    def unified(self) -> bool:
        """Whether cgroup v2 is all there is."""
        return bool(self.v2) and not self.v1

    @property
    def hierarchies(self) -> tuple[str, ...]:
        """Every mount point once."""
        return tuple(dict.fromkeys([*self.v1.values(), *([self.v2] if self.v2 else [])]))


def layout(mounts: Iterable[Mount], v2_controllers: bytes = b"") -> Layout:
    """The layout that a mount table shows. `v2_controllers` is the text of the unified root's
    cgroup.controllers."""
    v1: dict[str, str] = {}
    v2 = ""
    # One mounted a second time elsewhere (for a container, by hand) must not win over the well-known place.
    for mount in sorted(mounts, key=lambda mount: not mount.point.startswith("/sys/fs/cgroup")):
        if mount.fstype == "cgroup2":
            v2 = v2 or mount.point
        elif mount.fstype == "cgroup":
            for option in mount.super_options:
                if option in _CONTROLLERS or option.startswith("name="):
                    v1.setdefault(option, mount.point)
    named = frozenset(name for name in v1 if not name.startswith("name="))
    return Layout(
        v1=v1, v2=v2, controllers=named or frozenset(v2_controllers.decode("ascii", "replace").split())
    )


def choose_driver(configured: str, *, systemd_booted: bool, pid_1: str, unified: bool) -> str:
    """The driver that `auto` means here, or the configured one. Raises Invalid if it is no driver, or
    impossible here."""
    systemd = systemd_booted and pid_1 == "systemd"
    if configured == "auto":
        return SYSTEMD if systemd and unified else CGROUPFS
    if configured not in (SYSTEMD, CGROUPFS):
        raise Invalid(f"cgroup driver {configured!r} is unknown; use auto, systemd or cgroupfs")
    if configured == SYSTEMD and not systemd:
        raise Invalid(
            f"cgroup driver systemd needs systemd as process 1; here that is {pid_1!r}: use cgroupfs or auto"
        )
    return configured


def parent_directory(driver: str, parent: str) -> str:
    """The parent's directory, relative to a hierarchy's mount point. Raises Invalid for one that the driver
    cannot have or that would lead elsewhere (`..`)."""
    if driver == SYSTEMD:
        return "/".join(_nested(_slice(parent)))
    parts = [part for part in parent.split("/") if part]
    for part in parts:
        if part in (".", "..") or part.startswith("cgroup.") or not _PART.fullmatch(part):
            raise Invalid(f"cgroup parent {parent!r} has the part {part!r}, which cannot name a group")
    if not parts:
        raise Invalid(
            f"cgroup parent {parent!r} is the root; containers need a group of their own to live in"
        )
    if parts[-1].endswith(".slice"):
        raise Invalid(
            f"cgroup parent {parent!r} is a systemd slice, but the cgroup driver here is cgroupfs; "
            f"set the same driver for the kubelet and in [cgroup] driver"
        )
    return "/".join(parts)


def cgroups_path(driver: str, parent: str, id: str) -> str:
    """The `cgroupsPath` for crun: a path, or `slice:prefix:name` when crun is told to ask systemd. Raises
    Invalid."""
    within = parent_directory(driver, parent)
    return f"{_slice(parent)}:{UNIT_PREFIX}:{id}" if driver == SYSTEMD else f"/{within}/{id}"


def directory(driver: str, parent: str, id: str) -> str:
    """Where the container's group is, relative to a hierarchy's mount point. Raises Invalid."""
    leaf = f"{UNIT_PREFIX}-{id}.scope" if driver == SYSTEMD else id
    return "/".join(part for part in (parent_directory(driver, parent), leaf) if part)


def _slice(parent: str) -> str:
    """The unit of a parent that may be given as a path (the kubelet expands it, crictl users do not)."""
    unit = parent.rstrip("/").rpartition("/")[2]
    if not _SLICE.fullmatch(unit):
        raise Invalid(
            f"cgroup parent {parent!r} is not a systemd slice, but the cgroup driver here is systemd; "
            f"set the same driver for the kubelet and in [cgroup] driver"
        )
    return unit


def _nested(unit: str) -> list[str]:
    """a-b.slice lies in a.slice; `-.slice` is the root (systemd.slice(5))."""
    name = unit.removesuffix(".slice")
    if name == "-":
        return []
    parts = name.split("-")
    if not all(parts):
        raise Invalid(f"{unit!r} is no valid slice name: a dash separates two names")
    return ["-".join(parts[: count + 1]) + ".slice" for count in range(len(parts))]
