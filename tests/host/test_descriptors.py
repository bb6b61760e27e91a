"""Tests of host.descriptors: pipes, sockets and terminals that never block."""

import asyncio
import errno
import fcntl
import os
import socket
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from sampan.host import descriptors
from sampan.host.descriptors import Reader, Writer

MIB = 1 << 20


def count() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
async def pipe() -> AsyncIterator[tuple[Reader, Writer]]:
    """Both ends of one. No descriptor or wide pipe may be left."""
    before, wide = count(), descriptors._wide_left
    read, write = os.pipe()
    reader, writer = Reader(read), Writer(write)
    yield reader, writer
    reader.close()
    writer.close()
    assert (count(), descriptors._wide_left) == (before, wide)


Pipe = tuple[Reader, Writer]


async def soon(work: "asyncio.Future[bytes]") -> bytes:
    async with asyncio.timeout(5):
        return await work


async def test_what_is_written_is_read_then_the_end(pipe: Pipe) -> None:
    reader, writer = pipe
    await writer.write(b"one")
    await writer.write(memoryview(b"two"))
    assert await reader.read() == b"onetwo"
    await writer.end()
    assert [await reader.read(), await reader.read()] == [b"", b""]
    assert (reader.fd, writer.fd) == (-1, -1)


async def test_a_reader_waits_for_what_comes(pipe: Pipe) -> None:
    reader, writer = pipe
    reading = asyncio.ensure_future(reader.read())
    await asyncio.sleep(0)
    assert not reading.done()
    await writer.write(b"x")
    assert await soon(reading) == b"x"


async def test_a_cancelled_read_loses_nothing(pipe: Pipe) -> None:
    reader, writer = pipe
    said = b""
    for number in range(20):
        reading = asyncio.ensure_future(reader.read())
        for _ in range(number % 4):
            await asyncio.sleep(0)
        await writer.write(b"%d " % number)
        reading.cancel()
        with suppress(asyncio.CancelledError):
            said += await reading
    while not said.endswith(b"19 "):
        said += await reader.read()
    assert said == b"".join(b"%d " % number for number in range(20))


async def test_a_reader_that_is_closed_while_it_waits_ends(pipe: Pipe) -> None:
    reading = asyncio.ensure_future(pipe[0].read())
    await asyncio.sleep(0)
    pipe[0].close()
    pipe[0].close()
    assert await soon(reading) == b""


async def test_a_flood_leaves_the_loop_its_turns(pipe: Pipe) -> None:
    zeros = Reader(os.open("/dev/zero", os.O_RDONLY))
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turning = asyncio.ensure_future(turn())
    for _ in range(100):
        assert await zeros.read()
    turning.cancel()
    zeros.close()
    assert turns >= 20


async def test_a_writer_waits_for_room(pipe: Pipe) -> None:
    reader, writer = pipe
    writing = asyncio.ensure_future(writer.write(bytes(MIB)))
    await asyncio.sleep(0.01)
    assert not writing.done()
    got = 0
    while got < MIB:
        got += len(await reader.read())
    await writing
    assert got == MIB


async def test_a_cancelled_writer_can_go_on(pipe: Pipe) -> None:
    reader, writer = pipe
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await writer.write(bytes(MIB))
    assert len(await reader.read()) == 64 << 10
    await writer.write(b"x")
    assert await reader.read() == b"x"


async def test_nobody_who_reads_is_a_broken_pipe(pipe: Pipe) -> None:
    reader, writer = pipe
    writing = asyncio.ensure_future(writer.write(bytes(MIB)))
    await asyncio.sleep(0)
    reader.close()
    with pytest.raises(BrokenPipeError, match="nobody reads"):
        await writing
    for _ in range(2):
        with pytest.raises(BrokenPipeError):
            await writer.write(b"x")
        await writer.end()


async def test_a_writer_that_is_closed_while_it_waits_fails(pipe: Pipe) -> None:
    writing = asyncio.ensure_future(pipe[1].write(bytes(MIB)))
    await asyncio.sleep(0)
    pipe[1].close()
    with pytest.raises(BrokenPipeError):
        await writing


async def test_an_end_that_is_set_comes_after_what_is_there(pipe: Pipe) -> None:
    reader, writer = pipe
    await writer.write(bytes(1000))
    reader.expire()
    await writer.write(b"too late")
    assert [await reader.read(), await reader.read()] == [bytes(1000), b""]
    reader.expire()


async def test_an_end_that_is_set_wakes_who_waits(pipe: Pipe) -> None:
    reading = asyncio.ensure_future(pipe[0].read())
    await asyncio.sleep(0)
    pipe[0].expire()
    assert await soon(reading) == b""


def size(stream: Reader | Writer) -> int:
    return fcntl.fcntl(stream.fd, fcntl.F_GETPIPE_SZ)


async def passed(pipe: Pipe, count: int) -> None:
    reader, writer = pipe
    for _ in range(count >> 15):
        await writer.write(bytes(1 << 15))
        await reader.read()


async def test_a_pipe_grows_once_it_has_proved_busy(pipe: Pipe) -> None:
    await passed(pipe, MIB - (1 << 15))
    assert size(pipe[0]) == 64 << 10
    await passed(pipe, 1 << 15)
    assert size(pipe[0]) == MIB


async def test_only_so_many_pipes_grow(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(descriptors, "_wide_left", 0)
        await passed(pipe, 2 * MIB)
        assert size(pipe[0]) == 64 << 10


async def test_a_pipe_that_may_not_grow_goes_on(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    set_or_get = fcntl.fcntl

    def refuse(fd: int, what: int, argument: int = 0) -> int:
        if what == fcntl.F_SETPIPE_SZ:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return set_or_get(fd, what, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    await passed(pipe, 2 * MIB)
    assert size(pipe[0]) == 64 << 10


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


async def test_a_socket_ends_in_one_direction_and_goes_on_in_the_other(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = sockets
    reader = Reader(os.dup(ours.fileno()))
    writer = Writer(os.dup(ours.fileno()), end=partial(ours.shutdown, socket.SHUT_WR))
    await writer.write(b"question")
    await writer.end()
    await writer.end()
    assert theirs.recv(100) == b"question"
    assert theirs.recv(100) == b""
    theirs.send(b"answer")
    assert await reader.read() == b"answer"
    theirs.close()
    assert await reader.read() == b""


async def test_a_connection_that_is_reset_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
        reader, writer = Reader(os.dup(ours.fileno())), Writer(os.dup(ours.fileno()))
        ours.close()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        assert await reader.read() == b""
        with pytest.raises(BrokenPipeError):
            await writer.write(b"x")


async def test_a_terminal_that_nobody_has_open_ends() -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    reader, writer = Reader(master), Writer(os.dup(master))
    os.write(slave, b"last words")
    await writer.write(b"typed")
    assert os.read(slave, 100) == b"typed"
    os.close(slave)
    assert [await reader.read(), await reader.read()] == [b"last words", b""]
    writer.close()


async def test_an_end_that_is_set_for_a_terminal_comes_after_all_that_was_said() -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(slave, False)
    said = 0
    with suppress(BlockingIOError):
        while True:
            said += os.write(slave, bytes(1000))
    reader = Reader(master)
    reader.expire()
    heard = 0
    async with asyncio.timeout(5):
        while data := await reader.read():
            heard += len(data)
    os.close(slave)
    assert (heard, said > 8192) == (said, True)


async def test_an_end_that_is_set_for_a_terminal_comes_however_much_an_orphan_says() -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    reader = Reader(master)
    reader.expire()
    heard = 0
    async with asyncio.timeout(5):
        while True:
            if reader.fd >= 0:
                os.write(slave, bytes(4000))
            if not (data := await reader.read()):
                break
            heard += len(data)
    os.close(slave)
    assert heard <= 64 << 10


async def test_what_was_said_while_the_kernel_found_a_terminal_closed_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It answers EIO for a terminal that was empty a moment before it was closed, whatever was written between."""
    master, slave = os.openpty()
    tty.setraw(slave)
    reader, read = Reader(master), os.read
    answers = [OSError(errno.EIO, os.strerror(errno.EIO))]

    def late(fd: int, count: int) -> bytes:
        if answers:
            os.write(slave, b"last words")
            os.close(slave)
            raise answers.pop()
        return read(fd, count)

    monkeypatch.setattr(os, "read", late)
    assert [await reader.read(), await reader.read()] == [b"last words", b""]
