"""What a stack of layers shows, and what a layer hides, without mounting it: the lookup that overlayfs does (kernel
Documentation/filesystems/overlayfs.rst). Layers are descriptors of their directories. Blocking; for threads.
"""

import os
import stat
from collections.abc import Sequence
from errno import ENODATA, ENOENT, ENOTDIR, ENOTSUP

from sampan.host.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from sampan.host.unpack.write import OPAQUE

_REAL = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS


def visible(layers: Sequence[int], path: bytes) -> bool:
    """Whether the merged view of `layers` (highest first) has something at `path`, which leads through no
    symlink.

    The lookup that overlayfs does (kernel Documentation/filesystems/overlayfs.rst, "whiteouts and opaque
    directories").
    """
    for fd in layers:
        found = _look(fd, path)
        if found is not None:
            return stat.S_IFMT(found.st_mode) != stat.S_IFCHR or found.st_rdev != 0
        if _ends_here(fd, path):
            return False
    return False


def _look(fd: int, path: bytes) -> os.stat_result | None:
    try:
        at = openat2(fd, path, os.O_PATH | os.O_NOFOLLOW, resolve=_REAL)
    except OSError:
        return None  # absent, or something on the way is no directory
    try:
        return os.fstat(at)
    finally:
        os.close(at)


def _ends_here(fd: int, path: bytes) -> bool:
    """Whether this layer hides what layers below it have at `path`, which it does not have itself."""
    parent = path
    while parent := parent.rpartition(b"/")[0]:
        found = _look(fd, parent)
        if found is not None and not stat.S_ISDIR(found.st_mode):
            return True
        if found is not None and _opaque(fd, parent):
            return True
    return False


def hidden_by_opaque(fd: int, path: bytes) -> bool:
    """Whether the layer itself says that nothing below it shows at `path`, by a mark on a directory above it."""
    parent = path
    while parent := parent.rpartition(b"/")[0]:
        if _opaque(fd, parent):
            return True
    return False


def _opaque(fd: int, path: bytes) -> bool:
    at = openat2(fd, path, os.O_RDONLY | os.O_DIRECTORY, resolve=_REAL)
    try:
        return os.getxattr(at, OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (ENODATA, ENOTSUP, ENOENT, ENOTDIR):
            return False
        raise
    finally:
        os.close(at)


def is_whiteout(fd: int, path: bytes) -> bool:
    """Whether the layer hides what is below it at `path`."""
    found = _look(fd, path)
    return found is not None and stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def unlink(fd: int, path: bytes) -> None:
    """Remove a file; its directory keeps its time."""
    parent, _, name = path.rpartition(b"/")
    at = openat2(fd, parent or b".", os.O_RDONLY | os.O_DIRECTORY, resolve=_REAL)
    try:
        before = os.fstat(at).st_mtime_ns
        os.unlink(name, dir_fd=at)
        os.utime(at, ns=(before, before))
    finally:
        os.close(at)
