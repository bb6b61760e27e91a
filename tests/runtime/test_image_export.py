"""Images written as an archive, verified and repaired, on a layer store and a registry in memory."""

import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from sampan.host.storage.archive import Archives
from sampan.model.errors import Invalid, Lost, NotFound, RegistryUnavailable
from sampan.runtime.image_check import Checked, Verify
from sampan.runtime.image_export import Export
from sampan.runtime.images import Images, Supply
from sampan.runtime.state import State
from sampan.tasks import Tasks
from tests import images
from tests.fake_layer_tars import FakeLayerTars
from tests.fake_layers import FakeLayers
from tests.fake_registry import FakeRegistry
from tests.fakes import FakeJournal
from tests.images import Entry

BASE, TOP, OTHER = (
    images.layer([Entry(name, data=name.encode() * 3000)]) for name in ("base", "top", "other")
)
APP = images.image([BASE, TOP], {"Cmd": ["app"]}, architecture="amd64")
NEXT = images.image([BASE, OTHER], {"Cmd": ["next"]}, architecture="amd64")
NAMES = {"docker.io/library/app:v1": APP, "docker.io/library/next:v2": NEXT}


class Node:
    """A node with two images that share a layer."""

    def __init__(self, directory: Path) -> None:
        self.tasks = Tasks()
        self.registry = FakeRegistry()
        self.layers = FakeLayers()
        self.state = State(FakeJournal())
        archives = Archives(directory / "scratch")
        self.images = Images(self.state, self.layers, Supply(self.registry, archives, "x86_64"), self.tasks)
        self.tars = FakeLayerTars(self.layers)
        self.export = Export(self.images, self.tars)
        self.verify = Verify(self.images, self.tars)

    async def exported(self, *words: str) -> bytes:
        return b"".join([piece async for piece in self.export.stream(words)])

    async def verified(self, *words: str, repair: bool = False) -> list[Checked]:
        return [checked async for checked in self.verify.run(words, repair=repair)]

    def image(self, name: str = "app:v1") -> object:
        return self.images.find(name)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path)
    for name, image in NAMES.items():
        node.registry.push(image, name)
        await node.images.pull(name)
    yield node
    await node.tasks.stop()


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path / "other")
    yield node
    await node.tasks.stop()


async def whole(data: bytes) -> AsyncIterator[bytes]:
    yield data


# --- export -------------------------------------------------------------------------------------------------


async def test_what_is_exported_is_the_same_image_elsewhere(node: Node, other: Node) -> None:
    archive = await node.exported("app:v1", "next:v2", "app:v1", APP.id[7:19])
    found = await other.images.import_archive(whole(archive))
    assert {(image.id, *image.tags) for image in found} == {(image.id, name) for name, image in NAMES.items()}
    assert await other.exported("app:v1", "next:v2") == archive


async def test_layers_that_are_shared_stand_in_it_once(node: Node) -> None:
    archive = await node.exported("app:v1", "next:v2")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = tar.getnames()
        layout = json.loads(tar.extractfile("oci-layout").read())  # type: ignore[union-attr]
        saved = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
        config = tar.extractfile(f"blobs/sha256/{APP.id[7:]}").read()  # type: ignore[union-attr]
    assert len(names) == len(set(names)) == 3 + 2 * 2 + 3
    assert layout == {"imageLayoutVersion": "1.0.0"}
    assert config == APP.blobs[APP.id]
    layers = [f"blobs/{images.sha256(tar).replace(':', '/')}" for tar in (BASE, TOP)]
    assert saved[0] == {
        "Config": f"blobs/sha256/{APP.id[7:]}",
        "RepoTags": ["docker.io/library/app:v1"],
        "Layers": layers,
    }


async def test_docker_s_part_alone_is_an_archive_too(node: Node, other: Node) -> None:
    """As docker reads it: without the files of the OCI layout."""
    archive = await node.exported("app:v1")
    without = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar, tarfile.open(fileobj=without, mode="w") as copy:
        for member in tar:
            if member.name not in ("oci-layout", "index.json"):
                copy.addfile(member, tar.extractfile(member))
    (found,) = await other.images.import_archive(whole(without.getvalue()))
    assert (found.id, found.tags) == (APP.id, ("docker.io/library/app:v1",))


async def test_an_image_without_a_tag_goes_by_its_id(node: Node, other: Node) -> None:
    image = node.images.find("app:v1")
    assert image is not None
    await node.state.commit(msgspec.structs.replace(image, tags=()))
    (found,) = await other.images.import_archive(whole(await node.exported(APP.id)))
    assert (found.id, found.tags) == (APP.id, ())


async def test_nothing_is_begun_for_what_is_not_there(node: Node) -> None:
    for word, error in (("absent:v9", NotFound), ("", NotFound)):
        with pytest.raises(error):
            await anext(node.export.stream(["app:v1", word]))


async def test_a_layer_that_cannot_be_written_again_is_named(node: Node) -> None:
    image = node.images.find("app:v1")
    assert image is not None
    node.tars.unknown[image.layers[1]] = "it is of old"
    with pytest.raises(Invalid, match=r"app:v1 cannot be exported: its layer 2: .*it is of old"):
        await anext(node.export.stream(["next:v2", "app:v1"]))


async def test_a_damaged_layer_ends_the_stream_with_an_error(node: Node) -> None:
    image = node.images.find("app:v1")
    assert image is not None
    node.tars.damage[image.layers[1]] = ("a file",)
    with pytest.raises(Lost):
        await node.exported("app:v1")


async def test_an_artifact_is_refused_in_plain_words(node: Node) -> None:
    image = node.images.find("app:v1")
    assert image is not None
    await node.state.commit(msgspec.structs.replace(image, artifact="application/x.model"))
    with pytest.raises(Invalid, match="is an artifact"):
        await node.exported("app:v1")


async def test_an_image_that_is_removed_meanwhile_is_exported_whole(node: Node) -> None:
    stream = node.export.stream(["app:v1"])
    begin = await anext(stream)
    await node.images.remove("app:v1")
    assert node.layers.published.keys() >= {images.sha256(BASE)}
    archive = begin + b"".join([piece async for piece in stream])
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert len(tar.getnames()) == 3 + 2 + 2
    await node.images.remove("next:v2")
    await node.images.collect()
    assert not node.layers.published


async def test_a_reader_that_leaves_lets_go_of_the_image(node: Node) -> None:
    stream = node.export.stream(["app:v1"])
    await anext(stream)
    await stream.aclose()
    await node.images.remove("app:v1")
    assert len(node.layers.published) == 2


# --- verify -------------------------------------------------------------------------------------------------


async def test_all_layers_of_all_images_are_verified_each_once(node: Node) -> None:
    found = await node.verified()
    assert sorted((each.image.id, each.number, each.count, each.differences) for each in found) == sorted(
        (image.id, number, 2, ()) for image in (APP, NEXT) for number in (1, 2)
    )
    assert len(node.tars.verified) == len(set(node.tars.verified)) == 3
    assert len(await node.verified("app:v1")) == 2
    with pytest.raises(NotFound):
        await node.verified("absent")


async def test_a_record_that_is_not_what_its_id_says_is_damaged(node: Node) -> None:
    image = node.images.find("app:v1")
    assert image is not None
    await node.state.commit(msgspec.structs.replace(image, raw_config=image.raw_config + b" "))
    found = await node.verified("app:v1")
    assert found[0].number == 0 and "not the one" in found[0].differences[0]
    await node.state.commit(msgspec.structs.replace(image, layers=image.layers[:1]))
    found = await node.verified("app:v1")
    assert found[0].number == 0 and "names other layers" in found[0].differences[0]


async def test_a_damaged_layer_is_pulled_anew(node: Node) -> None:
    image = node.images.find("app:v1")
    assert image is not None
    damaged = image.layers[1]
    node.tars.damage[damaged] = ("/file is missing",)
    found = await node.verified("app:v1")
    assert [each.differences for each in found] == [(), ("/file is missing",)]
    before = node.layers.unpacked
    found = await node.verified(repair=True)
    (repaired,) = [each for each in found if each.repaired]
    assert (repaired.layer, repaired.number) == (damaged, 2)
    assert node.layers.unpacked == before + 1  # and nothing else
    assert node.layers.has(damaged)
    assert all(not each.differences for each in await node.verified())
    assert node.images.find("app:v1") == image


async def test_a_shared_layer_is_repaired_once(node: Node) -> None:
    node.tars.damage[images.sha256(BASE)] = ("/file is missing",)
    before = node.layers.unpacked
    found = await node.verified(repair=True)
    assert [each.layer for each in found if each.repaired] == [images.sha256(BASE)]
    assert node.layers.unpacked == before + 1


async def test_nothing_is_given_up_that_the_registry_does_not_have(node: Node) -> None:
    for layer in node.images.find("app:v1").layers:  # type: ignore[union-attr]
        node.tars.damage[layer] = ("broken",)
    vars(node.registry).update(vars(FakeRegistry()))  # it has forgotten everything
    found: list[Checked] = []
    with pytest.raises(Lost) as told:
        async for checked in node.verify.run([], repair=True):
            found.append(checked)
    lines = str(told.value).splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(NAMES)  # each image, though the first failed
    advice = "; remove it (sampan rmi) and import or pull it again"
    assert all(" cannot be repaired from a registry: " in line and line.endswith(advice) for line in lines)
    assert [each.differences for each in found if each.differences] == [("broken",)] * 3
    assert not any(each.repaired for each in found)
    assert len(node.layers.published) == 3 and not node.layers.lost


async def test_what_a_later_image_brings_in_is_no_failure(node: Node) -> None:
    node.tars.damage[images.sha256(BASE)] = ("broken",)
    app = node.images.find("app:v1")
    assert app is not None
    await node.state.commit(msgspec.structs.replace(app, digests=()))
    found = await node.verified("app:v1", "next:v2", repair=True)
    assert [(each.image.id, each.repaired) for each in found if each.differences] == [
        (APP.id, False),
        (NEXT.id, True),
    ]


async def test_a_pull_that_fails_midway_leaves_nothing_to_remove(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = node.images.find("app:v1").layers[1]  # type: ignore[union-attr]
    node.tars.damage[top] = ("broken",)

    async def lost(name: str) -> None:
        app = node.images.find("app:v1")
        assert app is not None
        await node.state.commit(msgspec.structs.replace(app, removed=True))
        raise RegistryUnavailable("it is silent")

    monkeypatch.setattr(node.images, "pull", lost)
    with pytest.raises(Lost) as told:
        await node.verified("app:v1", repair=True)
    assert str(told.value).endswith(
        "cannot be repaired from a registry: it is silent; import or pull it again"
    )


async def test_an_image_that_came_from_no_registry_is_to_be_imported_again(node: Node, other: Node) -> None:
    archive = await node.exported("app:v1")
    (image,) = await other.images.import_archive(whole(archive))
    await other.state.commit(msgspec.structs.replace(image, digests=()))
    other.tars.damage[image.layers[0]] = ("broken",)
    with pytest.raises(Lost, match=r"it came from no registry; remove it .* and import"):
        await other.verified(repair=True)
