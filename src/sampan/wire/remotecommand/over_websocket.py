"""An exec or attach session in WebSocket messages: the first byte of each says its channel.

Source: Kubernetes, apimachinery httpstream/wsstream (server) and client-go tools/remotecommand (v5, half-close).
"""

from collections.abc import Sequence

from sampan.wire import websocket
from sampan.wire.channel_messages import ChannelMessages
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

V5 = "v5.channel.k8s.io"
V4 = "v4.channel.k8s.io"
V4_BASE64 = "v4.base64.channel.k8s.io"
V1 = "channel.k8s.io"
V1_BASE64 = "base64.channel.k8s.io"
NONE = ""
"""A client that names no subprotocol gets V1's."""

PROTOCOLS = (V5, V4, V4_BASE64, V1, V1_BASE64, NONE)

HALF_CLOSE = 255
"""v5: a message of this byte and a channel's ends that channel."""

_BASE64 = frozenset({V4_BASE64, V1_BASE64})
_STATUS_IS_JSON = frozenset({V5, V4, V4_BASE64})


class OverWebSocket:
    """A `RemoteCommand`. What a client says on channels that aren't its own, or unknown, is ignored, as Kubernetes
    does; an empty message says nothing."""

    def __init__(self, wanted: Wanted, protocol: str, limits: websocket.Limits | None = None) -> None:
        self._wanted = wanted
        self._half_close = protocol == V5
        self._json = protocol in _STATUS_IS_JSON
        self._socket = websocket.WebSocket(server=True, limits=limits)
        self._messages = ChannelMessages(self._socket, base64=protocol in _BASE64)
        self._outputs = {Channel.STDOUT} if wanted.stdout else set()
        if wanted.stderr and not wanted.tty:
            self._outputs.add(Channel.STDERR)
        self._signal = bytearray()
        self._resizes = Resizes()
        self._listening = True
        self._input_open = wanted.stdin

    def start(self) -> Sequence[Event]:
        """Every channel is there from the beginning. The client is told by an empty message, as Kubernetes does."""
        self._messages.send(min(self._outputs, default=Channel.ERROR), b"")
        return [Ready()]

    def receive(self, data: Data) -> Sequence[Event]:
        gathering = Gathering()
        for event in self._socket.receive(data):
            match event:
                case websocket.Piece():
                    gathering.add(self._piece(event))
                case websocket.Closed():
                    gathering.add([Left(event.told("the client"))])
                case websocket.Ponged():
                    pass
        return gathering.taken()

    def send(self, channel: Channel, data: Data) -> None:
        if data and channel in self._outputs:
            self._messages.send(channel, data)

    def finish(self, status: Status) -> None:
        last = statuses.encode(status) if self._json else statuses.words(status).encode()
        if last:
            self._messages.send(Channel.ERROR, last)
        self._socket.close()
        self._listening = False

    def consumed(self, count: int) -> None:
        """WebSocket has no flow control but TCP's: whoever reads the connection stops reading."""

    def backlog(self) -> int:
        return 0

    def to_send(self) -> list[Data]:
        return self._socket.to_send()

    def _piece(self, piece: websocket.Piece) -> Sequence[Event]:
        if not self._listening:
            return []
        try:
            channel, data = self._messages.take(piece)
            return self._said(channel, data, last=piece.last)
        except ProtocolError as error:
            self._socket.close(websocket.BROKEN, str(error))
            self._listening = False
            raise

    def _said(self, channel: int | None, data: Data, *, last: bool) -> Sequence[Event]:
        """Bytes on the channel of the message under way; with `last` it ends."""
        match channel:
            case Channel.STDIN if self._input_open:
                return [Input(data)] if data else []
            case Channel.RESIZE if self._wanted.tty:
                return self._resizes.receive(data)
            case 255 if self._half_close:
                return self._signalled(data, last)
            case _:
                return []

    def _signalled(self, data: Data, last: bool) -> list[Event]:
        self._signal += data[:2]
        if len(self._signal) > 1 or (last and not self._signal):
            raise ProtocolError("a message that ends a channel must be two bytes long")
        if not last:
            return []
        channel = self._signal.pop()
        if channel > max(Channel):
            raise ProtocolError(f"the end of channel {channel}, which does not exist")
        if channel == Channel.STDIN and self._input_open:
            self._input_open = False
            return [InputEnd()]
        return []
