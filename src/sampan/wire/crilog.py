"""The CRI log line: format, parse, and joining partial lines. Source: Kubernetes design "CRI: log format".

    2016-10-06T00:17:09.669794202Z stdout F the log content

One record is `<RFC 3339 nano timestamp> <stdout|stderr> <tags> <content>\\n`; the first of the
colon-separated tags is F for a line's end and P for a piece that goes on in the stream's next record.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

JOINED_LIMIT = 1 << 20  # bytes of one line that are put together; a longer one is given in pieces
_RECORD = re.compile(rb"([^ \n]+) (stdout|stderr) ([^ \n]+) ([^\n]*)\n?")
_TIME = re.compile(
    rb"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:[0-9]{2})"
)


@dataclass(frozen=True, slots=True)
class Record:
    """One record, or several joined. `at` in ns since the epoch; `partial` if its line has not ended."""

    at: int
    stream: str
    content: bytes
    partial: bool = False


def format(record: Record) -> bytes:
    """The record as a line of the log, its time in UTC."""
    seconds, nanoseconds = divmod(record.at, 10**9)
    day = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    tag = b"P" if record.partial else b"F"
    return b"%s.%09dZ %s %s %s\n" % (day.encode(), nanoseconds, record.stream.encode(), tag, record.content)


def parse(line: bytes) -> Record | None:
    """One line of a log, with or without its end; None if it is no record (torn by a full disk)."""
    found = _RECORD.fullmatch(line)
    if found is None:
        return None
    at = timestamp(found[1])
    tag = found[3].partition(b":")[0]
    if at is None or tag not in (b"P", b"F"):
        return None
    return Record(at, found[2].decode(), found[4], partial=tag == b"P")


def timestamp(text: bytes) -> int | None:
    """An RFC 3339 time with up to nine decimals, in ns since the epoch; None if it is none."""
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    zone = "+00:00" if found[3] == b"Z" else found[3].decode()
    try:
        moment = datetime.fromisoformat(found[1].decode() + zone)
    except ValueError:
        return None
    seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    return seconds * 10**9 + int((found[2] or b"").ljust(9, b"0"))


class Joiner:
    """Puts the pieces of long lines together, each stream for itself. Feed it the file in chunks of any
    size."""

    def __init__(self, limit: int = JOINED_LIMIT) -> None:
        self._limit = limit
        self._rest = b""
        self._begun: dict[str, list[Record]] = {}

    def feed(self, chunk: bytes) -> Iterator[Record]:
        """The lines that are complete now; a record that is none is passed over."""
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            record = parse(line)
            if record is not None:
                yield from self._add(record)

    def end(self) -> Iterator[Record]:
        """What the streams held when the log ended, as partial records."""
        record = parse(self._rest)
        self._rest = b""
        if record is not None:
            yield from self._add(record)
        for pieces in self._begun.values():
            yield _joined(pieces)
        self._begun.clear()

    def _add(self, record: Record) -> Iterator[Record]:
        pieces = self._begun.setdefault(record.stream, [])
        pieces.append(record)
        if not record.partial or sum(len(piece.content) for piece in pieces) >= self._limit:
            del self._begun[record.stream]
            yield _joined(pieces)


def _joined(pieces: list[Record]) -> Record:
    """The time is that of the line's beginning."""
    return Record(
        pieces[0].at, pieces[0].stream, b"".join(piece.content for piece in pieces), pieces[-1].partial
    )
