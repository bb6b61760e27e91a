"""What feeds the unpacking child: streams that are whole, damaged or cut off; bombs are in test_table_a9.py."""

import asyncio
import gzip
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zstandard

from sampan.host.process import Child
from sampan.model.errors import Invalid, Lost
from tests import images
from tests.host import stores
from tests.host.stores import Store, eventually, whole
from tests.images import Entry

pytestmark = pytest.mark.root

CHILDREN = list[Child]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with stores.guarded(tmp_path) as store:
        yield store


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> CHILDREN:
    return stores.children(monkeypatch)


# --- streams ------------------------------------------------------------------------------------------------

SMALL = images.layer([Entry("file", data=b"x" * 3000)])
ZIPPED = gzip.compress(SMALL)
STREAMS = {
    "gzip members": gzip.compress(SMALL[:700]) + gzip.compress(b"") + gzip.compress(SMALL[700:]),
    "gzip and padding": ZIPPED + bytes(1000),
    "zstd": zstandard.compress(SMALL),
    "zstd frames and a skippable one": zstandard.compress(SMALL[:700])
    + b"\x51\x2a\x4d\x18\x04\0\0\0skip"
    + zstandard.compress(SMALL[700:]),
    "plain": SMALL,
    "without the final blocks": gzip.compress(SMALL[:4096]),
}


@pytest.mark.parametrize("stated", ["gzip", "zstd", "none"])
@pytest.mark.parametrize("blob", STREAMS.values(), ids=STREAMS)
async def test_a_stream_is_taken_for_what_it_is(store: Store, blob: bytes, stated: str) -> None:
    staged = await store.layers.unpack(whole(blob), stated)
    assert staged.blob_digest == images.sha256(blob)
    assert staged.blob_size == len(blob)
    assert staged.diff_id in (images.sha256(SMALL), images.sha256(SMALL[:4096]))
    await store.layers.discard(staged)


@pytest.mark.parametrize(
    "blob",
    [
        ZIPPED[:-1],
        ZIPPED[: len(ZIPPED) // 2],
        ZIPPED[:-8] + bytes(8),
        ZIPPED + b"garbage",
        ZIPPED + bytes(9) + b"x",
        ZIPPED[:20] + b"\xff" * 10 + ZIPPED[30:],
        b"\x1f\x8b",
        b"",
        zstandard.compress(os.urandom(5000))[:4000],
        zstandard.compress(SMALL)[:10] + b"\xff" * 20,
        b"<html>not a layer</html>" * 100,
    ],
    ids=[
        *("short trailer", "half", "wrong sum", "garbage", "late garbage", "damage", "magic only", "nothing"),
        *("half of zstd", "damaged zstd", "no archive"),
    ],
)
async def test_damaged_streams_are_invalid(store: Store, blob: bytes) -> None:
    with pytest.raises(Invalid):
        await store.layers.discard(await store.layers.unpack(whole(blob), "gzip"))


async def test_a_stream_may_come_byte_by_byte(store: Store) -> None:
    async def bytewise() -> AsyncIterator[bytes]:
        for place in range(len(ZIPPED)):
            yield ZIPPED[place : place + 1]
            await asyncio.sleep(0)

    staged = await store.layers.unpack(bytewise(), "gzip")
    assert staged.diff_id == images.sha256(SMALL)
    await store.layers.discard(staged)


async def test_a_source_that_fails_leaves_nothing(store: Store) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield ZIPPED[:50]
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        await store.layers.unpack(broken(), "gzip")


async def test_a_cancelled_unpack_leaves_no_process_and_no_files(store: Store, children: CHILDREN) -> None:
    never = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield ZIPPED[:50]
        await never.wait()

    work = asyncio.create_task(collect(store, stuck()))
    await eventually(lambda: bool(children))
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert not children[0].running


async def collect(store: Store, source: AsyncIterator[bytes]) -> None:
    await store.layers.unpack(source, "gzip")


async def test_a_child_that_dies_is_lost(store: Store, children: CHILDREN) -> None:
    async def killed() -> AsyncIterator[bytes]:
        yield ZIPPED[:50]
        children[0].kill()
        await children[0].exited()
        yield ZIPPED[50:]

    with pytest.raises(Lost, match="signal 9"):
        await store.layers.unpack(killed(), "gzip")


# --- memory --------------------------------------------------------------------------------------------------


def peak_memory(child: Child) -> int:
    """Of a running child, in KiB."""
    status = Path(f"/proc/{child.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


async def test_many_small_files_take_no_memory_each(store: Store, children: CHILDREN) -> None:
    """The child's peak after 20,000 entries is far below its limit, so it is not in the entries."""
    block = b"".join(images.header(Entry(f"{n:05}")).tobuf() for n in range(20_000))
    peak: list[int] = []

    async def measured() -> AsyncIterator[bytes]:
        blob = gzip.compress(block, 1)
        yield blob[:-100]
        peak.append(peak_memory(children[0]))
        yield blob[-100:]

    staged = await store.layers.unpack(measured(), "gzip")
    assert staged.inodes == 20_001  # and one for what the layer is made again from
    assert peak[0] < 64 << 10  # KiB
    await store.layers.discard(staged)
