"""Where the control group of a command lies, and what can be done to it there. Two kinds, told from each other by the
machine (`host.cgroup.exec_cgroup` uses them):

On cgroup v1 (and the hybrid) a group of a hierarchy of our own, which has a name and no controller, and which is
mounted nowhere: what a command may use, what it is charged to and what it sees of its limits stay the container's; no
process can leave its group, and none gets in but by being forked there. The OCI runtime does not know of it: it is put
there before it is told what to run, and what it starts is born there.

On cgroup v2 a group below the container's, without controllers, which the OCI runtime is told to use; a process that
may write to the container's groups can leave it. (A named hierarchy beside v2 would be one more line in every
/proc/PID/cgroup of the machine, by which libuv, for one, takes it for v1 and finds no memory limit.)

For code that runs in a thread. Sources: Linux Documentation/admin-guide/cgroup-v1/cgroups.rst (hierarchies with a name
and without subsystems), cgroup-v2.rst, crun(1), runc-exec(8).
"""

import errno
import itertools
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from typing import Protocol

from sampan.host.cgroup.container_cgroup import ContainerCgroup, machine_layout
from sampan.host.processes import read_small
from sampan.host.syscalls import (
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_FLAG,
    FSCONFIG_SET_STRING,
    fsconfig,
    fsmount,
    fsopen,
)
from sampan.wire import proc

_HIERARCHY = "sampan"
_PREFIX = "sampan-exec-"
_RUN = secrets.token_hex(6)  # ours: what other daemons, dead ones, have made is named otherwise
_numbers = itertools.count(1)
_MARK = (
    "trusted.sampan.left"  # an extended attribute, which takes CAP_SYS_ADMIN of the host to set (xattr(7))
)
_GONE = (errno.ENOENT, errno.ENODEV)
_FOR_NOW = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # nothing that the kernel says of itself
log = logging.getLogger("sampan.cgroup")


class Container(Protocol):
    """The container that commands are run in, as its OCI runtime knows it."""

    def cgroup(self) -> ContainerCgroup:
        """Its group."""

    def takes_groups(self) -> bool:
        """Whether the runtime's `exec` can be told a group below that."""


class Place(Protocol):
    """One group. Everything raises OSError where the kernel refuses."""

    name: str
    options: tuple[str, ...]  # for the runtime's `exec`

    def make(self) -> bool:
        """Make it; False if it cannot be used."""

    def enter(self, pid: int) -> None:
        """Put the OCI runtime in, where that is how it is done."""

    def members(self) -> set[int]:
        """The processes in it."""

    def kill_at_once(self) -> None:
        """Kill all in one go, where the kernel can."""

    def frozen(self) -> AbstractContextManager[None]:
        """Nothing in it runs while the block does. Where the group cannot be stopped alone, the container is."""

    def remove(self) -> bool:
        """Remove it; False while something is in it."""

    def mark(self) -> None:
        """Say that what is in it is to live on."""

    def marked(self) -> bool:
        """Whether that was said."""


class _Marked:
    """What both kinds do alike: saying on the group itself that what is in it is to live on."""

    _path: str

    def mark(self) -> None:
        os.setxattr(self._path, _MARK, b"")

    def marked(self) -> bool:
        return _MARK in os.listxattr(self._path)


class Tracked(_Marked):
    """A group of our own hierarchy."""

    options: tuple[str, ...] = ()

    def __init__(self, hierarchy: str, name: str, container: Container) -> None:
        self.name = name
        self._path = f"{hierarchy}/{name}"
        self._container = container

    def make(self) -> bool:
        os.mkdir(self._path)  # noqa: PTH102 - on the way of every command
        return True

    def enter(self, pid: int) -> None:
        fd = os.open(f"{self._path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d" % pid)
        finally:
            os.close(fd)

    def members(self) -> set[int]:
        try:
            return set(proc.pids(read_small(f"{self._path}/cgroup.procs", 1 << 24)))
        except OSError as error:
            if error.errno in _GONE:
                return set()
            raise

    def kill_at_once(self) -> None:
        """There is no such thing on v1."""

    def frozen(self) -> AbstractContextManager[None]:
        return self._container.cgroup().frozen()

    def remove(self) -> bool:
        return _removed(self._path)


class Nested(_Marked):
    """A group below the container's, on cgroup v2."""

    def __init__(self, name: str, container: ContainerCgroup) -> None:
        self.name = name
        self.options: tuple[str, ...] = (f"--cgroup={name}",)
        self._path = f"{machine_layout().v2}/{container.below}/{name}"
        self._group = ContainerCgroup(f"{container.below}/{name}")

    def make(self) -> bool:
        os.mkdir(self._path)  # noqa: PTH102
        if read_small(f"{self._path}/cgroup.type") == b"domain\n":
            return True
        # the container has made its own group threaded: what the runtime does without a group of ours works there
        os.rmdir(self._path)  # noqa: PTH106
        return False

    def enter(self, pid: int) -> None:
        """The runtime stays outside."""

    def members(self) -> set[int]:
        return self._group.processes()

    def kill_at_once(self) -> None:
        self._group.kill()

    def frozen(self) -> AbstractContextManager[None]:
        return self._group.frozen()

    def remove(self) -> bool:
        # groups that its processes made in it are theirs while one of them lives
        return _removed(self._path) or (not self.members() and self._group.remove())


def nested() -> bool:
    """Whether groups are below the container's."""
    return machine_layout().unified


def at_hand() -> bool:
    """Whether `new` takes no look at the machine."""
    return not nested() and _hierarchy.known


def new(id: str, container: Container) -> Place | None:
    """A group for a command in the container `id`, which is still to be made; None where there can be none."""
    number = f"{_RUN}-{next(_numbers)}"
    if nested():
        group = container.cgroup() if container.takes_groups() else None
        return Nested(f"{_PREFIX}{number}", group) if group else None
    hierarchy = _hierarchy.path()
    return Tracked(hierarchy, f"{id}.{number}", container) if hierarchy else None


def found(id: str, container: Container) -> Iterator[Place]:
    """The groups of commands in the container `id` that daemons before this one have made."""
    for place in all_of(id, container):
        if _RUN not in place.name:
            yield place


def tracked(id: str, container: Container) -> list[Place]:
    """The groups of a container that are not below its own, whoever made them."""
    return [] if nested() else all_of(id, container)


def all_of(id: str, container: Container) -> list[Place]:
    """The groups of commands in the container `id`, whoever made them."""
    if nested():
        group = container.cgroup()
        names = _names(f"{machine_layout().v2}/{group.below}") if group else []
        return [Nested(name, group) for name in names if name.startswith(_PREFIX)]
    hierarchy = _hierarchy.path()
    names = _names(hierarchy) if hierarchy else []
    return [Tracked(hierarchy, name, container) for name in names if name.startswith(f"{id}.")]


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError as error:
        if error.errno in _GONE:
            return []
        raise


def _removed(path: str) -> bool:
    try:
        os.rmdir(path)  # noqa: PTH106
    except OSError as error:
        return error.errno in _GONE
    return True


class _Hierarchy:
    """Our own, opened when first needed. It lasts while a group or a process that has it open does, so the groups of a
    daemon that died are found again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._path: str | None = None

    @property
    def known(self) -> bool:
        """Whether it has been opened, or cannot be."""
        return self._path is not None

    def path(self) -> str:
        """Its top; "" where the kernel does not let us have it."""
        with self._lock:
            if self._path is None:
                self._path = self._opened()
            return self._path

    def _opened(self) -> str:
        try:
            return f"/proc/self/fd/{_mounted()}"
        except OSError as error:
            if error.errno in _FOR_NOW:
                raise
            log.warning(
                "no cgroup hierarchy named %s can be made (%s): what a command leaves its session and its parents for "
                "is not found when it is killed",
                _HIERARCHY,
                error.strerror,
            )
            return ""


def _mounted() -> int:
    """A descriptor of the top of the hierarchy, in a mount that only this process has."""
    opened: list[int] = []
    try:
        opened.append(fsopen("cgroup"))
        fsconfig(opened[0], FSCONFIG_SET_FLAG, "none")
        fsconfig(opened[0], FSCONFIG_SET_STRING, "name", _HIERARCHY)
        fsconfig(opened[0], FSCONFIG_CMD_CREATE)
        opened.append(fsmount(opened[0]))
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=opened[1])
    finally:
        for fd in opened:
            with suppress(OSError):
                os.close(fd)


_hierarchy = _Hierarchy()
