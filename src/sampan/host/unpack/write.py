"""Writes archive entries below a directory, the layer's root, as they come.

Every parent is resolved by openat2 in the root, every leaf is made with O_EXCL or a call that follows
nothing, and metadata is set on descriptors: what an archive says can never reach outside, whatever it holds.
A layer is written without the layers below it. The first entry whose place depends on them (its parent
directory, or what it links to, is not in this layer) raises NeedsLowers before anything is done for it;
`host.unpack.child` keeps that part of the archive for later, when `host.unpack.merge` writes it onto the merged
layers.
"""

import os
import stat
from collections.abc import Callable, Iterator
from errno import (
    E2BIG,
    EFBIG,
    EINVAL,
    EISDIR,
    ELOOP,
    EMLINK,
    ENAMETOOLONG,
    ENOENT,
    ENOSPC,
    ENOTDIR,
    ENOTSUP,
    EPERM,
    ERANGE,
)

from sampan.host.unpack.cursor import DIRECTORY, PAGE, Budget, Cursor, NeedsLowers, join, resolve
from sampan.model.errors import Invalid
from sampan.wire import layer, tar
from sampan.wire.tar_source import Source

OPAQUE = "trusted.overlay.opaque"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# What an archive can bring about by what it says; anything else is the disk's failure
_ITS_FAULT = frozenset((ENAMETOOLONG, ELOOP, ENOTDIR, EISDIR, ENOENT, EFBIG, EINVAL, E2BIG, ERANGE, EMLINK))


class Writer(Cursor):
    """Writes entries below `root`. With `base` there are no layers below: nothing is left for later."""

    def __init__(self, root: int, budget: Budget, *, base: bool = False) -> None:
        super().__init__(root, budget, base=base)
        self._root_inode = os.fstat(root).st_ino
        self.whiteouts: list[bytes] = []
        self.opaque = False  # the layer hides all that is below it
        self.has_root = False  # the layer says what its root directory is like
        self._kinds: dict[bytes, Callable[[tar.Entry, bytes, tar.Reader], None]] = {
            tar.FILE: self._file,
            tar.DIRECTORY: self._directory,
            tar.SYMLINK: self._symlink,
            tar.LINK: self._link,
            tar.CHAR: self._device,
            tar.BLOCK_DEVICE: self._device,
            tar.FIFO: self._device,
        }

    def write(self, entry: tar.Entry, reader: tar.Reader) -> None:
        """Make one entry; `reader` has its data. NeedsLowers, Invalid, Exhausted, or OSError where the
        disk fails.
        """
        parent, leaf = layer.place(entry.name)
        try:
            if not leaf:
                self._root_entry(entry)
            elif not leaf.startswith(layer.WHITEOUT):
                layer.check_ids(entry.uid, entry.gid, entry.name)
                if entry.xattrs:
                    layer.allow_xattrs(entry.xattrs, entry.name)
                    self._budget.room(sum(map(len, entry.xattrs.values())))
                self._enter(parent)
                self._kinds[entry.kind](entry, leaf, reader)
            elif leaf == layer.OPAQUE:
                self._hide_all(parent)
            elif hidden := layer.whiteout(leaf):
                self._hide(parent, hidden)
        except OSError as error:
            if error.errno in _ITS_FAULT:
                raise Invalid(f"{entry.name[:200]!r} cannot be made: {error.strerror}") from error
            raise
        if self._stale:
            self.leave()

    # --- what `host.unpack.recorder` adds to -------------------------------------------------------------------

    def source(self, chunks: Iterator[bytes]) -> Source:
        """The archive that will be written, to be read."""
        return Source(chunks)

    def unread(self, entry: tar.Entry) -> None:
        """The entry was read, and is left for later."""

    def tail(self, piece: memoryview) -> None:
        """Something stands behind the last entry."""

    # --- the kinds of entries -------------------------------------------------------------------------------

    def _root_entry(self, entry: tar.Entry) -> None:
        """The root's own entry. Anything but a directory there is passed over, as by the other runtimes."""
        if entry.kind == tar.DIRECTORY:
            layer.check_ids(entry.uid, entry.gid, entry.name)
            layer.allow_xattrs(entry.xattrs, entry.name)
            self._enter(b"")
            _undress(self._fd)
            self._dress_directory(self._fd, entry)
            self._mtime = entry.mtime
            self.has_root = True

    def _file(self, entry: tar.Entry, leaf: bytes, reader: tar.Reader) -> None:
        self._budget.spend(entry.stored)
        try:
            fd = os.open(leaf, _NEW_FILE, entry.mode & 0o777, dir_fd=self._fd)
        except FileExistsError:
            self._clear(leaf)
            fd = os.open(leaf, _NEW_FILE, entry.mode & 0o777, dir_fd=self._fd)
        try:
            self._fill(fd, entry, reader)
            if entry.uid or entry.gid or self._inherits:
                os.fchown(fd, entry.uid, entry.gid)
            if entry.mode & 0o7000:  # last: a change of owner takes set-user-id away
                os.fchmod(fd, entry.mode)
            if entry.xattrs:  # after the owner, whose change drops capabilities
                _set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _fill(self, fd: int, entry: tar.Entry, reader: tar.Reader) -> None:
        """Write the file's content. Most files lie in one piece of the archive as it comes."""
        if entry.sparse is not None:
            _write_sparse(fd, entry.sparse.extents, self._budget.watched(reader.data()))
            os.ftruncate(fd, entry.size)
        elif (whole := reader.at_once()) is not None:
            write_all(fd, whole)
        else:
            for piece in self._budget.watched(reader.data()):
                write_all(fd, piece)

    def _directory(self, entry: tar.Entry, leaf: bytes, reader: tar.Reader) -> None:
        """Make or reuse a directory and stay in it: what comes next is usually its content."""
        path = join(self._path or b"", leaf)
        replaced = reused = False
        try:
            os.mkdir(leaf, 0o700, dir_fd=self._fd)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(leaf, dir_fd=self._fd, follow_symlinks=False).st_mode):
                self._clear(leaf)
                os.mkdir(leaf, 0o700, dir_fd=self._fd)
                replaced = True
            reused = not replaced
        self._budget.spend(PAGE)
        fd = os.open(leaf, DIRECTORY, dir_fd=self._fd)
        stale = self._stale
        self.leave()
        self._arrive(path, fd)
        self._stale = stale
        if replaced:
            self._replaced(fd)
        if reused:
            _undress(fd)
        self._dress_directory(fd, entry)
        self._mtime = entry.mtime

    def _dress_directory(self, fd: int, entry: tar.Entry) -> None:
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        self._inherits = bool(entry.mode & stat.S_ISGID)
        _set_xattrs(fd, entry)

    def _replaced(self, fd: int) -> None:
        """A directory took the place of something that hid the lower layers' directory: that stays hidden."""
        if not self._base:
            os.setxattr(fd, OPAQUE, b"y")

    def _symlink(self, entry: tar.Entry, leaf: bytes, reader: tar.Reader) -> None:
        if not entry.link or b"\0" in entry.link:
            raise Invalid(f"the symlink {entry.name[:200]!r} has no target")
        self._budget.spend(len(entry.link) if len(entry.link) >= 60 else 0)
        try:
            os.symlink(entry.link, leaf, dir_fd=self._fd)
        except FileExistsError:
            self._clear(leaf)
            os.symlink(entry.link, leaf, dir_fd=self._fd)
        self._dress(entry, leaf)

    def _device(self, entry: tar.Entry, leaf: bytes, reader: tar.Reader) -> None:
        """A device or FIFO. Devices are made as the image says: the container's device cgroup decides
        about their use.
        """
        kind, number = stat.S_IFIFO, 0
        if entry.kind != tar.FIFO:
            layer.check_device(entry.kind == tar.CHAR, *entry.device, entry.name)
            kind = stat.S_IFCHR if entry.kind == tar.CHAR else stat.S_IFBLK
            number = os.makedev(*entry.device)
        self._budget.spend(0)
        try:
            os.mknod(leaf, kind | entry.mode, number, dir_fd=self._fd)
        except FileExistsError:
            self._clear(leaf)
            os.mknod(leaf, kind | entry.mode, number, dir_fd=self._fd)
        self._dress(entry, leaf)
        if entry.mode & 0o6000:  # the change of owner took them away; no symlink is there to be followed
            os.chmod(leaf, entry.mode, dir_fd=self._fd)

    def _dress(self, entry: tar.Entry, leaf: bytes) -> None:
        """Owner and time of what cannot be opened: by name in its directory, following nothing."""
        if entry.uid or entry.gid or self._inherits:
            os.chown(leaf, entry.uid, entry.gid, dir_fd=self._fd, follow_symlinks=False)
        os.utime(leaf, ns=(entry.mtime, entry.mtime), dir_fd=self._fd, follow_symlinks=False)

    def _link(self, entry: tar.Entry, leaf: bytes, reader: tar.Reader) -> None:
        parent, name = layer.place(entry.link)
        source = self._open_source(parent)
        try:
            self._link_from(entry, source, name, leaf)
        finally:
            os.close(source)

    def _open_source(self, parent: bytes) -> int:
        if parent == self._path:
            return os.dup(self._fd)
        try:
            return resolve(self._root, parent or b".", os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            if not self._base:
                raise NeedsLowers from None
        return self._open_real(self.walk(parent, make=False))

    def _link_from(self, entry: tar.Entry, source: int, name: bytes, leaf: bytes) -> None:
        try:
            found = os.stat(name, dir_fd=source, follow_symlinks=False)
        except FileNotFoundError:
            if not self._base:
                raise NeedsLowers from None
            raise
        if stat.S_ISDIR(found.st_mode) or (stat.S_ISCHR(found.st_mode) and not found.st_rdev):
            raise Invalid(
                f"{entry.name[:200]!r} is a hard link to {entry.link[:200]!r}, a directory or a whiteout"
            )
        try:
            os.link(name, leaf, src_dir_fd=source, dst_dir_fd=self._fd, follow_symlinks=False)
        except FileExistsError:
            there = os.stat(leaf, dir_fd=self._fd, follow_symlinks=False)
            if (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino):
                return  # linked so already
            self._clear(leaf)
            os.link(name, leaf, src_dir_fd=source, dst_dir_fd=self._fd, follow_symlinks=False)
        except OSError as error:
            if error.errno == EPERM:
                raise Invalid(
                    f"{entry.name[:200]!r} cannot be a hard link to {entry.link[:200]!r}"
                ) from error
            raise

    # --- whiteouts (OCI image-spec layer.md: they hide what is below, never what this layer brings) ---------

    def _hide(self, parent: bytes, name: bytes) -> None:
        if not self._entered(parent):
            return
        try:
            found = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            self._budget.spend(0)
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=self._fd)
            self.whiteouts.append(join(self.walk(parent, make=False), name))
            return
        if stat.S_ISDIR(found.st_mode):
            fd = os.open(name, DIRECTORY, dir_fd=self._fd)
            os.setxattr(fd, OPAQUE, b"y")
            os.close(fd)

    def _entered(self, parent: bytes) -> bool:
        """Make `parent` current if there is something to hide in it."""
        if self._base:
            return False
        try:
            self._enter(parent)
        except OSError as error:
            if error.errno == ELOOP:
                return False
            raise
        return True

    def _hide_all(self, parent: bytes) -> None:
        if not self._entered(parent):
            return
        if os.fstat(self._fd).st_ino == self._root_inode:
            self.opaque = (
                True  # overlayfs heeds no mark on a layer's root; the layers below are left out instead
            )
        else:
            os.setxattr(self._fd, OPAQUE, b"y")


def _undress(fd: int) -> None:
    """Take away the extended attributes that a directory has from the image: its next entry says all of them."""
    try:
        keys = os.listxattr(fd)
    except OSError as error:
        if error.errno == ENOTSUP:
            return
        raise
    for key in keys:
        if layer.of_image(os.fsencode(key)):
            os.removexattr(fd, key)


def _set_xattrs(fd: int, entry: tar.Entry) -> None:
    for key, value in entry.xattrs.items():
        try:
            os.setxattr(fd, key, value)
        except OSError as error:
            if error.errno == ENOTSUP:  # the file system has none of this kind
                continue
            size = sum(len(name) + len(each) for name, each in entry.xattrs.items())
            if error.errno == EPERM or (
                error.errno == ENOSPC and size > PAGE // 2
            ):  # ext4: one block for all
                raise Invalid(f"{entry.name[:200]!r} cannot have {key[:80]!r}: {error.strerror}") from error
            raise


def write_all(fd: int, piece: memoryview) -> None:
    """Write all of `piece`, which may be empty."""
    while piece and (done := os.write(fd, piece)) < len(piece):
        piece = piece[done:]


def _write_sparse(fd: int, extents: list[tuple[int, int]], data: Iterator[memoryview]) -> None:
    """Put the stored bytes, which lie one after the other, at the extents' offsets."""
    left = memoryview(b"")
    for offset, length in extents:
        os.lseek(fd, offset, os.SEEK_SET)
        while length:
            if not left:
                left = next(data)
            write_all(fd, left[:length])
            length, left = length - len(left[:length]), left[length:]
