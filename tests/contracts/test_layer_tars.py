"""What every reader of stored layers does, the one in memory and the one on disk."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sampan.host.storage import layer_tar
from sampan.model.errors import NotFound
from sampan.runtime.image_ports import Layers, LayerTars
from tests import images
from tests.fake_layer_tars import FakeLayerTars
from tests.fake_layers import FakeLayers
from tests.host import stores
from tests.images import Entry

TARS = [images.layer([Entry(f"file{number}", data=b"x" * 50_000)]) for number in range(2)]
CHAIN = ["sha256:" + "1" * 64, "sha256:" + "2" * 64]


@dataclass
class Case:
    """A store with two layers, and who reads them."""

    layers: Layers
    tars: LayerTars


@contextlib.asynccontextmanager
async def in_memory(_: Path) -> AsyncIterator[Case]:
    layers = FakeLayers()
    yield Case(layers, FakeLayerTars(layers))


@contextlib.asynccontextmanager
async def on_disk(directory: Path) -> AsyncIterator[Case]:
    async with stores.opened(directory) as store:
        yield Case(store.layers, layer_tar.LayerTars(store.layers))


@pytest.fixture(params=[in_memory, pytest.param(on_disk, marks=pytest.mark.root)])
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    async with request.param(tmp_path) as case:
        for number, tar in enumerate(TARS):
            staged = await case.layers.unpack(stores.whole(tar), "none", base=not number)
            await case.layers.publish(staged, CHAIN[number], CHAIN[:number])
        await case.layers.commit(CHAIN)
        yield case


async def test_a_layer_is_had_as_it_came(case: Case) -> None:
    for number, tar in enumerate(TARS):
        described = await case.tars.describe(CHAIN[number])
        assert (described.digest, described.size, described.compression) == (images.sha256(tar), len(tar), "")
        pieces = [piece async for piece in case.tars.tar(CHAIN[: number + 1])]
        assert b"".join(pieces) == tar and all(pieces)


async def test_a_stream_may_be_left(case: Case) -> None:
    stream = case.tars.tar(CHAIN)
    assert await anext(stream)
    await stream.aclose()


async def test_a_whole_layer_is_found_whole(case: Case) -> None:
    verdict = await case.tars.verify(CHAIN)
    assert (verdict.chain_id, verdict.differences, verdict.unknown) == (CHAIN[1], (), "")


async def test_a_layer_that_is_not_there_is_not_found(case: Case) -> None:
    absent = "sha256:" + "3" * 64
    for ask in (case.tars.describe(absent), case.tars.verify([absent]), anext(case.tars.tar([absent]))):
        with pytest.raises(NotFound):
            await ask


async def test_a_condemned_layer_is_damaged_to_the_store(case: Case) -> None:
    for _ in range(2):
        await case.tars.condemn(CHAIN[1])
    assert list(await case.layers.damaged(CHAIN)) == [CHAIN[1]]
    assert [case.layers.has(chain_id) for chain_id in CHAIN] == [True, False]
