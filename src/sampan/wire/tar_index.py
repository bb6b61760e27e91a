"""What is where in a tar file (ustar and GNU: tar(5); pax: POSIX.1 pax), without taking any of it out.

For image archives, whose entries are found by name in a table and never become names on our disk; layers have
a reader of their own. Every size that the archive states is capped before it is believed.
"""

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass

from sampan.model.errors import Invalid

BLOCK = 512
ENTRIES_LIMIT = 100_000
RECORD_LIMIT = 64 << 10  # bytes of a pax record or a long name
LINKS_LIMIT = 8  # links from link to link
NAME_LIMIT = 4096

_OCTAL = re.compile(rb"[\0 ]*([0-7]*)[\0 ]*")
_PAX = re.compile(rb"([0-9]{1,6}) ")
_REGULAR = frozenset({b"0", b"\0", b"7"})
_LINKS = frozenset({b"1", b"2"})
_SPARSE = b"S"

Read = Callable[[int, int], bytes]  # (offset, size) -> that many bytes, or fewer at the end


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file's bytes are."""

    offset: int
    size: int


class TarIndex:
    """The regular files of a tar by name; links within it lead to them."""

    def __init__(self, read: Read, end: int) -> None:
        """Index the `end` bytes that `read` reaches. Raises Invalid for anything that is not a tar."""
        self._read = read
        self._end = end
        self._files: dict[str, Place] = {}
        self._links: dict[str, str] = {}
        self._scan()

    def find(self, name: str) -> Place | None:
        """The file of that name, through links; None if there is none."""
        name = _clean(name)
        for _ in range(LINKS_LIMIT):
            if name in self._files:
                return self._files[name]
            if name not in self._links:
                return None
            name = self._links[name]
        raise Invalid(f"{name[:200]!r} in the archive is a link to a link to a link without end")

    def _scan(self) -> None:
        offset = count = 0
        override: dict[str, str] = {}
        while (block := self._read(offset, BLOCK)) and block.count(0) != BLOCK:
            if not count and not _is_header(block):
                raise Invalid(
                    "this is no image archive: it is not a tar, plain or packed with gzip or zstd, "
                    "or its beginning is damaged"
                )
            count += 1
            if count > ENTRIES_LIMIT:
                raise Invalid(f"the archive has more than {ENTRIES_LIMIT} entries")
            kind, size = _header(block)
            if kind in (b"x", b"L", b"K", b"g"):
                size = self._size(size, offset)
                if kind != b"g":
                    override |= self._extension(kind, offset + BLOCK, size)
            else:
                size = self._size(_number(override.get("size"), size), offset)
                self._entry(block, kind, override, Place(offset + BLOCK, size))
                override = {}
            offset += BLOCK + -(-size // BLOCK) * BLOCK
        if not count:
            raise Invalid("the archive is empty")

    def _size(self, size: int, offset: int) -> int:
        if not 0 <= size <= self._end - offset - BLOCK:
            raise Invalid("the archive is cut short, or states a size beyond its end")
        return size

    def _extension(self, kind: bytes, offset: int, size: int) -> dict[str, str]:
        """What a pax record or a GNU long name says of the entry that follows."""
        if size > RECORD_LIMIT:
            raise Invalid(f"the archive has a header record of {size} bytes; the limit is {RECORD_LIMIT}")
        data = self._read(offset, size)
        if kind == b"x":
            return _pax(data)
        return {"path" if kind == b"L" else "linkpath": _text(data.split(b"\0", 1)[0])}

    def _entry(self, block: bytes, kind: bytes, override: dict[str, str], place: Place) -> None:
        name = _clean(override.get("path") or _name(block))
        if kind == _SPARSE or "GNU.sparse.major" in override:
            raise Invalid(f"{name!r} in the archive is a sparse file, which no image archive has")
        if kind not in _REGULAR and kind not in _LINKS:
            return
        if name in self._files or name in self._links:
            raise Invalid(f"{name!r} is in the archive twice")
        if kind in _REGULAR:
            self._files[name] = place
            return
        target = override.get("linkpath") or _text(block[157:257].split(b"\0", 1)[0])
        # A symbolic link starts at its own directory, a hard link at the root of the archive.
        self._links[name] = _clean(
            target if kind == b"1" else posixpath.join(posixpath.dirname(name), target)
        )


def _header(block: bytes) -> tuple[bytes, int]:
    """Type and size of an entry, its checksum verified."""
    if len(block) != BLOCK:
        raise Invalid("the archive is cut short")
    if not _is_header(block):
        raise Invalid("the archive is damaged: a header's checksum is wrong")
    size = block[124:136]
    if size[0] & 0x80:  # base-256, for sizes that octal digits cannot hold
        return block[156:157], int.from_bytes(size[1:], "big") if size[0] == 0x80 else -1
    return block[156:157], _octal(size)


def _is_header(block: bytes) -> bool:
    stated = _OCTAL.fullmatch(block[148:156])
    summed = sum(block) - sum(block[148:156]) + 8 * 32
    return len(block) == BLOCK and stated is not None and int(stated[1] or b"0", 8) == summed


def _octal(field: bytes) -> int:
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise Invalid("the archive has a header with a malformed number")
    return int(match[1] or b"0", 8)


def _number(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise Invalid("the archive has a pax record with a malformed size")
    return int(text)


def _pax(data: bytes) -> dict[str, str]:
    """The records "LENGTH KEY=VALUE\\n" that matter here."""
    records: dict[str, str] = {}
    position = 0
    while position < len(data):
        match = _PAX.match(data, position)
        length = int(match[1]) if match else 0
        record = data[match.end() if match else 0 : position + length]
        key, equals, value = record.partition(b"=")
        if not length or not equals or not value.endswith(b"\n"):
            raise Invalid("the archive has a malformed pax record")
        if key in (b"path", b"linkpath", b"size", b"GNU.sparse.major"):
            records[key.decode()] = _text(value[:-1])
        position += length
    return records


def _name(block: bytes) -> str:
    name = _text(block[:100].split(b"\0", 1)[0])
    prefix = _text(block[345:500].split(b"\0", 1)[0]) if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def _clean(name: str) -> str:
    """One spelling for a name, a key of our table and nothing else."""
    if len(name) > NAME_LIMIT:
        raise Invalid(f"the archive has a name longer than {NAME_LIMIT} characters")
    return posixpath.normpath(name).lstrip("/")
