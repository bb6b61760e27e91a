"""Directory trees by descriptor: delete one, measure one, go down and up. Neither links nor mounts are followed.

Blocking; for threads and stand-alone children, so it imports little. Depth does not matter: containers nest
directories as deep as they like, so nothing recurses and no descriptor is held per level.
"""

import os
import stat
from errno import EISDIR, ENOENT, ENOTEMPTY, EPERM, ESTALE

from sampan.host import syscalls

_BATCH = 4096  # names held at once of one directory
_HERE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_WITHIN = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_XDEV


class _Level:
    """A directory on the way down: its name in its parent, who it is, and subdirectories still to be
    entered.
    """

    __slots__ = ("inode", "name", "pending")

    def __init__(self, name: str | bytes, fd: int) -> None:
        self.name = name
        self.inode = os.fstat(fd).st_ino
        self.pending: list[str] = []


def remove(parent: int, name: str | bytes) -> None:
    """Delete what `name` in the directory `parent` is, with all beneath it; nothing there is fine.

    OSError EXDEV or EBUSY where something is mounted: it and what leads to it stay.
    """
    try:
        os.unlink(name, dir_fd=parent)
        return
    except OSError as error:
        if error.errno == ENOENT:
            return
        if error.errno not in (EISDIR, EPERM):
            raise
    fd = enter(parent, name)
    try:
        levels = [_Level(name, fd)]
        while levels:
            level = levels[-1]
            if not level.pending and not _empty(fd, level):  # nothing left here: go up, remove it from there
                levels.pop()
                fd = up(fd, levels[-1].inode) if levels else _swap(fd, os.dup(parent))
                os.rmdir(level.name, dir_fd=fd)
            elif level.pending and not _rmdir(fd, level.pending[-1]):
                child = level.pending.pop()
                fd = _swap(fd, enter(fd, child))
                levels.append(_Level(child, fd))
            elif level.pending:
                level.pending.pop()
    finally:
        os.close(fd)


def _empty(fd: int, level: _Level) -> bool:
    """Unlink up to a batch of the directory's files and note its subdirectories. False if it held nothing."""
    found = False
    with os.scandir(fd) as entries:
        for entry in entries:
            found = True
            if entry.is_dir(follow_symlinks=False):
                level.pending.append(entry.name)
                if len(level.pending) >= _BATCH:
                    break
            else:
                os.unlink(entry.name, dir_fd=fd)
    return found


def _rmdir(fd: int, name: str) -> bool:
    try:
        os.rmdir(name, dir_fd=fd)
    except OSError as error:
        if error.errno == ENOTEMPTY:
            return False
        if error.errno != ENOENT:
            raise
    return True


def enter(fd: int, name: str | bytes) -> int:
    """The directory of that name, to be listed. OSError for a link (ELOOP) and where something is mounted (EXDEV)."""
    return syscalls.openat2(fd, name, _HERE, resolve=_WITHIN)


def up(fd: int, inode: int) -> int:
    """The parent of `fd`, which must be the directory we came from; OSError ESTALE if not. Closes `fd` if so."""
    parent = os.open("..", _HERE, dir_fd=fd)
    if os.fstat(parent).st_ino != inode:
        os.close(parent)
        raise OSError(ESTALE, "a directory was moved while its tree was gone through")
    return _swap(fd, parent)


def _swap(old: int, new: int) -> int:
    os.close(old)
    return new


def measure(parent: int, name: str | bytes) -> tuple[int, int]:
    """Bytes of disk and inodes of the tree at `name`, hard links counted once; an absent tree has none.

    What vanishes meanwhile is not counted: a container may be writing.
    """
    try:
        top = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return 0, 0
    size, inodes = top.st_blocks * 512, 1
    linked: set[int] = set()
    todo = [os.fsencode(name)] if stat.S_ISDIR(top.st_mode) else []
    while todo:
        path = todo.pop()
        try:
            fd = enter(parent, path)
        except OSError:
            continue  # gone, or a mount, or deeper than a path can say
        try:
            for found, is_directory, entry in _listed(fd):
                if found.st_nlink > 1 and not is_directory:
                    if found.st_ino in linked:
                        continue
                    linked.add(found.st_ino)
                size += found.st_blocks * 512
                inodes += 1
                if is_directory:
                    todo.append(path + b"/" + entry)
        finally:
            os.close(fd)
    return size, inodes


def _listed(fd: int) -> list[tuple[os.stat_result, bool, bytes]]:
    listed = []
    with os.scandir(fd) as entries:
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            listed.append((found, stat.S_ISDIR(found.st_mode), os.fsencode(entry.name)))
    return listed
