import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from sampan.server.streaming.connection import BUFFERED, Hangups, Wire
from tests.runtime.system import until

CHUNK = 256 << 10


@asynccontextmanager
async def connected(idle: float = 0.0) -> AsyncIterator[tuple[Wire, socket.socket]]:
    """A wire, and the client's end of it, which does not wait."""
    hangups = Hangups()
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    client.setblocking(False)
    wire = Wire(hangups, idle)
    await loop.connect_accepted_socket(lambda: wire, accepted)
    try:
        yield wire, client
    finally:
        wire.abort()
        client.close()
        await wire.closed.wait()
        hangups.close()


async def everything(client: socket.socket) -> bytes:
    """What comes until the end."""
    loop, whole = asyncio.get_running_loop(), b""
    while data := await loop.sock_recv(client, 1 << 20):
        whole += data
    return whole


async def test_bytes_come_in_order_and_then_the_end() -> None:
    async with connected() as (wire, client):
        client.send(b"one")
        assert await wire.receive() == b"one"
        client.send(b"two")
        client.close()
        assert await wire.receive() == b"two"
        assert await wire.receive() == b""
        assert await wire.receive() == b""
        assert wire.received == 6


async def test_what_is_put_back_comes_first() -> None:
    async with connected() as (wire, client):
        client.send(b"head and rest")
        data = await wire.receive()
        wire.unread(data[5:])
        assert await wire.receive() == b"and rest"


async def test_a_client_that_nobody_reads_is_held_up() -> None:
    async with connected() as (wire, client):
        sent = 0
        for _ in range(200):
            await asyncio.sleep(0.001)
            try:
                sent += client.send(bytes(1 << 20))
            except BlockingIOError:
                continue
        assert wire.received <= 4 * CHUNK < sent < 32 << 20
        while wire.received < sent:
            await wire.receive()


async def test_a_client_that_leaves_is_noticed_while_nobody_reads() -> None:
    async with connected() as (wire, client):
        told = []
        wire.when_hung_up(lambda: told.append(1))
        for _ in range(4):
            client.send(bytes(100))
            await asyncio.sleep(0.01)
        assert not told
        client.shutdown(socket.SHUT_WR)
        await until(lambda: told)
        assert wire.hung_up and not wire.closed.is_set()
        assert sum([len(await wire.receive()) for _ in range(4)]) == 400
        assert await wire.receive() == b""


async def test_who_asks_late_is_told_at_once() -> None:
    async with connected() as (wire, client):
        client.close()
        await until(lambda: wire.hung_up)
        told = []
        wire.when_hung_up(lambda: told.append(1))
        assert told


async def test_a_writer_waits_for_a_slow_client_and_not_for_a_quick_one() -> None:
    async with connected() as (wire, client):
        wire.write([b"little"])
        await wire.drain()
        for _ in range(64):
            wire.write([b"h" * 8, bytes(CHUNK)])
            try:
                await asyncio.wait_for(wire.drain(), 0.05)
            except TimeoutError:
                break
        else:
            raise AssertionError("nothing ever waited")
        assert wire._transport.get_write_buffer_size() <= BUFFERED + CHUNK + 8
        reading = asyncio.create_task(everything(client))
        await asyncio.wait_for(wire.drain(), 10)
        size = wire.sent
        await wire.close(linger=0.05)
        assert len(await reading) == size


async def test_a_writer_is_told_that_the_client_has_gone() -> None:
    async with connected() as (wire, client):
        client.close()
        with pytest.raises(ConnectionResetError):
            for _ in range(100):
                wire.write([bytes(CHUNK)])
                await wire.drain()
                await asyncio.sleep(0.001)
        wire.write([b"nothing happens"])
        await wire.close()


@pytest.mark.parametrize(
    "pieces", [[b""], [b"a", b"", b"b"], [b"h" * 8, bytes(CHUNK)], [memoryview(b"abc")], []]
)
async def test_pieces_arrive_as_they_are(pieces: list[bytes | memoryview]) -> None:
    async with connected() as (wire, client):
        reading = asyncio.create_task(everything(client))
        wire.write(pieces)
        await wire.close(linger=0.05)
        assert await reading == b"".join(pieces)


async def test_everything_written_arrives_before_the_end_though_the_client_still_talks() -> None:
    async with connected() as (wire, client):
        client.send(b"x" * 1000)  # what nobody reads
        wire.write([bytes(3 << 20)])
        closing = asyncio.create_task(wire.close())
        client.send(b"y" * 1000)
        assert len(await everything(client)) == 3 << 20
        client.close()
        await closing


async def test_a_client_that_does_not_read_cannot_put_off_the_end() -> None:
    async with connected() as (wire, _):
        for _ in range(64):
            wire.write([bytes(CHUNK)])
        async with asyncio.timeout(5):
            await wire.close(flush=0.1, linger=0.1)
        assert wire.closed.is_set() or wire._transport.is_closing()


async def test_a_client_that_never_ends_cannot_put_off_the_end() -> None:
    async with connected() as (wire, _):
        wire.write([b"bye"])
        async with asyncio.timeout(5):
            await wire.close(linger=0.1)
        assert wire.closed.is_set()


async def test_a_client_that_takes_its_time_and_talks_on_gets_everything_before_the_end() -> None:
    async with connected() as (wire, client):
        wire.write([bytes(2 << 20)])
        closing = asyncio.create_task(wire.close(linger=0.05))
        got = 0
        while got < 2 << 20:
            await asyncio.sleep(0.02)  # many lingers in all
            with suppress(BlockingIOError, BrokenPipeError):
                client.send(b"are you there?")
            with suppress(BlockingIOError):
                got += len(client.recv(64 << 10))
        client.close()
        await closing


async def test_a_client_that_stops_reading_what_the_kernel_has_cannot_put_off_the_end() -> None:
    async with connected() as (wire, _):
        wire.write([bytes(1 << 20)])
        async with asyncio.timeout(5):
            await wire.close(flush=0.2, linger=0.05)
        assert wire.closed.is_set()


async def test_closing_twice_is_fine() -> None:
    async with connected() as (wire, client):
        client.close()
        await wire.close()
        await wire.close()
        wire.abort()


async def test_a_connection_is_idle_once_nothing_goes_either_way() -> None:
    async with connected(idle=0.2) as (wire, client):
        loop = asyncio.get_running_loop()
        begin = loop.time()
        idle = asyncio.create_task(wire.until_idle())
        for number in range(4):
            await asyncio.sleep(0.1)
            if number % 2:
                wire.write([b"x"])
            else:
                client.send(b"x")
        last = loop.time()
        await asyncio.wait_for(idle, 5)
        assert loop.time() - begin > 0.5 and loop.time() - last > 0.15


async def test_without_a_limit_nothing_is_idle() -> None:
    async with connected() as (wire, _):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wire.until_idle(), 0.05)


async def test_the_kernel_looks_after_clients_whose_machine_is_gone() -> None:
    async with connected() as (wire, _):
        there = wire._transport.get_extra_info("socket")
        assert there.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle = there.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        count = there.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
        assert idle + count * there.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 90
