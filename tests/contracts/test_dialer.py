"""What every `Dialer` does, the real one and the fake."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
import pytest_asyncio

from sampan.host.sandbox.dial import PodDialer
from sampan.model.errors import Unavailable
from sampan.runtime.stream_ports import Connection, Dialer
from tests.fake_streams import FakeConnection, FakeDialer, echo


@dataclass
class Case:
    """A dialer, a port that echoes, one that says a word and closes, and one where nobody listens."""

    dialer: Dialer
    echo: int
    greeting: int
    nobody: int


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    writer.close()


async def greet(connection: FakeConnection) -> None:
    await connection.source.write(b"hello")
    await connection.source.end()


@pytest_asyncio.fixture(params=["fake", "real"])
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    if request.param == "fake":
        fake = FakeDialer()
        fake.ports["", 80] = echo
        fake.ports["", 81] = greet
        yield Case(fake, 80, 81, 82)
        return
    servers = [await asyncio.start_server(serve, "127.0.0.1", 0) for serve in (_echo, _greet, _greet)]
    ports = [each.sockets[0].getsockname()[1] for each in servers]
    servers[2].close()  # nobody listens there any more
    try:
        yield Case(PodDialer(), *ports)
    finally:
        for each in servers:
            each.close()
            await each.wait_closed()


async def rest(connection: Connection) -> bytes:
    got = b""
    while data := await connection.source.read():
        got += data
    return got


async def test_bytes_go_there_and_come_back(case: Case) -> None:
    connection = await case.dialer.dial("", case.echo)
    await connection.sink.write(b"ping")
    assert await connection.source.read() == b"ping"
    await connection.sink.write(memoryview(b"pong"))
    await connection.sink.end()
    assert await rest(connection) == b"pong"
    await connection.close()


async def test_the_end_can_be_said_again(case: Case) -> None:
    connection = await case.dialer.dial("", case.echo)
    await connection.sink.end()
    await connection.sink.end()
    assert await connection.source.read() == b""
    assert await connection.source.read() == b""
    await connection.close()
    await connection.close()


async def test_nothing_can_be_written_after_the_end(case: Case) -> None:
    connection = await case.dialer.dial("", case.echo)
    await connection.sink.end()
    with pytest.raises(ConnectionError):
        await connection.sink.write(b"late")
    await connection.close()


async def test_more_than_any_buffer_goes_both_ways_at_once(case: Case) -> None:
    connection = await case.dialer.dial("", case.echo)

    async def send() -> None:
        for _ in range(64):
            await connection.sink.write(bytes(1 << 16))
        await connection.sink.end()

    async with asyncio.TaskGroup() as both:
        both.create_task(send())
        got = await rest(connection)
    assert got == bytes(64 << 16)
    await connection.close()


async def test_a_port_that_ends_is_read_to_its_end(case: Case) -> None:
    connection = await case.dialer.dial("", case.greeting)
    assert await rest(connection) == b"hello"
    await connection.close()


async def test_where_nobody_listens_both_addresses_were_tried(case: Case) -> None:
    with pytest.raises(Unavailable, match=rf"port {case.nobody}.*127\.0\.0\.1.*::1"):
        await case.dialer.dial("", case.nobody)
