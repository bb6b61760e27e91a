"""Sparse files in tar: old GNU, and PAX 0.0, 0.1 and 1.0. Maps are capped and checked before anybody seeks by
them.

Source: GNU tar manual, "Storing Sparse Files".
"""

from collections.abc import Callable, Iterator
from struct import Struct

from sampan.model.errors import Invalid

MAP_LIMIT = 1 << 20  # bytes of one map as stored
FILE_LIMIT = 1 << 62  # bytes; below what an offset can hold

_PAIRS = Struct("12s12s")
_GNU_FIRST = (386, 4)  # where the header's own pairs lie, and how many
_GNU_MORE = (0, 21)


class SparseMap:
    """The extents of a sparse file that hold data, as (offset, length), and the file's whole size."""

    __slots__ = ("extents", "size")

    def __init__(self, extents: list[tuple[int, int]], size: int) -> None:
        self.extents = extents
        self.size = size

    def check(self, stored: int, what: str) -> None:
        """Invalid unless the extents are in order, disjoint, within the file, and as long as what is
        stored.
        """
        end = total = 0
        for offset, length in self.extents:
            if offset < end or length < 0:
                raise Invalid(f"{what} has a sparse map out of order")
            end = offset + length
            total += length
        if end > self.size or not 0 <= self.size <= FILE_LIMIT or total != stored:
            raise Invalid(f"{what} has a sparse map that does not fit its size")


def from_gnu(header: bytes, more: Iterator[bytes], number: Callable[[bytes], int]) -> SparseMap:
    """Old GNU format: pairs in the header block, continued in blocks of their own."""
    extents: list[tuple[int, int]] = []
    block, (start, count), flag = header, _GNU_FIRST, 482
    while True:
        for at in range(start, start + count * _PAIRS.size, _PAIRS.size):
            offset, length = _PAIRS.unpack_from(block, at)
            if not offset.strip(b"\0 "):
                break
            extents.append((number(offset), number(length)))
        if not block[flag]:
            return SparseMap(extents, number(header[483:495]))
        block, (start, count), flag = next(more), _GNU_MORE, 504


def from_pax_records(pax: dict[bytes, bytes]) -> SparseMap:
    """Formats 0.0 and 0.1: the whole map is in the PAX header."""
    numbers = [_decimal(text) for text in pax.get(b"GNU.sparse.map", b"").split(b",") if text]
    stated = pax.get(b"GNU.sparse.numblocks")
    if len(numbers) % 2 or (stated is not None and _decimal(stated) != len(numbers) // 2):
        raise Invalid("a sparse map of the archive is malformed")
    return SparseMap(_paired(numbers), _decimal(pax.get(b"GNU.sparse.size", b"")))


def from_pax_data(pax: dict[bytes, bytes], blocks: Iterator[bytes]) -> SparseMap:
    """Format 1.0: decimal lines at the start of the data, padded to a block; the first says how many
    pairs follow.
    """
    first = next(blocks, b"")
    count = _decimal(first.partition(b"\n")[0])
    if not 0 <= count <= MAP_LIMIT // 4:  # a pair takes four bytes at least
        raise Invalid(f"a sparse map of the archive is larger than {MAP_LIMIT} bytes")
    parts, lines = [first], first.count(b"\n")
    while lines < 1 + 2 * count:
        block = next(blocks, b"")
        if not block or len(parts) * len(first) > MAP_LIMIT:
            raise Invalid("a sparse map of the archive is cut off or too large")
        parts.append(block)
        lines += block.count(b"\n")
    numbers = [_decimal(line) for line in b"".join(parts).split(b"\n")[1 : 1 + 2 * count]]
    return SparseMap(_paired(numbers), _decimal(pax.get(b"GNU.sparse.realsize", b"")))


def _paired(numbers: list[int]) -> list[tuple[int, int]]:
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _decimal(text: bytes) -> int:
    if text.isdigit() and len(text) <= 19:
        return int(text)
    raise Invalid(f"a sparse map of the archive has a malformed number: {text[:40]!r}")
