"""The client of an exec or attach session: WebSocket, v5 or v4. Bytes in, events out; no socket, no clock.

It begins with the HTTP request. What is said before the server has answered is kept and said then.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sampan.wire import websocket
from sampan.wire.channel_messages import ChannelMessages
from sampan.wire.protocol_error import ProtocolError
from sampan.wire.remotecommand import status as statuses
from sampan.wire.remotecommand.channels import Channel, Data
from sampan.wire.remotecommand.over_websocket import HALF_CLOSE, V4, V5
from sampan.wire.remotecommand.status import Status
from sampan.wire.upgrade import Asking, Kind

PROTOCOLS = (V5, V4)


@dataclass(frozen=True, slots=True)
class Started:
    """The server agreed; comes once, first. Without `can_end_input` (v4) only leaving ends the command's input."""

    can_end_input: bool


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes of the command, on STDOUT or STDERR."""

    channel: Channel
    data: Data


@dataclass(frozen=True, slots=True)
class Finished:
    """How it ended; all output has come before."""

    status: Status


@dataclass(frozen=True, slots=True)
class Left:
    """The server closed, or the connection ended: nothing comes after it. Without `Finished` before, the end is not
    known."""

    reason: str


Event = Started | Output | Finished | Left


class Client:
    """One session. `target` is the path (with its query) of the URL that Exec or Attach gave, `host` its host and port.
    Errors: Refused (wire.upgrade) if the server doesn't agree, ProtocolError for what no server may say."""

    def __init__(self, target: str, host: str, protocols: Sequence[str] = PROTOCOLS) -> None:
        self._asking: Asking | None = Asking(Kind.WEBSOCKET, target, host, protocols)
        self._socket = websocket.WebSocket(server=False)
        self._messages = ChannelMessages(self._socket)
        self._can_end = False
        self._wants_end = False
        self._last = bytearray()

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the connection, b"" for its end."""
        events: list[Event] = []
        if self._asking:
            answer = self._asking.receive(data)
            if answer is None:
                return []
            self._asking = None
            self._can_end = answer.protocol == V5
            events.append(Started(self._can_end))
            if self._wants_end:
                self.end_input()
            data = answer.rest
            if not data:
                return events
        for event in self._socket.receive(data):
            match event:
                case websocket.Piece():
                    events += self._piece(event)
                case websocket.Closed(code, reason):
                    events.append(Left(reason or f"the server closed the session (code {code})"))
                case websocket.Ponged():
                    pass
        return events

    def send_input(self, data: Data) -> None:
        self._messages.send(Channel.STDIN, data)

    def end_input(self) -> None:
        """The command's input ends; its output goes on. Nothing happens over v4, which cannot say it."""
        self._wants_end = True
        if self._can_end:
            self._messages.send(HALF_CLOSE, bytes((Channel.STDIN,)))

    def resize(self, width: int, height: int) -> None:
        self._messages.send(Channel.RESIZE, b'{"Width":%d,"Height":%d}' % (width, height))

    def ping(self) -> None:
        """Something for an idle connection to carry; the answer makes no event."""
        self._socket.ping()

    def leave(self) -> None:
        """Close the session. What the server still sends comes until it has closed too."""
        self._socket.close()

    def to_send(self) -> list[Data]:
        """Bytes for the connection, each once."""
        if self._asking:
            request = self._asking.to_send()
            return [request] if request else []
        return self._socket.to_send()

    def _piece(self, piece: websocket.Piece) -> list[Event]:
        channel, data = self._messages.take(piece)
        match channel:
            case Channel.STDOUT | Channel.STDERR:
                return [Output(Channel(channel), data)] if data else []
            case Channel.ERROR:
                return self._status(data, last=piece.last)
            case _:
                return []

    def _status(self, data: Data, *, last: bool) -> list[Event]:
        self._last += data
        if len(self._last) > statuses.MOST:
            raise ProtocolError(f"more than {statuses.MOST} bytes of status")
        if not last or not self._last:
            return []
        said = bytes(self._last)
        self._last.clear()
        return [Finished(statuses.decode(said))]
