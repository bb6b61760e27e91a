"""A pod's network namespace: opened only if it is one, entered by a thread that ends there. Blocking; for
threads."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from sampan.host.cni.links import UP, Links
from sampan.host.syscalls import CLONE_NEWNET, setns
from sampan.model.errors import Unavailable

LOOPBACK_INDEX = 1  # of `lo`, in every namespace (linux/include/net/flow.h)
_NS_GET_NSTYPE = 0xB703  # linux/include/uapi/linux/nsfs.h


@contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor of the namespace pinned at `path`. Unavailable if something else lies there, or
    nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Unavailable(f"network namespace {path!r} cannot be opened: {error.strerror}") from error
    try:
        if not _is_network(fd):
            raise Unavailable(f"{path} is not a network namespace")
        yield fd
    finally:
        os.close(fd)


def exists(path: str) -> bool:
    """Whether a network namespace is pinned at `path`."""
    try:
        with opened(path):
            return True
    except (Unavailable, ValueError):
        return False


def _is_network(fd: int) -> bool:
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


def enter(fd: int) -> None:
    """Move this thread, which must not do anything else afterwards, into the namespace."""
    setns(fd, CLONE_NEWNET)


def loopback_up(path: str) -> None:
    """Bring `lo` up in the namespace at `path`. In a thread of its own."""
    with opened(path) as fd:
        enter(fd)
        with Links() as links:
            links.set_flags(LOOPBACK_INDEX, UP)
