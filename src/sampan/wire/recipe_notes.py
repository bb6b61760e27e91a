"""The reading side of a layer's recipe (`wire.tar_recipe`): frames and notes, checked; the recipe may be damaged."""

from collections.abc import Iterator
from dataclasses import dataclass
from struct import error

from sampan.model.errors import Invalid
from sampan.wire.tar_recipe import END, FRAME, FRAME_LIMIT, GONE, LITERAL, NOTES, NUMBER, SECOND

_FIELDS = 5


@dataclass(frozen=True, slots=True)
class Note:
    """One thing to know about an entry (`wire.tar_recipe.note`)."""

    kind: bytes
    number: int
    path: bytes
    value: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Lifted:
    """What something was like that came up from a layer below: a file's content is known by its SHA-256."""

    kind: int  # stat.S_IFMT
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    sha256: bytes


def unframed(header: bytes) -> tuple[bytes, int, int]:
    """A frame's kind, its size as stored and its size as such. Raises Invalid."""
    if len(header) != FRAME.size:
        raise Invalid("the recipe of the layer is cut short")
    kind, stored, size = FRAME.unpack(header)
    if kind not in (LITERAL, NOTES, GONE, SECOND, END) or max(stored, size) > FRAME_LIMIT:
        raise Invalid("the recipe of the layer is damaged")
    return kind, stored, size


def numbered(data: bytes) -> int:
    """The number that is the data of a SECOND or END frame. Raises Invalid."""
    try:
        return int(NUMBER.unpack(data)[0])
    except error:
        raise Invalid("the recipe of the layer is damaged") from None


def notes(data: bytes, first: int) -> Iterator[Note]:
    """The notes in a frame, whose entries are counted from `first` on. Raises Invalid."""
    fields = data.split(b"\0")
    if len(fields) % _FIELDS != 1 or fields[-1]:
        raise Invalid("the recipe of the layer has malformed notes")
    for at in range(0, len(fields) - 1, _FIELDS):
        kind, number, path, value, text = fields[at : at + _FIELDS]
        yield Note(kind, _integer(number) + first, path, _integer(value), text)


def lifted(text: bytes) -> Lifted:
    """What the text of a LIFTED note says. Raises Invalid."""
    fields = text.split(b" ")
    if len(fields) != 7:
        raise Invalid("the recipe of the layer has a malformed note")
    kind, mode, uid, gid, mtime, size = map(_integer, fields[:6])
    return Lifted(kind, mode, uid, gid, mtime, size, fields[6])


def _integer(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        raise Invalid("the recipe of the layer has a malformed number") from None
