"""What every `Volumes` does, the real one and the fake."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sampan.host.storage.volumes import HostVolumes
from sampan.model.errors import ImageVolumeMountFailed
from sampan.runtime.image_ports import ImageMount, Volumes
from tests.fake_volumes import FakeVolumes
from tests.fakes import World
from tests.host import stores
from tests.host.stores import d, f

ID, OTHER = "a" * 64, "b" * 64


@dataclass
class Case:
    """A port, a layer that it knows, and the root of a container."""

    volumes: Volumes
    layers: tuple[str, ...]
    root: Path


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    if request.param == "fake":
        world = World()
        fake = FakeVolumes(world.shown, world.did)
        fake.directories |= {"models", "models/small"}
        yield Case(fake, ("sha256:1",), Path("/roots"))
        return
    async with stores.opened(tmp_path) as store:
        layers = await store.chain([d("models"), d("models/small"), f("models/small/weights", b"1 2 3")])
        real = HostVolumes(store.paths, store.layers)
        root = await store.rootfs.prepare(ID, layers)
        await store.rootfs.prepare(OTHER, layers)
        yield Case(real, tuple(layers), root)
        for id in (ID, OTHER):
            await real.remove(id)
            await store.rootfs.remove(id)


async def test_each_mount_of_an_image_has_its_own_place(case: Case) -> None:
    places = {
        await case.volumes.show(ID, ImageMount(0, case.layers)),
        await case.volumes.show(ID, ImageMount(1, case.layers)),
        await case.volumes.show(OTHER, ImageMount(0, case.layers)),
        await case.volumes.show(OTHER, ImageMount(2, case.layers, "models")),
    }
    assert len(places) == 4


async def test_showing_again_gives_the_same_place(case: Case) -> None:
    wanted = ImageMount(0, case.layers, "models/small")
    assert await case.volumes.show(ID, wanted) == await case.volumes.show(ID, wanted)


async def test_a_sub_path_that_is_not_there_is_told_by_its_field(case: Case) -> None:
    with pytest.raises(ImageVolumeMountFailed, match=r"^ImageVolumeMountFailed: mounts\[3\].image_sub_path"):
        await case.volumes.show(ID, ImageMount(3, case.layers, "absent"))


async def test_removing_twice_and_removing_nothing_are_fine(case: Case) -> None:
    await case.volumes.show(ID, ImageMount(0, case.layers))
    for _ in range(2):
        await case.volumes.remove(ID)
    await case.volumes.remove("never")
    assert await case.volumes.show(ID, ImageMount(0, case.layers))


async def test_directories_are_made_for_volumes_by_where_they_are(case: Case) -> None:
    made = await case.volumes.make(ID, case.root, ("/data", "/models/small"))
    assert set(made) == {"/data", "/models/small"} and len(set(made.values())) == 2


async def test_a_sweep_keeps_what_it_is_told_to(case: Case) -> None:
    await case.volumes.show(ID, ImageMount(0, case.layers))
    await case.volumes.sweep([ID])
    await case.volumes.sweep([])
    await case.volumes.remove(ID)
