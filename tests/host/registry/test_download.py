"""Downloads from several connections: whatever network and disk do, the bytes are the blob's, in order, each once.

Time is the test's own: a loop whose clock jumps to the next timer, so that nothing waits and "for ever" is soon seen.
"""

import asyncio
import errno
import random
import selectors
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.host.registry.download import CONNECTIONS, Download, Effort
from sampan.host.storage import spool as spool_module
from sampan.host.storage.spool import Spool
from sampan.model.errors import RegistryUnavailable

T = TypeVar("T")
DIGEST = "sha256:" + "cd" * 32
LONG = 100_000.0  # seconds: more than any download here may take


class Jumping(selectors.SelectSelector):
    """Never waits: moves the clock on to when somebody wants to be woken. With nobody, somebody waits for ever."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        assert ready or timeout is not None, "everybody waits, and nobody will wake them"
        self.now += timeout or 0
        return ready


class OwnTime(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = Jumping()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


def run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=OwnTime) as runner:
        return runner.run(work)


@dataclass
class Network:
    """A registry and a disk. `speeds` of its connections in bytes a second, by turns; one that is negative breaks after
    so many bytes, one of 0 never brings anything."""

    blob: bytes
    speeds: list[float] = field(default_factory=lambda: [10.0])
    ranges: bool = True
    piece: int = 7
    disk_seconds: float = 0.0
    disk_room: int = 1 << 30
    asked: list[tuple[int, int, bool]] = field(default_factory=list)
    open: list[tuple[int, int]] = field(default_factory=list)  # by helpers, now
    brought: int = 0
    most: int = 0
    active: int = 0

    async def fetch(self, start: int, stop: int, exact: bool) -> AsyncGenerator[bytes, None]:
        assert 0 <= start < stop <= len(self.blob)
        speed = self.speeds[len(self.asked) % len(self.speeds)]
        self.asked.append((start, stop, exact))
        if exact and not self.ranges:
            await asyncio.sleep(0.1)
            raise NotImplementedError
        self.active += 1
        self.most = max(self.most, self.active)
        if exact:
            assert not [other for other in self.open if other[0] < stop and start < other[1]]
            self.open.append((start, stop))
        try:
            async with aclosing(self._pieces(start, stop, speed, exact)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self.active -= 1
            if exact:
                self.open.remove((start, stop))

    async def _pieces(self, start: int, stop: int, speed: float, exact: bool) -> AsyncGenerator[bytes, None]:
        left = -speed if speed < 0 else len(self.blob)
        if speed == 0:
            await asyncio.sleep(300)  # the end of an endpoint's patience
            left = 0
        while start < stop:
            data = self.blob[start : min(stop, start + self.piece)]
            await asyncio.sleep(len(data) / (speed if speed > 0 else 20))
            left -= len(data)
            if left < 0:
                raise RegistryUnavailable("broken")
            start += len(data)
            self.brought += len(data)
            yield data

    @contextmanager
    def around(self) -> Iterator[None]:
        """The disk, for as long as the loop is ours: without threads, and with so much room."""

        async def inline(work: Callable[..., T], *args: Any) -> T:
            await asyncio.sleep(self.disk_seconds)
            return work(*args)

        write = spool_module._written

        def written(fd: int, data: bytes, offset: int) -> None:
            self.disk_room -= len(data)
            if self.disk_room < 0:
                write(fd, data[: len(data) // 2], offset)
                raise OSError(errno.ENOSPC, "No space left on device")
            write(fd, data, offset)

        with (
            mock.patch.object(spool_module, "in_thread", inline),
            mock.patch.object(spool_module, "in_slow_thread", inline),
            mock.patch.object(spool_module, "_written", written),
        ):
            yield


@contextmanager
def spool_root() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="sampan-spool-"))
    try:
        yield place
        targets = [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
        assert not [target for target in targets if target.startswith(str(place))], "a descriptor is left"
    finally:
        shutil.rmtree(place)


async def read(network: Network, root: Path, effort: Effort, into: bytearray) -> float:
    """Download it all; how long that took."""
    spool = Spool(root)
    parts = await spool.open(DIGEST, len(network.blob))
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        async with aclosing(Download(network.fetch, parts, effort).pieces()) as pieces:
            async for piece in pieces:
                assert piece
                into += piece
    finally:
        assert all(one.end <= other.start for one, other in pairwise(parts._parts)), "parts overlap"
        parts.close()
        spool.close(DIGEST)
    return loop.time() - began


def effort(segment: int = 50, keep_after: float = 3.0, spread_after: float = 1.0, more: int = 6) -> Effort:
    return Effort(asyncio.Semaphore(more), spread_after, keep_after, 10.0, segment)


def downloaded(network: Network, root: Path, **options: Any) -> float:
    """The seconds it took. All that came is the blob, and what is on disk is of it."""
    came = bytearray()
    with network.around():
        seconds = run(read_with(network, root, came, options))
    assert bytes(came) == network.blob
    check_disk(network.blob, root)
    return seconds


async def read_with(network: Network, root: Path, into: bytearray, options: dict[str, Any]) -> float:
    seconds = await read(network, root, effort(**options), into)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others, "somebody goes on"
    return seconds


def check_disk(blob: bytes, root: Path) -> None:
    for path in root.glob("*/*"):
        data = path.read_bytes()
        assert data == blob[int(path.name) : int(path.name) + len(data)]


def blob_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def test_a_quick_download_is_one_request_and_leaves_nothing_on_disk() -> None:
    network = Network(blob_of(1000), speeds=[2000])
    with spool_root() as root:
        downloaded(network, root)
        assert not list(root.iterdir())
    assert network.asked == [(0, 1000, False)]


def test_a_slow_one_is_spread_and_takes_a_quarter_of_the_time() -> None:
    alone = Network(blob_of(4000), speeds=[10], ranges=False)
    spread = Network(blob_of(4000), speeds=[10])
    with spool_root() as root, spool_root() as other:
        before, after = downloaded(alone, root), downloaded(spread, other)
    assert spread.most == CONNECTIONS
    assert before == pytest.approx(400)
    assert after < before * 0.27
    assert spread.brought < 4000 * 1.01  # nothing is fetched twice, but a piece where two meet


def test_a_slow_reader_is_not_helped() -> None:
    network = Network(blob_of(1000), speeds=[1000])

    async def slowly(root: Path) -> None:
        spool = Spool(root)
        parts = await spool.open(DIGEST, 1000)
        async with aclosing(Download(network.fetch, parts, effort()).pieces()) as pieces:
            async for _ in pieces:
                await asyncio.sleep(1)
        parts.close()

    with spool_root() as root, network.around():
        run(slowly(root))
    assert network.most == 1


def test_no_more_connections_than_are_left_over_all_pulls() -> None:
    network = Network(blob_of(4000), speeds=[10])
    with spool_root() as root:
        downloaded(network, root, more=1)
    assert network.most == 2


def test_what_a_try_kept_is_not_fetched_again() -> None:
    network = Network(blob_of(1000), speeds=[10])
    with spool_root() as root:
        came = bytearray()

        async def for_a_while() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(20):
                    await read(network, root, effort(), came)

        with network.around():
            run(for_a_while())
        check_disk(network.blob, root)
        first = network.brought
        assert 400 < first < 900
        network.brought = 0
        downloaded(network, root)
        # but for what came in the first three seconds, and a piece in flight for each connection
        assert network.brought <= 1000 - first + 3 * 10 + CONNECTIONS * network.piece


def test_what_comes_is_kept_from_so_long_after_the_beginning_of_the_pull() -> None:
    network = Network(blob_of(10), speeds=[100])
    with spool_root() as root:

        async def late() -> None:
            spool = Spool(root)
            parts = await spool.open(DIGEST, 10)
            since = asyncio.get_running_loop().time()
            await asyncio.sleep(3)
            async with aclosing(Download(network.fetch, parts, effort(), since).pieces()) as pieces:
                async for _ in pieces:
                    pass
            parts.close()

        with network.around():
            run(late())
        assert next(root.glob("*/0")).read_bytes() == network.blob


def test_a_helper_that_brings_nothing_is_not_waited_for_long() -> None:
    network = Network(blob_of(600), speeds=[10, 0, 10, 10, 10])
    with spool_root() as root:
        seconds = downloaded(network, root)
    assert seconds < 60 + 10


def test_a_registry_without_ranges_is_asked_for_one_only_once() -> None:
    network = Network(blob_of(1000), speeds=[10], ranges=False)
    with spool_root() as root:
        assert downloaded(network, root) == pytest.approx(100)
    assert [exact for _, _, exact in network.asked] == [False, True]


def test_a_full_disk_costs_no_download(caplog: pytest.LogCaptureFixture) -> None:
    network = Network(blob_of(1000), speeds=[10], disk_room=100)
    with spool_root() as root:
        downloaded(network, root)
    assert caplog.text.count("neither kept") == 1


def test_a_failure_is_the_one_of_the_connection_in_turn() -> None:
    network = Network(blob_of(1000), speeds=[-15])
    with spool_root() as root, pytest.raises(RegistryUnavailable, match="broken"), network.around():
        run(read(network, root, effort(), bytearray()))


def test_a_second_download_of_the_same_blob_goes_its_own_way() -> None:
    network = Network(blob_of(500), speeds=[10])

    async def twice(root: Path) -> None:
        spool = Spool(root)

        async def one() -> bytes:
            parts = await spool.open(DIGEST, 500)
            try:
                async with aclosing(Download(network.fetch, parts, effort()).pieces()) as pieces:
                    return b"".join([piece async for piece in pieces])
            finally:
                parts.close()
                spool.close(DIGEST)

        assert list(await asyncio.gather(one(), one())) == [network.blob] * 2

    with spool_root() as root, network.around():
        run(twice(root))
        check_disk(network.blob, root)


def test_an_empty_blob_is_not_asked_for() -> None:
    network = Network(b"")
    with spool_root() as root:
        downloaded(network, root)
    assert network.asked == []


# --- whatever happens ---------------------------------------------------------------------------------------

SPEEDS = st.sampled_from([1000.0, 100.0, 20.0, 10.0, 5.0, 1.0, 0.0, -1.0, -30.0, -100.0])


@st.composite
def networks(draw: st.DrawFn) -> Network:
    return Network(
        blob_of(draw(st.integers(1, 600))),
        speeds=draw(st.lists(SPEEDS, min_size=1, max_size=8)),
        ranges=draw(st.booleans()),
        piece=draw(st.integers(1, 60)),
        disk_seconds=draw(st.sampled_from([0.0, 0.0, 0.01, 3.0, 30.0])),
        disk_room=draw(st.sampled_from([0, 50, 300, 1 << 30])),
    )


EFFORTS = st.fixed_dictionaries(
    {
        "segment": st.integers(1, 100),
        "keep_after": st.sampled_from([0.0, 1.0, 5.0]),
        "spread_after": st.sampled_from([0.0, 0.3, 1.0]),
        "more": st.integers(0, 6),
    }
)
FOUND = st.lists(st.tuples(st.integers(0, 650), st.integers(0, 300)), max_size=4)


def lay(root: Path, blob: bytes, found: list[tuple[int, int]]) -> None:
    for start, length in found:
        (root / ("cd" * 32)).mkdir(exist_ok=True)
        (root / ("cd" * 32) / str(start)).write_bytes(blob[start : start + length])


@settings(max_examples=300, deadline=None)
@given(networks(), EFFORTS, FOUND, st.one_of(st.none(), st.floats(0, 200)))
def test_the_bytes_are_always_the_blobs(
    network: Network, options: dict[str, Any], found: list[tuple[int, int]], until: float | None
) -> None:
    """A try that may be cancelled at any time or fail, over whatever is on disk; then one that meets no trouble."""

    async def first_try(root: Path, came: bytearray) -> None:
        with suppress(TimeoutError, RegistryUnavailable):
            async with asyncio.timeout(LONG if until is None else until):
                await read(network, root, effort(**options), came)
                assert bytes(came) == network.blob
        assert not asyncio.all_tasks() - {asyncio.current_task()}
        assert asyncio.get_running_loop().time() < LONG, "it took for ever"

    with spool_root() as root:
        lay(root, network.blob, found)
        came = bytearray()
        with network.around():
            run(first_try(root, came))
        assert network.blob.startswith(came)
        assert not network.open and not network.active
        check_disk(network.blob, root)
        downloaded(replace(network, speeds=[100.0], disk_room=1 << 30, asked=[]), root, **options)
