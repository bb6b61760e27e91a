"""A pod's namespaces: made by one thread, pinned by bind mounts, entered again by path. Source:
namespaces(7).

No process keeps them: the bind mount does, over restarts of the daemon, until the mount goes. Which
namespaces a pod has and which sysctls are allowed is decided in `spec`; the checks here are the second lock
on the same door.
"""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

from sampan.host import syscalls
from sampan.host.threads import in_own_thread
from sampan.model.errors import Invalid, NotFound

T = TypeVar("T")

KINDS = {
    "net": syscalls.CLONE_NEWNET,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "user": syscalls.CLONE_NEWUSER,  # made by a child (`host.sandbox.userns`), and never entered: we have threads
}
_NS_GET_NSTYPE = 0xB703  # ioctl_nsfs(2)
# Which namespace a sysctl belongs to, by the start of its path below /proc/sys. Anything else is the whole
# machine's.
_SYSCTL_OWNERS = (
    ("net/", "net"),
    ("fs/mqueue/", "ipc"),
    ("kernel/shm", "ipc"),
    ("kernel/msg", "ipc"),
    ("kernel/sem", "ipc"),
    ("kernel/domainname", "uts"),
)


def enter_new(kinds: frozenset[str]) -> None:
    """Give the calling thread new namespaces of these kinds. Only for a thread that ends afterwards."""
    flags = 0
    for kind in kinds:
        flags |= KINDS[kind]
    syscalls.unshare(flags)


def enter(made: Mapping[str, int]) -> None:
    """Move the calling thread into these namespaces, descriptors by kind, with the rights that it has in the host's
    user namespace. Only for a thread that ends afterwards."""
    for kind, namespace in made.items():
        if kind != "user":
            syscalls.setns(namespace, KINDS[kind])


def set_hostname(name: str) -> None:
    """Name the calling thread's UTS namespace; only after `enter_new` or `enter` changed it."""
    socket.sethostname(name)


def write_sysctls(sysctls: Mapping[str, str], owned: frozenset[str], root: int = 0) -> None:
    """Write them into the calling thread's namespaces, of which `owned` are the pod's own; `root` is the root that
    owns those. Raises Invalid naming the key for one of the host's (CVE-2022-0532), or one that the kernel refuses."""
    for key, value in sysctls.items():
        path = sysctl_path(key)
        owner = next((kind for start, kind in _SYSCTL_OWNERS if path.startswith(start)), None)
        if owner not in owned:
            raise Invalid(
                f"sysctl {key} would change the host: the pod has no {owner or 'such'} namespace of its own"
            )
        try:
            _write(f"/proc/sys/{path}", value, root)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "?")
            raise Invalid(
                f"sysctl {key} = {value!r}: the kernel refused it: {error.strerror} ({name})"
            ) from error


def _write(path: str, value: str, root: int) -> None:
    """As ourselves or, where that is not enough, as the root of the namespace: those of IPC only it may write, from
    Linux 5.19 on."""
    try:
        _write_once(path, value)
    except PermissionError:
        if not root:
            raise
        with syscalls.effective_user(root):
            _write_once(path, value)


def _write_once(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def sysctl_path(key: str) -> str:
    """`net.ipv4.ip_forward` → `net/ipv4/ip_forward`. As in sysctl(8), where the first separator is a dot, a
    slash stands for a dot within a name (`net.ipv4.conf.eth0/1.forwarding`); where it is a slash, dots are
    just dots."""
    first = next((letter for letter in key if letter in "./"), "")
    path = key.translate(str.maketrans("./", "/.")) if first == "." else key
    if "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise Invalid(f"sysctl {key!r} is no valid name")
    return path


def pin(kind: str, target: Path, made: int | None = None) -> None:
    """Hold the calling thread's namespace of this kind, or that of the descriptor `made`, at `target`, an existing
    empty file on a private mount."""
    source = f"ns/{kind}" if made is None else f"fd/{made}"
    syscalls.mount(f"/proc/thread-self/{source}", target, "", syscalls.MS_BIND)


def is_pinned(path: Path, kind: str) -> bool:
    """Whether a namespace of this kind, and not the host's own, is mounted at `path`. Links are not
    followed."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_dev != _nsfs():
            return False
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        host = Path(f"/proc/self/ns/{kind}").stat()
        return bool(fcntl.ioctl(fd, _NS_GET_NSTYPE) == KINDS[kind] and os.fstat(fd).st_ino != host.st_ino)
    except OSError:
        return False
    finally:
        os.close(fd)


async def inside(path: Path, kind: str, work: Callable[[], T]) -> T:
    """Run `work` in a thread that is in the pinned namespace: a socket made there stays there. NotFound if it
    is gone."""

    def body() -> T:
        if not is_pinned(path, kind):
            raise NotFound(f"no {kind} namespace is pinned at {path}")
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            syscalls.setns(fd, KINDS[kind])
        finally:
            os.close(fd)
        return work()

    return await in_own_thread(body)


@cache
def _nsfs() -> int:
    """The device number of nsfs: there is one instance of it, where every namespace file lives."""
    return Path("/proc/self/ns/net").stat().st_dev
