"""Port-forward in plain WebSocket messages: two channels for each port, 2n for its bytes, 2n + 1 for what went wrong.

The first byte of a message is its channel. The session names its ports at the beginning and has one connection to each;
the first message on every channel is the port, two bytes, little-endian. There is no half-close: a client learns that
its ports have ended when the session closes. Source: Kubernetes, cri-streaming portforward and httpstream/wsstream.
"""

from collections.abc import Sequence

from sampan.wire import websocket
from sampan.wire.channel_messages import ChannelMessages
from sampan.wire.portforward.forward import Data, Event, Left, Opened, Received
from sampan.wire.protocol_error import ProtocolError

BINARY = "v4.channel.k8s.io"
BASE64 = "v4.base64.channel.k8s.io"
NONE = ""
"""A client that names no subprotocol gets BINARY's."""

PROTOCOLS = (BINARY, BASE64, NONE)
# Channels are single bytes, of which 255 means something else elsewhere; in BASE64 they are characters from "0" on.
_PORTS_MOST = {BINARY: 127, BASE64: 39, NONE: 127}


class OverWebSocket:
    """One port-forward session on a WebSocket, server side: a `PortForward`. Raises ProtocolError for no ports, or more
    than `protocol` has channels for."""

    half_closes = False
    incomplete = False

    def __init__(self, ports: Sequence[int], protocol: str, limits: websocket.Limits | None = None) -> None:
        most = _PORTS_MOST[protocol]
        if not 0 < len(ports) <= most:
            raise ProtocolError(
                f"{len(ports)} ports in one session: from 1 to {most} where the request names them"
            )
        if wrong := [port for port in ports if not 0 < port < 1 << 16]:
            raise ProtocolError(f"there is no port {wrong[0]}: from 1 to 65535")
        self._ports = tuple(ports)
        self._socket = websocket.WebSocket(server=True, limits=limits)
        self._messages = ChannelMessages(self._socket, base64=protocol == BASE64)
        self._open = set(range(1, len(ports) + 1))  # connections

    @property
    def over(self) -> bool:
        return not self._open

    def start(self) -> Sequence[Event]:
        for connection, port in enumerate(self._ports, 1):
            for channel in (_data(connection), _error(connection)):
                self._messages.send(channel, port.to_bytes(2, "little"))
        return [Opened(connection, port) for connection, port in enumerate(self._ports, 1)]

    def receive(self, data: Data) -> Sequence[Event]:
        events: list[Event] = []
        for event in self._socket.receive(data):
            match event:
                case websocket.Piece():
                    events += self._piece(event)
                case websocket.Closed():
                    events.append(Left(event.told("the client")))
        return events

    def _piece(self, piece: websocket.Piece) -> Sequence[Event]:
        try:
            channel, data = self._messages.take(piece)
        except ProtocolError as error:
            self._socket.close(websocket.BROKEN, str(error))
            raise
        if channel is None or not data:
            return ()
        connection, error_channel = divmod(channel, 2)
        connection += 1
        # an error channel is ours alone; what was closed listens no more
        return (Received(connection, data),) if connection in self._open and not error_channel else ()

    def send(self, connection: int, data: Data) -> None:
        if connection in self._open and len(data):
            self._messages.send(_data(connection), data)

    def end(self, connection: int) -> None:
        """Nothing can tell the client; see `half_closes`."""

    def fail(self, connection: int, words: str) -> None:
        if connection in self._open:
            self._messages.send(_error(connection), words.encode())
            self.close(connection)

    def close(self, connection: int) -> None:
        self._open.discard(connection)
        if not self._open:
            self._socket.close()

    def consumed(self, connection: int, count: int) -> None:
        """WebSocket has no flow control but TCP's: whoever reads the connection stops reading."""

    def backlog(self, connection: int) -> int:
        return 0

    def forget_incomplete(self) -> None:
        """Nothing is ever incomplete."""

    def to_send(self) -> list[Data]:
        return self._socket.to_send()


def _data(connection: int) -> int:
    return 2 * (connection - 1)


def _error(connection: int) -> int:
    return 2 * (connection - 1) + 1
