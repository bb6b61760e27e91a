"""The frames of SPDY/3.1 as bytes: splitting a connection into them, and writing them.

Knows lengths and fields, nothing of streams or their states. Source: draft-mbelshe-httpbis-spdy-00, section 2.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

from sampan.wire.protocol_error import ProtocolError

Data = bytes | memoryview

VERSION = 3
LONGEST_DATA = (1 << 24) - 1
LAST_ID = (1 << 31) - 1  # of a stream; also the largest window

CONTROL = 1 << 31
HEAD = Struct(">II")
WORD = Struct(">I")
WORDS = Struct(">II")
SYN_STREAM_HEAD = Struct(">IIBB")


class SpdyError(ProtocolError):
    """The peer broke SPDY, or one of our limits; the text says how. The connection ends."""


class Kind(enum.IntEnum):
    """Control frames. The numbers 5 (NOOP) and 10 (CREDENTIAL) are gone from 3.1: ignored as all unknown ones."""

    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


FIN = 0x01
UNIDIRECTIONAL = 0x02

# Why a stream was reset (RST_STREAM)
PROTOCOL_ERROR = 1
INVALID_STREAM = 2
REFUSED_STREAM = 3
UNSUPPORTED_VERSION = 4
CANCEL = 5
INTERNAL_ERROR = 6
FLOW_CONTROL_ERROR = 7
STREAM_IN_USE = 8
STREAM_ALREADY_CLOSED = 9
FRAME_TOO_LARGE = 11

# Why a session ends (GOAWAY)
OK = 0
GOAWAY_PROTOCOL_ERROR = 1
GOAWAY_INTERNAL_ERROR = 2

INITIAL_WINDOW_SIZE = 7  # the one setting that matters here


@dataclass(frozen=True, slots=True)
class Piece:
    """Some payload of a data frame, as a slice of what was fed. `end`: it is the frame's last, `fin` counts then."""

    stream: int
    data: Data
    end: bool
    fin: bool


@dataclass(frozen=True, slots=True)
class Control:
    """A whole control frame. `kind` may be unknown."""

    kind: int
    flags: int
    body: bytes


class Splitter:
    """Bytes in, frames out. Keeps incomplete heads and control frames only, never payload: at most `longest` bytes."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._part = bytearray()
        self._need = HEAD.size
        self._control: tuple[int, int] | None = None  # kind and flags of the control frame whose body comes
        self._stream = 0
        self._left = 0  # payload of the data frame at hand
        self._fin = False

    @property
    def kept(self) -> int:
        """Bytes that wait here for the rest of their frame."""
        return len(self._part)

    def feed(self, data: Data) -> Iterator[Piece | Control]:
        """All frames and pieces of frames in `data`. Raises SpdyError."""
        view = memoryview(data)
        at, end = 0, len(view)
        while at < end:
            if self._left:
                piece = view[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                last = not self._left
                yield Piece(self._stream, piece, last, last and self._fin)
                continue
            taken = view[at : at + self._need - len(self._part)]
            at += len(taken)
            if self._part or len(taken) < self._need:
                self._part += taken
                if len(self._part) < self._need:
                    return
                taken = memoryview(bytes(self._part))
                self._part.clear()
            frame = self._body(taken) if self._control else self._head(taken)
            if frame:
                yield frame

    def _head(self, head: memoryview) -> Piece | Control | None:
        first, second = HEAD.unpack(head)
        flags, length = second >> 24, second & LONGEST_DATA
        if not first & CONTROL:
            self._stream, self._left, self._fin = first, length, bool(flags & FIN)
            return None if length else Piece(first, b"", True, self._fin)
        if (version := first >> 16 & 0x7FFF) != VERSION:
            raise SpdyError(f"a SPDY frame of version {version}, not {VERSION}")
        if length > self._longest:
            raise SpdyError(f"a SPDY control frame of {length} bytes, the limit is {self._longest}")
        self._control, self._need = (first & 0xFFFF, flags), length
        return None if length else self._body(head[:0])

    def _body(self, body: memoryview) -> Control:
        assert self._control
        kind, flags = self._control
        self._control, self._need = None, HEAD.size
        return Control(kind, flags, bytes(body))


def words(frame: Control) -> tuple[int, int]:
    """The two 32-bit fields that RST_STREAM, GOAWAY and WINDOW_UPDATE consist of; the first has 31 bits."""
    if len(frame.body) != WORDS.size:
        raise SpdyError(f"a SPDY {Kind(frame.kind).name} frame of {len(frame.body)} bytes, not {WORDS.size}")
    first, second = WORDS.unpack(frame.body)
    return first & LAST_ID, second


def word(frame: Control) -> tuple[int, bytes]:
    """The 32-bit field at the beginning of a frame, and what follows it."""
    if len(frame.body) < WORD.size:
        raise SpdyError(f"a SPDY {Kind(frame.kind).name} frame of {len(frame.body)} bytes: too short")
    (first,) = WORD.unpack_from(frame.body)
    return first, frame.body[WORD.size :]


def syn_stream_fields(frame: Control) -> tuple[int, bytes]:
    """The stream's number and the header block; nothing here has associated streams, priorities or credentials."""
    if len(frame.body) < SYN_STREAM_HEAD.size:
        raise SpdyError(f"a SPDY SYN_STREAM frame of {len(frame.body)} bytes: too short")
    stream, _associated, _priority, _slot = SYN_STREAM_HEAD.unpack_from(frame.body)
    return stream & LAST_ID, frame.body[SYN_STREAM_HEAD.size :]


def settings_fields(frame: Control) -> list[tuple[int, int]]:
    """Settings as (id, value), as many as the frame has room for and says it has. Raises SpdyError."""
    count, entries = word(frame)
    if count * WORDS.size != len(entries):
        raise SpdyError(f"a SPDY SETTINGS frame with {len(entries)} bytes for {count} settings")
    return [(first & LONGEST_DATA, value) for first, value in WORDS.iter_unpack(entries)]


def data_head(stream: int, length: int, fin: bool) -> bytes:
    """What precedes `length` bytes of payload."""
    return HEAD.pack(stream, (FIN << 24 if fin else 0) | length)


def control(kind: int, body: bytes, flags: int = 0) -> bytes:
    """A control frame."""
    return HEAD.pack(CONTROL | VERSION << 16 | kind, flags << 24 | len(body)) + body


def syn_stream(stream: int, block: bytes, fin: bool) -> bytes:
    """A new stream of highest priority, for itself."""
    return control(Kind.SYN_STREAM, SYN_STREAM_HEAD.pack(stream, 0, 0, 0) + block, FIN if fin else 0)


def with_block(kind: Kind, stream: int, block: bytes, fin: bool) -> bytes:
    """SYN_REPLY or HEADERS."""
    return control(kind, WORD.pack(stream) + block, FIN if fin else 0)


def rst_stream(stream: int, status: int) -> bytes:
    """The end of a stream, both ways and at once. Go's reader takes no status 0."""
    return control(Kind.RST_STREAM, WORDS.pack(stream, status))


def settings(entries: list[tuple[int, int]]) -> bytes:
    """Settings as (id, value)."""
    return control(Kind.SETTINGS, WORD.pack(len(entries)) + b"".join(WORDS.pack(*entry) for entry in entries))


def ping(number: int) -> bytes:
    """A ping, or the answer to one."""
    return control(Kind.PING, WORD.pack(number))


def goaway(last: int, status: int) -> bytes:
    """No stream after `last` will be looked at."""
    return control(Kind.GOAWAY, WORDS.pack(last, status))


def window_update(stream: int, count: int) -> bytes:
    """The peer may send `count` bytes more; stream 0 is the session."""
    return control(Kind.WINDOW_UPDATE, WORDS.pack(stream, count))
