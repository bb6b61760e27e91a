"""Header blocks: the dictionary, one zlib stream for all of them, and what is no block."""

import tracemalloc
import zlib
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.wire.spdy.frames import SpdyError
from sampan.wire.spdy.headers import DICTIONARY, Headers, Packer, Unpacker, value
from sampan.wire.spdy.limits import Limits

LIMITS = Limits()

# Made by Go's compress/zlib for this block of ours: {"Answer": ["yes"]}. Bytes 2 to 6 are its dictionary's checksum.
BY_GO = bytes.fromhex("78f9e3c6a7c2626060600497ae79c5e5e0acc15c995a0c000000ffff")


def packed(block: bytes, compressor: "zlib._Compress | None" = None) -> bytes:
    """A block as it stands on the wire."""
    one = compressor or zlib.compressobj(zdict=DICTIONARY)
    return one.compress(block) + one.flush(zlib.Z_SYNC_FLUSH)


def block(*fields: tuple[bytes, bytes], count: int | None = None) -> bytes:
    """A block before compression."""
    text = b"".join(pack(">I", len(part)) + part for field in fields for part in field)
    return pack(">I", len(fields) if count is None else count) + text


def unpack(data: bytes, limits: Limits = LIMITS) -> Headers:
    return Unpacker(limits).unpack(packed(data))


def test_the_dictionary_is_the_one_that_go_names() -> None:
    assert len(DICTIONARY) == 1423
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2 == int.from_bytes(BY_GO[2:6])


def test_a_block_made_by_go_is_read() -> None:
    assert Unpacker(LIMITS).unpack(BY_GO) == (("answer", "yes"),)


def test_blocks_of_a_connection_are_one_stream() -> None:
    packer, unpacker = Packer(LIMITS), Unpacker(LIMITS)
    headers = (("streamtype", "data"), ("port", "8080"), ("requestid", "17"))
    sizes = []
    for _ in range(3):
        one = packer.pack(headers)
        assert unpacker.unpack(one) == headers
        sizes.append(len(one))
    assert sizes[2] < sizes[0] / 2


def test_a_block_out_of_its_stream_cannot_be_read() -> None:
    packer = Packer(LIMITS)
    packer.pack((("a", "b"),))
    with pytest.raises(SpdyError, match="decompressed"):
        Unpacker(LIMITS).unpack(packer.pack((("a", "b"),)))


names = st.from_regex(r"\A[a-z0-9-]{1,20}\Z")
texts = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=50)


@given(st.lists(st.lists(st.tuples(names, texts), max_size=8, unique_by=lambda it: it[0]), max_size=5))
def test_what_is_packed_is_unpacked(blocks: list[list[tuple[str, str]]]) -> None:
    packer, unpacker = Packer(LIMITS), Unpacker(LIMITS)
    for headers in blocks:
        assert unpacker.unpack(packer.pack(tuple(headers))) == tuple(headers)


def test_values_of_one_name_travel_together() -> None:
    headers = (("x", "1"), ("y", "2"), ("x", "3"))
    assert Unpacker(LIMITS).unpack(Packer(LIMITS).pack(headers)) == (("x", "1"), ("x", "3"), ("y", "2"))
    assert unpack(block((b"x", b"1\x003"))) == (("x", "1"), ("x", "3"))


def test_names_are_written_in_lower_case() -> None:
    assert Unpacker(LIMITS).unpack(Packer(LIMITS).pack((("streamType", "stdin"),))) == (
        ("streamtype", "stdin"),
    )


def test_the_first_value_of_a_name_is_its_value() -> None:
    headers = (("a", "1"), ("b", "2"), ("a", "3"))
    assert [value(headers, name) for name in ("a", "b", "c")] == ["1", "2", ""]


@pytest.mark.parametrize("headers", [(("", "x"),), (("a b", "x"),), (("a", "x\ny"),), (("a", "x" * 70_000),)])
def test_what_no_peer_could_read_is_not_written(headers: Headers) -> None:
    with pytest.raises(ValueError, match="SPDY header"):
        Packer(LIMITS).pack(headers)


HOSTILE = {
    "nothing": (b"", "within a length"),
    "half a count": (b"\0\0", "within a length"),
    "a count without headers": (block(count=1), "within a length"),
    "fewer headers than counted": (block((b"a", b"b"), count=2), "within a length"),
    "more headers than counted": (block((b"a", b"b"), (b"c", b"d"), count=1), "after its last header"),
    "the largest count": (block(count=2**32 - 1), "with 4294967295 headers"),
    "a million headers": (block(count=10**6), "with 1000000 headers"),
    "one header too many": (block(*((b"h%d" % i, b"") for i in range(101))), "with 101 headers"),
    "too many values": (block((b"a", b"\0" * 100)), "more than 100 values"),
    "a name without its value": (block(count=1) + pack(">I", 1) + b"a", "within a length"),
    "a value of a gigabyte": (
        block(count=1) + pack(">I", 1) + b"a" + pack(">I", 1 << 30),
        "1073741824 bytes",
    ),
    "a name of 2^32 - 1 bytes": (block(count=1) + pack(">I", 2**32 - 1), "4294967295 bytes"),
    "a value longer than the block": (
        block(count=1) + pack(">I", 1) + b"a" + pack(">I", 9) + b"x",
        "within a name",
    ),
    "a name over the limit": (block((b"a" * 8193, b"")), "8193 bytes"),
    "a value over the limit": (block((b"a", b"b" * 8193)), "8193 bytes"),
    "a name twice": (block((b"a", b"1"), (b"a", b"2")), "comes twice"),
    "no name": (block((b"", b"1")), "no lower-case word"),
    "a name with capitals": (block((b"streamType", b"stdin")), "no lower-case word"),
    "a name with a line break": (block((b"a\n", b"1")), "no lower-case word"),
    "a name that is no ASCII": (block(("é".encode(), b"1")), "no lower-case word"),
    "a value with a line break": (block((b"a", b"1\r\nb: 2")), "control character"),
    "a value that is no UTF-8": (block((b"a", b"\xff")), "no UTF-8"),
}


@pytest.mark.parametrize(("data", "words"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_block_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(SpdyError, match=words):
        unpack(data)


def test_the_limits_themselves_are_allowed() -> None:
    assert len(unpack(block(*((b"h%d" % i, b"") for i in range(100))))) == 100
    assert unpack(block((b"a" * 8192, b"b" * 8192))) == (("a" * 8192, "b" * 8192),)
    assert unpack(block()) == ()


def test_a_bomb_is_not_inflated() -> None:
    bomb = packed(bytes(60 << 20))
    assert len(bomb) < 64 << 10
    tracemalloc.start()
    try:
        with pytest.raises(SpdyError, match="more than 65536 bytes"):
            Unpacker(LIMITS).unpack(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [b"", b"\x78", b"\xff" * 20, b"\x78\xf9\x00\x00\x00\x00", zlib.compress(block((b"a", b"b"))), BY_GO[:-8]],
    ids=["nothing", "half a head", "no zlib", "another dictionary", "no dictionary", "the half"],
)
def test_what_is_no_zlib_stream_is_refused(data: bytes) -> None:
    with pytest.raises(SpdyError):
        Unpacker(LIMITS).unpack(data)


def test_a_stream_that_ends_is_refused() -> None:
    one = zlib.compressobj(zdict=DICTIONARY)
    with pytest.raises(SpdyError, match="ended before"):
        Unpacker(LIMITS).unpack(one.compress(block()) + one.flush())
