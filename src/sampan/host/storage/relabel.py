"""Giving a volume's tree a container's SELinux label (xattr(7), security.selinux).

Which paths may be labelled is `spec.volumes`' decision. A large volume takes long: a tree whose top has the label is
taken for done, and the top is labelled last, so one that was cut short is gone through again. Containers may be at work
in it: every file is opened by its name in a directory that is held open, and labelled by that descriptor. Everything
here blocks.
"""

import errno
import os
import stat
import time
from collections.abc import Callable

from sampan.host import syscalls
from sampan.host.storage import trees
from sampan.model.errors import Unavailable
from sampan.tasks import step_now

_NAME = "security.selinux"
_WITHIN = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_XDEV
_LOOK_EVERY = 256  # entries between two looks at the clock
_OTHERWISE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)  # gone, replaced, or mounted upon


def relabel(path: str, label: str, deadline: float, stopped: Callable[[], bool] = lambda: False) -> int:
    """Label `path`, which has no link in it, and all beneath it on the same mount, links themselves and not what they
    lead to; how many entries were changed. Does nothing where the file system keeps no labels. Unavailable past
    `deadline` (time.monotonic), once `stopped`, and where the tree is changed so that we lose our way."""
    try:
        top = syscalls.openat2(syscalls.AT_FDCWD, path, os.O_PATH, resolve=syscalls.RESOLVE_NO_SYMLINKS)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        # it was resolved when it was decided that it may be labelled (CVE-2021-43816 is about such a path)
        raise Unavailable(
            f"{path} is not relabelled for SELinux: there is a link in it now; try again"
        ) from None
    try:
        return _Relabelling(path, label, deadline, stopped).run(top)
    finally:
        os.close(top)


class _Relabelling:
    def __init__(self, path: str, label: str, deadline: float, stopped: Callable[[], bool]) -> None:
        self._path = path
        self._label = os.fsencode(label) + b"\0"
        self._deadline = deadline
        self._stopped = stopped
        self._seen = self._changed = 0

    def run(self, top: int) -> int:
        if _label(top) == self._label or not _keeps_labels(top):
            return 0
        step_now("volume.relabel", self._path)
        self._look_up()
        if stat.S_ISDIR(os.fstat(top).st_mode):
            try:
                self._beneath(trees.enter(top, "."))
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
                raise Unavailable(
                    f"relabelling {self._path} for SELinux: {error.strerror}; try again"
                ) from error
        self._relabel(top)
        return self._changed

    def _beneath(self, fd: int) -> None:
        """Label all beneath `fd`, and close it. However deep: neither a path nor a descriptor per level is held."""
        try:
            levels = [(os.fstat(fd).st_ino, self._directory(fd))]
            while levels:
                todo = levels[-1][1]
                if not todo:
                    levels.pop()
                    fd = trees.up(fd, levels[-1][0]) if levels else fd
                elif (child := _entered(fd, todo.pop())) >= 0:
                    os.close(fd)
                    fd = child
                    levels.append((os.fstat(fd).st_ino, self._directory(fd)))
        finally:
            os.close(fd)

    def _directory(self, fd: int) -> list[str]:
        """Label what the directory holds; the directories in it."""
        found = []
        with os.scandir(fd) as entries:
            for entry in entries:
                self._look_up()
                if self._entry(fd, entry.name) and entry.is_dir(follow_symlinks=False):
                    found.append(entry.name)
        return found

    def _entry(self, directory: int, name: str) -> bool:
        """False for what is no part of the tree."""
        try:
            fd = syscalls.openat2(directory, name, os.O_PATH | os.O_NOFOLLOW, resolve=_WITHIN)
        except OSError as error:
            if error.errno in _OTHERWISE:
                return False
            raise
        try:
            if _label(fd) != self._label:
                self._relabel(fd)
        finally:
            os.close(fd)
        return True

    def _relabel(self, fd: int) -> None:
        try:
            os.setxattr(_at(fd), _NAME, self._label)
            self._changed += 1
        except OSError as error:
            if error.errno not in (
                errno.ENOTSUP,
                errno.ENOENT,
            ):  # a kind of file that has none; it was deleted
                raise

    def _look_up(self) -> None:
        """From the work, to the clock and to whether it is still wanted."""
        self._seen += 1
        if self._stopped():
            raise Unavailable(f"relabelling {self._path} for SELinux was stopped")
        if self._seen % _LOOK_EVERY == 0 and time.monotonic() > self._deadline:
            then = "the next attempt goes on with the others; or " if self._changed else ""
            raise Unavailable(
                f"relabelling {self._path} for SELinux takes too long: {self._changed} of its files are changed, of "
                f"{self._seen} seen; {then}mount it without selinux_relabel"
            )


def _at(fd: int) -> str:
    """A path that leads to what `fd` is open on and no further, though it be a link: fsetxattr(2) takes no O_PATH."""
    return f"/proc/self/fd/{fd}"


def _label(fd: int) -> bytes | None:
    try:
        return os.getxattr(_at(fd), _NAME).rstrip(b"\0") + b"\0"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP, errno.ENOENT):
            return None
        raise


def _keeps_labels(fd: int) -> bool:
    """Whether a label can be set there. SELinux shows one for every file, so its own is set once more to find out; what
    else may be wrong, the first real change will tell."""
    try:
        os.setxattr(_at(fd), _NAME, os.getxattr(_at(fd), _NAME))
    except OSError as error:
        return error.errno not in (errno.ENOTSUP, errno.EROFS)
    return True


def _entered(directory: int, name: str) -> int:
    """-1 where there is no such directory any more."""
    try:
        return trees.enter(directory, name)
    except OSError as error:
        if error.errno in _OTHERWISE:
            return -1
        raise
