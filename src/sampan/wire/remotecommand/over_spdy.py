"""An exec or attach session in SPDY streams, one a channel: the header `streamType` says which.

Source: Kubernetes, kubelet cri/streaming/remotecommand (server) and client-go tools/remotecommand (v1 to v4).
"""

from collections.abc import Sequence

from sampan.wire.remotecommand import status as statuses
from sampan.wire.remotecommand.channels import (
    Channel,
    Data,
    Event,
    Input,
    InputEnd,
    Left,
    ProtocolError,
    Ready,
    Wanted,
)
from sampan.wire.remotecommand.gathering import Gathering
from sampan.wire.remotecommand.resizes import Resizes
from sampan.wire.remotecommand.status import Status
from sampan.wire.spdy import session as spdy
from sampan.wire.spdy.session import SpdyError

V4 = "v4.channel.k8s.io"
V3 = "v3.channel.k8s.io"
V2 = "v2.channel.k8s.io"
V1 = "channel.k8s.io"

PROTOCOLS = (V4, V3, V2, V1)

_TYPES = {
    "stdin": Channel.STDIN,
    "stdout": Channel.STDOUT,
    "stderr": Channel.STDERR,
    "error": Channel.ERROR,
    "resize": Channel.RESIZE,
}
_REFUSED_STREAM = 3  # of RST_STREAM
_PROTOCOL_ERROR = 1  # of GOAWAY
_EARLY_MOST = 256 * 1024


class OverSpdy:
    """A `RemoteCommand`. A second stream of a type, or one of an unknown type, is reset, and the session goes on; one
    that the session has no use for is let be, and ends with the others."""

    def __init__(self, wanted: Wanted, protocol: str, limits: spdy.Limits | None = None) -> None:
        self._session = spdy.Session(server=True, limits=limits or spdy.Limits())
        self._json = protocol == V4
        self._missing = _needed(wanted, resizes=wanted.tty and protocol in (V4, V3))
        self._input_wanted = wanted.stdin
        self._streams: dict[Channel, int] = {}  # ours to say something on
        self._channels: dict[int, Channel] = {}  # the client's to say something on
        self._seen: set[Channel] = set()
        self._early = bytearray()  # input that came before the session was ready
        self._early_end = False
        self._resizes = Resizes()
        self._finished = False
        self._gone = False

    def start(self) -> Sequence[Event]:
        """The client opens its streams first."""
        return []

    def receive(self, data: Data) -> Sequence[Event]:
        if self._gone:
            return []
        try:
            events = self._events(data)
        except SpdyError:
            self._gone = True  # it has said GOAWAY
            raise
        except ProtocolError:
            self._session.goaway(_PROTOCOL_ERROR)
            self._gone = True
            raise
        if not data:
            self._gone = True
            events.append(Left("the connection ended"))
        return events

    def send(self, channel: Channel, data: Data) -> None:
        stream = self._streams.get(channel)
        if stream is not None and data and channel in (Channel.STDOUT, Channel.STDERR) and not self._finished:
            self._session.send(stream, data)

    def finish(self, status: Status) -> None:
        if self._finished:
            return
        self._finished = True
        last = statuses.encode(status) if self._json else statuses.words(status).encode()
        for channel, stream in self._streams.items():
            self._session.send(stream, last if channel is Channel.ERROR else b"", fin=True)

    def consumed(self, count: int) -> None:
        for stream, channel in self._channels.items():
            if channel is Channel.STDIN:
                self._session.consumed(stream, count)

    def backlog(self) -> int:
        return sum(map(self._session.backlog, self._streams.values()))

    def to_send(self) -> list[Data]:
        """The last frame is GOAWAY: a client of Go ends at it, so all output and the status go before."""
        if self._finished and not self._gone and not self.backlog():
            self._session.goaway()
            self._gone = True
        return self._session.to_send()

    def _events(self, data: Data) -> list[Event]:
        gathering = Gathering()
        for event in self._session.receive(data):
            gathering.add(self._happened(event))
            if self._gone:
                break
        return gathering.taken()

    def _happened(self, event: spdy.Event) -> Sequence[Event]:
        match event:
            case spdy.Opened(stream, headers):
                return self._opened(stream, headers)
            case spdy.Received(stream, data):
                return self._received(stream, data)
            case spdy.Ended(stream) | spdy.WasReset(stream):
                return self._ended(stream)
            case spdy.WentAway():
                self._gone = True
                return [Left("the client closed the session")]
            case _:
                return []

    def _opened(self, stream: int, headers: spdy.Headers) -> Sequence[Event]:
        channel = _TYPES.get(spdy.value(headers, "streamtype"))
        if channel is None or channel in self._seen or self._finished:
            self._session.reset(stream, _REFUSED_STREAM)
            return []
        self._seen.add(channel)
        self._session.reply(stream)
        self._streams[channel] = stream
        self._channels[stream] = channel
        if channel not in self._missing:
            return []
        self._missing.remove(channel)
        return [] if self._missing else self._ready()

    def _ready(self) -> list[Event]:
        events: list[Event] = [Ready()]
        if self._early:
            events.append(Input(bytes(self._early)))
            self._early.clear()
        if self._early_end:
            events.append(InputEnd())
        return events

    def _received(self, stream: int, data: Data) -> Sequence[Event]:
        channel = self._channels.get(stream)
        if channel is Channel.STDIN and self._input_wanted and not self._finished:
            return self._input(data)
        self._session.consumed(stream, len(data))
        if channel is Channel.RESIZE and not self._finished:
            return self._resizes.receive(data)
        return []

    def _input(self, data: Data) -> Sequence[Event]:
        if not self._missing:
            return [Input(data)]
        self._early += data
        if len(self._early) > _EARLY_MOST:
            raise ProtocolError(f"more than {_EARLY_MOST} bytes of input before all streams were open")
        return []

    def _ended(self, stream: int) -> Sequence[Event]:
        """The client says nothing more on this stream. One that it has reset takes no output either: the SPDY session
        drops what is sent on it."""
        channel = self._channels.pop(stream, None)
        if channel is not Channel.STDIN or not self._input_wanted or self._finished:
            return []
        if self._missing:
            self._early_end = True
            return []
        return [InputEnd()]


def _needed(wanted: Wanted, *, resizes: bool) -> set[Channel]:
    """The streams that a client opens for such a session."""
    return {
        channel
        for channel, needed in (
            (Channel.STDIN, wanted.stdin),
            (Channel.STDOUT, wanted.stdout),
            (Channel.STDERR, wanted.stderr and not wanted.tty),
            (Channel.ERROR, True),
            (Channel.RESIZE, resizes),
        )
        if needed
    }
