"""Bytes through descriptors that never block: pipes, terminals and sockets as the `Source` and `Sink` of sessions.

Reading and writing happen in the caller's task, at once where they can: the event loop is asked only while there is
nothing to read or no room to write, so what nobody reads stays where it is and holds up who writes it.
"""

import asyncio
import errno
import fcntl
import os
import sys
import termios
from collections.abc import Callable
from contextlib import suppress

_CHUNK, _BIG_CHUNK = 64 << 10, 256 << 10  # bytes of a read, at first and of a stream that fills them
_TURNS = 4  # reads that find something at once, before the rest of the loop has its turn
_BULK = 1 << 20  # bytes after which a stream is worth a wider pipe
_WIDE = 1 << 20  # bytes that a wide pipe takes: all that anybody may have (pipe-max-size)
_TERMINAL = 64 << 10  # bytes, more than are ever on their way through a terminal
# Pipes that may still be widened: root's pipes, its containers' too, share the 64 MiB of pipe-user-pages-soft.
_wide_left = 16


class _Descriptor:
    """A descriptor that is ours, waited for by one task at a time and closed once."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None
        self._passed = 0
        self._widened = False

    @property
    def fd(self) -> int:
        """Its number, for what is neither reading nor writing; -1 once it is closed."""
        return self._fd

    def close(self) -> None:
        """Let go of it; a task that waits for it is woken. Idempotent."""
        global _wide_left
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)
        os.close(fd)
        _wide_left += self._widened
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _until(
        self, add: Callable[[int, Callable[[], None]], None], remove: Callable[[int], bool]
    ) -> None:
        self._waiting = self._loop.create_future()
        add(self._fd, self._wake)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if self._fd >= 0:
                remove(self._fd)

    def _count(self, count: int) -> None:
        before, self._passed = self._passed, self._passed + count
        if before < _BULK <= self._passed and _wide_left > 0:
            self._widen()

    def _widen(self) -> None:
        global _wide_left
        with suppress(OSError):  # no pipe, or one that may not grow: it goes on as it is
            if fcntl.fcntl(self._fd, fcntl.F_GETPIPE_SZ) < _WIDE:
                fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, _WIDE)
                self._widened = True
                _wide_left -= 1


class Reader(_Descriptor):
    """The `Source` of a descriptor, which it owns from now on and closes by itself at the end."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._chunk = _CHUNK
        self._turn = 0
        self._left: int | None = None  # bytes until the end that `expire` has set

    async def read(self) -> bytes:
        """What is there now; b"" at the end, after `close`, and once the other side has failed. Being cancelled loses
        nothing."""
        if self._turn == _TURNS:
            self._turn = 0
            await asyncio.sleep(0)
        while self._fd >= 0:
            try:
                data = self._now(self._chunk if self._left is None else min(self._chunk, self._left))
            except BlockingIOError:
                if self._left is not None:
                    break
                self._turn = 0
                await self._until(self._loop.add_reader, self._loop.remove_reader)
                continue
            except OSError:  # EIO: nobody has the terminal open any more; ECONNRESET and others of a socket
                break
            if not data:
                break
            self._took(len(data))
            return data
        self.close()
        return b""

    def _now(self, limit: int) -> bytes:
        """What is there now. Raises OSError."""
        try:
            return os.read(self._fd, limit)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        # The kernel looks whether a terminal has something to read, and then whether it has been closed: what was
        # written between the two is still there (drivers/tty/n_tty.c, n_tty_read).
        return os.read(self._fd, limit)

    def _took(self, count: int) -> None:
        self._turn += 1
        if count == self._chunk:
            self._chunk = _BIG_CHUNK
        if self._left is not None:
            self._left -= count
        self._count(count)

    def expire(self) -> None:
        """Set the end after what is there now, whoever else holds the other side of this pipe or socket and goes on
        writing."""
        if self._fd >= 0:
            room = fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4))
            # a terminal does not count what is on its way between its two sides
            self._left = _TERMINAL if os.isatty(self._fd) else int.from_bytes(room, sys.byteorder)
            self._wake()


class Writer(_Descriptor):
    """The `Sink` of a descriptor, which it owns from now on; a `Reader` of the same thing has a duplicate (os.dup).

    `end` is what tells the other side that no more comes where closing one of two descriptors does not: a socket's
    shutdown. An OSError of it is no matter.
    """

    def __init__(self, fd: int, end: Callable[[], object] | None = None) -> None:
        super().__init__(fd)
        self._end = end

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """All of `data`, waiting while there is no room. BrokenPipeError once nobody reads, and after `end`."""
        rest = memoryview(data)
        while len(rest):
            if self._fd < 0:
                raise BrokenPipeError("what is written to has been closed")
            try:
                count = os.write(self._fd, rest)
            except BlockingIOError:
                await self._until(self._loop.add_writer, self._loop.remove_writer)
                continue
            except OSError as error:
                self.close()
                raise BrokenPipeError(f"nobody reads any more: {error.strerror}") from error
            rest = rest[count:]
            self._count(count)

    async def end(self) -> None:
        """No more comes. Idempotent."""
        if self._fd >= 0 and self._end is not None:
            with suppress(OSError):
                self._end()
        self.close()
