"""The one place where sessions meet a socket: bytes in, bytes out, each at the pace of the slower side.

It knows no protocol. It works the same over TLS. What it promises: nothing is read that nobody wants yet, no more than
`BUFFERED` and one write wait to be sent, and what was written before `close` arrives before the end does.
"""

import asyncio
import fcntl
import os
import select
import socket
import sys
import termios
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, cast

Data = bytes | memoryview

BUFFERED = 256 << 10  # bytes that wait for a slow client before `drain` waits too
JOINED = 64 << 10  # pieces that are smaller together go in one send
AHEAD = 2  # chunks of up to 256 KiB that are read before somebody asks for them
FLUSH_SECONDS = 30.0  # for a client to take any of the last bytes
LINGER_SECONDS = 2.0  # for a client to see our end and to answer with its own
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6),
)  # a client whose machine is gone is noticed in 90 s


class Hangups:
    """Notices clients that have gone while nothing is read from them.

    The event loop looks at a connection only where somebody reads or writes; a command that does not take its input
    would keep us from ever seeing its client leave."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._told: dict[int, Callable[[], None]] = {}
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._tell)

    def watch(self, descriptor: int, tell: Callable[[], None]) -> None:
        """Call `tell`, once, when the other side of this socket has ended its half or all of it."""
        self._told[descriptor] = tell
        self._epoll.register(descriptor, select.EPOLLRDHUP | select.EPOLLONESHOT)

    def forget(self, descriptor: int) -> None:
        """Before the socket is closed. Idempotent."""
        if self._told.pop(descriptor, None) is not None:
            with suppress(OSError):
                self._epoll.unregister(descriptor)

    def _tell(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            if tell := self._told.get(descriptor):
                tell()

    def close(self) -> None:
        """Idempotent."""
        if not self._epoll.closed:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()


class Wire(asyncio.Protocol):
    """One connection. One task reads, any may write."""

    def __init__(self, hangups: Hangups, idle: float = 0.0) -> None:
        """`idle` are seconds for `until_idle`, 0 for never."""
        self.hung_up = False  # the client has sent its last byte; `receive` still has what came before
        self.closed = asyncio.Event()
        self.idle = idle
        self._hangups = hangups
        self._loop = asyncio.get_running_loop()
        self._touched = self._loop.time()
        self._chunks: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._drained: set[asyncio.Future[None]] = set()
        self._ended = self._reading_paused = self._full = self._dropping = False
        self._descriptor = -1
        self._tell_hang_up: Callable[[], None] | None = None
        self.sent = self.received = 0  # bytes

    # --- what a session calls ---------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """What has come, at least a byte; b"" at the end, however it came about. Not to call it holds the client up."""
        while not self._chunks and not self._ended:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if not self._chunks:
            return b""
        chunk = self._chunks.popleft()
        if self._reading_paused and not self._chunks:
            self._reading_paused = False
            self._transport.resume_reading()
        return chunk

    def unread(self, data: bytes) -> None:
        """Put back what belongs to the next reader."""
        if data:
            self._chunks.appendleft(data)

    def write(self, pieces: Iterable[Data]) -> None:
        """Send these in order; `drain` before the next of them, or a slow client costs memory. After the connection has
        ended nothing happens."""
        pieces = [piece for piece in pieces if piece]
        if not pieces or self.closed.is_set() or self._transport.is_closing():
            return
        self._touched = self._loop.time()
        size = sum(map(len, pieces))
        self.sent += size
        if len(pieces) > 1 and self._plain and not self._transport.get_write_buffer_size():
            pieces = self._left_of(pieces)
        if size <= JOINED and len(pieces) > 1:
            pieces = [b"".join(pieces)]
        for piece in pieces:
            self._transport.write(piece)

    def _left_of(self, pieces: list[Data]) -> list[Data]:
        """What the socket does not take of them at once. A frame's head sent for itself would be a segment of its own,
        which wakes the client for eight bytes; to join the two would copy the payload."""
        try:
            count = os.writev(self._descriptor, pieces)
        except OSError:  # it is full, or broken: the transport finds out
            return pieces
        left: list[Data] = []
        for piece in pieces:
            if count < len(piece):
                left.append(memoryview(piece)[count:])
            count = max(0, count - len(piece))
        return left

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written. ConnectionResetError once it never will."""
        if self._full and not self.closed.is_set():
            waiter = self._loop.create_future()
            self._drained.add(waiter)
            try:
                await waiter
            finally:
                self._drained.discard(waiter)
        if self.closed.is_set():
            raise ConnectionResetError("the client has closed the connection")

    def when_hung_up(self, tell: Callable[[], None]) -> None:
        """Call `tell` as soon as `hung_up` is true, even while nobody receives. Who does not receive for a reason then
        should: what is left is no more than the socket holds, and the end comes after it."""
        self._tell_hang_up = tell
        if self.hung_up:
            tell()

    async def until_idle(self) -> None:
        """Return when nothing has gone either way for `idle` seconds."""
        if not self.idle:
            await asyncio.Event().wait()
        while (left := self._touched + self.idle - self._loop.time()) > 0:  # noqa: ASYNC110 - mostly once
            await asyncio.sleep(left)

    async def close(self, flush: float = FLUSH_SECONDS, linger: float = LINGER_SECONDS) -> None:
        """End the connection when the client has all that was written, or has taken none of it for `flush` seconds.
        Idempotent.

        A socket that is closed while bytes of the client wait in it, or that any come to later, destroys what the
        client has not taken yet (RFC 9112, 9.6): they are read and dropped until the client ends as well, or has
        everything and `linger` seconds to see that."""
        if self.closed.is_set():
            return
        self._drop_input()
        self._transport.set_write_buffer_limits(0)
        try:
            await self._while_taken(self.drain, flush, flush)
            if self._transport.can_write_eof():
                self._transport.write_eof()
            with suppress(TimeoutError):
                await self._while_taken(self._until_ended, linger, flush)
            self._transport.close()
            async with asyncio.timeout(flush):  # TLS still has bytes of its own to send
                await self.closed.wait()
        except (TimeoutError, OSError):
            pass
        finally:
            self.abort()

    async def _while_taken(self, wait: Callable[[], Awaitable[None]], look: float, patience: float) -> None:
        """Wait, and look again while the client takes what was written. TimeoutError once it has all, or has taken
        nothing for so many seconds."""
        left, until = self._untaken(), self._loop.time() + patience
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(look):
                    return await wait()
            before, left = left, self._untaken()
            if left < before:
                until = self._loop.time() + patience
            if not left or self._loop.time() >= until:
                raise TimeoutError

    def _untaken(self) -> int:
        """Bytes that the client's machine has not acknowledged."""
        kernels = 0
        with suppress(OSError):
            kernels = int.from_bytes(fcntl.ioctl(self._descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return self._transport.get_write_buffer_size() + kernels

    async def _until_ended(self) -> None:
        while not self._ended:
            self._waiter = self._loop.create_future()
            await self._waiter

    def abort(self) -> None:
        """End the connection now. Idempotent."""
        if self._descriptor >= 0 and not self.closed.is_set():
            self._transport.abort()

    def _drop_input(self) -> None:
        self._dropping = True
        self._chunks.clear()
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()

    # --- what the event loop calls ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(BUFFERED)
        connection: Any = transport.get_extra_info("socket")
        for level, option, value in _KEEPALIVE:
            connection.setsockopt(level, option, value)
        self._descriptor = connection.fileno()
        self._plain = transport.get_extra_info("sslcontext") is None
        self._hangups.watch(self._descriptor, self._hang_up)

    def data_received(self, data: bytes) -> None:
        self._touched = self._loop.time()
        if self._dropping:
            return
        self.received += len(data)
        self._chunks.append(data)
        if len(self._chunks) >= AHEAD and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """The client has no more to say; ours may still be on its way."""
        self._ended = True
        self._hang_up()
        self._wake()
        return self._transport.can_write_eof()  # TLS has no half-close: it ends here

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._release()

    def connection_lost(self, _: Exception | None) -> None:
        self._ended = True
        self._full = False
        self._hangups.forget(self._descriptor)
        self.closed.set()
        self._hang_up()
        self._wake()
        self._release()

    def _hang_up(self) -> None:
        self.hung_up = True
        if self._tell_hang_up is not None:
            self._tell_hang_up()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _release(self) -> None:
        for waiter in self._drained:
            if not waiter.done():
                waiter.set_result(None)
