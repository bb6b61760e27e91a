"""What feeds the unpacking child: streams that are whole, damaged, cut off or bombs."""

import asyncio
import gzip
import io
import os
import tarfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zstandard

from sampan.host.process import Child
from sampan.host.storage import layers as layers_module
from sampan.model.errors import Exhausted, Invalid, Lost
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


# --- bombs --------------------------------------------------------------------------------------------------


def zeros(size: int, before: bytes = b"", level: int = 9) -> bytes:
    """gzip of `before` and that many zeros."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=level) as file:
        file.write(before)
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    return buffer.getvalue()


def big(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def huge_window() -> bytes:
    """A zstd frame whose header asks for a window of 2 GiB (RFC 8878 3.1.1.1.2)."""
    return b"\x28\xb5\x2f\xfd" + b"\0" + bytes([21 << 3]) + b"\x01\0\0"


def endless_sparse() -> bytes:
    block = bytearray(big("s", 0, tarfile.GNUTYPE_SPARSE))
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + (b"00000000000\0" * 42 + b"\1" + bytes(7)) * (64 << 11)


BOMBS: dict[str, tuple[bytes, type[Exception] | None]] = {
    "1 GiB in a file": (zeros(1 << 30, big("f", 1 << 30)), Exhausted),
    "1 GiB twice compressed": (gzip.compress(zeros(1 << 30, big("f", 1 << 30))), Invalid),
    "1 GiB of nothing": (zeros(1 << 30), None),
    "a file said to be 8 GiB": (gzip.compress(big("f", 8 << 30)), Exhausted),
    "a PAX record of 256 MiB": (zeros(256 << 20, big("x", 256 << 20, tarfile.XHDTYPE)), Invalid),
    "a name of 256 MiB": (zeros(256 << 20, big("x", 256 << 20, tarfile.GNUTYPE_LONGNAME)), Invalid),
    "an endless sparse map": (gzip.compress(endless_sparse()), Invalid),
    "a zstd window of 2 GiB": (huge_window(), Invalid),
    "a million gzip members": (gzip.compress(b"", mtime=0) * 1_000_000, None),
}


@pytest.mark.parametrize(("bomb", "error"), BOMBS.values(), ids=BOMBS)
async def test_bombs(
    store: Store,
    bomb: bytes,
    error: type[Exception] | None,
    children: CHILDREN,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each ends soon, in little memory, and the disk is as it was."""
    disk = os.statvfs(store.paths.layers)
    free = disk.f_bavail * disk.f_frsize

    async def reserve(_: object) -> tuple[int, int]:
        return free - (256 << 20), 0

    monkeypatch.setattr(layers_module.Layers, "_reserve", reserve)
    begun = time.monotonic()
    if error is None:  # an archive that is empty, at length
        await store.layers.discard(await store.layers.unpack(whole(bomb), "gzip"))
    else:
        with pytest.raises(error):
            await store.layers.unpack(whole(bomb), "gzip")
    assert time.monotonic() - begun < 10


def peak_memory(child: Child) -> int:
    """Of a running child, in KiB."""
    status = Path(f"/proc/{child.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


async def test_many_small_files_take_no_memory_each(store: Store, children: CHILDREN) -> None:
    """The child's peak after 20,000 entries is far below its limit, so it is not in the entries."""
    block = b"".join(big(f"{n:05}", 0) for n in range(20_000))
    peak: list[int] = []

    async def measured() -> AsyncIterator[bytes]:
        blob = gzip.compress(block, 1)
        yield blob[:-100]
        peak.append(peak_memory(children[0]))
        yield blob[-100:]

    staged = await store.layers.unpack(measured(), "gzip")
    assert staged.inodes == 20_000
    assert peak[0] < 64 << 10  # KiB
    await store.layers.discard(staged)
