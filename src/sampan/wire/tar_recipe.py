"""A layer's recipe: all of its tar but the content of its files, which lies unpacked beside it. With both the very
same tar can be written again.

The bytes that are not content (headers, padding, end blocks, what comes behind them) stand in their order; the headers
say where content comes in between. Notes tell what headers do not: where an entry really went, and what is gone.

    recipe  MAGIC frame*
    frame   kind (1 byte), size as stored, size as such (4 bytes each, big endian), data

A frame is LITERAL (raw deflate: the next bytes that are no content), NOTES (see `note`), GONE (content that a later
entry replaced), SECOND (the notes that follow count from that many entries on) or END (the size of the whole tar).

This is the writing side, which the unpacking child loads, so it imports little; reading is `wire.recipe_notes`.
"""

from collections.abc import Callable, Iterator, Sequence
from struct import Struct

from sampan.wire import layer, tar
from sampan.wire.tar_source import BLOCK, Source

MAGIC = b"sampan recipe 1\n"
LITERAL, NOTES, GONE, SECOND, END = b"L", b"N", b"G", b"S", b"E"
FRAME = Struct(">cII")
NUMBER = Struct(">Q")
FRAME_LIMIT = 16 << 20  # bytes that a frame may hold, or unfold to

# What notes say of the entry with their number
WENT = b"W"  # its name leads through symlinks: the entry itself is at `path`
SOURCE = b"S"  # so does the name of what it is a hard link to, which is at `path`
CLEARED = b"C"  # before it could be made, `path` was removed; its content is at `value` in the recipe (-1: it had none)
# and of a layer whose rest was merged with the layers below, in the end
HIDES = b"H"  # `path` is a whiteout
IS_OPAQUE = b"O"  # `path` is an opaque directory
LIFTED = b"U"  # `path` came up from a layer below; `text` says what it is like
IRREGULAR = b"X"  # the tar cannot be rebuilt: `text` says why


class Recorded(Source):
    """A source that hands a copy of all that is read from it to `keep`, but for the data of members."""

    __slots__ = ("_keep",)

    def __init__(self, chunks: Iterator[bytes], keep: Callable[[bytes], object]) -> None:
        super().__init__(chunks)
        self._keep = keep

    def take(self, size: int) -> bytes:
        end = self._at + size  # as in Source, which a call of for every header would cost too much
        found = self._chunk[self._at : end]
        if len(found) == size:
            self._at = end
        else:
            found = super().take(size)
        self._keep(found)
        return found

    def skip(self, size: int) -> None:
        if size <= BLOCK:
            self.take(size)
            return
        for piece in self.pieces(size):
            self._keep(bytes(piece))


def frame(kind: bytes, data: bytes, size: int = -1) -> bytes:
    """A frame; `size` is what `data` is as such, where that is not as it is stored."""
    return FRAME.pack(kind, len(data), len(data) if size < 0 else size) + data


def note(kind: bytes, number: int, path: bytes = b"", value: int = -1, text: bytes = b"") -> bytes:
    """One thing to know about an entry. No field holds a NUL."""
    return b"%s\0%d\0%s\0%d\0%s\0" % (kind, number, path, value, text)


def has_content(entry: tar.Entry) -> bool:
    """Whether the entry's data became a file: else it is in the recipe."""
    _, leaf = layer.place(entry.name)
    return entry.kind == tar.FILE and bool(leaf) and not leaf.startswith(layer.WHITEOUT)


def extents(entry: tar.Entry) -> Sequence[tuple[int, int]]:
    """Where in its file the entry's stored bytes are, (offset, size), in their order."""
    return entry.sparse.extents if entry.sparse is not None else [(0, entry.size)]
