"""One stream of a SPDY session: which sides are open, what both may still send, and what is held back meanwhile.

Writes frames into the session's queue; knows nothing of other streams. Source: draft-mbelshe-httpbis-spdy-00, sections
2.3 (streams) and 2.6.8 (windows).
"""

from collections import deque
from dataclasses import dataclass, field

from sampan.wire.spdy.frames import LAST_ID, LONGEST_DATA, Data, SpdyError, data_head


@dataclass(slots=True)
class Window:
    """How much may be sent. Counted from the beginning, obeyed (`known`) once the peer has shown that it gives more:
    Kubernetes' peers never do, and would never get more than the first 64 KiB."""

    size: int
    known: bool = False

    def room(self) -> int:
        """Bytes that may be sent now."""
        return max(self.size, 0) if self.known else LAST_ID

    def shift(self, change: int) -> None:
        """The peer changed what all windows began with; one can be below zero then. Raises SpdyError."""
        self.known = True
        self.size += change
        if self.size > LAST_ID:
            raise SpdyError(f"a SPDY window of {self.size} bytes")

    def grow(self, count: int) -> None:
        """Take a WINDOW_UPDATE. Raises SpdyError."""
        self.known = True
        self.size += count
        if not 0 < count <= LAST_ID or self.size > LAST_ID:
            raise SpdyError(f"a SPDY window grew by {count} bytes to {self.size}")


@dataclass(slots=True)
class Stream:
    """`number`: its id. `incoming` is our window that the peer may fill; `unpaid` what was consumed of it since."""

    number: int
    ours: bool  # we opened it
    outgoing: Window
    incoming: int
    replied: bool = False
    local_open: bool = True  # we may still send
    remote_open: bool = True  # the peer may still send
    fin_held: bool = False  # our FIN waits for the data before it
    unpaid: int = 0
    backlog: int = 0  # bytes in `held`
    held: deque[memoryview] = field(default_factory=deque)

    @property
    def done(self) -> bool:
        """Both sides have ended and nothing waits."""
        return not (self.local_open or self.remote_open or self.fin_held or self.held)

    @property
    def talking(self) -> bool:
        """Go's peers drop what comes for a stream that has no reply yet."""
        return self.replied or not self.ours

    def sendable(self) -> bool:
        """Nothing of this stream's own holds its data back."""
        return self.talking and self.outgoing.room() > 0

    def hold(self, data: Data, fin: bool) -> None:
        """Queue behind what waits already."""
        if len(data):
            self.held.append(memoryview(data))
            self.backlog += len(data)
        self.fin_held = fin

    def release(self, session: Window, out: list[Data]) -> int:
        """Write what both windows allow of what is held, in order; returns the number of frames."""
        frames = 0
        while (
            self.held and self.talking and (room := min(self.outgoing.room(), session.room(), LONGEST_DATA))
        ):
            data = self.held.popleft()
            if len(data) > room:
                self.held.appendleft(data[room:])
                data = data[:room]
            self.backlog -= len(data)
            fin = self.fin_held and not self.held
            out += (data_head(self.number, len(data), fin), data)
            self.outgoing.size -= len(data)
            session.size -= len(data)
            self.fin_held = self.fin_held and not fin
            frames += 1
        if self.fin_held and not self.held and self.talking:  # it came alone, after all data had gone
            out.append(data_head(self.number, 0, True))
            self.fin_held = False
        return frames
