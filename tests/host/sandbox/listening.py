"""Network namespaces of our own, and who listens in them."""

import asyncio
import os
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from sampan.host.sandbox import netns as namespaces
from sampan.host.threads import in_own_thread


@contextmanager
def network() -> Iterator[str]:
    """A network namespace of our own, its loopback up; where it is pinned."""
    name = f"dial-{uuid.uuid4().hex[:12]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield f"/run/netns/{name}"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def sysctl(netns: str, setting: str) -> None:
    subprocess.run(["ip", "netns", "exec", Path(netns).name, "sysctl", "-qw", setting], check=True)


async def listen_at(
    netns: str, address: str = "127.0.0.1", port: int = 0, backlog: int = 1024
) -> socket.socket:
    """A socket that listens in the namespace."""

    def listen() -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, port))
        made.listen(backlog)
        return made

    return await namespaces.inside(Path(netns), "net", listen) if netns else await in_own_thread(listen)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


@asynccontextmanager
async def server(netns: str, serve: Serve, address: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """The port of a server in the namespace."""
    made = await listen_at(netns, address, port)
    running = await asyncio.start_server(serve, sock=made)  # type: ignore[arg-type]
    try:
        yield made.getsockname()[1]
    finally:
        running.close()
        await running.wait_closed()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
    writer.close()


async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Neither reads nor says anything until its client has gone."""
    with suppress(ConnectionError):
        await reader.read(1)
        await reader.read()
    writer.close()


async def until(it_is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not it_is_so():  # noqa: ASYNC110 - what is waited for is the kernel's
            await asyncio.sleep(0.01)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counting
