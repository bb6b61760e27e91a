"""A client beside a container: what it reads, what it writes, and when that is over.

conmon waits for a client that does not read, and the container and its log wait with it. So what it says is read at
once, up to HELD bytes of it. From there on the client sets the pace, as a terminal would, and one that takes nothing
for PATIENCE seconds is detached. Nothing is ever left out of what a client reads.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress

from sampan.host.oci import monitor
from sampan.host.oci.attach_connections import Container, packets, room
from sampan.model.errors import Exhausted
from sampan.runtime.stream_ports import Data, Sink, Source
from sampan.wire import conmon
from sampan.wire.remotecommand.channels import Wanted

HELD = 1 << 20  # bytes of output that may wait for a client
LAST_HELD = (
    4 << 20
)  # once the container's init is dead: more than its pipes hold, so that its end waits for nobody
PATIENCE = 5.0  # seconds for a client to take anything, while the container waits for it
PARTING_SECONDS = 0.25  # for output that the last input has caused
_CHUNK = 128 << 10  # bytes of one `read`
_SIZE_PAUSE = 0.02  # seconds until conmon may have read the terminal's last size


class Session:
    """A client beside a container: `Running`."""

    def __init__(self, container: Container, connection: socket.socket, wanted: Wanted) -> None:
        self._container = container
        self._connection = connection
        self._wanted = wanted
        self._loop = asyncio.get_running_loop()
        out = {conmon.ATTACH_STDOUT: wanted.stdout, conmon.ATTACH_STDERR: wanted.stderr and not wanted.tty}
        self._outputs = {stream: _Output(self._taken) for stream, asked in out.items() if asked}
        self._input = _Input(container, connection, self._part) if wanted.stdin else None
        self.stdin: Sink | None = self._input
        self.stdout: Source | None = self._outputs.get(conmon.ATTACH_STDOUT)
        self.stderr: Source | None = self._outputs.get(conmon.ATTACH_STDERR)
        self._ended = asyncio.Event()
        self._failure = ""
        self._over = False  # conmon has closed its side
        self._size = (0, 0)
        self._teller: asyncio.TimerHandle | None = None
        self._parting: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None  # runs while nothing is read from conmon
        self._limit = HELD
        self._init = -1  # a pidfd, while nothing is read from conmon
        self._loop.add_reader(connection, self._readable)

    # --- output ---

    def _readable(self) -> None:
        for count in packets(self._connection):
            if not count:
                self._over = True
                self.leave()
                return
            output = self._outputs.get(room[0])
            if output is not None:
                output.held += room[1:count]
        for output in self._outputs.values():
            output.wake()
        if self._held() >= self._limit:
            self._hold_up()

    def _held(self) -> int:
        return sum(len(output.held) for output in self._outputs.values())

    def _hold_up(self) -> None:
        """Read no more until the client does, or the container's init has died."""
        self._loop.remove_reader(self._connection)
        self._patience = self._loop.call_later(PATIENCE, self._too_slow)
        if self._limit == HELD and self._init < 0:
            with suppress(OSError, ValueError):  # it is dead, and conmon about to say so
                self._init = os.pidfd_open(int((self._container.bundle / conmon.INIT_PID_FILE).read_bytes()))
                self._loop.add_reader(self._init, self._died)

    def _died(self) -> None:
        self._limit = LAST_HELD
        self._unwatch()
        self._go_on()

    def _unwatch(self) -> None:
        if self._init >= 0:
            self._loop.remove_reader(self._init)
            os.close(self._init)
            self._init = -1

    def _go_on(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
            self._loop.add_reader(self._connection, self._readable)

    def _taken(self) -> None:
        """The client has read something."""
        if self._patience is None:
            return
        if self._held() <= self._limit // 2:
            self._unwatch()
            self._go_on()
        else:
            self._patience.cancel()
            self._patience = self._loop.call_later(PATIENCE, self._too_slow)

    def _too_slow(self) -> None:
        who = f"the client attached to container {self._container.id}"
        waits = f"took nothing of {self._held()} bytes of output within {PATIENCE:g} s"
        self._failure = (
            f"{who} {waits}: it is detached, so that the container can go on; its log has all of it"
        )
        for output in self._outputs.values():
            output.held.clear()
        self.leave()

    # --- the end ---

    async def exited(self) -> int:
        await self._ended.wait()
        if self._failure:
            raise Exhausted(self._failure)
        return 0

    def _part(self) -> None:
        """The client's input has ended and the container's goes on: as with every runtime, the session is over."""
        self._parting = self._parting or self._loop.call_later(PARTING_SECONDS, self.leave)

    def leave(self) -> None:
        """The session is over; what has been read from conmon by now may still be read from us. Idempotent.

        If the client could send input to a container whose stdin ends with that, it does."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._loop.remove_reader(self._connection)
        for timer in (self._teller, self._parting, self._patience):
            if timer is not None:
                timer.cancel()
        self._patience = None
        self._unwatch()
        for output in self._outputs.values():
            output.over = True
            output.wake()
        if self._input is not None:
            self._input.close()
            if self._container.once and self._container.takes_input:
                self._container.end_input(self._connection)
        self._container.leave(self._connection, over=self._over)

    # --- the terminal ---

    async def resize(self, width: int, height: int) -> None:
        if self._wanted.tty and width > 0 and height > 0:
            self._size = (width, height)
            if self._teller is None:
                self._tell_size()

    def _tell_size(self) -> None:
        """Tell conmon the newest size, once it has read the one before: here, not in a thread, so that nothing comes
        between looking and writing."""
        self._teller = None
        if not self._ended.is_set() and not monitor.resize(self._container.bundle, *self._size):
            self._teller = self._loop.call_later(_SIZE_PAUSE, self._tell_size)


class _Output:
    """What the container has said on one stream and the client has not read yet."""

    def __init__(self, taken: Callable[[], None]) -> None:
        self.held = bytearray()
        self.over = False
        self._taken = taken
        self._waiting: asyncio.Future[None] | None = None

    async def read(self) -> bytes:
        while not self.held:
            if self.over:
                return b""
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        if len(self.held) <= _CHUNK:
            data = bytes(self.held)
            self.held.clear()
        else:
            with memoryview(self.held) as held:
                data = bytes(held[:_CHUNK])
            del self.held[:_CHUNK]
        self._taken()
        return data

    def wake(self) -> None:
        if (self.held or self.over) and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class _Input:
    """The container's stdin, or nothing at all where it has none or it has ended."""

    def __init__(self, container: Container, connection: socket.socket, part: Callable[[], None]) -> None:
        self._container = container
        self._connection = connection
        self._part = part
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None
        self._closed = False  # the client has no more
        self._left = False
        container.stuck.add(self.wake)

    async def write(self, data: Data) -> None:
        rest = memoryview(data)
        while len(rest):
            if self._closed or not self._container.takes_input:
                raise BrokenPipeError(f"the stdin of container {self._container.id} takes nothing (any more)")
            try:
                count = self._connection.send(rest[: conmon.ATTACH_INPUT])
            except BlockingIOError:
                await self._room()
                continue
            except OSError as error:
                raise BrokenPipeError(f"conmon of container {self._container.id} is gone") from error
            rest = rest[count:]

    async def _room(self) -> None:
        self._waiting = self._loop.create_future()
        self._loop.add_writer(self._connection, self.wake)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if not self._left:
                self._loop.remove_writer(self._connection)

    async def end(self) -> None:
        if self._closed or not self._container.takes_input:
            return
        self._closed = True
        if self._container.once:
            self._container.end_input(self._connection)
        else:
            self._part()

    def wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def close(self) -> None:
        """The session is over, and somebody else's the connection: at once, not when who waits here has woken."""
        self._closed = self._left = True
        self._container.stuck.discard(self.wake)
        self._loop.remove_writer(self._connection)
        self.wake()
