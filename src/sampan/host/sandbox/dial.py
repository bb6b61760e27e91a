"""TCP connections to a port of a pod: the port `Dialer`.

A socket stays in the network namespace that it was made in. So a thread of its own enters the pod's namespace, makes
the sockets and ends; the event loop connects them. No thread of a pool ever sees a pod's namespace.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sampan.host.descriptors import Reader, Writer
from sampan.host.sandbox import netns as namespaces
from sampan.model.errors import Invalid, NotFound, Unavailable
from sampan.runtime.stream_ports import Connection
from sampan.tasks import finish

SECONDS = 10.0  # for one address to answer
_ENTERING = 16  # threads at once
# Loopback by number: a pod's resolver has no say in where we connect to.
_ADDRESSES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class PodDialer:
    """Connects to the loopback of a pod's network namespace."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._entering = asyncio.Semaphore(_ENTERING)

    async def dial(self, netns: str, port: int) -> Connection:
        """Connect to `port` in the namespace pinned at `netns` ("": the host's), by IPv4, then IPv6. Invalid for no
        port, NotFound if the namespace is gone, Unavailable, saying what was tried, if nobody answers."""
        if not 0 < port < 1 << 16:
            raise Invalid(f"there is no port {port}: from 1 to 65535")
        made: list[socket.socket | OSError] = []
        try:
            await self._make(netns, made)
            return await self._first(made, port)
        finally:
            for each in made:  # the one that a connection has taken over is closed by that
                if isinstance(each, socket.socket):
                    each.close()

    async def _make(self, netns: str, made: list[socket.socket | OSError]) -> None:
        """A socket for each address in `made`, or why there is none."""

        def make() -> None:
            for family, _ in _ADDRESSES:
                try:
                    made.append(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
                except OSError as error:  # a node without IPv6
                    made.append(error)

        if not netns:
            make()
            return
        async with self._entering:
            await finish(_inside(netns, make))  # a caller that is cancelled closes what the thread has made

    async def _first(self, made: list[socket.socket | OSError], port: int) -> Connection:
        tried = []
        for at, (_, address) in enumerate(_ADDRESSES):
            each = made[at]
            try:
                if isinstance(each, OSError):
                    raise each
                await self._connect(each, (address, port))
                return TcpConnection(each)
            except OSError as error:  # TimeoutError among them
                tried.append(f"{address}: {_words(error)}")
        raise Unavailable(f"cannot connect to port {port} in the pod: {'; '.join(tried)}")

    async def _connect(self, each: socket.socket, to: tuple[str, int]) -> None:
        async with asyncio.timeout(self._seconds):
            await asyncio.get_running_loop().sock_connect(each, to)
        if each.getsockname()[:2] == each.getpeername()[:2]:
            # nobody listened, and the kernel had given the socket the very port that it connected to
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody but ourselves")
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _inside(netns: str, work: Callable[[], None]) -> None:
    try:
        await namespaces.inside(Path(netns), "net", work)
    except NotFound as error:
        raise NotFound(f"the pod's network namespace is gone: {error}") from error
    except OSError as error:
        raise Unavailable(f"cannot enter the pod's network namespace {netns}: {error}") from error


def _words(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else "no answer in time"


class TcpConnection:
    """A connected socket, which it owns from now on; who has it closes it."""

    def __init__(self, connected: socket.socket) -> None:
        descriptor = os.dup(connected.fileno())
        self.sink = Writer(descriptor, end=partial(_half_close, descriptor))
        self.source = Reader(connected.detach())

    async def close(self) -> None:
        """Give it up. What was written still arrives: the kernel resets a connection that is closed with bytes unread,
        and throws away what it has not sent, so they are read first. Idempotent."""
        await self.sink.end()
        self.source.expire()
        try:
            while await self.source.read():
                pass
        finally:
            self.source.close()


def _half_close(descriptor: int) -> None:
    """shutdown(2), which Python has only for sockets."""
    connected = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
    try:
        connected.shutdown(socket.SHUT_WR)
    finally:
        connected.detach()
