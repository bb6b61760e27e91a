"""The streams of a SPDY session by number: which exist, which were, which never were.

Numbers are never used again: the client's are odd, the server's even, each larger than those before.
Source: draft-mbelshe-httpbis-spdy-00, section 2.3.2.
"""

from collections.abc import Iterator

from sampan.wire.spdy.frames import LAST_ID, SpdyError
from sampan.wire.spdy.limits import Limits
from sampan.wire.spdy.streams import Stream, Window


class Table:
    """Both sides' streams. `last_seen`: the peer's newest number, whether it got a stream or not."""

    def __init__(self, limits: Limits, *, server: bool) -> None:
        self._limits = limits
        self._open: dict[int, Stream] = {}
        self._parity = 0 if server else 1
        self._next = 2 if server else 1
        self._theirs = 0
        self.last_seen = 0

    def __iter__(self) -> Iterator[Stream]:
        """Those that are open; they may go meanwhile."""
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)

    @property
    def full(self) -> bool:
        """The peer has as many streams as it may have."""
        return self._theirs >= self._limits.streams

    def is_ours(self, number: int) -> bool:
        """A stream or ping with this number would be one of ours."""
        return number % 2 == self._parity

    def get(self, number: int) -> Stream | None:
        """The stream, None for one that is not open."""
        return self._open.get(number)

    def find(self, number: int) -> Stream | None:
        """The stream, None for one that is gone: the peer may not know yet. Raises SpdyError for one that never was."""
        stream = self._open.get(number)
        if stream is None:
            never = number >= self._next if self.is_ours(number) else number > self.last_seen
            if never or not number:
                raise SpdyError(f"a frame for SPDY stream {number}, which was never opened")
        return stream

    def see(self, number: int) -> None:
        """The peer opens this one. Raises SpdyError unless it is its turn."""
        if self.is_ours(number) or number <= self.last_seen:
            raise SpdyError(f"the SPDY peer opened stream {number} after {self.last_seen}")
        self.last_seen = number

    def add_theirs(self, window: Window) -> Stream:
        """The peer's newest stream."""
        self._theirs += 1
        return self._add(Stream(self.last_seen, False, window, self._limits.window))

    def add_ours(self, window: Window) -> Stream:
        """A new stream of ours. Raises SpdyError when a session has had a thousand million of them."""
        if self._next > LAST_ID:
            raise SpdyError("the numbers for SPDY streams are used up: open a new connection")
        self._next += 2
        return self._add(Stream(self._next - 2, True, window, self._limits.window))

    def _add(self, stream: Stream) -> Stream:
        self._open[stream.number] = stream
        return stream

    def remove(self, stream: Stream) -> None:
        """It is over; what still comes for it is ignored."""
        del self._open[stream.number]
        self._theirs -= not stream.ours

    def clear(self) -> None:
        """All are over."""
        self._open.clear()
