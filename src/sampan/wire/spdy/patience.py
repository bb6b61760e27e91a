"""How long a SPDY session bears a peer that only makes work: pings, resets, settings, headers, empty frames.

There is no clock here, so it counts. Answers: what the peer makes us queue between two drains of the queue; a Go
client has at most one ping under way, however long it was not read from. Idle frames: each costs one, each data frame
in either direction earns one. So a peer that keeps a session alive by pings alone (one each five seconds) can do that
for a month, one whose streams carry anything never runs out, and a flood costs us seconds of work in all before it ends
the connection. Who also sends data to go on flooding could as well send data only: that flood ends at its consumer.
"""

from sampan.wire.spdy.frames import SpdyError
from sampan.wire.spdy.limits import Limits

USUAL_HEADERS = 16  # of one block; more than anybody here needs


class Patience:
    """One session's account."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._owed = 0
        self._left = limits.idle_frames

    def owe(self) -> None:
        """The peer made us queue an answer. Raises SpdyError."""
        self._owed += 1
        if self._owed > self._limits.answers:
            raise SpdyError(f"the SPDY peer wants more than {self._limits.answers} answers at once")

    def drained(self) -> None:
        """The queue has been handed over."""
        self._owed = 0

    def spend(self, count: int = 1) -> None:
        """The peer sent `count` frames, or as much work, that bring nothing. Raises SpdyError."""
        self._left -= count
        if self._left < 0:
            raise SpdyError(f"more than {self._limits.idle_frames} SPDY control frames without data")

    def spend_on(self, headers: int) -> None:
        """A block of so many headers: the usual number is free, as streams themselves are limited."""
        if headers > USUAL_HEADERS:
            self.spend(headers - USUAL_HEADERS)

    def earn(self, count: int) -> None:
        """So many data frames came or went."""
        self._left = min(self._left + count, self._limits.idle_frames)
