"""Clients of exec and attach sessions over real sockets: kubectl's and crictl's part, in SPDY and in WebSocket."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from typing import Protocol
from urllib.parse import urlsplit

from sampan.wire.remotecommand import client as websocket_client
from sampan.wire.remotecommand import over_spdy
from sampan.wire.remotecommand import status as statuses
from sampan.wire.remotecommand.channels import Channel, Data, Wanted
from sampan.wire.remotecommand.status import Status
from sampan.wire.spdy import session as spdy
from sampan.wire.upgrade import Asking, Kind

SECONDS = 20.0


class Talk(Protocol):
    """What both carriers can do; what they hear goes into a `Heard`."""

    def to_send(self) -> list[Data]: ...
    def receive(self, data: bytes) -> None: ...
    def say(self, data: bytes) -> None: ...
    def end(self) -> None: ...
    def resize(self, width: int, height: int) -> None: ...


class Heard:
    """What the server has said."""

    def __init__(self) -> None:
        self.begun = self.left = False
        self.output = {Channel.STDOUT: bytearray(), Channel.STDERR: bytearray()}
        self.kept = True  # else only counted
        self.count = 0
        self.status: Status | None = None

    def take(self, channel: Channel, data: Data) -> None:
        self.count += len(data)
        if self.kept:
            self.output[channel] += data


class OverWebSocket:
    def __init__(self, heard: Heard, target: str, host: str, _: Wanted, protocols: Sequence[str]) -> None:
        self._heard = heard
        self._client = websocket_client.Client(target, host, protocols or websocket_client.PROTOCOLS)
        self.to_send = self._client.to_send
        self.say = self._client.send_input
        self.end = self._client.end_input
        self.resize = self._client.resize

    def receive(self, data: bytes) -> None:
        for event in self._client.receive(data):
            match event:
                case websocket_client.Started():
                    self._heard.begun = True
                case websocket_client.Output(channel, piece):
                    self._heard.take(channel, piece)
                case websocket_client.Finished(status):
                    self._heard.status = status
                case websocket_client.Left():
                    self._heard.left = True


class OverSpdy:
    def __init__(
        self, heard: Heard, target: str, host: str, wanted: Wanted, protocols: Sequence[str]
    ) -> None:
        self._heard = heard
        self._asking: Asking | None = Asking(Kind.SPDY, target, host, protocols or (over_spdy.V4,))
        self._session = spdy.Session(server=False)
        self._session.to_send()  # of windows: spdystream, which crictl and kubectl use, knows none
        self._wanted = wanted
        self._streams: dict[str, int] = {}
        self._last = bytearray()
        self._frames: list[Data] = []

    def to_send(self) -> list[Data]:
        if self._asking:
            return [self._asking.to_send()]
        frames, self._frames = self._frames, []
        return [*self._session.to_send(), *frames]

    def receive(self, data: bytes) -> None:
        if self._asking:
            answer = self._asking.receive(data)
            if answer is None:
                return
            self._asking, data = None, answer.rest
            self._heard.begun = True
            for name in self._names():
                self._streams[name] = self._session.open((("streamtype", name),))
        for event in self._session.receive(data):
            self._take(event)
        self._heard.left |= not data and self._heard.begun

    def _names(self) -> list[str]:
        wanted = self._wanted
        named = {
            "stdin": wanted.stdin,
            "stdout": wanted.stdout,
            "stderr": wanted.stderr,
            "resize": wanted.tty,
        }
        return ["error", *(name for name, there in named.items() if there)]

    def _take(self, event: spdy.Event) -> None:
        if isinstance(event, spdy.Received):
            name = next(name for name, stream in self._streams.items() if stream == event.stream)
            if name == "error":
                self._last += event.data
            else:
                self._heard.take(Channel[name.upper()], event.data)
        if isinstance(event, spdy.Ended) and event.stream == self._streams["error"]:
            self._heard.status = statuses.decode(bytes(self._last)) if self._last else Status()

    def say(self, data: bytes) -> None:
        """Whatever window there is."""
        self._frames += [struct.pack("!II", self._streams["stdin"], len(data)), data]

    def end(self) -> None:
        self._session.send(self._streams["stdin"], fin=True)

    def resize(self, width: int, height: int) -> None:
        self._session.send(self._streams["resize"], b'{"Width":%d,"Height":%d}\n' % (width, height))


CARRIERS: dict[str, Callable[..., Talk]] = {"spdy": OverSpdy, "websocket": OverWebSocket}


class Client:
    """One session as a client has it. What comes is read only in `until` and `finished`."""

    def __init__(self, talk: Talk, heard: Heard) -> None:
        self._talk = talk
        self.heard = heard

    @classmethod
    async def connect(
        cls,
        carrier: str,
        url: str,
        wanted: Wanted,
        *protocols: str,
        tls: ssl.SSLContext | None = None,
    ) -> "Client":
        """Connected, and agreed on a protocol; the streams are asked for. Raises Refused."""
        parts = urlsplit(url)
        heard = Heard()
        client = cls(CARRIERS[carrier](heard, parts.path, parts.netloc, wanted, protocols), heard)
        async with asyncio.timeout(SECONDS):
            client.reader, client.writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=tls)
            try:
                await client.until(lambda: heard.begun)
            except BaseException:
                client.writer.close()
                raise
        await client.flush()
        return client

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def stdout(self) -> bytes:
        return bytes(self.heard.output[Channel.STDOUT])

    @property
    def stderr(self) -> bytes:
        return bytes(self.heard.output[Channel.STDERR])

    def has_said(self, count: int) -> bool:
        return self.heard.count >= count

    async def say(self, data: bytes) -> None:
        self._talk.say(data)
        await self.flush()

    async def end(self) -> None:
        self._talk.end()
        await self.flush()

    async def resize(self, width: int, height: int) -> None:
        self._talk.resize(width, height)
        await self.flush()

    async def flush(self) -> None:
        self._write()
        await self.writer.drain()

    def _write(self) -> None:
        for piece in self._talk.to_send():
            self.writer.write(piece)

    async def until(self, condition: Callable[[], object]) -> None:
        """Read until the condition holds."""
        async with asyncio.timeout(SECONDS):
            while not condition():
                self._write()  # and no waiting: the server may be waiting for us to read
                data = await self.reader.read(1 << 18)
                self._talk.receive(data)
                if not data:
                    assert condition(), f"the server closed: {self.heard.status}, {self.stdout!r}"
            await self.flush()

    async def finished(self) -> Status:
        """The last word, after which the server closes."""
        await self.until(lambda: self.heard.status is not None)
        assert self.heard.status is not None
        self.writer.close()
        return self.heard.status

    def leave(self) -> None:
        """As a client that is killed: what it has not sent yet is lost."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
