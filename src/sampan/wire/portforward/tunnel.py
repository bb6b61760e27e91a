"""Port-forward over SPDY that travels in WebSocket messages, as kubectl does it from 1.31 on.

The bytes of binary messages, in order, are a SPDY connection; where a message begins means nothing. Source: Kubernetes,
KEP-4006 and client-go tools/portforward (tunneling connection).
"""

from collections.abc import Sequence

from sampan.wire import websocket
from sampan.wire.portforward.forward import Data, Event
from sampan.wire.portforward.over_spdy import CONNECTIONS, OverSpdy
from sampan.wire.portforward.over_spdy import PROTOCOL as TUNNELLED
from sampan.wire.protocol_error import ProtocolError

PROTOCOL = f"SPDY/3.1+{TUNNELLED}"
_SMALL = 4096  # bytes that are rather copied than sent as a message of their own


class Tunnel(OverSpdy):
    """One port-forward session, server side: a `PortForward`."""

    def __init__(self, connections: int = CONNECTIONS, limits: websocket.Limits | None = None) -> None:
        super().__init__(connections)
        self._socket = websocket.WebSocket(server=True, limits=limits)

    def receive(self, data: Data) -> Sequence[Event]:
        events: list[Event] = []
        for event in self._socket.receive(data):
            match event:
                case websocket.Piece(piece, text=text):
                    events += self._piece(piece, text)
                case websocket.Closed():
                    events += self._leave(event.told("the client"))
        return events

    def _piece(self, piece: Data, text: bool) -> Sequence[Event]:
        try:
            if text:
                raise ProtocolError("a text message in a tunnel for SPDY, which is binary")
            return (
                super().receive(piece) if len(piece) else ()
            )  # no bytes would be the end of SPDY's connection
        except ProtocolError as error:
            self._wrap()
            self._socket.close(websocket.BROKEN, str(error))
            raise

    def to_send(self) -> list[Data]:
        self._wrap()
        return self._socket.to_send()

    def _wrap(self) -> None:
        """Small pieces, the heads of frames, go with what follows them."""
        small: list[Data] = []
        for piece in super().to_send():
            if len(piece) <= _SMALL:
                small.append(piece)
            else:
                self._socket.send(piece, prefix=b"".join(small))
                small.clear()
        if small:
            self._socket.send(b"".join(small))
