"""Port-forward sessions over a real connection: ports that echo, hang, refuse, end first or break."""

import asyncio
import hashlib
import os
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from sampan.host.sandbox.dial import PodDialer
from sampan.runtime.stream_ports import Connection, Dialer
from sampan.server.streaming.connection import Hangups, Wire
from sampan.server.streaming.forward import ForwardSession, Patience
from sampan.wire import websocket
from sampan.wire.portforward.forward import PortForward
from sampan.wire.portforward.over_spdy import OverSpdy
from sampan.wire.portforward.over_websocket import BINARY, OverWebSocket
from sampan.wire.spdy import session as spdy
from sampan.wire.spdy.frames import data_head
from tests.fake_streams import FakeConnection, FakeDialer, echo
from tests.host.sandbox import listening

NETNS = "/run/netns/pod"
WINDOWS = (b"\x80\x03\x00\x04", b"\x80\x03\x00\x09")  # SETTINGS and WINDOW_UPDATE
SOON = Patience(blocked=0.2, incomplete=0.05, silence=0.05, leaving=0.3)


@dataclass
class Running:
    """A session that is being served, and the client's end of its connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    wire: Wire
    served: "asyncio.Task[str]"


@asynccontextmanager
async def serving(
    talk: PortForward,
    dialer: Dialer,
    patience: Patience | None = None,
    *,
    netns: str = NETNS,
    idle: float = 0.0,
) -> AsyncIterator[Running]:
    hangups = Hangups()
    made: asyncio.Future[Wire] = asyncio.get_running_loop().create_future()

    class Made(Wire):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            made.set_result(self)

    listener = await asyncio.get_running_loop().create_server(lambda: Made(hangups, idle), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
    wire = await made
    served = asyncio.create_task(ForwardSession(wire, talk, dialer, netns, patience).serve())
    try:
        async with asyncio.timeout(30):
            yield Running(reader, writer, wire, served)
    finally:
        writer.close()
        served.cancel()
        await asyncio.wait([served])
        listener.close()
        await listener.wait_closed()
        hangups.close()


@dataclass
class Link:
    """A client's side of one connection."""

    error: int
    data: int
    heard: bytearray = field(default_factory=bytearray)
    words: bytearray = field(default_factory=bytearray)
    ended: bool = False
    words_ended: bool = False
    was_reset: bool = False


class Client:
    """A SPDY client, as client-go's; `read` takes what has come, and every `until` reads."""

    def __init__(self, running: Running, *, windows: bool = True) -> None:
        """Without `windows` as client-go: it neither keeps nor gives any."""
        self.running = running
        self.windows = windows
        self.session = spdy.Session(server=False)
        self.links: list[Link] = []
        self.read_bytes = 0
        self.digest: hashlib._Hash | None = None  # instead of keeping what came

    def connect(self, port: int = 80) -> Link:
        request = str(len(self.links))
        headers = (("port", str(port)), ("requestid", request))
        error = self.session.open((("streamtype", "error"), *headers))
        self.session.send(error, fin=True)
        link = Link(error, self.session.open((("streamtype", "data"), *headers)))
        self.links.append(link)
        return link

    def write(self) -> None:
        for piece in self.session.to_send():
            if self.windows or bytes(piece[:4]) not in WINDOWS:
                self.running.writer.write(piece)

    async def flush(self) -> None:
        self.write()
        await self.running.writer.drain()

    async def say(self, link: Link, data: bytes = b"", *, fin: bool = False) -> None:
        self.session.send(link.data, data, fin=fin)
        await self.flush()

    async def read(self) -> bool:
        data = await self.running.reader.read(1 << 18)
        self.read_bytes += len(data)
        for event in self.session.receive(data):
            self.take(event)
        self.write()
        return bool(data)

    def take(self, event: spdy.Event) -> None:
        for link in self.links:
            match event:
                case spdy.Received(stream, data) if stream == link.data:
                    if self.digest is not None:
                        self.digest.update(data)
                    else:
                        link.heard += data
                    if self.windows:
                        self.session.consumed(stream, len(data))
                case spdy.Received(stream, data) if stream == link.error:
                    link.words += data
                case spdy.Ended(stream) if stream == link.data:
                    link.ended = True
                case spdy.Ended(stream) if stream == link.error:
                    link.words_ended = True
                case spdy.WasReset(stream) if stream == link.data:
                    link.was_reset = True

    async def until(self, it_is_so: Callable[[], bool]) -> None:
        await self.flush()
        while not it_is_so():
            assert await self.read(), "the session ended"


@pytest.fixture
def dialer() -> FakeDialer:
    fake = FakeDialer()
    fake.ports[NETNS, 80] = echo
    return fake


async def test_bytes_go_to_the_port_and_back_until_both_have_ended(dialer: FakeDialer) -> None:
    async with serving(OverSpdy(), dialer) as running:
        client = Client(running)
        link = client.connect()
        await client.say(link, b"ping", fin=True)
        await client.until(lambda: link.ended and link.words_ended)
        assert link.heard == b"ping"
        assert not link.words
        assert not link.was_reset


async def test_a_port_where_nobody_listens_is_told_on_its_error_stream_alone(dialer: FakeDialer) -> None:
    async with serving(OverSpdy(), dialer) as running:
        client = Client(running)
        good, bad = client.connect(), client.connect(81)
        await client.until(lambda: bad.words_ended)
        assert b"port 81" in bad.words
        assert b"127.0.0.1" in bad.words
        assert bad.was_reset
        await client.say(good, b"still here", fin=True)
        await client.until(lambda: good.ended)
        assert good.heard == b"still here"


async def test_a_fault_in_one_connection_is_that_connections_alone(
    dialer: FakeDialer, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty:
        async def dial(self, netns: str, port: int) -> Connection:
            if port == 81:
                raise RuntimeError("secret")
            return await dialer.dial(netns, port)

    async with serving(OverSpdy(), Faulty()) as running:
        client = Client(running)
        bad, good = client.connect(81), client.connect()
        await client.say(good, b"on", fin=True)
        await client.until(lambda: bad.words_ended and good.ended)
        assert b"secret" not in bad.words
        assert b"log" in bad.words
        assert good.heard == b"on"
    assert "secret" in caplog.text


async def test_a_port_that_ends_first_still_gets_what_the_client_says(dialer: FakeDialer) -> None:
    got = asyncio.get_running_loop().create_future()

    async def greet(connection: FakeConnection) -> None:
        await connection.source.write(b"bye")
        await connection.source.end()
        said = b""
        while data := await connection.sink.read():
            said += data
        got.set_result(said)

    dialer.ports[NETNS, 81] = greet
    async with serving(OverSpdy(), dialer, SOON) as running:
        client = Client(running)
        link = client.connect(81)
        await client.until(lambda: link.ended)
        await asyncio.sleep(3 * SOON.silence)
        await client.say(link, b"and now this")
        await client.say(link, fin=True)
        assert await got == b"and now this"
        await client.until(lambda: link.words_ended)
        assert not link.was_reset


async def test_a_port_that_breaks_off_ends_its_connection_without_words(dialer: FakeDialer) -> None:
    """Words would end all of kubectl's session (k8s #74551)."""

    async def break_off(connection: FakeConnection) -> None:
        await connection.sink.read()
        connection.sink.break_off()
        await connection.source.end()

    dialer.ports[NETNS, 81] = break_off
    async with serving(OverSpdy(), dialer) as running:
        client = Client(running)
        bad, good = client.connect(81), client.connect()
        await client.until(lambda: True)
        for _ in range(100):
            client.session.send(bad.data, bytes(1 << 10))
        await client.until(lambda: bad.ended and bad.words_ended and bad.was_reset)
        assert bad.words == b""
        await client.say(good, b"on", fin=True)
        await client.until(lambda: good.ended)
        assert good.heard == b"on"


async def test_a_client_that_drops_a_connection_closes_its_port(dialer: FakeDialer) -> None:
    closed = asyncio.Event()

    async def serve(connection: FakeConnection) -> None:
        while await connection.sink.read():
            pass
        closed.set()

    dialer.ports[NETNS, 81] = serve
    async with serving(OverSpdy(), dialer) as running:
        client = Client(running)
        link = client.connect(81)
        await client.say(link, b"x")
        await client.until(lambda: True)
        client.session.reset(link.data)
        await client.flush()
        await closed.wait()
        await client.until(lambda: link.words_ended)


async def _stuck(connection: FakeConnection) -> None:
    await asyncio.Event().wait()


def _without_windows(client: Client, link: Link, size: int) -> None:
    """As Kubernetes' clients: bytes beyond any window."""
    for _ in range(size >> 16):
        client.running.writer.write(data_head(link.data, 1 << 16, False))
        client.running.writer.write(bytes(1 << 16))


async def test_a_port_that_hangs_holds_up_the_others_only_for_a_while(
    dialer: FakeDialer, caplog: pytest.LogCaptureFixture
) -> None:
    dialer.ports[NETNS, 81] = _stuck
    async with serving(OverSpdy(), dialer, SOON) as running:
        client = Client(running)
        good, stuck = client.connect(), client.connect(81)
        await client.until(lambda: bool(client.read_bytes))
        _without_windows(client, stuck, 8 << 20)
        await client.say(good, b"behind it", fin=True)
        await client.until(lambda: good.ended and stuck.was_reset)
        assert good.heard == b"behind it"
        assert stuck.words == b""
    assert "port 81" in caplog.text


async def test_a_port_that_hangs_alone_is_left_alone_and_memory_is_bounded(dialer: FakeDialer) -> None:
    dialer.ports[NETNS, 81] = _stuck
    async with serving(OverSpdy(), dialer, SOON) as running:
        client = Client(running)
        stuck = client.connect(81)
        await client.flush()
        await client.read()
        _without_windows(client, stuck, 32 << 20)
        await asyncio.sleep(3 * SOON.blocked)
        assert not stuck.was_reset
        assert running.wire.received < 4 << 20


async def test_a_byte_that_waits_does_not_keep_all_that_came_with_it(dialer: FakeDialer) -> None:
    drained = 0

    async def drain(connection: FakeConnection) -> None:
        nonlocal drained
        while data := await connection.sink.read():
            drained += len(data)

    dialer.ports[NETNS, 81], dialer.ports[NETNS, 82] = _stuck, drain
    async with serving(OverSpdy(), dialer) as running:
        client = Client(running, windows=False)
        stuck, other = client.connect(81), client.connect(82)
        await client.flush()
        await client.read()
        _without_windows(client, stuck, 1 << 18)  # what the port's own buffer takes, and more
        tracemalloc.start()
        try:
            for _ in range(300):
                running.writer.write(data_head(stuck.data, 1, False) + b"x")
                _without_windows(client, other, 1 << 17)
                await running.writer.drain()
            await listening.until(lambda: drained == 300 << 17)
            assert tracemalloc.get_traced_memory()[0] < 8 << 20
        finally:
            tracemalloc.stop()


async def test_a_client_that_leaves_while_its_port_hangs_is_noticed(dialer: FakeDialer) -> None:
    dialer.ports[NETNS, 81] = _stuck
    async with serving(OverSpdy(), dialer, SOON) as running:
        client = Client(running)
        stuck = client.connect(81)
        await client.flush()
        await client.read()
        _without_windows(client, stuck, 8 << 20)
        await asyncio.sleep(0.1)
        connection = running.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        running.writer.transport.abort()  # a reset; an end would wait in line behind its bytes
        async with asyncio.timeout(5):
            await running.served


async def test_what_a_client_said_before_it_left_reaches_the_port(dialer: FakeDialer) -> None:
    got = asyncio.get_running_loop().create_future()

    async def slow(connection: FakeConnection) -> None:
        await asyncio.sleep(0.1)
        said = 0
        while data := await connection.sink.read():
            said += len(data)
        got.set_result(said)

    dialer.ports[NETNS, 81] = slow
    async with serving(OverSpdy(), dialer) as running:
        client = Client(running)
        link = client.connect(81)
        await client.flush()
        await client.read()
        await client.say(link, bytes(200_000))
        running.writer.close()
        assert await got == 200_000
        assert "left" in await running.served


async def test_a_client_that_reads_nothing_holds_up_the_port(dialer: FakeDialer) -> None:
    said = 0

    async def flood(connection: FakeConnection) -> None:
        nonlocal said
        while True:
            await connection.source.write(bytes(1 << 16))
            said += 1 << 16

    dialer.ports[NETNS, 81] = flood
    async with serving(OverSpdy(), dialer) as running:
        running.reader._transport.pause_reading()  # type: ignore[attr-defined]
        client = Client(running, windows=False)
        for _ in range(20):
            client.connect(81)
        await client.flush()
        await asyncio.sleep(1)
        before = said
        await asyncio.sleep(0.3)
        assert said == before
        assert running.wire.sent < 32 << 20  # what sockets hold


async def test_a_half_that_stays_alone_is_forgotten(dialer: FakeDialer) -> None:
    async with serving(OverSpdy(), dialer, SOON) as running:
        client = Client(running)
        alone = client.session.open((("streamtype", "data"), ("port", "80"), ("requestid", "9")))
        client.links.append(Link(0, alone))
        await client.until(lambda: client.links[0].was_reset)
        link = client.connect()
        await client.say(link, b"on", fin=True)
        await client.until(lambda: link.ended)


async def test_noise_ends_the_session_with_words_for_the_log(dialer: FakeDialer) -> None:
    async with serving(OverSpdy(), dialer) as running:
        running.writer.write(b"GET / HTTP/1.1\r\n\r\n" * 20)
        running.writer.write_eof()
        assert "protocol" in await running.served
        assert running.wire.closed.is_set()
        assert await running.reader.read()  # SPDY's last word


async def test_a_session_without_traffic_ends(dialer: FakeDialer) -> None:
    async with serving(OverSpdy(), dialer, idle=0.1) as running:
        client = Client(running)
        client.connect()
        await client.flush()
        while await client.read():
            pass
        running.writer.close()
        assert "0.1 s" in await running.served


async def test_the_end_of_the_daemon_closes_every_port(dialer: FakeDialer) -> None:
    closed = 0

    async def serve(connection: FakeConnection) -> None:
        nonlocal closed
        while await connection.sink.read():
            pass
        closed += 1

    dialer.ports[NETNS, 81] = serve
    async with serving(OverSpdy(), dialer) as running:
        client = Client(running)
        for _ in range(10):
            client.connect(81)
        await client.flush()
        await client.read()
        running.served.cancel()
        await asyncio.wait([running.served])
        await asyncio.sleep(0)
        assert closed == 10
        assert running.wire.closed.is_set()


async def test_many_connections_at_once_while_one_hangs_and_one_is_refused(dialer: FakeDialer) -> None:
    async with serving(OverSpdy(), dialer) as running:
        dialer.ports[NETNS, 82] = _stuck
        client = Client(running)
        hung, refused = client.connect(82), client.connect(81)
        links = [client.connect() for _ in range(200)]
        await client.flush()
        await client.until(lambda: bool(refused.words_ended))
        for number, link in enumerate(links):
            client.session.send(link.data, b"%d" % number * 1000, fin=True)
        await client.until(lambda: all(link.ended for link in links))
        assert [bytes(link.heard) for link in links] == [b"%d" % number * 1000 for number in range(200)]
        assert not hung.was_reset
        assert not hung.ended


class WebSocketClient:
    """A client of plain channels."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.socket = websocket.WebSocket(server=False)
        self.heard: dict[int, bytearray] = {}
        self.closed: int | None = None

    async def say(self, channel: int, data: bytes) -> None:
        self.socket.send(data, prefix=bytes((channel,)))
        self.running.writer.write(b"".join(self.socket.to_send()))
        await self.running.writer.drain()

    async def until(self, it_is_so: Callable[[], bool]) -> None:
        while not it_is_so():
            data = await self.running.reader.read(1 << 16)
            channel = 0
            for event in self.socket.receive(data):
                if isinstance(event, websocket.Piece):
                    piece = bytes(event.data)
                    if event.first:
                        channel, piece = piece[0], piece[1:]
                    self.heard.setdefault(channel, bytearray()).extend(piece)
                elif isinstance(event, websocket.Closed):
                    self.closed = event.code
            assert data or it_is_so(), "the session ended"


async def test_plain_channels_close_when_their_last_port_has_ended_and_all_is_silent(
    dialer: FakeDialer,
) -> None:
    async def greet(connection: FakeConnection) -> None:
        await connection.source.write(b"bye")
        await connection.source.end()
        while await connection.sink.read():
            pass

    dialer.ports[NETNS, 81] = greet
    async with serving(OverWebSocket([81, 82], BINARY), dialer, SOON) as running:
        client = WebSocketClient(running)
        await client.until(lambda: client.closed is not None)
        assert client.heard[0] == b"\x51\x00bye"
        assert client.heard[1] == b"\x51\x00"
        assert client.heard[2] == b"\x52\x00"
        assert client.heard[3].startswith(b"\x52\x00error forwarding port 82")
        assert client.closed == websocket.NORMAL
        running.writer.close()
        assert await running.served == "every port has ended"


async def test_plain_channels_echo(dialer: FakeDialer) -> None:
    async with serving(OverWebSocket([80], BINARY), dialer, SOON) as running:
        client = WebSocketClient(running)
        await client.say(0, b"ping")
        await client.until(lambda: client.heard.get(0, bytearray()) == b"\x50\x00ping")


async def bulk(dialer: Dialer, netns: str, port: int, size: int, *, windows: bool = False) -> None:
    """`size` bytes to an echo and back, at once, compared by digest."""
    chunk = os.urandom(1 << 16)
    async with serving(OverSpdy(), dialer, netns=netns) as running:
        client = Client(running, windows=windows)
        link = client.connect(port)
        client.digest = hashlib.sha256()
        await client.flush()
        await client.read()
        sent = hashlib.sha256()

        async def send() -> None:
            for _ in range(size >> 16):
                if windows:
                    client.session.send(link.data, chunk)
                    client.write()
                    while client.session.backlog(link.data):  # noqa: ASYNC110 - tests may
                        await asyncio.sleep(0)  # the other task reads
                else:
                    running.writer.write(data_head(link.data, len(chunk), False) + chunk)
                sent.update(chunk)
                await running.writer.drain()
            client.session.send(link.data, fin=True)
            client.write()

        async with asyncio.TaskGroup() as both:
            both.create_task(send())
            while not link.ended:
                assert await client.read()
        assert client.digest.digest() == sent.digest()


@pytest.mark.parametrize("windows", [True, False])
async def test_bulk_both_ways_at_once_arrives_whole(dialer: FakeDialer, windows: bool) -> None:
    await bulk(dialer, NETNS, 80, 32 << 20, windows=windows)


@pytest.mark.root
async def test_a_pod_s_network_with_two_hundred_connections_of_which_some_are_bad() -> None:
    with listening.network() as netns:
        async with (
            listening.server(netns, listening.echo) as port,
            listening.server(netns, listening.echo, "::1") as six,
            listening.server(netns, listening.nothing) as hung,
        ):
            before = listening.descriptors()
            async with serving(OverSpdy(), PodDialer(), SOON, netns=netns) as running:
                client = Client(running)
                refused, stuck, ipv6 = client.connect(1), client.connect(hung), client.connect(six)
                links = [client.connect(port) for _ in range(200)]
                await client.until(lambda: refused.words_ended)
                assert b"port 1 " in refused.words
                await client.say(stuck, b"hello?")
                for number, link in enumerate(links):
                    client.session.send(link.data, b"%d" % number * 1000, fin=True)
                await client.say(ipv6, b"six", fin=True)
                await client.until(lambda: all(link.ended for link in [*links, ipv6]))
                assert [bytes(link.heard) for link in links] == [b"%d" % n * 1000 for n in range(200)]
                assert ipv6.heard == b"six"
                assert not stuck.ended
            await listening.until(lambda: listening.descriptors() <= before)


@pytest.mark.root
@pytest.mark.parametrize("windows", [True, False])
async def test_a_hundred_mebibytes_both_ways_through_a_pod_s_network(windows: bool) -> None:
    with listening.network() as netns:
        async with listening.server(netns, listening.echo) as port:
            await bulk(PodDialer(), netns, port, 100 << 20, windows=windows)


async def test_tiny_pieces_reach_a_port_in_few_writes() -> None:
    """Each write is a call of the kernel in the daemon's only loop."""
    writes: list[bytes] = []
    begun = asyncio.Event()
    go_on = asyncio.Event()

    dialer = FakeDialer()
    dialer.ports[NETNS, 81] = _stuck

    class Counting:
        async def dial(self, netns: str, port: int) -> Connection:
            connection = await dialer.dial(netns, port)

            async def write(data: bytes | memoryview) -> None:
                writes.append(bytes(data))
                begun.set()
                await go_on.wait()

            connection.sink.write = write  # type: ignore[method-assign]
            return connection

    async with serving(OverSpdy(), Counting()) as running:
        client = Client(running)
        link = client.connect(81)
        await client.say(link, b"first")
        await client.read()  # that it may send
        await client.flush()
        await begun.wait()
        said = bytes(at % 251 for at in range(20_000))
        for at in range(len(said)):
            client.session.send(link.data, said[at : at + 1])
        await client.flush()
        await client.say(link, bytes(100_000), fin=True)
        await listening.until(lambda: running.wire.received >= 280_000)
        go_on.set()
        await listening.until(lambda: sum(map(len, writes)) >= len(said) + 100_005)
        assert b"".join(writes) == b"first" + said + bytes(100_000)
        assert len(writes) < 100
