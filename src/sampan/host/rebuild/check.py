"""Compares a layer on disk with what its recipe says: every path, its kind, owner, mode, time, attributes and links,
and, by the hash of the whole tar, every byte. Blocking; for the rebuilding child."""

import os
import stat
from collections.abc import Sequence
from errno import ENODATA, ENOTSUP
from hashlib import sha256

from sampan.host.rebuild.recipe import Recipe
from sampan.host.rebuild.tar import REAL, pieces, shown
from sampan.host.storage.layer_view import hidden_by_opaque, visible
from sampan.host.unpack.cursor import join, resolve
from sampan.host.unpack.write import OPAQUE
from sampan.model.errors import Invalid
from sampan.wire import tar
from sampan.wire.layer_state import FOREIGN, State, Thing

LIMIT = 100  # differences that are told one by one
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FORMATS = {
    tar.FILE: (stat.S_IFREG, "a file"),
    tar.DIRECTORY: (stat.S_IFDIR, "a directory"),
    tar.SYMLINK: (stat.S_IFLNK, "a symlink"),
    tar.CHAR: (stat.S_IFCHR, "a character device"),
    tar.BLOCK_DEVICE: (stat.S_IFBLK, "a block device"),
    tar.FIFO: (stat.S_IFIFO, "a FIFO"),
}
_NAMES = dict(_FORMATS.values()) | {stat.S_IFSOCK: "a socket"}
_COMPARED = ("user.", "trusted.", "security.")
_PASSED = ("trusted.overlay.", "security.selinux", "security.SMACK64", "security.ima", "security.evm")
_SECOND = 1_000_000_000


class Check:
    """One comparison; `differences` is its result, `count` how many there are."""

    def __init__(self, recipe: Recipe, fs: int, lowers: Sequence[int], *, base: bool) -> None:
        self._recipe = recipe
        self._fs = fs
        self._lowers = lowers
        self._state = State(recipe.notes, base=base).run(recipe.entries())
        self.differences: list[str] = []
        self.count = 0

    def run(self, diff_id: str) -> str:
        """Compare all. Returns why content could not be compared, "" if it was."""
        self._metadata()
        if self._recipe.notes.irregular:
            return self._recipe.notes.irregular
        before = self.count
        hashed = sha256()
        for piece in pieces(self._recipe, self._fs, self._state, self._differs):
            hashed.update(piece)
        if "sha256:" + hashed.hexdigest() != diff_id and self.count == before:
            self._differs(b"", f"holds other content than {diff_id}{self._suspects()}")
        return ""

    def _differs(self, path: bytes, what: str) -> None:
        line = f"{shown(path)} {what}"
        if line not in self.differences:
            self.count += 1
            if self.count <= LIMIT:
                self.differences.append(line)

    # --- every path -----------------------------------------------------------------------------------------

    def _metadata(self) -> None:
        left = dict(self._state.paths)
        hidden = set(self._state.whiteouts)
        self._root(left.pop(b"", None))
        todo = [b""]
        while todo:
            parent = todo.pop()
            try:
                fd = resolve(self._fs, parent or b".", _LIST, REAL)
            except OSError as error:
                self._differs(parent, f"cannot be listed: {error.strerror}")
                continue
            try:
                self._marks(fd, parent)
                for name in os.listdir(fd):  # noqa: PTH208 - pathlib knows no descriptors
                    path = join(parent, os.fsencode(name))
                    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if self._entry(fd, path, left.pop(path, None), found, hidden):
                        todo.append(path)
            finally:
                os.close(fd)
        for path, thing in left.items():
            if not thing.optional:
                self._differs(path, "is missing")
        lowers = () if b"" in self._state.opaque else self._lowers
        for path in hidden:
            if visible(lowers, path) and not hidden_by_opaque(self._fs, path):
                self._differs(path, "of a lower layer is not hidden any more: its whiteout is missing")

    def _entry(
        self, fd: int, path: bytes, thing: Thing | None, found: os.stat_result, hidden: set[bytes]
    ) -> bool:
        """Compare what is at `path` in the directory `fd`. True for a directory that is to be looked into."""
        hides = stat.S_ISCHR(found.st_mode) and not found.st_rdev and path in hidden
        if hides and (thing is None or thing.optional):
            hidden.discard(path)
            return False
        if thing is None:
            self._differs(path, "is not part of the layer")
            return False
        if thing.kind == FOREIGN or thing.lifted is not None:
            self._foreign(fd, path, thing, found)
        elif self._same_kind(path, thing, found):
            self._attributes(fd, path, thing, found)
        return stat.S_ISDIR(found.st_mode)

    def _same_kind(self, path: bytes, thing: Thing, found: os.stat_result) -> bool:
        wanted, name = _FORMATS[thing.kind]
        kind = stat.S_IFMT(found.st_mode)
        if kind != wanted:
            self._differs(path, f"is {_NAMES.get(kind, 'something else')} instead of {name}")
        return kind == wanted

    def _attributes(self, fd: int, path: bytes, thing: Thing, found: os.stat_result) -> None:
        leaf = path.rpartition(b"/")[2]
        implicit = thing.number < 0
        # the kernel takes set-id bits from devices when their owner is set; links have no mode; what no entry
        # names inherits the group of a set-group-id directory
        bits = {tar.SYMLINK: 0, tar.FILE: 0o7777, tar.DIRECTORY: 0o777 if implicit else 0o7777}.get(
            thing.kind, 0o777
        )
        if (found.st_mode ^ thing.mode) & bits:
            self._differs(path, f"has mode {stat.S_IMODE(found.st_mode):o} instead of {thing.mode:o}")
        inherits = implicit and bool(found.st_mode & stat.S_ISGID)
        if found.st_uid != thing.uid or (found.st_gid != thing.gid and not inherits):
            self._differs(
                path, f"belongs to {found.st_uid}:{found.st_gid} instead of {thing.uid}:{thing.gid}"
            )
        if not _same_time(found.st_mtime_ns, thing.mtime):
            self._differs(path, f"has the time {found.st_mtime_ns} instead of {thing.mtime}")
        if thing.kind == tar.FILE and found.st_size != thing.size:
            self._differs(path, f"has {found.st_size} bytes instead of {thing.size}")
        if thing.kind == tar.SYMLINK and (target := os.readlink(leaf, dir_fd=fd)) != thing.link:
            self._differs(path, f"leads to {target[:200]!r} instead of {thing.link[:200]!r}")
        if thing.kind in (tar.CHAR, tar.BLOCK_DEVICE) and found.st_rdev != os.makedev(*thing.device):
            self._differs(path, f"is device {os.major(found.st_rdev)}:{os.minor(found.st_rdev)}")
        if thing.kind in (tar.FILE, tar.DIRECTORY):
            self._xattrs(fd, leaf, path, thing)
        self._links(path, thing, found)

    def _links(self, path: bytes, thing: Thing, found: os.stat_result) -> None:
        if thing.kind == tar.DIRECTORY:
            return
        if thing.inode and thing.inode != found.st_ino:
            self._differs(path, "is no hard link to the others of its file any more")
        thing.inode = found.st_ino
        if found.st_nlink != thing.names:
            self._differs(path, f"has {found.st_nlink} hard links instead of {thing.names}")

    def _xattrs(self, fd: int, leaf: bytes, path: bytes, thing: Thing) -> None:
        try:
            at = os.open(leaf or b".", _OPEN, dir_fd=fd)
        except OSError as error:
            self._differs(path, f"cannot be opened: {error.strerror}")
            return
        try:
            found = {
                os.fsencode(name): os.getxattr(at, name)
                for name in os.listxattr(at)
                if name.startswith(_COMPARED) and not name.startswith(_PASSED)
            }
            names = thing.xattrs.keys() if thing.lifting else found.keys() | thing.xattrs.keys()
            for name in sorted(names):
                if found.get(name) != thing.xattrs.get(name) and _possible(at, name):
                    self._differs(path, f"has another extended attribute {name.decode(errors='replace')}")
        finally:
            os.close(at)

    def _foreign(self, fd: int, path: bytes, thing: Thing, found: os.stat_result) -> None:
        """What came up from a layer below, by what was noted then."""
        noted = thing.lifted
        if noted is None:
            return
        if stat.S_IFMT(found.st_mode) != noted.kind:
            self._differs(path, "is of another kind")
            return
        wanted = (noted.mode, noted.uid, noted.gid)
        if (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) != wanted:
            self._differs(path, f"is not {noted.mode:o} of {noted.uid}:{noted.gid} any more")
        if not _same_time(found.st_mtime_ns, noted.mtime):
            self._differs(path, f"has the time {found.st_mtime_ns} instead of {noted.mtime}")
        if noted.sha256 and _digest(fd, path.rpartition(b"/")[2]) != noted.sha256:
            self._differs(path, "holds other content")

    def _root(self, thing: Thing | None) -> None:
        """The root directory: as its entry says, or inherited from the layer below."""
        found = os.fstat(self._fs)
        if thing is None:
            thing = Thing(0, tar.DIRECTORY)
            if self._lowers:
                below = os.fstat(self._lowers[0])
                thing.mode, thing.uid, thing.gid = stat.S_IMODE(below.st_mode), below.st_uid, below.st_gid
                thing.mtime = below.st_mtime_ns
            thing.xattrs = _inherited(self._lowers[0]) if self._lowers else {}
        self._attributes(self._fs, b"", thing, found)

    def _marks(self, fd: int, path: bytes) -> None:
        if not path:
            return
        marked = OPAQUE in os.listxattr(fd) and os.getxattr(fd, OPAQUE) == b"y"
        if marked != (path in self._state.opaque):
            self._differs(path, "hides what is below" if marked else "does not hide what is below any more")

    def _suspects(self) -> str:
        """Files that were changed after the recipe was written, to be named where only a hash is wrong."""
        written = os.fstat(self._recipe.fd).st_ctime_ns + 10 * _SECOND
        changed = []
        for path, thing in self._state.paths.items():
            if thing.kind == tar.FILE:
                fd = resolve(self._fs, path, os.O_PATH | os.O_NOFOLLOW, REAL)
                if os.fstat(fd).st_ctime_ns > written:
                    changed.append(shown(path))
                os.close(fd)
        return f"; changed since it was pulled: {', '.join(changed[:10])}" if changed else ""


def _same_time(found: int, wanted: int) -> bool:
    """Some file systems keep whole seconds only."""
    return found == wanted or (not found % _SECOND and found // _SECOND == wanted // _SECOND)


def _possible(fd: int, name: bytes) -> bool:
    """Whether the file system has attributes of this kind at all."""
    try:
        os.getxattr(fd, name)
    except OSError as error:
        if error.errno not in (ENODATA, ENOTSUP):
            raise Invalid(f"an extended attribute cannot be read: {error.strerror}") from error
        return error.errno == ENODATA
    return True


def _inherited(fd: int) -> dict[bytes, bytes]:
    return {
        os.fsencode(name): os.getxattr(fd, name)
        for name in os.listxattr(fd)
        if name.startswith(("user.", "trusted.")) and not name.startswith(_PASSED)
    }


def _digest(fd: int, leaf: bytes) -> bytes:
    at = os.open(leaf, _OPEN, dir_fd=fd)
    hashed = sha256()
    try:
        while piece := os.read(at, 1 << 18):
            hashed.update(piece)
    finally:
        os.close(at)
    return hashed.hexdigest().encode()
