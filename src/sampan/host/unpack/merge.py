"""Writes the rest of a layer onto the merged view of the layers below: the part whose place depends on them.

The root is an overlay mount, lower layers below and the layer itself as its upper directory, so the kernel
does what a sequential unpacking would see: symlinks of lower layers lead where they lead, implicit
directories keep their attributes, hard links reach lower files. Only whiteouts need work here: they must hide
what is below and spare what this layer brought, and in the merged view both look alike.
"""

import os
import stat
from errno import ENOENT, ENOTDIR

from sampan.host.storage import trees
from sampan.host.syscalls import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from sampan.host.unpack.cursor import NOWHERE, Budget, join
from sampan.host.unpack.write import Writer
from sampan.wire import layer, tar

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REAL = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS


class MergedWriter(Writer):
    """Writes entries below the merged `root`, whose upper directory is `upper`."""

    def __init__(self, root: int, upper: int, budget: Budget) -> None:
        super().__init__(root, budget, base=True)
        self._upper = upper
        self._real = b""  # the current directory without symlinks
        # Paths that are in the upper directory only because something happened to them or beneath them:
        # they came from below. All else that is there this layer brought.
        self._lifted: set[bytes] = set()

    def write(self, entry: tar.Entry, reader: tar.Reader) -> None:
        super().write(entry, reader)
        _, leaf = layer.place(entry.name)
        if leaf and not leaf.startswith(layer.WHITEOUT) and entry.kind != tar.DIRECTORY:
            self._lifted.discard(join(self._real, leaf))

    def _open(self, path: bytes) -> int:
        self._real = self.walk(path, make=True)
        self._note_lifted(self._real)
        return self._open_real(self._real)

    def _note_lifted(self, path: bytes) -> None:
        """Remember which of a path's directories are not this layer's so far."""
        while path and not self._in_upper(path):
            self._lifted.add(path)
            path = path.rpartition(b"/")[0]

    def _in_upper(self, path: bytes) -> bool:
        try:
            fd = openat2(self._upper, path, os.O_PATH | os.O_NOFOLLOW, resolve=_REAL)
        except OSError as error:
            if error.errno in (ENOENT, ENOTDIR):
                return False
            raise
        found = os.fstat(fd)
        os.close(fd)
        return not (stat.S_ISCHR(found.st_mode) and found.st_rdev == 0)

    def _make_directory(self, parent: bytes, name: bytes) -> None:
        self._note_lifted(parent)
        super()._make_directory(parent, name)
        self._lifted.discard(join(parent, name))

    def _directory(self, entry: tar.Entry, leaf: bytes, reader: tar.Reader) -> None:
        path = join(self._real, leaf)
        super()._directory(entry, leaf, reader)
        self._real = path
        self._lifted.discard(path)

    def _replaced(self, fd: int) -> None:
        """overlayfs has marked it already."""

    def _link_from(self, entry: tar.Entry, source: int, name: bytes, leaf: bytes) -> None:
        path = join(self.walk(layer.place(entry.link)[0], make=False), name)
        self._note_lifted(path)  # linking copies it up
        super()._link_from(entry, source, name, leaf)

    # --- whiteouts ------------------------------------------------------------------------------------------

    def _hide(self, parent: bytes, name: bytes) -> None:
        if self._entered(parent):
            self._hide_name(self._fd, self._real, name)
            self._stale = True

    def _hide_all(self, parent: bytes) -> None:
        if self._entered(parent):
            for name in _names(self._fd):
                self._hide_name(self._fd, self._real, name)
            self._stale = True

    def _entered(self, parent: bytes) -> bool:
        """Make `parent` current unless it leads nowhere: then there is nothing to hide in it."""
        try:
            self.walk(parent, make=False)
        except OSError as error:
            if error.errno in NOWHERE:
                return False
            raise
        self._enter(parent)
        return True

    def _hide_name(self, fd: int, parent: bytes, name: bytes) -> None:
        """Hide what came from below at `name` in the directory `fd`, `parent`; it may be absent."""
        path = join(parent, name)
        if not self._in_upper(path):
            trees.remove(fd, name)
            return
        try:
            inner = openat2(fd, name, _DIRECTORY, resolve=_REAL)
        except NotADirectoryError:
            if path in self._lifted:
                os.unlink(name, dir_fd=fd)
            return
        try:
            before = os.fstat(inner).st_mtime_ns
            for child in _names(inner):
                self._hide_name(inner, path, child)
            os.utime(inner, ns=(before, before))
            empty = not _names(inner)
        finally:
            os.close(inner)
        if empty and path in self._lifted:
            os.rmdir(name, dir_fd=fd)


def _names(fd: int) -> list[bytes]:
    return [os.fsencode(name) for name in os.listdir(fd)]
