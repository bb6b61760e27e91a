"""The address that sessions are served at: connections, their requests' heads, tokens; nothing of what a session says.

Whoever can reach it may try. What a stranger gets is a 404 and a closed connection; what strangers can fill up together
is bounded apart from those that have a session.
"""

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sampan.config import Streaming
from sampan.model.errors import Unavailable
from sampan.runtime.streaming import KINDS, Operation
from sampan.server.streaming.connection import Hangups, Wire
from sampan.server.streaming.tls import Certificates
from sampan.server.streaming.tokens import Tokens
from sampan.tasks import Tasks
from sampan.wire.upgrade import Head, HeadReader, Refused

log = logging.getLogger("sampan.streaming")

SESSIONS = 1536  # open at once
HALF_OPEN = 512  # connections without a session, not yet or refused; with more the oldest is closed
HEAD_SECONDS = 10.0  # for a client to say it, TLS included
REFUSED_SECONDS = 2.0  # for a client to take an answer that ends its connection
PAUSE_SECONDS = 0.1  # before the next accept, where there is no descriptor left
STOP_SECONDS = 3.0  # for sessions to end when the daemon does
RETRY_AFTER = (("retry-after", "60"),)

Serve = Callable[[Wire, Head, Operation], Awaitable[None]]
"""Serve one operation on a connection that ends with it. Raises Refused before it answered the request."""


class Listener:
    """One address, from `open` to `close`."""

    def __init__(self, streaming: Streaming, tokens: Tokens, serve: Serve) -> None:
        self._streaming = streaming
        self._tokens = tokens
        self._serve = serve
        self._certificates = Certificates(streaming)
        self._tasks = Tasks()
        self._half_open: dict[int, asyncio.Task[None]] = {}  # the oldest first
        self._sessions = 0
        self._number = 0
        self._base = ""

    async def open(self) -> None:
        """Raises Unavailable, saying what stands in the way: the address, the port, the certificate."""
        context = await self._certificates.context()
        self._socket = _bound(self._streaming.address, self._streaming.port)
        self._hangups = Hangups()
        host, port = self._socket.getsockname()[:2]
        self._base = f"{'https' if context else 'http'}://{_in_url(host)}:{port}"
        self._tasks.start("streaming listener", self._accept())
        log.info("sessions are served at %s", self._base)

    def url(self, operation: Operation) -> str:
        """Where a client has this operation, once. What is before the token was fixed when the daemon started. Raises
        Exhausted."""
        return f"{self._base}/{operation.kind}/{self._tokens.issue(operation)}"

    async def close(self) -> None:
        """End every session, orderly where its client plays along."""
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._tasks.stop()
        self._hangups.close()
        self._socket.close()

    # --- connections ------------------------------------------------------------------------------------------

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._socket)
            except OSError as error:
                log.debug("a connection could not be taken: %s", error)
                if error.errno != errno.ECONNABORTED:  # no descriptor is left, or no memory
                    self._drop_oldest()
                    await asyncio.sleep(PAUSE_SECONDS)
                continue
            if len(self._half_open) >= HALF_OPEN:
                self._drop_oldest()
            self._number += 1
            work = self._connection(connection, self._number)
            self._half_open[self._number] = self._tasks.start("streaming connection", work)
            await asyncio.sleep(0)  # it begins; and others have their turn

    def _drop_oldest(self) -> None:
        if self._half_open:
            self._half_open.pop(next(iter(self._half_open))).cancel()

    async def _connection(self, connection: socket.socket, number: int) -> None:
        wire = Wire(self._hangups, self._streaming.idle_timeout)
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                await self._connect(wire, connection)
                head = await _head(wire)
            operation = self._operation(head)
            self._half_open.pop(number, None)
            await self._have(wire, head, operation)
        except Refused as refused:
            wire.write([refused.response()])
            await wire.close(REFUSED_SECONDS, REFUSED_SECONDS)
        except (TimeoutError, OSError) as error:  # ssl.SSLError is one
            log.debug("a connection came to nothing: %s", error or "no request within the time for it")
        finally:
            self._half_open.pop(number, None)  # one that is refused is among them to its end
            wire.abort()

    async def _connect(self, wire: Wire, connection: socket.socket) -> None:
        try:
            context = await self._certificates.context()
        except BaseException:
            connection.close()
            raise
        loop = asyncio.get_running_loop()  # from here on the socket is its
        await loop.connect_accepted_socket(lambda: wire, connection, ssl=context)

    def _operation(self, head: Head) -> Operation:
        if self._sessions >= SESSIONS:
            raise Refused(429, f"{SESSIONS} sessions are open, which is all there may be", RETRY_AFTER)
        kind, _, token = head.path.removeprefix("/").partition("/")
        operation = self._tokens.take(token, kind) if kind in KINDS else None
        if operation is None:
            raise Refused(404, "there is no such session: its address works once, within a minute")
        return operation

    async def _have(self, wire: Wire, head: Head, operation: Operation) -> None:
        self._sessions += 1
        try:
            await self._serve(wire, head, operation)
        finally:
            self._sessions -= 1


async def _head(wire: Wire) -> Head:
    reader = HeadReader()
    while (head := reader.receive(await wire.receive())) is None:
        pass
    wire.unread(head.rest)
    return head


def _bound(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"cannot serve sessions at {_in_brackets(address)}:{port}: {error.strerror};"
            " see streaming.address and streaming.port in the configuration"
        ) from error
    return listener


def _in_url(host: str) -> str:
    """A host that a client on this machine reaches. Who listens on every address is found on the loopback."""
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    return _in_brackets(host)


def _in_brackets(host: str) -> str:
    return f"[{host}]" if ":" in host else host
