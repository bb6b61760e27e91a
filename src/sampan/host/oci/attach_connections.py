"""Connections to the conmon of one container, by the socket it serves for clients.

One that is closed stays open in conmon until the container says something, and where stdin ends with its first client,
any closing ends it. So a connection outlives its client: the next one gets it.

conmon tries without a pause and for ever, on a core of its own, to pass on input to a container that has closed its
stdin. So whether anybody reads that is watched. Source: conmon 2.1.6 to 2.2.1, src/conn_sock.c; unix(7).
"""

import asyncio
import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from sampan.host.oci import monitor
from sampan.host.threads import in_thread
from sampan.model.errors import NotFound
from sampan.model.process import ProcessRef
from sampan.tasks import bounded
from sampan.wire import conmon

CONNECT_SECONDS = 15.0  # conmon accepts nobody while it waits for a client; ten may queue
_TURN = 32  # packets taken before the rest of the loop has its turn

room = memoryview(bytearray(conmon.ATTACH_OUTPUT))  # for the packet at hand, which is used up at once


class Container:
    """A container that somebody is or was attached to: its connections, and whether its stdin still takes anything."""

    def __init__(
        self,
        id: str,
        bundle: Path,
        watched: tuple[ProcessRef, list[bytes]],
        forget: Callable[[], object],
    ) -> None:
        """`watched` is its conmon: `monitor.command_line`."""
        self._conmon, words = watched
        input = conmon.input_of(words)
        self.id = id
        self.bundle = bundle
        self.once = input.once
        self.takes_input = input.taken
        self.stuck: set[Callable[[], None]] = set()
        self._loop = asyncio.get_running_loop()
        self._forget = forget
        self._open = 0  # connections, and attempts at one
        self._idle: list[socket.socket] = []
        self._where: Path | None = None  # the container's stdin can be opened
        self._pipe = -1  # that: for writing, which tells whether anybody reads; then for reading

    async def connect(self) -> socket.socket:
        """A connection for a new client, with nothing in it that was said before. NotFound, Unavailable."""
        self._open += 1
        while self._idle:
            connection = self._idle.pop()
            self._loop.remove_reader(connection)
            if _is_quiet(connection, discard=self.once):
                self._open -= 1  # it was counted when it was made
                return connection
            self._close(connection)
        try:
            return await self._new()
        except BaseException:
            self._closed()
            raise

    async def _new(self) -> socket.socket:
        pause = 0.001
        async with bounded(CONNECT_SECONDS, f"attaching to container {self.id}, whose conmon is busy,"):
            while True:
                try:
                    return _connect(self.bundle)
                except BlockingIOError:  # its queue is full, and nothing tells when it is not
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 0.1)
                except (FileNotFoundError, ConnectionRefusedError) as error:
                    ended = f"container {self.id} has just ended: its conmon takes no client any more"
                    raise NotFound(ended) from error

    def leave(self, connection: socket.socket, *, over: bool) -> None:
        """The client of `connection` is gone; `over` if so is conmon."""
        if over:
            self._close(connection)
            return
        self._idle.append(connection)
        self._loop.add_reader(connection, self._stirred, connection)

    def _stirred(self, connection: socket.socket) -> None:
        """Something was said to nobody. Where closing does no harm, that is when conmon sees it at once."""
        if not _is_quiet(connection, discard=self.once):
            self._idle.remove(connection)
            self._loop.remove_reader(connection)
            self._close(connection)

    async def watch_input(self) -> None:
        """Before anything is sent: know from now on when the container has closed its stdin."""
        pipe = await in_thread(monitor.input_pipe, self._conmon) if self.takes_input else None
        if pipe is None or self._pipe >= 0 or not self.takes_input:
            return
        self._where = pipe
        with suppress(OSError):  # conmon has just gone
            self._pipe = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._loop.add_reader(self._pipe, self._nobody_reads)  # all that this end can tell
            if _is_broken(self._pipe):
                self._nobody_reads()

    def _nobody_reads(self) -> None:
        """The container has closed its stdin: take what conmon still has for it, and send it no more."""
        self._no_input()
        if self._pipe >= 0:
            self._loop.add_reader(self._pipe, self._discard_input)

    def _discard_input(self) -> None:
        with suppress(BlockingIOError):
            if not os.readv(self._pipe, [room]):
                self._unwatch()

    def _no_input(self) -> None:
        """Send no more. From now on we have the pipe open for reading, so that conmon never meets one that nobody
        has, and the container its end."""
        self.takes_input = False
        self._unwatch()
        if self._where is not None:
            with suppress(OSError):
                self._pipe = os.open(self._where, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        for wake in self.stuck:
            wake()

    def _unwatch(self) -> None:
        if self._pipe >= 0:
            self._loop.remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = -1

    def end_input(self, connection: socket.socket) -> None:
        """The container's stdin ends, as soon as conmon has passed on what was sent before."""
        self._no_input()
        with suppress(OSError):
            connection.shutdown(socket.SHUT_WR)

    def _close(self, connection: socket.socket) -> None:
        connection.close()
        self._closed()

    def _closed(self) -> None:
        self._open -= 1
        if not self._open:
            self._unwatch()
            self._forget()

    def drop(self) -> None:
        while self._idle:
            connection = self._idle.pop()
            self._loop.remove_reader(connection)
            self._close(connection)


def _connect(bundle: Path) -> socket.socket:
    """A new connection. It never waits: BlockingIOError while conmon has too many to accept. The bundle's path may be
    longer than a socket's may be, so it goes by a descriptor."""
    directory = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        connection.connect(f"/proc/self/fd/{directory}/{conmon.ATTACH}")
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(directory)
    return connection


def _is_broken(pipe: int) -> bool:
    poll = select.poll()
    poll.register(pipe, 0)
    return bool(poll.poll(0))


def packets(connection: socket.socket) -> Iterator[int]:
    """Take a turn's packets, one by one into `room`: their lengths, 0 for conmon's end."""
    for _ in range(_TURN):
        try:
            count = connection.recv_into(room)
        except BlockingIOError:
            return
        except ConnectionResetError:  # it has not read all input; said once, its output is still to come
            continue
        yield count
        if not count:
            return


def _is_quiet(connection: socket.socket, *, discard: bool) -> bool:
    """Whether conmon is there and has said nothing, or it is discarded. More than a turn's is no matter where somebody
    waits for more."""
    return all(count and discard for count in packets(connection))
