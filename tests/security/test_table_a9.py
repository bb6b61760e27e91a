"""A9: what takes much of a machine for little (CVE-2025-58183, CVE-2023-25153, CVE-2017-14992); disks that get full.

Each ends in ten seconds with an error, in little memory; the disk is as before, and the next layer is unpacked.
"""

import asyncio
import gzip
import io
import os
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from sampan.host import mounts
from sampan.host.storage import layers as layers_module
from sampan.host.unpack.confine import MEMORY
from sampan.host.unpack.cursor import reserve
from sampan.model.errors import Exhausted, Invalid
from tests import images
from tests.host import stores
from tests.host.stores import Store, eventually, f, whole
from tests.images import Entry

pytestmark = pytest.mark.root

SECONDS = 10
MIB = 1 << 20
Peaks = Callable[[], list[int]]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with stores.guarded(tmp_path) as store:
        yield store


@pytest.fixture
def peaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Peaks:
    return stores.peaks(monkeypatch, tmp_path / "peaks")


@pytest.fixture
def little(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has 256 MiB and 50,000 inodes to give."""
    disk = os.statvfs(store.paths.layers)

    async def reserve(_: object) -> tuple[int, int]:
        return disk.f_bavail * disk.f_frsize - 256 * MIB, max(disk.f_favail - 50_000, 0)

    monkeypatch.setattr(layers_module.Layers, "_reserve", reserve)


async def as_before(store: Store) -> None:
    """Nothing of what was refused is left on disk, and the next layer is unpacked."""
    assert not store.leftovers()
    await eventually(lambda: stores.is_empty(store.paths.layers / "trash"))
    async with store.merged([f("good", b"next")]) as root:
        assert (root / "good").read_bytes() == b"next"


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


def many(entries: int) -> bytes:
    """gzip of so many empty files."""
    return gzip.compress(b"".join(images.header(Entry(f"{n:06}")).tobuf() for n in range(entries)), 1)


BOMBS: dict[str, tuple[bytes, type[Exception] | None]] = {
    "1 GiB in a file": (zeros(1 << 30, big("f", 1 << 30)), Exhausted),
    "1 GiB twice compressed": (gzip.compress(zeros(1 << 30, big("f", 1 << 30))), Invalid),
    "1 GiB of nothing": (zeros(1 << 30), None),
    "a file said to be 8 GiB": (gzip.compress(big("f", 8 << 30)), Exhausted),
    "a PAX record of 256 MiB": (zeros(256 << 20, big("x", 256 << 20, tarfile.XHDTYPE)), Invalid),
    "a name of 256 MiB": (zeros(256 << 20, big("x", 256 << 20, tarfile.GNUTYPE_LONGNAME)), Invalid),
    "an endless sparse map": (gzip.compress(endless_sparse()), Invalid),
    "a zstd window of 2 GiB": (huge_window(), Invalid),
    "more inodes than there may be": (many(60_000), Exhausted),
    "a million gzip members": (gzip.compress(b"", mtime=0) * 1_000_000, None),
}


@pytest.mark.parametrize(("bomb", "error"), BOMBS.values(), ids=BOMBS)
@pytest.mark.usefixtures("little")
async def test_a9_bombs(store: Store, bomb: bytes, error: type[Exception] | None, peaks: Peaks) -> None:
    begun = time.monotonic()
    if error is None:  # an archive that is empty, at length
        await store.layers.discard(await store.layers.unpack(whole(bomb), "gzip"))
    else:
        with pytest.raises(error):
            await store.layers.unpack(whole(bomb), "gzip")
    assert time.monotonic() - begun < SECONDS
    print(f"{max(peaks()) >> 20} MiB")
    assert max(peaks()) <= MEMORY
    await as_before(store)


async def test_a9_more_links_to_a_file_than_a_disk_can_count_are_invalid(store: Store) -> None:
    """The disk has room, and would have the next time: it is the archive that asks for too much (ext4: 65,000)."""
    limit = os.pathconf(store.paths.layers, "PC_LINK_MAX")
    if limit > 70_000:
        pytest.skip(f"this file system counts to {limit}")
    header = bytearray(images.header(Entry("00000000", "hardlink", link="it")).tobuf())
    header[148:156] = b" " * 8
    rest = sum(header[8:])
    blocks = [images.header(Entry("it")).tobuf()]
    for number in range(limit + 1):
        header[:8] = b"%08d" % number
        header[148:156] = b"%06o\0 " % (sum(header[:8]) + rest)
        blocks.append(bytes(header))
    with pytest.raises(Invalid, match="cannot be made: Too many links"):
        await store.layers.unpack(whole(b"".join(blocks)), "none", base=True)
    await as_before(store)


# --- a disk that gets full --------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 320 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounts.tmpfs(place, 320 * MIB, 0o700)
    try:
        yield place
    finally:
        mounts.detach(place)


def free(place: Path) -> int:
    disk = os.statvfs(place)
    return disk.f_bavail * disk.f_frsize


@pytest.mark.parametrize("sparse", [False, True])
async def test_a9_layers_that_fit_each_but_not_together_leave_the_reserve(small: Path, sparse: bool) -> None:
    """For each file there is room when it is begun. Both together are refused before the disk is full: other programs
    write there, too."""
    least = [free(small)]
    begun = asyncio.Barrier(2)
    kept, _ = reserve(os.statvfs(small))

    async def growing(number: int) -> AsyncIterator[bytes]:
        size = 200 * MIB
        info = tarfile.TarInfo(f"f{number}")
        info.size = size
        if sparse:
            info.pax_headers = {"GNU.sparse.size": str(2 * size), "GNU.sparse.map": f"{size},{size}"}
        yield info.tobuf(tarfile.PAX_FORMAT)
        yield bytes(16 * MIB)
        await begun.wait()
        for _ in range(size // MIB - 16):
            yield bytes(MIB)
            least.append(free(small))

    async with stores.opened(small) as store:
        outcomes = await asyncio.gather(
            *(store.layers.unpack(growing(number), "none", base=True) for number in range(2)),
            return_exceptions=True,
        )
        refused = [str(each) for each in outcomes if isinstance(each, Exhausted)]
        assert refused and all("must stay free" in words for words in refused), outcomes
        assert min(least) > kept // 2
        for each in outcomes:
            if not isinstance(each, BaseException):
                await store.layers.discard(each)
        await eventually(lambda: free(small) > 310 * MIB)
        assert len(await store.add([f("good")])) == 1
