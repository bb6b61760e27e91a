"""WebSocket messages as Kubernetes uses them: the first byte of each says its channel.

In the base64 protocols they are text: a digit (or what follows the digits) for the channel, and base64 for the rest.
Source: Kubernetes, apimachinery httpstream/wsstream.
"""

import binascii

from sampan.wire.protocol_error import ProtocolError
from sampan.wire.websocket import Data, Piece, WebSocket

_FIRST = ord("0")  # channel 0 where messages are text


class ChannelMessages:
    """Those of one WebSocket, which stays its owner's."""

    def __init__(self, socket: WebSocket, *, base64: bool = False) -> None:
        self._socket = socket
        self._decoder = _Base64() if base64 else None
        self._channel: int | None = None  # of the message under way, once its first byte has come

    def send(self, channel: int, data: Data) -> None:
        """One message."""
        if self._decoder is None:
            self._socket.send(data, prefix=bytes((channel,)))
        else:
            encoded = binascii.b2a_base64(data, newline=False)
            self._socket.send(encoded, prefix=bytes((_FIRST + channel,)), text=True)

    def take(self, piece: Piece) -> tuple[int | None, Data]:
        """The channel of the message under way, None before its first byte, and what has come for it. Raises
        ProtocolError for broken base64."""
        data = piece.data
        if piece.first:
            self._channel = None
        if self._channel is None and data:
            self._channel = data[0] - (_FIRST if self._decoder else 0)
            data = data[1:]
        return self._channel, self._decoder.decode(data, last=piece.last) if self._decoder else data


class _Base64:
    """Base64 in pieces. Line ends are skipped, as Go's decoder does; padding is needed."""

    def __init__(self) -> None:
        self._rest = b""
        self._padded = False

    def decode(self, data: Data, *, last: bool) -> bytes:
        """What is whole by now. With `last` everything must be. Raises ProtocolError."""
        text = self._rest + bytes(data).translate(None, b"\r\n")
        whole = len(text) // 4 * 4
        self._rest = text[whole:]
        if text and self._padded:
            raise ProtocolError("base64 goes on after its padding")
        if last and self._rest:
            raise ProtocolError("base64 ends within four characters")
        try:
            clear = binascii.a2b_base64(text[:whole], strict_mode=True)
        except binascii.Error as error:
            raise ProtocolError(f"base64 is broken: {error}") from None
        self._padded = not last and text[:whole].endswith(b"=")
        return clear
