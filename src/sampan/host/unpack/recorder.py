"""Writes a layer's recipe (`wire.tar_recipe`) while the layer is unpacked, at next to no cost: headers are kept as they
pass, and looked at again only by whoever rebuilds the tar (`host.rebuild`).

Where an entry really went is noted if symlinks led there. What a later entry replaces is kept in the recipe, up to
GONE_LIMIT in all; a layer that replaces more of its own content is unpacked all the same, and its recipe says that
its tar cannot be rebuilt.
"""

import os
import stat
from collections.abc import Iterator
from hashlib import sha256

from isal.igzip_lib import COMP_DEFLATE, compress

from sampan.host.syscalls import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS
from sampan.host.unpack.cursor import IN_ROOT, PAGE, Budget, join, resolve
from sampan.host.unpack.merge import MergedWriter
from sampan.host.unpack.write import OPAQUE, Writer, write_all
from sampan.wire import layer, tar
from sampan.wire.tar_recipe import (
    CLEARED,
    END,
    GONE,
    HIDES,
    IRREGULAR,
    IS_OPAQUE,
    LIFTED,
    LITERAL,
    MAGIC,
    NOTES,
    NUMBER,
    SECOND,
    SOURCE,
    WENT,
    Recorded,
    frame,
    note,
)
from sampan.wire.tar_source import Source

GONE_LIMIT = 16 << 20  # bytes of replaced content that are kept
_PARTS = 1024  # pieces held before they are written
_LARGE = 8 << 10  # bytes of one entry's headers that are not held
_PIECE = 1 << 20  # bytes of a frame
_LEVEL = 1  # of igzip
_REAL = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Recipe:
    """The recipe's file, from which nothing is read. `more`: it has a beginning."""

    def __init__(self, fd: int, budget: Budget, *, more: bool = False) -> None:
        self._fd = fd
        self._budget = budget
        self.parts: list[bytes] = []  # literal bytes that are not written yet
        self._notes: list[bytes] = []
        self._gone = 0
        self._begin = self._size = os.fstat(fd).st_size
        if not more:
            self._write(MAGIC)

    def note(self, kind: bytes, number: int, path: bytes = b"", value: int = -1, text: bytes = b"") -> None:
        self._notes.append(note(kind, number, path, value, text))
        if len(self._notes) >= _PARTS:
            self._flush_notes()

    def flush(self) -> None:
        """Write the literal bytes so far."""
        data = b"".join(self.parts)
        self.parts.clear()
        for at in range(0, len(data), _PIECE):
            piece = data[at : at + _PIECE]
            self._write(frame(LITERAL, compress(piece, _LEVEL, COMP_DEFLATE), len(piece)))

    def keep(self, content: bytes) -> int | None:
        """Keep replaced content; where it is in the file, None if it is too much."""
        self._gone += len(content)
        if self._gone > GONE_LIMIT:
            return None
        self._write(frame(GONE, content))
        return self._size - len(content)

    def second(self, entries: int) -> None:
        """What comes is noted by another process, which counts from zero."""
        self._flush_notes()
        self._write(frame(SECOND, NUMBER.pack(entries)))

    def end(self, size: int | None = None) -> None:
        """Write what is left; `size` is the whole tar's. Counts it as part of the layer."""
        self.flush()
        self._flush_notes()
        if size is not None:
            self._write(frame(END, NUMBER.pack(size)))
        written = self._size - self._begin
        if self._begin:
            self._budget.size += written + -written % PAGE
        else:
            self._budget.spend(written)

    def _flush_notes(self) -> None:
        if self._notes:
            self._write(frame(NOTES, b"".join(self._notes)))
            self._notes.clear()

    def _write(self, data: bytes) -> None:
        self._budget.room(len(data))
        write_all(self._fd, memoryview(data))
        self._size += len(data)


class RecordedWriter(Writer):
    """A Writer that records what it writes. Call `record` first."""

    _recipe: Recipe
    _number = 0  # of the entry at hand
    _detour: bytes | None = None  # where the current directory is, if not where its name says

    def record(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def source(self, chunks: Iterator[bytes]) -> Source:
        return Recorded(chunks, self._recipe.parts.append)

    def unread(self, entry: tar.Entry) -> None:
        size = len(entry.raw)
        while size > 0:
            size -= len(self._recipe.parts.pop())
        self._recipe.second(self._number)

    def tail(self, piece: memoryview) -> None:
        self._recipe.parts.append(bytes(piece))
        self._recipe.flush()

    def write(self, entry: tar.Entry, reader: tar.Reader) -> None:
        super().write(entry, reader)
        if self._detour is not None:
            self._note_detour(entry)
        self._number += 1
        if len(self._recipe.parts) > _PARTS or len(entry.raw) > _LARGE:
            self._recipe.flush()

    def _note_detour(self, entry: tar.Entry) -> None:
        _, leaf = layer.place(entry.name)
        path = self._detour or b""
        if leaf and (entry.kind != tar.DIRECTORY or leaf.startswith(layer.WHITEOUT)):
            path = join(path, leaf)
        self._recipe.note(WENT, self._number, path)

    def _open(self, path: bytes) -> int:
        try:
            fd = resolve(self._root, path or b".", _LIST, IN_ROOT | RESOLVE_NO_SYMLINKS)
        except OSError:
            self._detour = None
            fd = super()._open(path)
            self._went(path, self.walk(path, make=False))
        else:
            self._detour = None
        return fd

    def _went(self, path: bytes, real: bytes) -> None:
        self._detour = real if real != path else None

    def _directory(self, entry: tar.Entry, leaf: bytes, reader: tar.Reader) -> None:
        super()._directory(entry, leaf, reader)
        if self._detour is not None:
            self._detour = join(self._detour, leaf)

    def _link(self, entry: tar.Entry, leaf: bytes, reader: tar.Reader) -> None:
        super()._link(entry, leaf, reader)
        parent, name = layer.place(entry.link)
        real = self._here() if parent == self._path else self.walk(parent, make=False)
        if real != parent:
            self._recipe.note(SOURCE, self._number, join(real, name))

    def _here(self) -> bytes:
        """The current directory without symlinks."""
        return (self._path or b"") if self._detour is None else self._detour

    # --- what is replaced -----------------------------------------------------------------------------------

    def _clear(self, leaf: bytes) -> None:
        self._note_cleared(self._fd, leaf, join(self._here(), leaf))
        super()._clear(leaf)

    def _note_cleared(self, at: int, name: bytes, real: bytes) -> None:
        """Keep what is at `name` in the directory `at`, with all beneath it."""
        todo = [(name, real)]
        try:
            while todo:
                name, real = todo.pop()
                self._recipe.note(CLEARED, self._number, real, self._content(at, name))
                todo += [(join(name, child), join(real, child)) for child in _children(at, name)]
        except OSError as error:
            self._irregular(f"it replaces something that cannot be read: {error.strerror}")

    def _content(self, at: int, name: bytes) -> int:
        """Keep a file's content; where it is, -1 if it has none or cannot be kept."""
        found = os.stat(name, dir_fd=at, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            return -1
        kept = None
        if found.st_size <= GONE_LIMIT:
            fd = resolve(at, name, _FILE, _REAL)
            try:
                kept = self._recipe.keep(_read(fd, found.st_size))
            finally:
                os.close(fd)
        if kept is None:
            self._irregular(f"it replaces more than {GONE_LIMIT >> 20} MiB of its own content")
            return -1
        return kept

    def _irregular(self, why: str) -> None:
        self._recipe.note(IRREGULAR, self._number, text=why.encode())


class RecordedMergedWriter(RecordedWriter, MergedWriter):
    """A MergedWriter that records what it writes; `snapshot` ends it."""

    def _open(self, path: bytes) -> int:
        fd = MergedWriter._open(self, path)
        self._went(path, self._real)
        return fd

    def record(self, recipe: Recipe) -> None:
        super().record(recipe)
        self._links: set[bytes] = set()  # paths of hard links, perhaps to what came from below

    def _link(self, entry: tar.Entry, leaf: bytes, reader: tar.Reader) -> None:
        super()._link(entry, leaf, reader)
        self._links.add(join(self._here(), leaf))

    def _note_cleared(self, at: int, name: bytes, real: bytes) -> None:
        if self._in_upper(real):  # else it is of a layer below
            super()._note_cleared(self._upper, real, real)

    def snapshot(self) -> None:
        """Note what headers do not tell: what overlayfs made, and what it brought up from below."""
        for path in sorted(self._lifted | self._links):
            try:
                fd = resolve(self._upper, path, os.O_PATH | os.O_NOFOLLOW, _REAL)
            except OSError:
                continue  # it is gone again
            found = os.fstat(fd)
            os.close(fd)
            if not (stat.S_ISCHR(found.st_mode) and found.st_rdev == 0):
                self._recipe.note(LIFTED, self._number, path, text=self._lifted_text(path, found))
        todo = [b""]
        while todo:
            path = todo.pop()
            if path and self._marked(path):
                self._recipe.note(IS_OPAQUE, self._number, path)
            for name, is_directory, hides in _listed(self._upper, path):
                if is_directory:
                    todo.append(join(path, name))
                elif hides:
                    self._recipe.note(HIDES, self._number, join(path, name))

    def _marked(self, path: bytes) -> bool:
        fd = resolve(self._upper, path, _LIST, _REAL)
        try:
            return OPAQUE in os.listxattr(fd) and os.getxattr(fd, OPAQUE) == b"y"
        finally:
            os.close(fd)

    def _lifted_text(self, path: bytes, found: os.stat_result) -> bytes:
        digest = b""
        if stat.S_ISREG(found.st_mode):
            fd = resolve(self._upper, path, _FILE, _REAL)
            try:
                digest = _digest(fd)
            finally:
                os.close(fd)
        kind, mode = stat.S_IFMT(found.st_mode), stat.S_IMODE(found.st_mode)
        numbers = (kind, mode, found.st_uid, found.st_gid, found.st_mtime_ns, found.st_size)
        return b" ".join([*(b"%d" % each for each in numbers), digest])


def _children(at: int, name: bytes) -> list[bytes]:
    """Names in a directory; none if it is no directory."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
        return []
    return [child for child, _, _ in _listed(at, name)]


def _listed(at: int, path: bytes) -> list[tuple[bytes, bool, bool]]:
    """What is in a directory: names, whether each is a directory, whether it is a whiteout."""
    fd = resolve(at, path or b".", _LIST, _REAL)
    try:
        with os.scandir(fd) as entries:
            return [
                (os.fsencode(each.name), each.is_dir(follow_symlinks=False), _hides(each)) for each in entries
            ]
    finally:
        os.close(fd)


def _hides(found: "os.DirEntry[str]") -> bool:
    if found.is_file(follow_symlinks=False) or found.is_dir(follow_symlinks=False) or found.is_symlink():
        return False
    status = found.stat(follow_symlinks=False)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _read(fd: int, size: int) -> bytes:
    pieces = []
    while size and (piece := os.read(fd, size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _digest(fd: int) -> bytes:
    hashed = sha256()
    while piece := os.read(fd, _PIECE):
        hashed.update(piece)
    return hashed.hexdigest().encode()
