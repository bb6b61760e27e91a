"""What every layer store does: the one in memory and the one on disk."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from sampan.config import Paths
from sampan.host.storage import layer_store
from sampan.host.storage.layers import Layers as Real
from sampan.model.errors import Exhausted, Invalid
from sampan.runtime.image_ports import Layers
from tests import images
from tests.fake_layers import FakeLayers
from tests.images import Entry

pytestmark = pytest.mark.root

CHAIN = tuple(f"sha256:{number:064x}" for number in range(10))


class Start(Protocol):
    """Start over what the last start left: everything after a crash is here."""

    def __call__(self) -> AbstractAsyncContextManager[Layers]: ...


@pytest.fixture(params=["in memory", "on disk"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    memory = FakeLayers()

    @asynccontextmanager
    async def in_memory() -> AsyncIterator[Layers]:
        memory.crash()
        yield memory

    @asynccontextmanager
    async def on_disk() -> AsyncIterator[Layers]:
        layers = Real(Paths(tmp_path / "root", tmp_path / "state"))
        await layers.open()
        try:
            yield layers
        finally:
            await layers.close()

    return in_memory if request.param == "in memory" else on_disk


async def blob(number: int) -> AsyncIterator[bytes]:
    yield content(number)


def content(number: int) -> bytes:
    return images.layer([Entry(f"file{number}", data=b"%d" % number * 1000)])


async def publish(layers: Layers, *numbers: int) -> None:
    for number in numbers:
        staged = await layers.unpack(blob(number), "none", base=number == 0)
        await layers.publish(staged, CHAIN[number], CHAIN[:number])


async def test_a_staged_layer_says_what_it_is_and_is_not_there_yet(start: Start) -> None:
    async with start() as layers:
        staged = await layers.unpack(blob(1), "none")
        digest = "sha256:" + hashlib.sha256(content(1)).hexdigest()
        assert (staged.blob_digest, staged.diff_id, staged.blob_size) == (digest, digest, len(content(1)))
        assert not layers.has(CHAIN[0])
        await layers.discard(staged)
        await layers.discard(staged)


async def test_what_was_published_and_not_committed_is_gone_after_a_crash(start: Start) -> None:
    async with start() as layers:
        await publish(layers, 0, 1)
        await layers.commit(CHAIN[:1])
        assert layers.has(CHAIN[0]) and layers.has(CHAIN[1])
    async with start() as layers:
        assert layers.has(CHAIN[0]) and not layers.has(CHAIN[1])
        await publish(layers, 1)
        await layers.commit(CHAIN[:2])
        await layers.commit(CHAIN[:2])
    async with start() as layers:
        assert layers.has(CHAIN[0]) and layers.has(CHAIN[1])
        assert layers.size(CHAIN[1]) > 0


async def test_a_layer_that_was_removed_stays_so_after_a_crash(start: Start) -> None:
    async with start() as layers:
        await publish(layers, 0, 1)
        await layers.commit(CHAIN[:2])
        await layers.remove(CHAIN[1])
        await layers.remove(CHAIN[1])
    async with start() as layers:
        assert layers.has(CHAIN[0]) and not layers.has(CHAIN[1])


async def test_a_sweep_leaves_what_is_wanted(start: Start) -> None:
    async with start() as layers:
        await publish(layers, 0, 1)
        await layers.commit(CHAIN[:2])
        await layers.sweep(CHAIN[:1])
        assert layers.has(CHAIN[0]) and not layers.has(CHAIN[1])


async def test_whole_layers_are_not_damaged_and_absent_ones_are_nobodys_business(start: Start) -> None:
    async with start() as layers:
        await publish(layers, 0, 1)
        assert await layers.damaged(CHAIN) == []
        await layers.commit(CHAIN[:2])
        assert await layers.damaged(CHAIN) == []
        assert layers.has(CHAIN[0]) and layers.has(CHAIN[1])


async def test_more_room_than_any_disk_has_is_refused_with_a_name(start: Start) -> None:
    async with start() as layers:
        await layers.require_room(1, "app:1")
        with pytest.raises(Exhausted, match="app:1"):
            await layers.require_room(1 << 61, "app:1")


async def test_what_is_no_layer_is_invalid(start: Start) -> None:
    async def rubbish() -> AsyncIterator[bytes]:
        yield b"\x1f\x8bnonsense" * 100

    async with start() as layers:
        with pytest.raises(Invalid):
            await layers.unpack(rubbish(), "gzip")


async def test_ten_layers_are_written_out_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sync for what is in them, and one for what says that they are there."""
    flushed: list[list[str]] = []
    flush = layer_store.LayerStore.flush

    def counted(store: layer_store.LayerStore) -> None:
        flushed.append(sorted(place.parent.name for place in store.root.glob("*/layer.json")))
        flush(store)

    layers = Real(Paths(tmp_path / "root", tmp_path / "state"))
    await layers.open()
    try:
        await publish(layers, *range(10))
        monkeypatch.setattr(layer_store.LayerStore, "flush", counted)
        await layers.commit(CHAIN)
        await layers.commit(CHAIN)
    finally:
        await layers.close()
    assert flushed == [[], sorted(str(number) for number in range(1, 11))]


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
@pytest.mark.parametrize("kind", ["file", "symlink", "fifo"])
async def test_a_root_whose_kernel_directories_are_none_is_invalid(
    start: Start, name: str, kind: str
) -> None:
    odd = Entry(name, kind, link="etc" if kind == "symlink" else "")
    async with start() as layers:
        for number, entry in enumerate((Entry(name, "dir"), odd, Entry("other"), Entry(name, "dir"))):
            archive = images.layer([entry])
            staged = await layers.unpack(whole(archive), "none", base=not number)
            await layers.publish(staged, CHAIN[number], CHAIN[:number])
        await layers.check_root([])
        await layers.check_root(CHAIN[:1])
        for length in (2, 3):
            with pytest.raises(Invalid, match=f"/{name} is not a directory"):
                await layers.check_root(CHAIN[:length])
        await layers.check_root(CHAIN[:4])


async def whole(data: bytes) -> AsyncIterator[bytes]:
    yield data
