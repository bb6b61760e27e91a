"""Where archive entries go: the directory at hand, and the space that is left.

Part of `host.unpack.write`, whose module text says how paths are resolved and why that is safe.
"""

import os
import stat
from collections.abc import Iterator
from errno import ELOOP, ENOENT, ENOTDIR

from sampan.host.storage import trees
from sampan.host.syscalls import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2
from sampan.model.errors import Exhausted, Unavailable

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
IN_ROOT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
PAGE = 4096
RESERVE_BYTES = 1 << 30  # left free on the disk, but never more than a twentieth of it
RESERVE_INODES = 10_000
NOWHERE = (ENOENT, ENOTDIR, ELOOP)  # a path that leads to no directory
_CHECK_EVERY = 32 << 20  # bytes written between two looks at the free space; less on a small disk
_REMEDY = "remove images (sampan prune) or make room"
_TRIES = 10_000
_LINKS = 40  # symlinks on one way; what the kernel allows


def resolve(root: int, path: str | bytes, flags: int, rules: int = IN_ROOT) -> int:
    """openat2 that tries again when the kernel says so: a rename or mount anywhere on the machine meets a
    ".." on the way, and it cannot be sure that this did not lead out of the root (openat2(2), EAGAIN).
    """
    for _ in range(_TRIES):
        try:
            return openat2(root, path, flags, resolve=rules)
        except BlockingIOError:
            continue
    raise Unavailable(
        f"{os.fsdecode(path)[:200]!r} cannot be resolved: the mounts of this machine never come to rest"
    )


def join(parent: bytes, name: bytes) -> bytes:
    """The path of `name` in a directory; "" is the root."""
    return b"%s/%s" % (parent, name) if parent else name


class NeedsLowers(Exception):
    """An entry's place depends on the layers below."""


def reserve(disk: os.statvfs_result) -> tuple[int, int]:
    """Bytes and inodes that must stay free on a disk."""
    return min(RESERVE_BYTES, disk.f_blocks * disk.f_frsize // 20), min(RESERVE_INODES, disk.f_files // 20)


class Budget:
    """Counts what is written, and stops before the file system has less than a reserve left."""

    def __init__(self, fd: int, reserve_bytes: int, reserve_inodes: int) -> None:
        self._fd = fd
        self._reserve = reserve_bytes, reserve_inodes
        # several layers are written at once: all that they write unseen must fit in the reserve
        unseen = min(reserve_bytes, reserve_inodes * PAGE or reserve_bytes) // 8
        self._check_every = min(_CHECK_EVERY, max(unseen, 64 * PAGE))
        self._unchecked = self._check_every
        self.size = self.inodes = 0

    def spend(self, size: int) -> None:
        """Count one more inode with `size` bytes. Exhausted if the disk has no room for it."""
        self.inodes += 1
        self.size += size + -size % PAGE
        self._unchecked += size + PAGE
        if self._unchecked >= self._check_every:
            self._look(size)

    def room(self, size: int) -> None:
        """Exhausted if there is no room for `size` more bytes; looks only now and then, and at large
        sizes.
        """
        self._unchecked += size + PAGE
        if self._unchecked >= self._check_every:
            self._look(size)

    def watched(self, pieces: Iterator[memoryview]) -> Iterator[memoryview]:
        """The pieces of a large file: there was room for all of it when it was begun, but others write as well."""
        for piece in pieces:
            self.room(len(piece))
            yield piece

    def _look(self, size: int) -> None:
        self._unchecked = 0
        found = os.fstatvfs(self._fd)
        free = found.f_bavail * found.f_frsize
        if free - size < self._reserve[0]:
            more = f" and {size >> 20} MiB are to be written" if size >> 20 else ""
            raise Exhausted(
                f"no space left for the layer: {self._reserve[0] >> 20} MiB must stay free on the disk, "
                f"{free >> 20} MiB are free{more}; {_REMEDY}"
            )
        if found.f_files and found.f_favail < self._reserve[1]:
            raise Exhausted(
                f"no inodes left for the layer: {self._reserve[1]} must stay free on the disk, "
                f"{found.f_favail} are free; {_REMEDY}"
            )


class Cursor:
    """The current directory below `root`. With `base` there are no layers below, and what is missing is
    made.
    """

    def __init__(self, root: int, budget: Budget, *, base: bool) -> None:
        self._root = root
        self._budget = budget
        self._base = base
        self._path: bytes | None = None  # as entries name it; None: there is no current directory
        self._fd = -1
        self._mtime = 0  # what it gets back when we leave it
        self._inherits = False  # a set-group-id directory, which gives its group to what is made in it
        self._stale = False  # something was removed, so paths may lead elsewhere now

    def leave(self) -> None:
        """Let go of the current directory and give it the time it had: making entries changed it."""
        if self._path is not None:
            os.utime(self._fd, ns=(self._mtime, self._mtime))
            os.close(self._fd)
            self._path = None
        self._stale = False

    def _enter(self, path: bytes) -> None:
        """Make `path` the current directory.

        It is resolved anew unless it is the current one and nothing was removed since: what is only added
        cannot change where a path leads that led to a directory before.
        """
        if path != self._path:
            self.leave()
            self._arrive(path, self._open(path))

    def _arrive(self, path: bytes, fd: int) -> None:
        found = os.fstat(fd)
        self._path, self._fd, self._mtime = path, fd, found.st_mtime_ns
        self._inherits = bool(found.st_mode & stat.S_ISGID)

    def _open(self, path: bytes) -> int:
        try:
            return resolve(self._root, path or b".", os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno not in (ENOENT, ENOTDIR):
                raise
        return self._absent(path)

    def _absent(self, path: bytes) -> int:
        """The directory `path`, which is not in this layer so far, or not as a directory."""
        if not self._base:
            raise NeedsLowers
        return self._open_real(self.walk(path, make=True))

    def _open_real(self, path: bytes) -> int:
        """A directory by its path without symlinks."""
        return resolve(self._root, path or b".", DIRECTORY)

    def walk(self, path: bytes, *, make: bool) -> bytes:
        """Resolve a directory in the root step by step: its path without symlinks.

        What is missing is made, 0755 and root's, if `make`; else FileNotFoundError. A ".." behind something
        missing takes it back, unlike in the kernel, but as the other runtimes have it.
        """
        todo, done, links = path.split(b"/")[::-1], list[bytes](), 0
        real = 0  # so many of `done` exist
        while todo:
            part = todo.pop()
            if part == b"..":
                del done[-1:]
                real = min(real, len(done))
                continue
            if part in (b"", b"."):
                continue
            target = self._look(b"/".join([*done, part])) if real == len(done) else None
            if not target:
                done.append(part)
                real += target is not None
                continue
            links += 1
            if links > _LINKS:
                raise OSError(ELOOP, os.strerror(ELOOP))
            if target.startswith(b"/"):
                done, real = [], 0
            todo += target.split(b"/")[::-1]
        if real < len(done) and not make:
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT))
        for depth in range(real, len(done)):
            self._make_directory(b"/".join(done[:depth]), done[depth])
        return b"/".join(done)

    def _look(self, path: bytes) -> bytes | None:
        """The target of a symlink, b"" for a directory, None for nothing."""
        try:
            fd = resolve(self._root, path, os.O_PATH | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISLNK(mode):
                return os.readlink(b"", dir_fd=fd)
        finally:
            os.close(fd)
        if not stat.S_ISDIR(mode):
            raise NotADirectoryError(ENOTDIR, f"/{os.fsdecode(path)} is not a directory")
        return b""

    def _make_directory(self, parent: bytes, name: bytes) -> None:
        """An implicit directory: one that the archive uses without having an entry for it."""
        self._budget.spend(PAGE)
        fd = self._open_real(parent)
        try:
            before = os.fstat(fd)
            os.mkdir(name, 0o755, dir_fd=fd)
            if before.st_mode & stat.S_ISGID:  # it has been handed down, with the group
                _disinherit(fd, name)
            os.utime(name, ns=(0, 0), dir_fd=fd, follow_symlinks=False)
            os.utime(fd, ns=(before.st_mtime_ns, before.st_mtime_ns))
        finally:
            os.close(fd)

    def _clear(self, leaf: bytes) -> None:
        """Remove what an entry replaces."""
        trees.remove(self._fd, leaf)
        self._stale = True


def _disinherit(parent: int, name: bytes) -> None:
    """Make a new directory 0755 and root's, whatever its parent gave it."""
    fd = os.open(name, DIRECTORY, dir_fd=parent)
    try:
        os.fchown(fd, 0, 0)
        os.fchmod(fd, 0o755)
    finally:
        os.close(fd)
