"""One port-forward session: the connections that a client opens through it, each to a port of the pod.

Every connection lives and fails for itself; what goes wrong with one is told on its own error channel. Each direction
waits for the slower side. But most clients know no flow control: what they send for a port that does not read can be
held back only by reading nothing from them at all. So a port that has stopped everybody for `blocked` seconds loses its
connection, if there are others. The session ends with its client, never with a port.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from sampan.model.errors import SampanError
from sampan.runtime.stream_ports import Connection, Dialer, Sink, Source
from sampan.server.streaming.connection import Data, Wire
from sampan.server.streaming.pace import Pace
from sampan.wire.portforward.forward import (
    Dropped,
    Event,
    HalfClosed,
    Left,
    Opened,
    PortForward,
    Received,
)
from sampan.wire.protocol_error import ProtocolError

log = logging.getLogger("sampan.streaming")

_PIECE = 64  # bytes that a waiting piece costs beside its own
_SMALL, _JOINED = 8 << 10, 64 << 10  # bytes of pieces that wait joined, and of what they become
_ANSWERS = 1 << 20  # bytes of answers to a client's frames, after which it has to take them
_GONE_SECONDS = 1.0  # for the last words to a client that has left, or that the daemon leaves


@dataclass(frozen=True, slots=True)
class Patience:
    """What a session waits for, in seconds, and how much waits in it, in bytes."""

    waiting: int = 1 << 20  # for one port, before nothing more is read from the client
    backlog: int = (
        256 << 10
    )  # from one port, for the client's permission, before nothing more is read from the port
    blocked: float = 30.0  # for a port that keeps the whole session from being read
    incomplete: float = 30.0  # for what the client has begun to open
    silence: float = (
        1.0  # of a client that cannot be told that its port has ended, before the connection is closed
    )
    leaving: float = 5.0  # for a port to take what was said by a client that has gone


@dataclass(slots=True, eq=False)
class _Link:
    """One connection of the session."""

    number: int
    port: int
    waiting: deque[Data | bytearray] = field(default_factory=deque)
    size: int = 0  # of what is waiting, and of what is being written
    full_since: float = 0.0
    fed: asyncio.Event = field(default_factory=asyncio.Event)  # there is something to write, or the end
    ended: bool = False  # the client says no more
    gone: bool = False  # it does not read either
    deaf: bool = False  # the port takes no more
    stirred: bool = False  # the client has said something lately
    serving: "asyncio.Task[None] | None" = None
    reading: "asyncio.Task[None] | None" = None  # from the port
    expiry: asyncio.TimerHandle | None = None

    def take(self, data: Data) -> None:
        last = self.waiting[-1] if self.waiting else None
        if len(data) < _SMALL and isinstance(last, bytearray) and len(last) < _JOINED:
            last += data
            self.size += len(data)
        else:
            self.waiting.append(_kept(data))
            self.size += len(data) + _PIECE
        self.stirred = True
        self.fed.set()

    def end(self) -> None:
        self.ended = True
        self.fed.set()


def _kept(data: Data) -> Data | bytearray:
    """What may wait. A slice keeps all that it was cut from, so a small one is copied; a write for each tiny piece
    would hold the daemon up, so those are joined."""
    if len(data) < _SMALL:
        return bytearray(data)
    cut = isinstance(data, memoryview) and 2 * len(data) < len(memoryview(data.obj))
    return bytes(data) if cut else data


class ForwardSession:
    """`netns` is where the pod's network namespace is pinned, "" for the host's network."""

    def __init__(
        self, wire: Wire, talk: PortForward, dialer: Dialer, netns: str, patience: Patience | None = None
    ) -> None:
        self._wire = wire
        self._talk = talk
        self._dialer = dialer
        self._netns = netns
        self._patience = patience or Patience()
        self._pace = Pace()
        self._loop = asyncio.get_running_loop()
        self._links: dict[int, _Link] = {}
        self._full: set[_Link] = set()  # more waits in them than may
        self._over: asyncio.Future[str] = self._loop.create_future()
        self._turn = asyncio.Lock()  # one port's bytes at a time wait for the client
        self._moved = asyncio.Event()  # a link is no longer full, or the client may have allowed more
        self._forgetting: asyncio.TimerHandle | None = None

    async def serve(self) -> str:
        """Until the session is over and its connection closed; returns how it ended, for the log. Never raises for
        what a client or a port does."""
        try:
            words = await self._served()
        except asyncio.CancelledError:
            await self._wire.close(_GONE_SECONDS, _GONE_SECONDS)
            raise
        finally:
            if self._forgetting is not None:
                self._forgetting.cancel()
        self._say()
        if self._wire.hung_up:
            await self._wire.close(_GONE_SECONDS)
        else:
            await self._wire.close()
        return words

    async def _served(self) -> str:
        self._wire.when_hung_up(self._moved.set)
        async with asyncio.TaskGroup() as self._group:
            watching = [self._group.create_task(work) for work in (self._listen(), self._watch_idle())]
            words = await self._over
            for task in watching:
                task.cancel()
            for link in list(self._links.values()):  # the group waits for them
                self._drop(link)
        return words

    def _end(self, words: str) -> None:
        if not self._over.done():
            self._over.set_result(words)

    async def _watch_idle(self) -> None:
        await self._wire.until_idle()
        self._end(f"nothing was said for {self._wire.idle:g} s")

    def _say(self) -> int:
        """What the session has to say goes to the client; how many bytes."""
        pieces = self._talk.to_send()
        self._wire.write(pieces)
        return sum(map(len, pieces))

    # --- from the client --------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        try:
            answers = self._take(self._talk.start())
            while not self._over.done():
                if answers > _ANSWERS:  # it asks and asks, and may not even read what it gets
                    await self._wire.drain()
                    answers = 0
                await self._room()
                data = await self._wire.receive()
                for portion in self._pace.portions(data):
                    with self._pace:
                        answers += self._take(self._talk.receive(portion))
                    await self._pace.rest()
                if not data:
                    self._end("the connection ended")
        except ProtocolError as error:
            self._end(f"the client broke the protocol: {error}")
        except ConnectionError as error:
            self._end(f"the client left: {error}")

    def _take(self, events: Sequence[Event]) -> int:
        """How many bytes the answers have."""
        for event in events:
            self._take_one(event)
        self._moved.set()  # a window may be wider
        self._forget_later()
        return self._say()

    def _take_one(self, event: Event) -> None:
        match event:
            case Opened(number, port):
                link = self._links[number] = _Link(number, port)
                link.serving = self._group.create_task(self._serve(link))
                link.serving.add_done_callback(partial(self._done, link))
            case Received(number, data):
                self._received(self._links.get(number), data)
            case HalfClosed(number):
                if ended := self._links.get(number):
                    ended.end()
            case Dropped(number):
                if dropped := self._links.get(number):
                    self._drop(dropped)
            case Left(reason):
                self._end(f"the client left: {reason}")

    def _received(self, link: _Link | None, data: Data) -> None:
        if link is None:
            return
        if link.deaf:
            self._talk.consumed(link.number, len(data))
            return
        link.take(data)
        if link.size > self._patience.waiting and link not in self._full:
            link.full_since = self._loop.time()
            self._full.add(link)

    def _drop(self, link: _Link) -> None:
        """Nobody reads what the port says; what was said to it, it may still take."""
        link.gone = True
        link.end()
        if link.reading is not None:
            link.reading.cancel()
        if link.serving is not None and link.expiry is None:
            seconds = self._patience.leaving if link.size else 0.0
            link.expiry = self._loop.call_later(seconds, link.serving.cancel)

    async def _room(self) -> None:
        """Until every port has taken so much that more may be read. Where that takes too long, the ports to blame lose
        their connections: without words, which would end kubectl's whole session."""
        while self._full and not self._wire.hung_up:
            self._moved.clear()
            alone = len(self._links) == 1
            first = min(self._full, key=lambda link: link.full_since)
            try:
                async with asyncio.timeout_at(None if alone else first.full_since + self._patience.blocked):
                    await self._moved.wait()
            except TimeoutError:
                log.warning("port %d read nothing while others waited: its connection is closed", first.port)
                self._full.discard(first)
                if first.serving is not None:
                    first.serving.cancel()

    def _forget_later(self) -> None:
        if self._talk.incomplete and self._forgetting is None:
            self._forgetting = self._loop.call_later(self._patience.incomplete, self._forget)

    def _forget(self) -> None:
        self._forgetting = None
        self._talk.forget_incomplete()
        self._say()
        self._forget_later()

    # --- one connection ---------------------------------------------------------------------------------------

    async def _serve(self, link: _Link) -> None:
        connection: Connection | None = None
        try:
            connection = await self._dialer.dial(self._netns, link.port)
            async with asyncio.TaskGroup() as both:
                if not link.gone:
                    link.reading = both.create_task(self._to_client(link, connection.source))
                await self._to_port(link, connection.sink)
        except SampanError as error:
            self._talk.fail(link.number, f"error forwarding port {link.port} to the pod: {error}")
        except Exception:
            log.exception("forwarding port %d failed", link.port)
            self._talk.fail(
                link.number, f"error forwarding port {link.port} to the pod: see the daemon's log"
            )
        finally:
            if connection is not None:
                await connection.close()

    def _done(self, link: _Link, _: "asyncio.Task[None]") -> None:
        if link.expiry is not None:
            link.expiry.cancel()
        del self._links[link.number]
        self._full.discard(link)
        self._talk.close(link.number)
        self._say()
        self._moved.set()
        if self._talk.over:
            self._end("every port has ended")

    async def _to_port(self, link: _Link, sink: Sink) -> None:
        try:
            while True:
                while link.waiting:
                    data = link.waiting.popleft()
                    await sink.write(memoryview(data))
                    self._passed_on(link, len(data))
                if link.ended:
                    await sink.end()
                    return
                link.fed.clear()
                await link.fed.wait()
        except ConnectionError:  # it reads no more; what it still says goes on to the client
            link.deaf = True
            self._talk.consumed(link.number, sum(map(len, link.waiting)))
            link.waiting.clear()
            self._lighten(link, link.size)

    def _passed_on(self, link: _Link, count: int) -> None:
        self._talk.consumed(link.number, count)
        self._say()
        self._lighten(link, count + _PIECE)

    def _lighten(self, link: _Link, count: int) -> None:
        link.size -= count
        if link in self._full and link.size <= self._patience.waiting:
            self._full.discard(link)
            self._moved.set()

    async def _to_client(self, link: _Link, source: Source) -> None:
        try:
            while data := await source.read():
                async with self._turn:
                    await self._wire.drain()
                    self._talk.send(link.number, data)
                    self._say()
                while self._talk.backlog(link.number) > self._patience.backlog:
                    self._moved.clear()
                    await self._moved.wait()
        except ConnectionError as error:
            self._end(f"the client left: {error}")
            return
        self._talk.end(link.number)
        self._say()
        if not self._talk.half_closes:
            await self._until_silent(link)

    async def _until_silent(self, link: _Link) -> None:
        """A client that does not know that the port has ended may be in the middle of something."""
        link.stirred = True
        while link.stirred and not link.ended:
            link.stirred = False
            await asyncio.sleep(self._patience.silence)
        link.end()
