"""What the image store says it takes of the disk is what it takes, by the kernel's own count."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sampan.host import filesystems, mounts
from sampan.host.storage import disk_use
from sampan.host.storage.layers import Layers
from sampan.host.storage.rootfs import OverlayRootfs
from sampan.host.threads import in_thread
from sampan.model.errors import Exhausted
from sampan.model.paths import Paths
from sampan.runtime.image_ports import Usage
from tests.host import stores
from tests.host.stores import Store
from tests.images import Entry

pytestmark = pytest.mark.root

LAYER = [Entry(f"d{n % 7}/f{n}", data=os.urandom(n * 500)) for n in range(60)]
LAYER += [Entry("hard", "hardlink", link="d1/f1"), Entry("long", "symlink", link="x" * 200)]
LAYER += [Entry("big", data=bytes(3 << 20))]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with stores.opened(tmp_path) as store:
        yield store


def real(*places: Path) -> Usage:
    """What `du` counts, the directories themselves included."""
    seen: dict[tuple[int, int], int] = {}
    for place in places:
        if not place.exists():
            continue
        for directory, inner, names in os.walk(place):
            for path in (Path(directory), *(Path(directory, name) for name in [*inner, *names])):
                try:
                    found = path.lstat()
                except FileNotFoundError:  # trash, on its way out: the next look counts without it
                    continue
                seen[found.st_dev, found.st_ino] = found.st_blocks * 512
    return Usage(sum(seen.values()), len(seen))


async def agreed(store: Store) -> Usage:
    """What is told, as soon as it is so."""
    async with asyncio.timeout(10):
        while (told := await store.layers.fs_usage()) != real(store.paths.layers, store.paths.blobs):  # noqa: ASYNC110 - a look
            await asyncio.sleep(0.01)
    return told


async def test_it_is_what_du_says_after_pulls_removals_and_restarts(store: Store) -> None:
    empty = await agreed(store)
    chain = await store.chain(LAYER, [Entry("d1/f1", data=b"new"), Entry("d2/.wh.f2")], compression="gzip")
    await store.layers.commit(chain)
    full = await agreed(store)
    assert full.bytes > empty.bytes + (3 << 20) and full.inodes > empty.inodes + 60
    for chain_id in reversed(chain):
        await store.layers.remove(chain_id)
    assert await agreed(store) == empty


async def test_a_restart_does_not_walk_layers_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stores.opened(tmp_path) as store:
        await store.layers.commit(await store.chain(LAYER))
        full = await agreed(store)
    monkeypatch.setattr(disk_use.DiskUse, "_measure_layer", lambda *_: pytest.fail("it walks"))
    async with stores.opened(tmp_path) as store:
        assert await agreed(store) == full


async def test_a_note_that_is_damaged_or_of_another_layer_is_not_believed(tmp_path: Path) -> None:
    async with stores.opened(tmp_path) as store:
        chains = [await store.chain([Entry(name, data=bytes(9000))]) for name in "abc"]
        await store.layers.commit([chain[0] for chain in chains])
        await agreed(store)
        notes = [store.layers.directory(chain[0]).parent / disk_use.FILE for chain in chains]
    notes[0].write_bytes(b"{")
    notes[1].write_text('{"chain_id": "sha256:other", "bytes": 1, "inodes": 1}')
    notes[2].unlink()
    async with stores.opened(tmp_path) as store:
        await agreed(store)


async def test_what_is_being_unpacked_and_fetched_counts(store: Store) -> None:
    going, gate = asyncio.Event(), asyncio.Event()

    async def blob() -> AsyncIterator[bytes]:
        async for piece in stores.chunks(LAYER):
            yield piece
        going.set()
        await gate.wait()

    store.paths.blobs.mkdir(parents=True)
    (store.paths.blobs / "download").write_bytes(bytes(1 << 20))
    before = await agreed(store)
    work = asyncio.ensure_future(store.layers.unpack(blob(), "none", base=True))
    await going.wait()
    await stores.eventually(lambda: real(store.paths.layers).bytes > before.bytes + (2 << 20))
    await store.layers.fs_usage()
    async with asyncio.timeout(10):
        while (await store.layers.fs_usage()).bytes < before.bytes + (2 << 20):  # noqa: ASYNC110 - a look
            await asyncio.sleep(0.01)
    gate.set()
    await store.layers.discard(await work)
    assert (await agreed(store)).bytes == before.bytes


async def test_what_is_thrown_away_counts_until_it_is_gone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = await store.chain(LAYER)
    await store.layers.commit(chain)
    full = await agreed(store)
    with monkeypatch.context() as patch:
        patch.setattr(store.layers._store.trash, "empty", lambda: None)
        await store.layers.remove(chain[0])
        assert await agreed(store) == full
    store.layers._store.trash.empty()
    await stores.eventually(lambda: stores.is_empty(store.paths.layers / "trash"))
    assert (await agreed(store)).bytes < full.bytes - (3 << 20)


# --- disks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["named", "mounted", "linked"])
async def test_layers_may_have_a_disk_of_their_own(tmp_path: Path, how: str) -> None:
    own, root = tmp_path / "disk", tmp_path / "root"
    own.mkdir(), root.mkdir()  # type: ignore[func-returns-value]
    paths = Paths(root, tmp_path / "state", own if how == "named" else None)
    place = root / "layers" if how == "mounted" else own
    place.mkdir(exist_ok=True)
    mounts.tmpfs(place, 64 << 20, 0o700)
    try:
        if how == "linked":
            (own / "inner").mkdir()
            (root / "layers").symlink_to(own / "inner")
        layers = Layers(paths)
        rootfs = OverlayRootfs(paths, layers)
        await layers.open()
        store = Store(paths, layers, rootfs)
        async with store.merged(
            [Entry("etc", "dir"), Entry("etc/a", data=b"x")], [Entry("etc/b", data=b"y")]
        ) as merged:
            (merged / "etc/c").write_text("z")
            assert sorted(path.name for path in (merged / "etc").iterdir()) == ["a", "b", "c"]
            assert layers.root.stat().st_dev != root.stat().st_dev
            assert (root / "containers/c/upper/etc/c").read_text() == "z"
        told = await in_thread(filesystems.disks, paths)
        assert told == (paths.layers.resolve(), root)
        await rootfs.close()
        await layers.close()
    finally:
        mounts.detach(paths.bundle("any").parent)
        mounts.detach(place)


def test_on_one_disk_both_file_systems_have_one_name(tmp_path: Path) -> None:
    (tmp_path / "layers").mkdir()
    assert filesystems.disks(Paths(tmp_path, Path("/run/x"))) == (tmp_path, tmp_path)


# --- room ---------------------------------------------------------------------------------------------------


async def test_room_is_what_is_free_but_for_the_reserve(store: Store) -> None:
    disk = os.statvfs(store.paths.layers)
    free = disk.f_bavail * disk.f_frsize
    await store.layers.require_room(1, "app")
    with pytest.raises(Exhausted, match=r"app: .* at least \d+ bytes .*sampan prune"):
        await store.layers.require_room(free, "app")


@pytest.mark.parametrize("free", [0, 1, 2, 4, 6, 8, 9, 10])
async def test_a_layer_that_the_disk_cannot_hold_leaves_nothing(tmp_path: Path, free: int) -> None:
    """`free`: so many sixteenths of the disk are free before."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounts.tmpfs(disk, 32 << 20, 0o700)
    try:
        async with stores.opened(disk) as store:
            kept = await store.add([Entry("etc", "dir")])
            filler = disk / "filler"
            before = os.statvfs(disk)
            taken = before.f_bavail * before.f_frsize - free * (2 << 20)
            filler.write_bytes(bytes(taken))
            tree = real(store.paths.layers)
            with pytest.raises(Exhausted, match=r"space|full|free"):
                await store.add([Entry(f"f{n}", data=os.urandom(1 << 20)) for n in range(24)], kept)
            await stores.eventually(lambda: stores.is_empty(store.paths.layers / "trash"))
            assert not store.leftovers() and real(store.paths.layers) == tree
            filler.unlink()
            await store.add([Entry(f"f{n}", data=os.urandom(1 << 20)) for n in range(24)], kept)
    finally:
        mounts.detach(disk)
