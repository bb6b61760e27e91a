"""Tests of wire.crilog."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.wire import crilog
from sampan.wire.crilog import Joiner, Record

# 9999-12-31 in ns: what the four digits of the year can say
MOMENTS = st.integers(0, 253402300799 * 10**9)
CONTENT = st.binary(max_size=50).filter(lambda text: b"\n" not in text)
RECORDS = st.builds(Record, MOMENTS, st.sampled_from(["stdout", "stderr"]), CONTENT, st.booleans())


@pytest.mark.parametrize(
    ("line", "record"),
    [
        (
            b"2016-10-06T00:17:09.669794202Z stdout F the log content\n",
            Record(1475713029669794202, "stdout", b"the log content"),
        ),
        (b"2016-10-06T02:17:09.5+02:00 stderr P ", Record(1475713029500000000, "stderr", b"", partial=True)),
        (b"1970-01-01T00:00:00Z stdout F a b  c\r\n", Record(0, "stdout", b"a b  c\r")),
        (b"1970-01-01T00:00:00Z stdout P:tag:other x", Record(0, "stdout", b"x", partial=True)),
        (b"1970-01-01T00:00:00.000000001-01:00 stdout F \xff", Record(3600 * 10**9 + 1, "stdout", b"\xff")),
    ],
)
def test_a_record_is_parsed(line: bytes, record: Record) -> None:
    assert crilog.parse(line) == record


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"2016-10-06T00:17:09.669794202Z stdout",
        b"2016-10-06T00:17:09.669794202Z stdin F x",
        b"2016-10-06T00:17:09.669794202Z stdout X x",
        b"2016-13-06T00:17:09Z stdout F x",
        b"2016-10-06 00:17:09 stdout F x",
        "٢٠١٦-10-06T00:17:09Z stdout F x".encode(),
    ],
)
def test_what_is_no_record_is_none(line: bytes) -> None:
    assert crilog.parse(line) is None


@given(RECORDS)
def test_what_is_formatted_parses_to_itself(record: Record) -> None:
    assert crilog.parse(crilog.format(record)) == record


def test_pieces_are_joined_for_each_stream_and_keep_the_first_time() -> None:
    log = b"".join(
        crilog.format(Record(at, stream, content, partial))
        for at, stream, content, partial in [
            (1, "stdout", b"a", True),
            (2, "stderr", b"x", True),
            (3, "stdout", b"b", True),
            (4, "stdout", b"c", False),
            (5, "stderr", b"y", False),
        ]
    )
    assert list(Joiner().feed(log)) == [Record(1, "stdout", b"abc"), Record(2, "stderr", b"xy")]


@given(st.lists(RECORDS, max_size=8), st.integers(1, 40))
def test_the_cut_of_the_chunks_does_not_matter(records: list[Record], size: int) -> None:
    log = b"".join(map(crilog.format, records))
    whole, chunked = Joiner(), Joiner()
    once = [*whole.feed(log), *whole.end()]
    pieces = [record for at in range(0, len(log), size) for record in chunked.feed(log[at : at + size])]
    assert [*pieces, *chunked.end()] == once
    for stream in ("stdout", "stderr"):
        content = [record.content for record in records if record.stream == stream]
        assert b"".join(r.content for r in once if r.stream == stream) == b"".join(content)


def test_a_log_that_ends_in_the_middle_of_a_line_gives_what_is_there() -> None:
    joiner = Joiner()
    assert list(joiner.feed(crilog.format(Record(1, "stdout", b"begun", True)) + b"1970-01-01T00:00")) == []
    assert list(joiner.end()) == [Record(1, "stdout", b"begun", True)]
    assert list(joiner.end()) == []


def test_a_line_without_end_is_given_in_pieces_of_bounded_size() -> None:
    joiner = Joiner(limit=10)
    piece = crilog.format(Record(1, "stdout", b"123456", True))
    got = list(joiner.feed(piece * 5))
    assert [record.content for record in got] == [b"123456123456", b"123456123456"]
    assert all(record.partial for record in got)


def test_a_torn_record_does_not_spoil_the_next() -> None:
    log = b"garbage\n" + crilog.format(Record(1, "stdout", b"fine"))
    assert [record.content for record in Joiner().feed(log)] == [b"fine"]
