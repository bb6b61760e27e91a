"""Connections into network namespaces, with real ones."""

import asyncio
import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.host import descriptors as host_descriptors
from sampan.host import syscalls
from sampan.host.descriptors import Reader
from sampan.host.sandbox.dial import PodDialer
from sampan.host.threads import in_own_thread
from sampan.model.errors import Invalid, NotFound, Unavailable
from sampan.runtime.stream_ports import Connection
from tests.host.sandbox.listening import descriptors, echo, listen_at, network, server, sysctl, until

MIB = 1 << 20


@pytest.fixture
def netns() -> Iterator[str]:
    with network() as pinned:
        yield pinned


async def rest(connection: Connection) -> bytes:
    got = []
    while data := await connection.source.read():
        got.append(data)
    return b"".join(got)


@pytest.mark.root
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0", "::"])
async def test_reaches_who_listens_in_the_pod(netns: str, address: str) -> None:
    async with server(netns, echo, address) as port:
        connection = await PodDialer().dial(netns, port)
        await connection.sink.write(b"ping")
        await connection.sink.end()
        assert await rest(connection) == b"ping"
        await connection.close()


async def test_the_host_s_network_has_no_name() -> None:
    async with server("", echo) as port:
        connection = await PodDialer().dial("", port)
        await connection.sink.write(b"ping")
        await connection.sink.end()
        assert await rest(connection) == b"ping"
        await connection.close()


@pytest.mark.root
async def test_never_reaches_the_host_from_a_pod(netns: str) -> None:
    reached = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.close()

    async with server("", serve) as port:
        with pytest.raises(Unavailable):
            await PodDialer().dial(netns, port)
    assert not reached.is_set()


@pytest.mark.root
async def test_says_what_was_tried_where_nobody_listens(netns: str) -> None:
    with pytest.raises(Unavailable) as caught:
        await PodDialer().dial(netns, 8080)
    words = str(caught.value)
    assert "port 8080" in words
    assert "127.0.0.1: Connection refused" in words
    assert "::1: Connection refused" in words


@pytest.mark.root
async def test_says_so_where_the_pod_has_no_ipv6(netns: str) -> None:
    sysctl(netns, "net.ipv6.conf.lo.disable_ipv6=1")
    with pytest.raises(Unavailable, match="::1: "):
        await PodDialer().dial(netns, 8080)


@pytest.mark.root
async def test_gives_up_on_a_port_that_does_not_answer(netns: str) -> None:
    full = await listen_at(netns, backlog=0)
    port = full.getsockname()[1]
    dialer = PodDialer(seconds=0.2)
    filling = []
    try:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1: no answer in time; ::1: Connection refused"):
            for _ in range(10):  # the kernel takes a few more than the backlog
                filling.append(await dialer.dial(netns, port))
    finally:
        for connection in filling:
            await connection.close()
        full.close()


@pytest.mark.root
async def test_never_connects_to_itself(netns: str) -> None:
    """A socket that connects to a free port out of the range for clients may be given the same as its own."""
    sysctl(netns, "net.ipv4.ip_local_port_range=40000 40001")
    dialer = PodDialer()
    for _ in range(30):
        for port in (40000, 40001):
            with pytest.raises(Unavailable):
                await dialer.dial(netns, port)


@pytest.mark.parametrize("port", [0, -1, 65536])
async def test_there_is_no_such_port(port: int) -> None:
    with pytest.raises(Invalid, match=str(port)):
        await PodDialer().dial("", port)


@pytest.mark.root
async def test_a_namespace_that_is_gone(tmp_path: Path) -> None:
    left = tmp_path / "netns"
    left.touch()
    for path in (left, tmp_path / "never"):
        with pytest.raises(NotFound, match="network namespace is gone"):
            await PodDialer().dial(str(path), 80)


async def test_a_port_that_does_not_read_holds_up_the_writer() -> None:
    stuck = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await stuck.wait()
        writer.close()

    async with server("", serve) as port:
        connection = await PodDialer().dial("", port)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await connection.sink.write(bytes(64 * MIB))
        await connection.close()
        stuck.set()


async def test_a_port_that_has_closed_breaks_the_pipe() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with server("", serve) as port:
        connection = await PodDialer().dial("", port)
        assert await connection.source.read() == b""
        with pytest.raises(BrokenPipeError):
            for _ in range(100):
                await connection.sink.write(bytes(MIB))
        await connection.sink.end()
        await connection.close()
        await connection.close()


async def test_what_was_written_arrives_though_much_was_not_read() -> None:
    """A close with bytes unread would be a reset, and would take with it what the port has not fetched yet."""
    closed = asyncio.Event()
    got: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(bytes(100_000))
        await writer.drain()
        await closed.wait()
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        try:
            got.set_result(len(await reader.read()))
        except ConnectionError as error:
            got.set_exception(error)
        writer.close()

    async with server("", serve) as port:
        connection = await PodDialer().dial("", port)
        await connection.source.read()
        async with asyncio.timeout(10):
            await connection.sink.write(bytes(MIB))
        await connection.close()
        closed.set()
        assert await got == MIB


@pytest.mark.root
async def test_a_hundred_mebibytes_both_ways_at_once(netns: str) -> None:
    async with server(netns, echo) as port:
        connection = await PodDialer().dial(netns, port)
        chunk = os.urandom(MIB)
        sent, came = hashlib.sha256(), hashlib.sha256()

        async def send() -> None:
            for _ in range(100):
                sent.update(chunk)
                await connection.sink.write(chunk)
            await connection.sink.end()

        async with asyncio.TaskGroup() as both:
            both.create_task(send())
            size = 0
            while data := await connection.source.read():
                came.update(data)
                size += len(data)
        assert size == 100 * MIB
        assert came.digest() == sent.digest()
        await connection.close()


@pytest.mark.root
async def test_leaves_no_descriptor_no_thread_and_nobody_in_the_namespace(netns: str) -> None:
    await in_own_thread(lambda: None)
    async with server(netns, echo) as port:
        dialer = PodDialer()
        await (await dialer.dial(netns, port)).close()
        await asyncio.sleep(0.05)
        before = descriptors()
        connections = await asyncio.gather(*(dialer.dial(netns, port) for _ in range(200)))
        refused = await asyncio.gather(*(dialer.dial(netns, 1) for _ in range(50)), return_exceptions=True)
        assert all(isinstance(each, Unavailable) for each in refused)
        cancelled = [asyncio.create_task(dialer.dial(netns, port)) for _ in range(50)]
        await asyncio.sleep(0)
        for task in cancelled:
            task.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)
        for connection in connections:
            await connection.close()
        await until(lambda: descriptors() <= before)  # the server's side of those that were cancelled
    own = os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116 - a namespace
    await until(lambda: all(entered(task) == own for task in Path("/proc/self/task").iterdir()))
    assert threading.active_count() < 30


def entered(task: Path) -> int:
    """The network namespace of a thread, ours for one that has just ended."""
    try:
        return (task / "ns/net").stat().st_ino
    except OSError:
        return Path("/proc/self/ns/net").stat().st_ino


@pytest.mark.root
async def test_no_more_threads_at_once_than_agreed(netns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = most = 0
    lock = threading.Lock()
    real = syscalls.setns

    def counted(fd: int, kind: int = 0) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        threading.Event().wait(0.01)
        real(fd, kind)
        with lock:
            inside -= 1

    monkeypatch.setattr(syscalls, "setns", counted)
    dialer = PodDialer()
    await asyncio.gather(*(dialer.dial(netns, 1) for _ in range(60)), return_exceptions=True)
    assert 1 < most <= 16


async def test_a_close_that_is_cancelled_lets_go_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_descriptors, "_TURNS", 1)  # it pauses after each read
    over = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(4 * MIB))
        await over.wait()
        writer.transport.abort()

    async with server("", serve) as port:
        before = descriptors()
        connection = await PodDialer().dial("", port)
        await connection.source.read()
        await asyncio.sleep(0.1)  # much is there that nobody has read
        closing = asyncio.create_task(connection.close())
        await asyncio.sleep(0)
        assert not closing.done()
        closing.cancel()
        await asyncio.wait([closing])
        assert isinstance(connection.source, Reader)
        assert connection.source.fd == -1
        over.set()
        await until(lambda: descriptors() <= before)


async def test_a_connection_that_finds_no_descriptor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with server("", echo) as port:
        before = descriptors()
        with monkeypatch.context() as patch, pytest.raises(Unavailable, match="Too many open files"):
            patch.setattr(os, "dup", none_left)
            await PodDialer().dial("", port)
        await asyncio.sleep(0.05)  # the server has taken it
        await until(lambda: descriptors() <= before)
