"""Thousands of commands, one after another, ended well and ended badly: nothing grows with their number.

Short here; `scripts/battery.sh` runs it in full size and prints the figures.
"""

import asyncio
import random
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.wire.remotecommand.channels import Wanted
from sampan.wire.upgrade import Asking, Kind, Refused
from tests import growth
from tests.daemon.conftest import SECONDS
from tests.daemon.watched_daemon import FULL, Watched, size, tell, watched
from tests.stream_clients import CARRIERS, Client

pytestmark = [pytest.mark.root, pytest.mark.limit(size(120, 3600))]

MIB = 1 << 20
CLIENTS = 4
ROUNDS = size(6, 21)
WARM = 100  # commands, after which what is made once has been made
FLOODS = 64
SESSION = 4096  # bytes a session that the resident set may grow by: a megabyte of output leaves holes in it


@pytest.fixture
def live(archive: Path) -> Iterator[Watched]:
    with watched(archive) as daemon:
        yield daemon


def exec_sync(live: Watched, id: str, number: int) -> None:
    """One of every kind in turn; most of them are what a probe is."""
    command, code = (
        (["true"], 0),
        (["sh", "-c", "echo out; echo err >&2; exit 3"], 3),
        (["cat", "/etc/passwd"], None),
        (["/nonesuch"], None),
        (["sh", "-c", "sleep 100000 & exit 7"], 7),
    )[number % 5 if number % 50 < 5 else number % 2]
    with suppress(grpc.RpcError):
        request = cri.ExecSyncRequest(container_id=id, cmd=command, timeout=20)
        found = live.runtime.ExecSync(request, timeout=SECONDS)
        assert code is None or found.exit_code == code
        return
    assert code is None


def many(live: Watched, id: str, numbers: range) -> None:
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(lambda number: exec_sync(live, id, number), numbers))
    forsake(live, id)


def forsake(live: Watched, id: str) -> None:
    """End what commands have left behind. Their groups go when others end."""
    live.exec(id, "sh", "-c", "killall sleep; true")
    for _ in range(20):
        live.exec(id, "true")


def grown(live: Watched, id: str, each: int) -> growth.Growth:
    found = growth.Growth()
    many(live, id, range(WARM))
    for number in range(ROUNDS):
        if number:
            many(live, id, range(each))
        found.add(number * each, growth.settled(live.own))
    return found


def test_commands_leave_nothing(live: Watched) -> None:
    id = live.started(live.pod(), "sh", "-c", "while true; do sleep 100000; done")
    begin = time.monotonic()
    found = grown(live, id, size(50, 500))
    tell(f"ExecSync, {time.monotonic() - begin:.0f} s: {found.words()}")
    assert not (found.leaks() if FULL else found.counted()), found.words()


def test_a_leak_in_a_hundred_commands_is_seen(archive: Path) -> None:
    """Of each thing that is looked at."""
    with watched(archive, SAMPAN_LEAK="1") as live:
        id = live.started(live.pod(), "sh", "-c", "while true; do sleep 100000; done")
        found = grown(live, id, size(50, 100))
        tell(f"ExecSync with leaks: {found.words()}")
        assert found.counted().keys() == set(growth.COUNTS)
        assert not FULL or {"blocks", "resident"} <= found.leaks().keys()


# --- sessions whose clients are killed -----------------------------------------------------------------------------


class Interrupted:
    """Interactive commands whose clients go away in every way that there is."""

    def __init__(self, live: Watched, id: str) -> None:
        self._live = live
        self._id = id

    def url(self, wanted: Wanted, *command: str) -> str:
        request = cri.ExecRequest(
            container_id=self._id, cmd=list(command), stdin=wanted.stdin, stdout=wanted.stdout,
            stderr=wanted.stderr, tty=wanted.tty,
        )  # fmt: skip
        return self._live.runtime.Exec(request, timeout=SECONDS).url

    async def one(self, number: int) -> None:
        ways = (self.while_it_waits, self.while_it_floods, self.while_it_is_deaf, self.with_children,
                self.before_its_streams, self.of_nothing, self.half_asked, self.at_some_time)  # fmt: skip
        tty = bool(number % 2)
        wanted = Wanted(stdin=True, stdout=True, stderr=not tty, tty=tty)
        carrier = list(CARRIERS)[number // 2 % 2]
        await ways[number // 4 % len(ways)](carrier, wanted)

    async def client(self, carrier: str, wanted: Wanted, *command: str) -> Client:
        return await Client.connect(carrier, self.url(wanted, *command), wanted)

    async def while_it_waits(self, carrier: str, wanted: Wanted) -> None:
        client = await self.client(carrier, wanted, "sh", "-c", "echo up; exec sh")
        await client.until(lambda: b"up" in client.stdout)
        if wanted.tty:
            await client.resize(100, 40)
        client.leave()

    async def while_it_floods(self, carrier: str, wanted: Wanted) -> None:
        client = await self.client(carrier, wanted, "yes")
        await client.until(lambda: client.heard.count > MIB)
        client.leave()

    async def while_it_is_deaf(self, carrier: str, wanted: Wanted) -> None:
        client = await self.client(carrier, wanted, "sh", "-c", "echo up; exec sleep 100000")
        await client.until(lambda: b"up" in client.stdout)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                for _ in range(16):
                    await client.say(bytes(MIB // 4))
        client.leave()

    async def with_children(self, carrier: str, wanted: Wanted) -> None:
        client = await self.client(
            carrier, wanted, "sh", "-c", "setsid sleep 100000 & (sleep 100000 &) ; echo up; wait"
        )
        await client.until(lambda: b"up" in client.stdout)
        client.leave()

    async def before_its_streams(self, carrier: str, wanted: Wanted) -> None:
        url = urlsplit(self.url(wanted, "cat"))
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        asking = Asking(Kind.SPDY, url.path, url.netloc, ("v4.channel.k8s.io",))
        writer.write(asking.to_send())
        assert await reader.read(4096)
        writer.transport.abort()

    async def of_nothing(self, carrier: str, wanted: Wanted) -> None:
        client = await self.client(carrier, wanted, "/nonesuch")
        if wanted.tty:
            await client.resize(65535, 65535)
        if random.random() < 0.5:
            assert "nonesuch" in (await client.finished()).failure
        else:
            client.leave()

    async def half_asked(self, carrier: str, wanted: Wanted) -> None:
        url = urlsplit(self.url(wanted, "cat"))
        _, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(f"GET {url.path} HTTP/1.1\r\nHost: x\r\nConn".encode())
        connection = writer.get_extra_info("socket")
        connection.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER: a reset, not an end
        await writer.drain()
        writer.transport.abort()

    async def at_some_time(self, carrier: str, wanted: Wanted) -> None:
        with suppress(Refused):
            client = await self.client(carrier, wanted, "sh", "-c", "yes & yes")
            await asyncio.sleep(random.random() * 0.1)
            client.leave()

    async def all(self, numbers: range) -> None:
        left = iter(numbers)

        async def work() -> None:
            for number in left:
                await self.one(number)

        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(work())


async def test_interrupted_sessions_leave_nothing(live: Watched) -> None:
    id = live.started(live.pod(), "sh", "-c", "while true; do sleep 100000; done")
    interrupted, found, each = Interrupted(live, id), growth.Growth(), size(32, 64)
    rounds = size(4, 17)
    begin = time.monotonic()
    await interrupted.all(range(size(64, 256)))
    for number in range(rounds):
        if number:
            await interrupted.all(range(number * each, (number + 1) * each))
        await asyncio.to_thread(forsake, live, id)
        found.add(number * each, await asyncio.to_thread(growth.settled, live.own))
    tell(f"interrupted, {time.monotonic() - begin:.0f} s: {found.words()}")
    assert not (found.leaks(SESSION) if FULL else found.counted()), found.words()


# --- floods of output ------------------------------------------------------------------------------------------------


def test_floods_of_output_are_bounded_in_memory_and_in_time(live: Watched) -> None:
    """C13: `yes` in many commands at once, on both outputs; and who keeps an output open after the command's end."""
    id = live.started(live.pod(), "sh", "-c", "while true; do sleep 100000; done")
    live.exec(id, "true")
    before = growth.settled(live.own)
    growth.forget_highest(live.own.pid)
    begin = time.monotonic()

    def flood(number: int) -> grpc.StatusCode | int:
        redirected = "yes" if number % 2 else "yes >&2"
        if number % 8 == 7:
            redirected = "(sleep 100000 &); yes | head -c 1000000"
        request = cri.ExecSyncRequest(container_id=id, cmd=["sh", "-c", redirected], timeout=size(3, 10))
        try:
            return len(live.runtime.ExecSync(request, timeout=120).stdout)
        except grpc.RpcError as error:
            return error.code()

    with ThreadPoolExecutor(FLOODS) as clients:
        done = list(clients.map(flood, range(FLOODS)))
    took = time.monotonic() - begin
    forsake(live, id)
    highest = growth.memory(live.own.pid, "VmHWM")
    after = growth.settled(live.own, before)
    tell(
        f"{FLOODS} floods in {took:.1f} s: memory {before.resident / MIB:.1f} -> at most {highest / MIB:.1f}, then "
        f"{after.resident / MIB:.1f} MiB; {before.count} -> {after.count}"
    )
    ended = {each for number, each in enumerate(done) if number % 8 != 7}
    assert ended == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert highest - before.resident < 200 * MIB
    assert took < 60
    assert all(after.count[name] <= before.count[name] for name in growth.COUNTS), (before, after)
