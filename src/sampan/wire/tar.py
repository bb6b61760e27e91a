"""A streaming tar reader for image layers: ustar, v7, GNU long names, PAX, and the sparse formats.

Not a general archiver: nothing is kept per entry, headers and sparse maps are capped, and whatever is damaged
or unknown is one error, Invalid. What an entry means for a layer is `wire.layer`'s matter. Sources: POSIX
pax(1p), GNU tar manual "Basic Tar Format" and "Storing Sparse Files". Where tools disagree we read as Go's
archive/tar does, since that is what the other runtimes use.
"""

from collections.abc import Iterator
from struct import Struct
from zlib import adler32

from sampan.model.errors import Invalid
from sampan.wire.tar_source import BLOCK, Source
from sampan.wire.tar_sparse import MAP_LIMIT, SparseMap, from_gnu, from_pax_data, from_pax_records

HEADER_LIMIT = 1 << 20  # bytes of one long name or PAX header; more than any file system could use
MTIME_RANGE = (-(1 << 31), 0x37FFFFFFF)  # seconds: what ext4 can store (1901 to 2446); beyond is clamped

FILE, LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_SPARSE, _LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"S", b"L", b"K", b"x", b"g"
_EXTENSIONS = frozenset((_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL))
_FILES = frozenset((FILE, b"\0", b"7", _SPARSE))  # "7" is a contiguous file: a plain one to us
_BODILESS = frozenset((LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO))

# name, mode and ids, size, mtime, type, link, magic, major, minor, prefix
_FIELDS = Struct("100s24s12s12s8xc100s8s64x8s8s155s12x")
_ZERO = bytes(BLOCK)
_POSIX_MAGIC = b"ustar\x0000"
_GNU_MAGIC = b"ustar  \x00"
_SEEN_LIMIT = 4096
_seen: dict[bytes, tuple[int, int, int]] = {}  # mode, uid and gid by their fields
_sums: dict[bytes, int] = {}
_XATTR = b"SCHILY.xattr."
_NOTHING: dict[bytes, bytes] = {}


class Entry:
    """One member. `size` is the file's size; what is stored of it is `sparse`'s extents, or all of it.

    `raw` is the member's header as it stood in the archive, extension headers included. Times are in ns.
    """

    __slots__ = (
        "device",
        "gid",
        "kind",
        "link",
        "mode",
        "mtime",
        "name",
        "raw",
        "size",
        "sparse",
        "stored",
        "uid",
        "xattrs",
    )

    name: bytes
    link: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    device: tuple[int, int]
    size: int
    stored: int
    sparse: SparseMap | None
    xattrs: dict[bytes, bytes]
    raw: bytes


class Reader:
    """Iterates over the members of an archive; `data` gives the bytes of the member last returned."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._left = 0  # bytes of the current member that nobody has read
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._next()) is not None:
            yield entry

    def data(self) -> Iterator[memoryview]:
        """The stored bytes of the current member, as views that are good until the next one."""
        size, self._left = self._left, 0
        return self.source.pieces(size)

    def at_once(self) -> memoryview | None:
        """The same in one piece, if it is at hand so; else nothing is read."""
        found = self.source.view(self._left)
        if found is not None:
            self._left = 0
        return found

    def _next(self) -> Entry | None:
        if self._left or self._padding:
            self.source.skip(self._left + self._padding)
            self._left = self._padding = 0
        block = self._block()
        if block is None:
            return None
        if block[156:157] in _EXTENSIONS:
            return self._extended(block)
        return self._member(block, None, None, _NOTHING, [block])

    def _extended(self, block: bytes) -> Entry:
        """The member behind extension headers, of which `block` is the first."""
        raw: list[bytes] = []
        name = link = None
        pax: dict[bytes, bytes] = {}
        while True:
            raw.append(block)
            kind = block[156:157]
            if kind == _PAX:
                pax = pax_records(self._meta(block, raw))
            elif kind == _LONG_NAME:
                name = _until_nul(self._meta(block, raw))
            elif kind == _LONG_LINK:
                link = _until_nul(self._meta(block, raw))
            elif kind == _PAX_GLOBAL:  # checked and passed over, as the other runtimes do
                pax_records(self._meta(block, raw))
            else:
                return self._member(block, name, link, pax, raw)
            following = self._block()
            if following is None:
                raise Invalid("the archive ends after an extension header")
            block = following

    def _block(self) -> bytes | None:
        """The next header block, its checksum verified; None at the end of the archive."""
        block = self.source.header()
        if not block:
            return None
        if block == _ZERO:
            if self.source.header() in (b"", _ZERO):
                return None
            raise Invalid("the archive has a lone block of zeros where a header was expected")
        _verify(block)
        return block

    def _meta(self, block: bytes, raw: list[bytes]) -> bytes:
        """The body of an extension header."""
        size = number(block[124:136])
        if not 0 <= size <= HEADER_LIMIT:
            raise Invalid(
                f"an extension header of the archive claims {size} bytes; the limit is {HEADER_LIMIT}"
            )
        body = self.source.take(size + -size % BLOCK)
        raw.append(body)
        return body[:size]

    def _member(
        self, block: bytes, name: bytes | None, link: bytes | None, pax: dict[bytes, bytes], raw: list[bytes]
    ) -> Entry:
        entry = _from_header(block)
        if pax:
            _apply_pax(entry, pax)
        if name:  # GNU's long names win over PAX's
            entry.name = name
        if link:
            entry.link = link
        if entry.size < 0:
            raise Invalid(f"{_show(entry)} has a negative size")
        sparse = entry.kind == _SPARSE or b"GNU.sparse.major" in pax or b"GNU.sparse.size" in pax
        if entry.kind != FILE:
            entry.kind = _plain_kind(entry)
        entry.stored = stored = 0 if entry.kind in _BODILESS else entry.size
        self._left, self._padding = stored, -stored % BLOCK
        if sparse:
            self._sparse(entry, block, pax, raw)
        entry.raw = raw[0] if len(raw) == 1 else b"".join(raw)
        return entry

    def _sparse(self, entry: Entry, block: bytes, pax: dict[bytes, bytes], raw: list[bytes]) -> None:
        """Read the sparse map of the member, wherever its format keeps it."""
        if block[156:157] == _SPARSE:
            found = from_gnu(block, self._extension(raw), number)
        elif pax.get(b"GNU.sparse.major", b"0") == b"1":
            found = from_pax_data(pax, self._inner(entry, raw))
        else:
            found = from_pax_records(pax)
        found.check(entry.stored, _show(entry))
        entry.sparse, entry.size = found, found.size
        if given := pax.get(b"GNU.sparse.name"):
            entry.name = _without_nul(given)

    def _extension(self, raw: list[bytes]) -> Iterator[bytes]:
        """Blocks that continue an old GNU sparse map."""
        for _ in range(MAP_LIMIT // BLOCK):
            raw.append(self.source.take(BLOCK))
            yield raw[-1]
        raise Invalid(f"a sparse map of the archive is larger than {MAP_LIMIT} bytes")

    def _inner(self, entry: Entry, raw: list[bytes]) -> Iterator[bytes]:
        """Blocks at the start of the member's data, where PAX 1.0 keeps the map."""
        while entry.stored >= BLOCK:
            entry.stored -= BLOCK
            self._left -= BLOCK
            raw.append(self.source.take(BLOCK))
            yield raw[-1]


def _from_header(block: bytes) -> Entry:
    name, ids, size, mtime, kind, link, magic, major, minor, prefix = _FIELDS.unpack(block)
    entry = Entry()
    entry.kind = kind
    entry.name = _until_nul(name)
    entry.link = _until_nul(link) if link[0] else b""
    entry.mode, entry.uid, entry.gid = _seen.get(ids) or _mode_and_ids(ids)
    entry.size = number(size)
    entry.mtime = _clamped(number(mtime), 0)
    entry.device = (0, 0)
    entry.sparse = None
    entry.xattrs = {}
    if kind in (CHAR, BLOCK_DEVICE):
        entry.device = (number(major), number(minor))
    if magic == _POSIX_MAGIC and prefix[0]:
        if block[508:] == b"tar\0":  # star's variant keeps times at the end of the prefix
            prefix = prefix[:131]
        entry.name = _until_nul(prefix) + b"/" + entry.name
    return entry


def _plain_kind(entry: Entry) -> bytes:
    """The member's type with the four ways to say "file" made one. Invalid for types that no layer may
    have.
    """
    if entry.kind in _FILES:
        v7_directory = entry.kind == b"\0" and entry.name.endswith(b"/")
        return DIRECTORY if v7_directory else FILE
    if entry.kind not in _BODILESS:
        raise Invalid(f"{_show(entry)} is of type {entry.kind!r}, which no image layer may have")
    return entry.kind


def _apply_pax(entry: Entry, pax: dict[bytes, bytes]) -> None:
    """Let PAX records override the header (POSIX pax(1p), "pax Extended Header"). Those without meaning
    here pass.
    """
    for key, value in pax.items():
        if key.startswith(_XATTR):
            entry.xattrs[key[len(_XATTR) :]] = value
        elif not value:
            continue  # "this record is deleted": the header's own field counts
        elif key == b"path":
            entry.name = _without_nul(value)
        elif key == b"linkpath":
            entry.link = _without_nul(value)
        elif key == b"mtime":
            entry.mtime = _time(value)
        elif key == b"size":
            entry.size = decimal(value)
        elif key == b"uid":
            entry.uid = decimal(value)
        elif key == b"gid":
            entry.gid = decimal(value)


def pax_records(body: bytes) -> dict[bytes, bytes]:
    """The records `length key=value\\n` of a PAX header; a later one of the same key wins.

    Sparse format 0.0 repeats two keys: their pairs are collected as if they came as format 0.1's single map.
    """
    records: dict[bytes, bytes] = {}
    pairs: list[bytes] = []
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + 20)
        end = at + (decimal(body[at:space]) if space >= 0 else 0)
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if (
            space < 0
            or end > len(body)
            or end < space + 3
            or body[end - 1 : end] != b"\n"
            or not equals
            or not key
            or b"\0" in key
        ):
            raise Invalid("a PAX header of the archive is malformed")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            if len(pairs) % 2 != (key == b"GNU.sparse.numbytes"):
                raise Invalid(
                    "a sparse map of the archive is malformed: offsets and lengths do not alternate"
                )
            pairs.append(value)
        else:
            records[key] = value
        at = end
    if pairs:
        records[b"GNU.sparse.map"] = b",".join(pairs)
    return records


def number(field: bytes) -> int:
    """A numeric header field: octal text, or base-256 where the first bit says so. Empty is 0."""
    text = field.strip(b" \0")
    if text.isdigit():  # `int` alone would take signs and underscores too
        try:
            return int(text, 8)
        except ValueError:
            raise Invalid(f"a numeric field of the archive is malformed: {field!r}") from None
    if not text:
        return 0
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field)
        # the first bit marks the format, the second is the sign
        value = value - (1 << bits) if field[0] & 0x40 else value - (1 << (bits - 1))
        if -(1 << 63) <= value < 1 << 63:
            return value
    raise Invalid(f"a numeric field of the archive is malformed: {field!r}")


def _mode_and_ids(fields: bytes) -> tuple[int, int, int]:
    """Mode, uid and gid. An archive has few different ones, so they are kept."""
    found = number(fields[:8]) & 0o7777, number(fields[8:16]), number(fields[16:])
    if len(_seen) < _SEEN_LIMIT:
        _seen[fields] = found
    return found


def decimal(text: bytes) -> int:
    """A number of at most 18 ASCII digits."""
    if text.isdigit() and len(text) <= 18:
        return int(text)
    raise Invalid(f"a number in a PAX header of the archive is malformed: {text[:40]!r}")


def _time(text: bytes) -> int:
    """Seconds with an optional fraction, perhaps negative, as ns."""
    whole, _, fraction = text.removeprefix(b"-").partition(b".")
    if fraction and not fraction.isdigit():
        raise Invalid(f"a time in a PAX header of the archive is malformed: {text[:40]!r}")
    ns = int(fraction[:9].ljust(9, b"0")) if fraction else 0
    seconds = decimal(whole)
    return _clamped(-seconds, -ns) if text.startswith(b"-") else _clamped(seconds, ns)


def _clamped(seconds: int, ns: int) -> int:
    low, high = MTIME_RANGE
    if low < seconds < high:
        return seconds * 1_000_000_000 + ns
    return (low if seconds <= low else high) * 1_000_000_000


def _verify(block: bytes) -> None:
    """Check the header's sum of bytes, its own field counted as spaces. Old tars summed signed bytes."""
    field = block[148:156]
    stated = _sums.get(field)  # what the whole header must sum up to, with the field as it is
    if stated is None:
        stated = number(field) + sum(field) - 8 * 32
        if len(_sums) < _SEEN_LIMIT:
            _sums[field] = stated
    # adler32's low half is a plain sum modulo 65521; 256 bytes cannot reach that
    total = (adler32(block[:256], 0) & 0xFFFF) + (adler32(block[256:], 0) & 0xFFFF)
    if stated != total:
        high = sum(byte > 127 for byte in block) - sum(byte > 127 for byte in field)
        if stated != total - 256 * high:
            raise Invalid("a header of the archive has a wrong checksum: it is damaged or no tar at all")


def _until_nul(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _without_nul(value: bytes) -> bytes:
    if b"\0" in value:
        raise Invalid(f"a path in a PAX header of the archive holds a NUL byte: {value[:80]!r}")
    return value


def _show(entry: Entry) -> str:
    return f"entry {entry.name[:200]!r} of the archive"
