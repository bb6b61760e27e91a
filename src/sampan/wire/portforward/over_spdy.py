"""Port-forward over SPDY: each connection is a pair of streams, one for its bytes and one for what went wrong.

Not the framing (`wire.spdy`), and no clock: who runs the session says when `forget_incomplete`. Source: Kubernetes'
portforward.k8s.io. A stream tells by its headers what it is: `streamType` error or data, `port`, and `requestID`, which
both of a pair have in common; the oldest clients send none, and open the data stream right after its error stream.

What kubectl makes of it: words on the error stream end its whole session, a stream that is reset only that connection.
So words are for what a person must know (nobody listens on the port), and the rest is reset.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sampan.wire.portforward.forward import Data, Dropped, Event, HalfClosed, Left, Opened, Received
from sampan.wire.spdy import session as spdy
from sampan.wire.spdy.frames import REFUSED_STREAM

PROTOCOL = "portforward.k8s.io"
CONNECTIONS = 256  # of one session, at once
_EARLY_BYTES = 256 << 10  # kept for a data stream whose error stream has not come
_WORDS_BYTES = 4096


@dataclass(slots=True, eq=False)
class _Half:
    """One stream of a pair."""

    stream: int
    pair: "_Pair"
    is_data: bool
    heard: bool = False  # the client has ended it
    said: bool = False  # we have


@dataclass(slots=True, eq=False)
class _Pair:
    number: int = 0  # of the connection, once both halves have come
    data: _Half | None = None  # until it has ended both ways, or was reset
    error: _Half | None = None
    port: int = 0
    early: list[Data] = field(default_factory=list)
    early_bytes: int = 0
    aged: bool = False  # was incomplete already when we were last asked to forget


class OverSpdy:
    """One port-forward session on a SPDY connection, server side: a `PortForward`."""

    half_closes = True

    def __init__(self, connections: int = CONNECTIONS) -> None:
        self._session = spdy.Session(server=True, limits=spdy.Limits(streams=2 * connections))
        self._most = connections
        self._halves: dict[int, _Half] = {}
        self._waiting: dict[str, _Pair] = {}  # by requestID: one half has come
        self._pairs: dict[int, _Pair] = {}  # by connection, until `close`
        self._alive: set[_Pair] = set()  # that have a stream
        self._last = 0  # connection
        self._going = False  # the client opens no more
        self._left = False

    def start(self) -> Sequence[Event]:
        return ()

    def receive(self, data: Data) -> Sequence[Event]:
        if not len(data):
            return self._leave("the connection ended")
        events: list[Event] = []
        for event in self._session.receive(data):
            self._take(event, events)
        if self.over:
            events += self._leave("the client closed the session")
        return events

    def _leave(self, reason: str) -> Sequence[Event]:
        if self._left:
            return ()
        self._left = True
        return (Left(reason),)

    def _take(self, event: spdy.Event, events: list[Event]) -> None:
        match event:
            case spdy.Opened(stream, headers):  # an Ended follows if that was all
                self._opened(stream, headers, events)
            case spdy.Received(stream, data):
                self._received(stream, data, events)
            case spdy.Ended(stream):
                self._ended(stream, events)
            case spdy.WasReset(stream):
                self._was_reset(stream, events)
            case spdy.WentAway():
                self._going = True

    def _opened(self, stream: int, headers: spdy.Headers, events: list[Event]) -> None:
        kind = spdy.value(headers, "streamtype")
        port = port_number(spdy.value(headers, "port"))
        request = spdy.value(headers, "requestid") or str(stream if kind == "error" else stream - 2)
        pair = self._waiting.get(request)
        refused = pair is None and len(self._alive) >= self._most
        twice = pair is not None and (pair.data if kind == "data" else pair.error) is not None
        if kind not in ("data", "error") or not port or refused or twice:
            self._session.reset(stream, REFUSED_STREAM)
            return
        self._session.reply(stream)
        if pair is None:
            pair = self._waiting[request] = _Pair()
            self._alive.add(pair)
        half = self._halves[stream] = _Half(stream, pair, kind == "data")
        if half.is_data:
            pair.data, pair.port = half, port
        else:
            pair.error = half
        if pair.data and pair.error:
            del self._waiting[request]
            self._complete(pair, pair.data, events)

    def _complete(self, pair: _Pair, data: _Half, events: list[Event]) -> None:
        self._last += 1
        pair.number = self._last
        self._pairs[pair.number] = pair
        events.append(Opened(pair.number, pair.port))
        events += [Received(pair.number, early) for early in pair.early]
        pair.early.clear()
        if data.heard:
            events.append(HalfClosed(pair.number))

    def _received(self, stream: int, data: Data, events: list[Event]) -> None:
        half = self._halves.get(stream)
        if half is None:
            return  # we have reset it
        pair = half.pair
        if not half.is_data or (pair.number and pair.number not in self._pairs):
            self._session.consumed(stream, len(data))  # nobody wants it
        elif pair.number:
            events.append(Received(pair.number, data))
        elif pair.early_bytes + len(data) <= _EARLY_BYTES:
            pair.early.append(bytes(data))
            pair.early_bytes += len(data)
        else:
            self._abandon(pair)

    def _ended(self, stream: int, events: list[Event]) -> None:
        half = self._halves.get(stream)
        if half is None:
            return
        half.heard = True
        if half.is_data and half.pair.number in self._pairs:
            events.append(HalfClosed(half.pair.number))
        self._settle(half)

    def _was_reset(self, stream: int, events: list[Event]) -> None:
        half = self._halves.get(stream)
        if half is None:
            return
        pair = half.pair
        self._forget(half)
        if not pair.number:
            self._abandon(pair)
        elif half.is_data:
            if self._pairs.pop(pair.number, None):
                events.append(Dropped(pair.number))
            self._retire(pair.error)  # kubectl waits for its end

    @property
    def incomplete(self) -> bool:
        return bool(self._waiting)

    @property
    def over(self) -> bool:
        return self._going and not self._alive

    def forget_incomplete(self) -> None:
        for pair in list(self._waiting.values()):
            if pair.aged:
                self._abandon(pair)
            pair.aged = True

    def _abandon(self, pair: _Pair) -> None:
        """A pair that was never complete."""
        self._waiting = {
            request: waiting for request, waiting in self._waiting.items() if waiting is not pair
        }
        self._cut(pair.error)
        self._cut(pair.data)

    def send(self, connection: int, data: Data) -> None:
        pair = self._pairs.get(connection)
        if pair and pair.data and not pair.data.said:
            self._session.send(pair.data.stream, data)

    def end(self, connection: int) -> None:
        if pair := self._pairs.get(connection):
            self._finish(pair.data)

    def fail(self, connection: int, words: str) -> None:
        if pair := self._pairs.pop(connection, None):
            self._finish(pair.error, words.encode()[:_WORDS_BYTES])
            self._cut(pair.data)
            self._retire(pair.error)

    def close(self, connection: int) -> None:
        if pair := self._pairs.pop(connection, None):
            self._retire(pair.data)
            self._retire(pair.error)

    def consumed(self, connection: int, count: int) -> None:
        pair = self._pairs.get(connection)
        if pair and pair.data and not pair.data.heard:
            self._session.consumed(pair.data.stream, count)

    def backlog(self, connection: int) -> int:
        pair = self._pairs.get(connection)
        return self._session.backlog(pair.data.stream) if pair and pair.data else 0

    def to_send(self) -> list[Data]:
        return self._session.to_send()

    def _retire(self, half: _Half | None) -> None:
        """End it, after what is still to be sent; a client that goes on sending is told that nobody listens."""
        self._finish(half)
        if half and not half.heard and not self._session.backlog(half.stream):
            self._cut(half)

    def _finish(self, half: _Half | None, last: bytes = b"") -> None:
        if half and not half.said:
            half.said = True
            self._session.send(half.stream, last, fin=True)
            self._settle(half)

    def _cut(self, half: _Half | None) -> None:
        if half and half.stream in self._halves:
            self._session.reset(half.stream)
            self._forget(half)

    def _settle(self, half: _Half) -> None:
        if half.heard and half.said:
            self._forget(half)

    def _forget(self, half: _Half) -> None:
        self._halves.pop(half.stream, None)
        pair = half.pair
        if half.is_data:
            pair.data = None
        else:
            pair.error = None
        if pair.data is None and pair.error is None:
            self._alive.discard(pair)


def port_number(text: str) -> int:
    """`text` as a port, 0 if it is none."""
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < 1 << 16:
        return int(text)
    return 0
