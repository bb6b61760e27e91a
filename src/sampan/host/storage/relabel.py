"""Giving a volume's tree a container's SELinux label (xattr(7), security.selinux).

Which paths may be labelled is `spec.volumes`' decision. A large volume takes long: a tree whose top has the label is
taken for done, and the top is labelled last, so one that was cut short is gone through again. Everything here blocks.
"""

import errno
import os
import time

from sampan.host import syscalls
from sampan.model.errors import Unavailable
from sampan.tasks import step_now

_NAME = "security.selinux"
_WITHIN = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_XDEV
_LOOK_EVERY = 256  # entries between two looks at the clock


def relabel(path: str, label: str, deadline: float) -> int:
    """Label `path` and all beneath it on the same mount, links themselves and not what they lead to; how many
    entries were changed. Unavailable past `deadline` (time.monotonic)."""
    top = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return _Relabelling(path, label, deadline).run(top)
    finally:
        os.close(top)


class _Relabelling:
    def __init__(self, path: str, label: str, deadline: float) -> None:
        self._path = path
        self._label = os.fsencode(label) + b"\0"
        self._deadline = deadline
        self._seen = self._changed = 0

    def run(self, top: int) -> int:
        itself = f"/proc/self/fd/{top}/." if os.path.isdir(f"/proc/self/fd/{top}") else f"/proc/self/fd/{top}"  # noqa: PTH112
        if _label(itself, follow=True) == self._label:
            return 0
        step_now("volume.relabel", self._path)
        if itself.endswith("/."):
            todo = ["."]
            while todo:
                todo += self._directory(top, todo.pop())
        if _set(itself, self._label, follow=True):
            self._changed += 1
        return self._changed

    def _directory(self, top: int, path: str) -> list[str]:
        """Label what the directory holds; the directories in it."""
        try:
            fd = syscalls.openat2(top, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, resolve=_WITHIN)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
                return []  # it went away meanwhile, or something else is mounted there
            raise
        found = []
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    self._look_at_clock()
                    self._entry(f"/proc/self/fd/{fd}/{entry.name}")
                    if entry.is_dir(follow_symlinks=False):
                        found.append(f"{path}/{entry.name}")
        finally:
            os.close(fd)
        return found

    def _entry(self, path: str) -> None:
        if _label(path, follow=False) != self._label and _set(path, self._label, follow=False):
            self._changed += 1

    def _look_at_clock(self) -> None:
        self._seen += 1
        if self._seen % _LOOK_EVERY == 0 and time.monotonic() > self._deadline:
            raise Unavailable(
                f"relabelling {self._path} for SELinux takes too long: {self._changed} of its files are changed, "
                "and the next attempt goes on with the others; or mount it without selinux_relabel"
            )


def _label(path: str, *, follow: bool) -> bytes | None:
    try:
        return os.getxattr(path, _NAME, follow_symlinks=follow).rstrip(b"\0") + b"\0"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP, errno.ENOENT):
            return None
        raise


def _set(path: str, label: bytes, *, follow: bool) -> bool:
    """False where the file system keeps no labels, or the file went away."""
    try:
        os.setxattr(path, _NAME, label, follow_symlinks=follow)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOENT, errno.EROFS):
            return False
        raise
    return True
