"""One SPDY/3.1 connection, either role, without socket or clock: bytes in, events out; calls in, bytes out.

Kubernetes' peers (moby/spdystream) know half of SPDY, and this is made to work with them and with those who know all:
they neither keep nor give windows, so what comes beyond a window is no violation unless `Limits.strict_windows`, and a
peer's window holds us back only after it has given one; they stop reading at a GOAWAY, so it is to be the last thing
that is sent; they drop data of a stream that they have not replied to, so that waits for the reply; and a client loses
what comes before its own first frame, so a server says nothing before it.
What a session may keep is bounded by `Limits`. A violation ends the whole session, except where an honest peer can
cause it by crossing messages. Source: draft-mbelshe-httpbis-spdy-00; 3.1 adds the session's window (stream 0).
"""

from collections import OrderedDict
from dataclasses import replace

from sampan.wire.spdy import frames
from sampan.wire.spdy.events import (
    Ended,
    Event,
    MoreHeaders,
    Opened,
    Pinged,
    Received,
    Replied,
    WasReset,
    WentAway,
)
from sampan.wire.spdy.frames import CANCEL, OK, Control, Data, Kind, Piece, SpdyError
from sampan.wire.spdy.headers import Headers, Packer, Unpacker, value
from sampan.wire.spdy.limits import DEFAULT_WINDOW, Limits
from sampan.wire.spdy.patience import Patience
from sampan.wire.spdy.streams import Stream, Window
from sampan.wire.spdy.table import Table

__all__ = [
    "CANCEL",
    "OK",
    "Data",
    "Ended",
    "Event",
    "Headers",
    "Limits",
    "MoreHeaders",
    "Opened",
    "Pinged",
    "Received",
    "Replied",
    "Session",
    "SpdyError",
    "WasReset",
    "WentAway",
    "value",
]

DEFAULTS = Limits()
SESSION = 0  # the "stream" of the session's own window
SESSION_STEP = 1 << 30  # the session's window is given in such steps: the streams' windows are the limit


class Session:
    """Both directions of one connection. Whoever owns the socket calls `receive` for what came, then writes `to_send`
    and waits until that is written before it reads again: that bounds the answers that a peer can make us keep."""

    def __init__(self, *, server: bool, limits: Limits = DEFAULTS) -> None:
        self._limits = limits
        self._splitter = frames.Splitter(limits.control_frame)
        self._packer, self._unpacker = Packer(limits), Unpacker(limits)
        self._out: list[Data] = []
        self._failed = ""
        self._streams = Table(limits, server=server)
        self._next_ping = self._answered_ping = 2 if server else 1
        self._last_good = 0  # the peer's last stream before our GOAWAY
        self._leaving = self._left = False  # by us, by the peer
        self._initial = Window(DEFAULT_WINDOW)  # of every stream, ours to fill
        self._window = Window(DEFAULT_WINDOW)  # of the session, ours to fill
        self._unpaid = 0  # of the session, the peer's to fill
        self._patience = Patience(limits)
        self._stalled: OrderedDict[int, Stream] = OrderedDict()  # held back by the session's window alone
        self._introduced = False
        if not server:
            self._introduce()

    # Bytes

    def receive(self, data: Data) -> list[Event]:
        """Take bytes from the peer; b"" (its end) is nothing. Raises SpdyError for a violation, at once and for ever:
        events of the same bytes are lost, and `to_send` has a GOAWAY."""
        if self._failed:
            raise SpdyError(self._failed)
        events: list[Event] = []
        try:
            for frame in self._splitter.feed(data):
                if isinstance(frame, Piece):
                    self._take_piece(frame, events)
                else:
                    self._take_control(frame, events)
        except SpdyError as error:
            self._failed = str(error)
            self._out.append(frames.goaway(self._last_good, frames.GOAWAY_PROTOCOL_ERROR))
            self._streams.clear()
            self._stalled.clear()
            raise
        return events

    def to_send(self) -> list[Data]:
        """Bytes for the peer, each once; call it after every `receive` too, which answers and releases what waited.
        Payload is what `send` was given, not a copy."""
        self._patience.drained()
        out, self._out = self._out, []
        return out

    # What we say. A stream that is gone (the peer may have reset it meanwhile) swallows everything.

    def open(self, headers: Headers, *, fin: bool = False) -> int:
        """A new stream. Raises SpdyError where the peer takes no more, or the numbers are used up."""
        if self._left or self._failed:
            raise SpdyError(self._failed or "the SPDY peer takes no new streams: open a new connection")
        block = self._packer.pack(headers)
        stream = self._streams.add_ours(replace(self._initial))
        stream.local_open = not fin
        self._out.append(frames.syn_stream(stream.number, block, fin))
        return stream.number

    def reply(self, stream: int, headers: Headers = (), *, fin: bool = False) -> None:
        """Accept the peer's stream; has to come before any data."""
        it = self._streams.get(stream)
        if it is None:
            return
        if it.ours or it.replied:
            raise ValueError(f"SPDY stream {stream} cannot be replied to: it is ours, or has been")
        self._out.append(frames.with_block(Kind.SYN_REPLY, stream, self._packer.pack(headers), fin))
        it.replied = True
        it.local_open = not fin
        self._forget_if_done(it)

    def send(self, stream: int, data: Data = b"", *, fin: bool = False) -> None:
        """Data, or with `fin` the end of ours. What may not go yet, for the peer's window or before its reply to a
        stream of ours, waits here (`backlog`)."""
        it = self._streams.get(stream)
        if it is None or not (len(data) or fin):
            return
        if not it.local_open:
            raise ValueError(f"nothing can be sent on SPDY stream {stream} after its end")
        if not (it.ours or it.replied):
            raise ValueError(f"SPDY stream {stream} has to be replied to before anything is sent on it")
        it.local_open = not fin
        it.hold(data, fin)
        self._release(it)

    def reset(self, stream: int, status: int = CANCEL) -> None:
        """Give the stream up, both ways; what waits is dropped, and no later `receive` tells of it."""
        if it := self._streams.get(stream):
            self._out.append(frames.rst_stream(stream, status))
            self._forget(it)

    def ping(self) -> int:
        """Ask for a `Pinged` with the number returned."""
        number = self._next_ping
        self._next_ping += 2
        self._out.append(frames.ping(number))
        return number

    def goaway(self, status: int = OK) -> None:
        """Take no new streams. Existing ones go on, but Go's peers stop reading: let it be the last word."""
        if self._failed:
            return
        self._leaving = True
        self._out.append(frames.goaway(self._last_good, status))

    def consumed(self, stream: int, count: int) -> None:
        """`count` bytes of `Received` are used: the peer may send as many more, and is told so by half windows."""
        it = self._streams.get(stream)
        if it is None or not it.remote_open:
            return
        it.unpaid += count
        if it.unpaid * 2 >= self._limits.window:
            self._out.append(frames.window_update(stream, it.unpaid))
            it.incoming += it.unpaid
            it.unpaid = 0

    def backlog(self, stream: int) -> int:
        """Bytes of this stream that wait for the peer: its window, or its reply."""
        it = self._streams.get(stream)
        return it.backlog if it else 0

    # Data

    def _take_piece(self, piece: Piece, events: list[Event]) -> None:
        number, count = piece.stream, len(piece.data)
        self._pay_session(count)
        if piece.end:
            self._count_frame(count, piece.fin)
        stream = self._streams.find(number)
        if stream is None:
            return
        if not stream.remote_open:
            self._break(stream, frames.STREAM_ALREADY_CLOSED, events)
            return
        if stream.ours and not stream.replied:
            raise SpdyError(f"data on SPDY stream {number} before the reply to it")
        stream.incoming -= count
        if stream.incoming < 0 and self._limits.strict_windows:
            self._break(stream, frames.FLOW_CONTROL_ERROR, events)
            return
        if count:
            events.append(Received(number, piece.data))
        if piece.fin:
            self._end(stream, events)

    def _count_frame(self, count: int, fin: bool) -> None:
        if count:
            self._patience.earn(1)
        elif not fin:
            self._patience.spend()

    def _pay_session(self, count: int) -> None:
        self._unpaid += count
        if self._unpaid >= SESSION_STEP:
            self._out.append(frames.window_update(SESSION, self._unpaid))
            self._unpaid = 0

    # Control frames

    def _take_control(self, frame: Control, events: list[Event]) -> None:
        match frame.kind:
            case Kind.SYN_STREAM:
                self._take_syn_stream(frame, events)
            case Kind.SYN_REPLY:
                self._take_reply(frame, events)
            case Kind.HEADERS:
                self._take_headers(frame, events)
            case _:
                self._patience.spend()
                self._take_small(frame, events)

    def _take_small(self, frame: Control, events: list[Event]) -> None:
        match frame.kind:
            case Kind.RST_STREAM:
                number, status = frames.words(frame)
                if stream := self._streams.find(number):
                    self._forget(stream)
                    events.append(WasReset(number, status))
            case Kind.SETTINGS:
                self._take_settings(frame)
            case Kind.PING:
                self._take_ping(frame, events)
            case Kind.GOAWAY:
                self._take_goaway(frame, events)
            case Kind.WINDOW_UPDATE:
                self._take_window_update(frame)

    def _take_syn_stream(self, frame: Control, events: list[Event]) -> None:
        number, block = frames.syn_stream_fields(frame)
        headers = self._unpack(block)
        self._streams.see(number)
        if self._leaving:
            self._patience.spend()
            return
        self._last_good = number
        if frame.flags & frames.UNIDIRECTIONAL or self._streams.full:
            self._patience.spend()
            self._owe(frames.rst_stream(number, frames.REFUSED_STREAM))
            return
        stream = self._streams.add_theirs(replace(self._initial))
        if not self._introduced:
            self._introduce()
        fin = bool(frame.flags & frames.FIN)
        events.append(Opened(number, headers, fin))
        if fin:
            self._end(stream, events)

    def _take_reply(self, frame: Control, events: list[Event]) -> None:
        number, block = frames.word(frame)
        headers = self._unpack(block)
        stream = self._streams.find(number)
        if stream is None:
            self._patience.spend()
            return
        if stream.replied or not stream.ours:
            raise SpdyError(f"the SPDY peer replied to stream {number}, which is its own or had a reply")
        stream.replied = True
        self._release(stream)
        fin = bool(frame.flags & frames.FIN)
        events.append(Replied(number, headers, fin))
        if fin:
            self._end(stream, events)

    def _take_headers(self, frame: Control, events: list[Event]) -> None:
        self._patience.spend()
        number, block = frames.word(frame)
        headers = self._unpack(block)
        stream = self._streams.find(number)
        if stream is None:
            return
        if not stream.remote_open:
            self._break(stream, frames.STREAM_ALREADY_CLOSED, events)
            return
        fin = bool(frame.flags & frames.FIN)
        events.append(MoreHeaders(number, headers, fin))
        if fin:
            self._end(stream, events)

    def _take_settings(self, frame: Control) -> None:
        sizes = [size for key, size in frames.settings_fields(frame) if key == frames.INITIAL_WINDOW_SIZE]
        if not sizes:
            return
        size = sizes[0]  # the first one counts
        if size > frames.LAST_ID:
            raise SpdyError(f"an initial SPDY window of {size} bytes")
        change, self._initial = size - self._initial.size, Window(size, known=True)
        self._patience.spend(len(self._streams))
        for stream in self._streams:
            stream.outgoing.shift(change)
            self._release(stream)

    def _take_ping(self, frame: Control, events: list[Event]) -> None:
        number, rest = frames.word(frame)
        if rest or not number:
            raise SpdyError(f"a SPDY PING of {len(frame.body)} bytes with number {number}")
        if not self._streams.is_ours(number):
            self._owe(frames.ping(number))
        elif self._answered_ping <= number < self._next_ping:
            self._answered_ping = number + 2
            events.append(Pinged(number))

    def _take_goaway(self, frame: Control, events: list[Event]) -> None:
        last, status = frames.words(frame)
        self._left = True
        events.append(WentAway(last, status))
        for unseen in [it for it in self._streams if it.ours and it.number > last]:
            self._forget(unseen)
            events.append(WasReset(unseen.number, frames.REFUSED_STREAM))

    def _take_window_update(self, frame: Control) -> None:
        number, count = frames.words(frame)
        if number == SESSION:
            self._window.grow(count)
            while self._stalled and self._window.room():
                self._release(self._stalled.popitem(last=False)[1])
        elif stream := self._streams.find(number):
            self._initial.known = True
            stream.outgoing.grow(count)
            self._release(stream)

    def _unpack(self, block: bytes) -> Headers:
        headers = self._unpacker.unpack(block)
        self._patience.spend_on(len(headers))
        return headers

    # Streams

    def _end(self, stream: Stream, events: list[Event]) -> None:
        stream.remote_open = False
        events.append(Ended(stream.number))
        self._forget_if_done(stream)

    def _break(self, stream: Stream, status: int, events: list[Event]) -> None:
        """The peer broke this stream's rules: it ends, the session goes on."""
        self._owe(frames.rst_stream(stream.number, status))
        self._forget(stream)
        events.append(WasReset(stream.number, status))

    def _release(self, stream: Stream) -> None:
        self._patience.earn(stream.release(self._window, self._out))
        if stream.held and stream.sendable():
            self._stalled[stream.number] = stream
        self._forget_if_done(stream)

    def _forget_if_done(self, stream: Stream) -> None:
        if stream.done:
            self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        self._streams.remove(stream)
        self._stalled.pop(stream.number, None)

    # Ourselves

    def _introduce(self) -> None:
        """Tell our windows, and that way that we keep the peer's."""
        self._introduced = True
        self._out.append(frames.settings([(frames.INITIAL_WINDOW_SIZE, self._limits.window)]))
        self._out.append(frames.window_update(SESSION, SESSION_STEP))

    def _owe(self, answer: bytes) -> None:
        self._patience.owe()
        self._out.append(answer)
