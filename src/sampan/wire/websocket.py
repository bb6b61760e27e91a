"""WebSocket messages (RFC 6455) after the handshake, both roles: bytes in, events out. No socket, no extensions.

Messages are delivered in pieces, as their bytes come: none is ever held whole, so none can be too big. Framing is our
own, not wsproto's: that keeps what it cannot use yet, copies each byte several times, and bounds neither lengths nor
fragments nor pongs. Received from a client in chunks of 64 KiB: 800 MiB/s, which is what unmasking takes; sent to one:
as fast as the socket.
"""

import codecs
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from sampan.wire.masking import turned, xor
from sampan.wire.protocol_error import ProtocolError

Data = bytes | memoryview

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

NORMAL = 1000
GOING_AWAY = 1001
BROKEN = 1002
NOT_UTF8 = 1007
TOO_BIG = 1009
NO_CODE = 1005
"""The peer's Close frame carried no code."""
ABNORMAL = 1006
"""The connection ended without a Close frame."""

_CONTROL_MOST = 125
_NEVER_SENT = frozenset({1004, NO_CODE, ABNORMAL, 1015})


class WebSocketError(ProtocolError):
    """The peer broke RFC 6455 or one of our limits; `code` is what our Close frame told it."""

    def __init__(self, words: str, code: int = BROKEN) -> None:
        super().__init__(words)
        self.code = code


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may do."""

    frame: int = 1 << 32
    """Bytes that a frame may announce. Costs no memory: it is delivered in pieces."""
    empty_frames: int = 64
    """Frames without a byte within one message."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some of a message's bytes. `first` and `last` tell where messages begin and end; a piece may be empty."""

    data: Data
    text: bool
    first: bool
    last: bool


@dataclass(frozen=True, slots=True)
class Ponged:
    """The answer to a ping of ours."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The peer has closed (ours to answer is queued), or the connection ended (`ABNORMAL`). Nothing comes after it."""

    code: int
    reason: str

    def told(self, who: str) -> str:
        """How it ended, for a person."""
        if self.code == ABNORMAL:
            return "the connection ended without a Close frame"
        words = f"{who} closed the session (code {self.code})"
        return f"{words}: {self.reason}" if self.reason else words


Event = Piece | Ponged | Closed


class WebSocket:
    """One connection's messages. What is delivered are slices of what was given to `receive` (client), or new bytes
    (server, whose input is masked); what is given to `send` must not change until it has been written."""

    def __init__(self, *, server: bool, limits: Limits | None = None) -> None:
        self._server = server
        self._limits = limits or Limits()
        self._head = bytearray()
        self._opcode = CONTINUATION
        self._fin = False
        self._left: int | None = None  # bytes of this frame still to come; None: its head is still to come
        self._key = b""
        self._taken = 0  # bytes of this frame that have come
        self._control = bytearray()
        self._message: int | None = None  # opcode of the message that is under way
        self._fresh = False  # no piece of it has been delivered
        self._empty = 0
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._out: list[Data] = []
        self._pong: bytes | None = None
        self._close_sent = False
        self._over = False

    def receive(self, data: Data) -> list[Event]:
        """Take bytes from the peer, b"" for the end of the connection. Raises WebSocketError; a Close frame that says
        why is then queued, and nothing more is taken."""
        if self._over:
            return []
        if not data:
            self._over = True
            return [Closed(ABNORMAL, "the connection ended")]
        events: list[Event] = []
        try:
            for event in self._events(memoryview(data)):
                events.append(event)
        except WebSocketError as error:
            self.close(error.code, str(error))
            self._over = True
            raise
        return events

    def send(self, data: Data, *, prefix: bytes = b"", text: bool = False) -> None:
        """One message: `prefix` and `data`. Nothing happens once either side has closed."""
        if self._close_sent or self._over:
            return
        opcode = TEXT if text else BINARY
        if self._server:
            self._out.append(_head(opcode, len(prefix) + len(data)) + prefix)
            if data:
                self._out.append(data)
        else:
            self._out.append(self._masked(opcode, prefix, data))

    def ping(self, payload: bytes = b"") -> None:
        if not self._close_sent:
            self._out.append(self._frame(PING, payload))

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Say that nothing more comes. What the peer still sends is delivered until it has closed too. Idempotent."""
        if self._close_sent:
            return
        words = reason.encode()[: _CONTROL_MOST - 2].decode(errors="ignore").encode()
        self._flush_pong()
        self._out.append(self._frame(CLOSE, b"" if code == NO_CODE else struct.pack("!H", code) + words))
        self._close_sent = True

    def to_send(self) -> list[Data]:
        """Bytes for the peer, each once; payloads as they were given, where nothing masks them."""
        self._flush_pong()
        out, self._out = self._out, []
        return out

    # What comes

    def _events(self, data: memoryview) -> Iterator[Event]:
        at = 0
        while not self._over:
            if self._left is None:
                at = self._read_head(data, at)
                if self._left is None:
                    return
            elif at == len(data):
                return
            piece = data[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            yield from self._payload(piece)

    def _read_head(self, data: memoryview, at: int) -> int:
        """Collect a frame's head, which may come in pieces; sets `_left` once it is whole. Where to go on."""
        head = self._head
        while (missing := _head_size(head) - len(head)) > 0:
            part = data[at : at + missing]
            if not part:
                return at
            head += part
            at += len(part)
        self._begin(bytes(head))
        head.clear()
        return at

    def _begin(self, head: bytes) -> None:
        self._fin = bool(head[0] & 0x80)
        self._opcode = head[0] & 0x0F
        if head[0] & 0x70:
            raise WebSocketError("a frame has reserved bits set, but no extension was agreed on")
        if bool(head[1] & 0x80) is not self._server:
            raise WebSocketError(
                "an unmasked frame of a client" if self._server else "a masked frame of a server"
            )
        size = _length(head)
        if self._opcode & 0x08:
            self._begin_control(size)
        else:
            self._begin_data(size)
        self._key = head[-4:] if self._server else b""
        self._taken = 0
        self._left = size

    def _begin_control(self, size: int) -> None:
        if self._opcode not in (CLOSE, PING, PONG):
            raise WebSocketError(f"a frame of the unknown kind {self._opcode:#x}")
        if not self._fin or size > _CONTROL_MOST:
            raise WebSocketError(
                f"a control frame of {size} bytes or in fragments; {_CONTROL_MOST}, whole, are allowed"
            )

    def _begin_data(self, size: int) -> None:
        if self._opcode not in (CONTINUATION, TEXT, BINARY):
            raise WebSocketError(f"a frame of the unknown kind {self._opcode:#x}")
        if (self._opcode == CONTINUATION) is (self._message is None):
            raise WebSocketError("a fragment of no message, or a message within another")
        if size > self._limits.frame:
            raise WebSocketError(f"a frame of {size} bytes; the limit is {self._limits.frame}", TOO_BIG)
        if self._message is None:
            self._message, self._fresh, self._empty = self._opcode, True, 0
        self._empty += not size
        if self._empty > self._limits.empty_frames:
            raise WebSocketError(f"a message of more than {self._limits.empty_frames} empty fragments")

    def _payload(self, piece: memoryview) -> Iterator[Event]:
        """Deliver what has come of the frame that is under way; `_left` is what is still missing."""
        assert self._left is not None
        clear = self._unmasked(piece)
        ended = self._left == 0
        if ended:
            self._left = None
        if self._opcode & 0x08:
            self._control += clear
            if ended:
                payload = bytes(self._control)
                self._control.clear()
                yield from self._controlled(payload)
            return
        last = ended and self._fin
        text = self._message == TEXT
        if text:
            self._check_text(clear, last)
        first, self._fresh = self._fresh, False
        if last:
            self._message = None
        yield Piece(clear, text, first, last)

    def _unmasked(self, piece: memoryview) -> memoryview:
        if not self._server or not piece:
            return piece
        clear = bytearray(piece)
        xor(turned(self._key, self._taken), clear)
        self._taken += len(clear)
        return memoryview(clear)

    def _check_text(self, data: Data, last: bool) -> None:
        try:
            self._utf8.decode(data, last)
        except UnicodeDecodeError:
            raise WebSocketError("a text message is not UTF-8", NOT_UTF8) from None

    def _controlled(self, payload: bytes) -> Iterator[Event]:
        if self._opcode == PING:
            # Only the latest is answered (RFC 6455, 5.5.3): a flood of pings costs nothing.
            self._pong = payload
        elif self._opcode == PONG:
            yield Ponged(payload)
        else:
            code, reason = _closing(payload)
            self.close(code)
            self._over = True
            yield Closed(code, reason)

    # What goes

    def _flush_pong(self) -> None:
        if self._pong is not None and not self._close_sent:
            self._out.append(self._frame(PONG, self._pong))
        self._pong = None

    def _frame(self, opcode: int, payload: bytes) -> bytes:
        return _head(opcode, len(payload)) + payload if self._server else self._masked(opcode, b"", payload)

    def _masked(self, opcode: int, prefix: bytes, data: Data) -> bytes:
        key = os.urandom(4)  # must not be guessable by whoever chose the payload (RFC 6455, 10.3)
        body = bytearray(prefix)
        body += data
        xor(key, body)
        return b"".join((_head(opcode, len(body), mask=0x80), key, body))


def _head(opcode: int, size: int, *, mask: int = 0) -> bytes:
    """A frame that is a whole message, up to its mask."""
    if size < 126:
        return bytes((0x80 | opcode, mask | size))
    if size < 1 << 16:
        return struct.pack("!BBH", 0x80 | opcode, mask | 126, size)
    return struct.pack("!BBQ", 0x80 | opcode, mask | 127, size)


def _head_size(head: bytearray) -> int:
    """How many bytes a frame's head has, as far as its first two tell."""
    if len(head) < 2:
        return 2
    extended = {126: 2, 127: 8}.get(head[1] & 0x7F, 0)
    return 2 + extended + (4 if head[1] & 0x80 else 0)


def _length(head: bytes) -> int:
    short = head[1] & 0x7F
    if short < 126:
        return short
    size: int
    (size,) = struct.unpack_from("!H" if short == 126 else "!Q", head, 2)
    if size < (126 if short == 126 else 1 << 16) or size >> 63:
        raise WebSocketError(f"a frame's length of {size} bytes is not written as it must be")
    return size


def _closing(payload: bytes) -> tuple[int, str]:
    """Code and reason of a Close frame."""
    if not payload:
        return NO_CODE, ""
    if len(payload) == 1:
        raise WebSocketError("a Close frame with half a code")
    code = int.from_bytes(payload[:2], "big")
    if not (1000 <= code < 1015 or 3000 <= code < 5000) or code in _NEVER_SENT:
        raise WebSocketError(f"a Close frame with the code {code}, which nobody may send")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise WebSocketError("the reason in a Close frame is not UTF-8", NOT_UTF8) from None
