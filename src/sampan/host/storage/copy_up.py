"""Copying what an image has at a VOLUME's place into the directory that is mounted there instead.

The source is a container's root before any process runs in it, the target a directory that only we can reach: nothing
changes under our hands, and what an image tries with links ends inside its own root (CVE-2022-23648). Both trees are
walked by descriptor; no device or FIFO is opened. Everything here blocks.
"""

import os
import stat
from errno import ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ENOTSUP, ENXIO, EXDEV

from sampan.host.storage import trees
from sampan.host.unpack.cursor import Budget, join, reserve, resolve
from sampan.model.errors import Invalid, Lost

_CHUNK = 16 << 20  # bytes of one sendfile(2): other threads run meanwhile, but a signal waits for it
_ASTRAY = (ELOOP, ENAMETOOLONG, ENOTDIR, EXDEV)


def locate(root: int, path: str) -> tuple[str, int]:
    """Where in `root` (a descriptor) canonical `path` really is, and a descriptor of the directory there, -1 if the
    image has none. Invalid if links lead nowhere, or to something that is no directory."""
    parts = path.strip("/").split("/")
    for length in range(len(parts), -1, -1):
        found = _found(root, "/".join(parts[:length]) or ".", path)
        if found < 0:
            continue
        rest = parts[length:]
        try:
            if not stat.S_ISDIR(os.fstat(found).st_mode) or (rest and _exists(found, rest[0])):
                raise Invalid(f"the image's VOLUME {path} is not a directory, or a link that leads nowhere")
            base = _shown(found).removeprefix(_shown(root).rstrip("/"))
        except BaseException:
            os.close(found)
            raise
        if rest:
            os.close(found)
        return f"{base.rstrip('/')}/{'/'.join(rest)}".rstrip("/") or "/", -1 if rest else found
    raise Lost(f"the root in which the VOLUME {path} should be is gone")


def _found(root: int, prefix: str, path: str) -> int:
    try:
        return resolve(root, prefix, os.O_PATH)
    except OSError as error:
        if error.errno == ENOENT:
            return -1
        if error.errno in _ASTRAY:
            raise Invalid(f"the image's VOLUME {path} cannot be followed: {error.strerror}") from error
        raise


def _exists(directory: int, name: str) -> bool:
    """Whether there is something of that name though it does not resolve: a dead link."""
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _shown(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - a descriptor's own name


def copy_tree(source: int, target: int) -> None:
    """Copy what the directory `source` holds, and its own owner, mode and attributes, to the empty directory
    `target`: hard links stay such among themselves, holes stay holes. Exhausted before the disk is full."""
    _Copy(source, target).run()


class _Copy:
    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target
        self._budget = Budget(target, *reserve(os.fstatvfs(target)))
        self._todo: list[bytes] = [b""]  # directories that are made and still empty, by their path
        self._times: list[tuple[bytes, tuple[int, int]]] = []
        self._linked: dict[tuple[int, int], bytes] = {}  # where the first name of a file with several is

    def run(self) -> None:
        while self._todo:
            path = self._todo.pop()
            source, target = _enter(self._source, path), _enter(self._target, path)
            try:
                self._directory(path, source, target)
            finally:
                os.close(source)
                os.close(target)
        for path, times in reversed(self._times):
            fd = _enter(self._target, path)
            try:
                os.utime(fd, ns=times)
            finally:
                os.close(fd)

    def _directory(self, path: bytes, source: int, target: int) -> None:
        found = os.fstat(source)
        _dress(found, source, target)
        self._times.append((path, (found.st_atime_ns, found.st_mtime_ns)))
        with os.scandir(source) as entries:
            for entry in entries:
                self._entry(join(path, os.fsencode(entry.name)), entry.name, source, target)

    def _entry(self, path: bytes, name: str, source: int, target: int) -> None:
        found = os.stat(name, dir_fd=source, follow_symlinks=False)
        key = (found.st_dev, found.st_ino)
        if stat.S_ISDIR(found.st_mode):
            self._budget.spend(0)
            os.mkdir(name, 0o700, dir_fd=target)
            self._todo.append(path)
        elif key in self._linked:
            os.link(
                self._linked[key], name, src_dir_fd=self._target, dst_dir_fd=target, follow_symlinks=False
            )
        else:
            if found.st_nlink > 1:
                self._linked[key] = path
            self._budget.spend(found.st_blocks * 512)
            _make(name, found, source, target)


def _enter(top: int, path: bytes) -> int:
    return trees.enter(top, path or b".")


def _make(name: str, found: os.stat_result, source: int, target: int) -> None:
    """A file of any kind but a directory."""
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFREG:
        _copy_file(name, found, source, target)
        return
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    else:
        os.mknod(name, kind | 0o600, found.st_rdev, dir_fd=target)
    os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
    if kind != stat.S_IFLNK:
        os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=target)
    os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_file(name: str, found: os.stat_result, source: int, target: int) -> None:
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=source)
    try:
        writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=target)
        try:
            _copy_data(reading, writing, found.st_size)
            _dress(found, reading, writing)
            os.utime(writing, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _copy_data(source: int, target: int, size: int) -> None:
    offset = 0
    while offset < size:
        try:
            start = os.lseek(source, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == ENXIO:  # nothing but a hole up to the end
                break
            raise
        offset = os.lseek(source, start, os.SEEK_HOLE)
        os.lseek(target, start, os.SEEK_SET)
        while start < offset:
            sent = os.sendfile(target, source, start, min(offset - start, _CHUNK))
            if not sent:
                raise Lost("a file of an image became shorter while it was being copied")
            start += sent
    os.ftruncate(target, size)


def _dress(found: os.stat_result, source: int, target: int) -> None:
    """Owner before mode and attributes: a change of owner takes set-id bits and file capabilities away."""
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    for name in os.listxattr(source):
        if name == "security.selinux" or name.startswith(("trusted.overlay.", "user.overlay.")):
            continue  # the label is the container's; the others are overlayfs's own notes
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            if error.errno != ENOTSUP:  # the target's file system has none of this kind
                raise
