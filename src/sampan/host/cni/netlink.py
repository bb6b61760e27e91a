"""A netlink socket and the encoding of its messages: attributes, requests, dumps, kernel errors as OSError.

Knows no message in particular; `links` and `nftables` do. Written here because the library for it costs 13
MiB of resident memory, a quarter of the daemon, for a dozen message types. Sources: man 7 netlink, RFC
3549.
"""

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType

ROUTE = 0
NETFILTER = 12

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
EXCL, CREATE, APPEND = 0x200, 0x400, 0x800
NESTED = 0x8000

_ERROR, _DONE = 2, 3
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _GET_STRICT_CHK = 270, 10, 11, 12
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ACK_TLVS = 0x200  # NLM_F_ACK_TLVS: words of the kernel follow the error
_SNDBUFFORCE, _RCVBUFFORCE, _BATCH_BUFFER = 32, 33, 4 << 20
_RECEIVE = 1 << 18  # bytes; a dump comes in datagrams of up to 32 KiB
_SECONDS = 10  # the kernel answers at once; a wait this long is a bug that must not hang a pod

Attributes = dict[int, bytes]


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(len(data) + 4, kind) + data + bytes(-len(data) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=B", value))


def attributes(data: bytes) -> Attributes:
    """The attributes in `data` by kind, the last of each."""
    return dict(each_attribute(data))


def each_attribute(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in order, for lists that repeat one kind."""
    offset = 0
    while offset + 4 <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + size]
        offset += size + (-size % 4)


class Netlink:
    """One netlink socket; opened in the namespace of the calling thread, where it stays. Not for sharing."""

    def __init__(self, protocol: int = ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self._sequence = 0
        try:
            self._socket.bind((0, 0))
            for option in (_CAP_ACK, _EXT_ACK) + ((_GET_STRICT_CHK,) if protocol == ROUTE else ()):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            if protocol == NETFILTER:
                for option in (_SNDBUFFORCE, _RCVBUFFORCE):
                    self._socket.setsockopt(socket.SOL_SOCKET, option, _BATCH_BUFFER)
            seconds = struct.pack("@ll", _SECONDS, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> "Netlink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def request(self, kind: int, payload: bytes, flags: int = 0, what: str = "") -> list[bytes]:
        """Send one request and read to its acknowledgement; the answers' payloads. OSError names `what`."""
        self._sequence += 1
        self._socket.send(_message(kind, flags | ACK, payload, self._sequence))
        answers: list[bytes] = []
        while True:
            for sequence, answer_kind, answer_flags, answer in _messages(self._socket.recv(_RECEIVE)):
                if sequence != self._sequence:
                    continue
                if answer_kind in (_ERROR, _DONE):
                    _raise(answer, answer_flags, what)
                    if answer_kind == _DONE or flags & DUMP != DUMP:
                        return answers
                else:
                    answers.append(answer)

    def batch(self, messages: Sequence[tuple[int, int, bytes]], what: str = "") -> None:
        """Send messages (kind, flags, payload) that take effect all or none; raises the first error.

        The kernel is done when `send` returns. It reports every failure, and success where ACK asks for it,
        which should be once: answers beyond the socket's buffer are lost.
        """
        self._sequence += 1
        self._socket.send(b"".join(_message(*message, self._sequence) for message in messages))
        while True:
            try:
                data = self._socket.recv(_RECEIVE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            for sequence, kind, flags, answer in _messages(data):
                if kind == _ERROR and sequence == self._sequence:
                    _raise(answer, flags, what)


def _message(kind: int, flags: int, payload: bytes, sequence: int) -> bytes:
    size = _HEADER.size + len(payload)
    return _HEADER.pack(size, kind, flags | REQUEST, sequence, 0) + payload + bytes(-size % 4)


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        size, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if size < _HEADER.size:
            return
        yield sequence, kind, flags, data[offset + _HEADER.size : offset + size]
        offset += size + (-size % 4)


def _raise(answer: bytes, flags: int, what: str) -> None:
    (number,) = struct.unpack_from("=i", answer) if len(answer) >= 4 else (0,)
    if number == 0:
        return
    reason = os.strerror(-number)
    # with CAP_ACK an error repeats the request's header only; what the kernel says follows that
    if flags & _ACK_TLVS:
        words = attributes(answer[4 + _HEADER.size :]).get(1, b"").rstrip(b"\0").decode(errors="replace")
        reason = f"{reason} ({words})" if words else reason
    raise OSError(-number, reason, what)
