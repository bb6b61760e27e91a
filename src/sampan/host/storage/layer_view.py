"""What a stack of layers shows, and what a layer hides, without mounting it: the lookup that overlayfs does (kernel
Documentation/filesystems/overlayfs.rst). Layers are descriptors of their directories. Blocking; for threads.
"""

import os
import stat
from collections.abc import Callable, Sequence
from errno import ENODATA, ENOENT, ENOTDIR, ENOTSUP

from sampan.host.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from sampan.host.unpack.write import OPAQUE

_REAL = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
_Known = dict[bytes, bool]
_KNOWN_LIMIT = 4096  # directories, each a path of up to 4 KiB


def visible(layers: Sequence[int], path: bytes) -> bool:
    """Whether the merged view of `layers` (highest first) has something at `path`, which leads through no
    symlink.

    The lookup that overlayfs does (kernel Documentation/filesystems/overlayfs.rst, "whiteouts and opaque
    directories").
    """
    return path in all_visible(layers, [path])


def all_visible(layers: Sequence[int], paths: Sequence[bytes]) -> set[bytes]:
    """Those of these paths that are `visible`. Sorted ones take the least time."""
    shown = set()
    for fd in layers:
        left, known = [], _Known()
        for path in paths:
            found = _look(fd, path)
            if found is None and not _above(fd, path, _ends, known):
                left.append(path)
            elif found is not None and (not stat.S_ISCHR(found.st_mode) or found.st_rdev):
                shown.add(path)
        paths = left
    return shown


def _look(fd: int, path: bytes) -> os.stat_result | None:
    try:
        at = openat2(fd, path, os.O_PATH | os.O_NOFOLLOW, resolve=_REAL)
    except OSError:
        return None  # absent, or something on the way is no directory
    try:
        return os.fstat(at)
    finally:
        os.close(at)


def _above(fd: int, path: bytes, ends: Callable[[int, bytes], bool], known: _Known) -> bool:
    """Whether `ends` is so of a directory above `path`. `known` keeps the answers, by directory, for the next paths:
    else each would take as many look-ups as it is deep, and each of these as many steps."""
    passed, found, parent = [], False, path
    while not found and (parent := parent.rpartition(b"/")[0]):
        if parent in known:
            found = known[parent]
            break
        passed.append(parent)
        found = ends(fd, parent)
    if len(known) > _KNOWN_LIMIT:
        known.clear()
    known.update(dict.fromkeys(passed, found))
    return found


def _ends(fd: int, directory: bytes) -> bool:
    """Whether this layer hides what layers below it have in `directory`."""
    found = _look(fd, directory)
    return found is not None and (not stat.S_ISDIR(found.st_mode) or _opaque(fd, directory))


def hidden_by_opaque(fd: int, path: bytes) -> bool:
    """Whether the layer itself says that nothing below it shows at `path`, by a mark on a directory above it."""
    return not not_hidden(fd, [path])


def not_hidden(fd: int, paths: Sequence[bytes]) -> list[bytes]:
    """Those of these paths that are not `hidden_by_opaque`."""
    known = _Known()
    return [path for path in paths if not _above(fd, path, _opaque, known)]


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
