"""Frames as bytes, both ways."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.wire.spdy import frames
from sampan.wire.spdy.frames import Control, Kind, Piece, SpdyError, Splitter

LIMIT = 64 << 10

# what, as the writer makes it, as the protocol's drawings say, as the splitter reads it
FRAMES = [
    (
        "data",
        frames.data_head(1, 3, False) + b"abc",
        "00000001 00 000003 616263",
        Piece(1, b"abc", True, False),
    ),
    (
        "data, the last",
        frames.data_head(1, 3, True) + b"abc",
        "00000001 01 000003 616263",
        Piece(1, b"abc", True, True),
    ),
    ("data, empty", frames.data_head(7, 0, False), "00000007 00 000000", Piece(7, b"", True, False)),
    ("data, empty and last", frames.data_head(7, 0, True), "00000007 01 000000", Piece(7, b"", True, True)),
    (
        "SYN_STREAM",
        frames.syn_stream(3, b"block", False),
        "8003 0001 00 00000f 00000003 00000000 00 00 626c6f636b",
        Control(1, 0, bytes.fromhex("00000003 00000000 00 00") + b"block"),
    ),
    (
        "SYN_STREAM, the last",
        frames.syn_stream(3, b"", True),
        "8003 0001 01 00000a 00000003 00000000 0000",
        Control(1, 1, bytes.fromhex("00000003 00000000 0000")),
    ),
    (
        "SYN_REPLY",
        frames.with_block(Kind.SYN_REPLY, 3, b"block", False),
        "8003 0002 00 000009 00000003 626c6f636b",
        Control(2, 0, b"\0\0\0\3block"),
    ),
    (
        "RST_STREAM",
        frames.rst_stream(5, 5),
        "8003 0003 00 000008 00000005 00000005",
        Control(3, 0, b"\0\0\0\5" * 2),
    ),
    (
        "SETTINGS",
        frames.settings([(7, 65536)]),
        "8003 0004 00 00000c 00000001 00 000007 00010000",
        Control(4, 0, bytes.fromhex("00000001 00 000007 00010000")),
    ),
    ("PING", frames.ping(9), "8003 0006 00 000004 00000009", Control(6, 0, b"\0\0\0\x09")),
    (
        "GOAWAY",
        frames.goaway(5, 1),
        "8003 0007 00 000008 00000005 00000001",
        Control(7, 0, b"\0\0\0\5\0\0\0\1"),
    ),
    (
        "HEADERS",
        frames.with_block(Kind.HEADERS, 3, b"block", True),
        "8003 0008 01 000009 00000003 626c6f636b",
        Control(8, 1, b"\0\0\0\3block"),
    ),
    (
        "WINDOW_UPDATE",
        frames.window_update(0, 1 << 30),
        "8003 0009 00 000008 00000000 40000000",
        Control(9, 0, bytes.fromhex("00000000 40000000")),
    ),
    ("unknown, empty", frames.control(77, b""), "8003 004d 00 000000", Control(77, 0, b"")),
]


@pytest.mark.parametrize(
    ("written", "drawn", "read"), [case[1:] for case in FRAMES], ids=[case[0] for case in FRAMES]
)
def test_a_frame_is_written_and_read_as_the_protocol_draws_it(
    written: bytes, drawn: str, read: Piece | Control
) -> None:
    assert written == bytes.fromhex(drawn)
    assert list(Splitter(LIMIT).feed(written)) == [read]


def joined(found: list[Piece | Control]) -> list[Piece | Control]:
    """Pieces of one frame as one."""
    whole: list[Piece | Control] = []
    for one in found:
        before = whole[-1] if whole else None
        if isinstance(one, Piece) and isinstance(before, Piece) and not before.end:
            whole[-1] = Piece(one.stream, bytes(before.data) + bytes(one.data), one.end, one.fin)
        else:
            whole.append(one)
    return whole


EVERYTHING = b"".join(case[1] for case in FRAMES) * 2


@given(st.lists(st.integers(0, len(EVERYTHING)), max_size=40))
def test_where_the_bytes_are_cut_does_not_matter(cuts: list[int]) -> None:
    splitter = Splitter(LIMIT)
    bounds = [0, *sorted(cuts), len(EVERYTHING)]
    found = [one for a, b in pairwise(bounds) for one in splitter.feed(EVERYTHING[a:b])]
    assert joined(found) == [case[3] for case in FRAMES] * 2
    assert splitter.kept == 0


def test_byte_by_byte_is_enough() -> None:
    splitter = Splitter(LIMIT)
    found = [one for at in range(len(EVERYTHING)) for one in splitter.feed(EVERYTHING[at : at + 1])]
    assert joined(found) == [case[3] for case in FRAMES] * 2


def test_payload_is_a_slice_of_what_was_given() -> None:
    given_bytes = frames.data_head(1, 100_000, True) + bytes(50_000)
    splitter = Splitter(LIMIT)
    (first,) = splitter.feed(given_bytes)
    assert isinstance(first, Piece)
    assert isinstance(first.data, memoryview)
    assert first.data.obj is given_bytes
    assert not first.fin
    assert splitter.kept == 0
    (last,) = splitter.feed(bytes(50_000))
    assert isinstance(last, Piece)
    assert last.fin


def test_the_longest_data_frame_needs_no_memory() -> None:
    splitter = Splitter(LIMIT)
    assert not list(splitter.feed(frames.data_head(1, frames.LONGEST_DATA, False)))
    assert splitter.kept == 0


def test_an_unfinished_control_frame_holds_no_more_than_the_limit() -> None:
    splitter = Splitter(LIMIT)
    assert not list(splitter.feed(frames.control(4, bytes(LIMIT))[:-1]))
    assert splitter.kept == LIMIT - 1


@pytest.mark.parametrize("length", [LIMIT + 1, frames.LONGEST_DATA])
def test_a_control_frame_over_the_limit_is_refused_by_its_head(length: int) -> None:
    with pytest.raises(SpdyError, match=f"{length} bytes, the limit is 65536"):
        list(Splitter(LIMIT).feed(frames.HEAD.pack(0x80030001, length)))


@pytest.mark.parametrize("version", [0, 2, 4, 0x7FFF])
def test_another_version_is_refused(version: int) -> None:
    with pytest.raises(SpdyError, match=f"version {version}"):
        list(Splitter(LIMIT).feed(frames.HEAD.pack(1 << 31 | version << 16 | 6, 4)))


@pytest.mark.parametrize("size", [0, 4, 7, 9, 12])
@pytest.mark.parametrize("kind", [Kind.RST_STREAM, Kind.GOAWAY, Kind.WINDOW_UPDATE])
def test_two_fields_are_two_fields(kind: Kind, size: int) -> None:
    with pytest.raises(SpdyError, match=f"{kind.name} frame of {size} bytes"):
        frames.words(Control(kind, 0, bytes(size)))


@pytest.mark.parametrize(("count", "entries"), [(0, 1), (1, 0), (2, 1), (2**32 - 1, 1), (1 << 29, 0)])
def test_settings_are_as_many_as_they_say(count: int, entries: int) -> None:
    body = frames.WORD.pack(count) + frames.WORDS.pack(7, 1) * entries
    with pytest.raises(SpdyError, match=f"for {count} settings"):
        frames.settings_fields(Control(Kind.SETTINGS, 0, body))


def test_settings_are_read_without_their_flags() -> None:
    body = frames.WORD.pack(2) + frames.WORDS.pack(0x01000007, 5) + frames.WORDS.pack(4, 6)
    assert frames.settings_fields(Control(Kind.SETTINGS, 0, body)) == [(7, 5), (4, 6)]


@pytest.mark.parametrize("size", range(10))
def test_a_syn_stream_has_all_its_fields(size: int) -> None:
    with pytest.raises(SpdyError, match="too short"):
        frames.syn_stream_fields(Control(Kind.SYN_STREAM, 0, bytes(size)))


@pytest.mark.parametrize("size", range(4))
def test_a_reply_has_a_stream(size: int) -> None:
    with pytest.raises(SpdyError, match="too short"):
        frames.word(Control(Kind.SYN_REPLY, 0, bytes(size)))
