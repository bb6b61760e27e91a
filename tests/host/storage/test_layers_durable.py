"""Layers and the disk: what a power cut leaves, what an error of the disk does, and blobs that are kept."""

import asyncio
import errno
import fcntl
import os
import random
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from sampan.config import Paths
from sampan.host.storage import layer_store
from sampan.host.storage.layers import Layers
from sampan.model.errors import SampanError
from sampan.store.database import Database, Put
from tests import images
from tests.host import stores
from tests.host.stores import Store
from tests.images import Entry

pytestmark = pytest.mark.root

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, fs/ext4/ext4.h
NO_LOG_FLUSH = struct.pack("I", 2)  # EXT4_GOING_FLAGS_NOLOGFLUSH
LAYERS = 4


# --- blobs that are kept ------------------------------------------------------------------------------------


@pytest.fixture
async def keeping(tmp_path: Path) -> AsyncIterator[Store]:
    async with stores.opened(tmp_path) as store:
        store.layers._keep = "keep"
        yield store


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_a_kept_blob_is_what_came_and_goes_with_its_layer(keeping: Store, compression: str) -> None:
    archive = images.layer([Entry("big", data=random.Random(1).randbytes(300_000))])
    chain = await keeping.add(archive, compression=compression)
    await keeping.layers.commit(chain)
    blob = keeping.layers.blob(chain[0])
    assert blob is not None and blob.read_bytes() == images.compress(archive, compression)[0]
    assert blob.stat().st_mode & 0o777 == 0o600
    await keeping.layers.remove(chain[0])
    assert not blob.exists()


async def test_kept_blobs_are_known_after_a_restart(keeping: Store) -> None:
    chain = await keeping.chain([Entry("etc", "dir")], [Entry("etc/a")])
    await keeping.layers.commit(chain)
    again = Layers(keeping.paths)
    await again.open()
    try:
        blobs = [again.blob(chain_id) for chain_id in chain]
        assert all(blob is not None and blob.is_file() for blob in blobs)
        staged = await again.unpack(stores.whole(images.layer([Entry("b")])), "none")
        await again.publish(staged, "sha256:b", [])
        assert again.blob("sha256:b") is None  # from now on none is kept
    finally:
        await again.close()


# --- a disk that fails ------------------------------------------------------------------------------------------


async def test_an_error_of_the_disk_that_was_told_before_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of it once, and that may be while layers are still unpacked."""
    async with stores.opened(tmp_path) as store:
        first = await store.add([Entry("a")])
        staged = await store.unpack([Entry("c")])

        def fail(_: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(layer_store, "syncfs", fail)
        with pytest.raises(OSError, match="Input/output"):
            await asyncio.to_thread(store.layers._store.flush)
        monkeypatch.undo()
        await store.layers.publish(staged, "sha256:c", [])
        later = await store.add([Entry("b")])
        for lost in (first, ["sha256:c"], [*later, *first]):
            with pytest.raises(OSError, match="Input/output"):
                await store.layers.commit(lost)
        await store.layers.commit(later)
        await store.layers.remove(first[0])
        again = await store.add([Entry("a")])  # under the name of the one that was lost
        await store.layers.commit(again)
    async with stores.opened(tmp_path) as store:
        assert [store.layers.has(each) for each in (*later, *again, "sha256:c")] == [True, True, False]


# --- a disk without power -----------------------------------------------------------------------------------------


def tool(*argv: str | Path) -> None:
    subprocess.run(argv, check=True, capture_output=True)


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    tool("mount", "-o", "loop", image, at)
    try:
        yield at
    finally:
        unmount(image, at)


def unmount(image: Path, at: Path) -> None:
    """Until nobody has it any more: a call that was cancelled goes on in its thread, and every mount namespace that was
    made on this machine meanwhile has a copy of the mount. A file system that is not gone would be mounted as it is."""
    deadline = time.monotonic() + 60
    while subprocess.run(["umount", at], capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline, f"{at} is in use"
        time.sleep(0.02)
    while subprocess.run(["losetup", "-j", image], capture_output=True, check=True).stdout:
        assert time.monotonic() < deadline, f"{image} is mounted somewhere"
        time.sleep(0.02)


def cut_power(at: Path) -> None:
    """What was not synced is lost, as it would be."""
    descriptor = os.open(at, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, SHUTDOWN, NO_LOG_FLUSH)
    finally:
        os.close(descriptor)


@pytest.fixture
def disk(tmp_path: Path) -> tuple[Path, Path]:
    image, at = tmp_path / "disk", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(256 << 20)
    at.mkdir()
    tool("mkfs.ext4", "-q", image)
    return image, at


def files(cut: int, number: int) -> dict[str, bytes]:
    """What the layer has; every layer of every cut is another one."""
    rng = random.Random(cut * 100 + number)
    return {f"d{number}/f{each}": rng.randbytes(rng.randrange(1, 200_000)) for each in range(6)}


def chain_of(cut: int) -> list[str]:
    return [f"sha256:{cut:032x}{number:032x}" for number in range(LAYERS)]


async def install(layers: Layers, database: Database, cut: int, committing: asyncio.Event) -> None:
    """What a pull does: publish all, make them durable, then record the image."""
    chain = chain_of(cut)
    for number in range(LAYERS):
        entries = [Entry(path, data=data) for path, data in files(cut, number).items()]
        staged = await layers.unpack(stores.chunks(entries), "none", base=not number)
        await layers.publish(staged, chain[number], chain[:number])
    committing.set()
    await layers.commit(chain)
    await database.commit([Put("image", f"{cut:04}", b"image")])


async def live_until_cut(at: Path, cut: int) -> bool:
    """Install an image with the power going at a random moment about its commit. Whether it was acknowledged before."""
    layers = Layers(Paths(at / "root", at / "state"))
    (at / "root").mkdir(exist_ok=True)
    database = await Database.open(at / "root" / "state.db")
    await layers.open()
    committing = asyncio.Event()
    work = asyncio.create_task(install(layers, database, cut, committing))
    await committing.wait()
    await asyncio.sleep(random.Random(cut).choice([0, 0.001, 0.003, 0.006, 0.01, 0.02, 0.04]))
    acknowledged = work.done() and work.exception() is None
    await asyncio.to_thread(cut_power, at)
    try:
        await work
    except (OSError, SampanError):
        assert not acknowledged
    await layers.close()
    await database.close()
    return acknowledged


async def check_what_is_left(at: Path, upto: int, acknowledged: set[int]) -> set[int]:
    """Which images are recorded: those are whole. So is any layer that shows."""
    database = await Database.open(at / "root" / "state.db")
    recorded = {int(row.id) for row in await database.load()}
    await database.close()
    assert acknowledged <= recorded
    layers = Layers(Paths(at / "root", at / "state"))
    await layers.open()
    try:
        for cut in range(upto):
            for number, chain_id in enumerate(chain_of(cut)):
                assert layers.has(chain_id) or cut not in recorded
                if layers.has(chain_id):
                    for path, data in files(cut, number).items():
                        found = (layers.directory(chain_id) / path).read_bytes()
                        assert sha256(found).digest() == sha256(data).digest(), (cut, path)
        await layers.sweep([chain_id for cut in recorded for chain_id in chain_of(cut)])
    finally:
        await layers.close()
    return recorded


async def test_20_power_cuts_about_a_commit_leave_whole_images_or_none(disk: tuple[Path, Path]) -> None:
    image, at = disk
    acknowledged: set[int] = set()
    recorded: set[int] = set()
    for cut in range(20):
        with mounted(image, at):
            if await live_until_cut(at, cut):
                acknowledged.add(cut)
        with mounted(image, at):
            recorded = await check_what_is_left(at, cut + 1, acknowledged)
    print(f"{len(recorded)} images are recorded, {len(acknowledged)} were acknowledged before the cut")
    assert 0 < len(recorded) < 20  # else no cut came about a commit
