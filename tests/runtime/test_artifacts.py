"""Artifacts as images: pulled, imported, found, mounted, removed; on fakes."""

import asyncio
import io
import json
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Exhausted, Invalid, NotFound, RegistryUnavailable
from sampan.runtime import artifacts
from sampan.runtime.image_ports import ArchivedArtifact, ArchivedImage
from sampan.runtime.pull import Progress
from sampan.runtime.state import Gone
from sampan.wire import artifact, manifest
from sampan.wire.manifest import Descriptor, Manifest
from tests import images
from tests.fake_registry import layer_digests
from tests.images import Entry
from tests.runtime.system import wire
from tests.runtime.test_images import Node, until

CONTENT = [("weights/1", b"one" * 5000), ("weights/2", b"two" * 7000), ("readme", b""), ("", b"nameless")]
MODEL = images.artifact(CONTENT)
NAME = "docker.io/library/model"


def parsed(one: images.Image) -> Manifest:
    found = manifest.parse(one.manifest, "it")
    assert isinstance(found, Manifest)
    return found


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    node.registry.push(MODEL, f"{NAME}:v1", f"{NAME}:v2", "a.test/model:v1")
    yield node
    await node.tasks.stop()


# --- pulling ------------------------------------------------------------------------------------------------


async def test_an_artifact_becomes_an_image_of_one_layer(node: Node) -> None:
    image = await node.images.pull("model:v1")
    assert image.id == MODEL.digest
    assert image.artifact == "application/vnd.test.thing"
    assert image.manifest == MODEL.manifest
    assert image.raw_config == b""
    assert image.layers == (artifact.chain_id(artifact.files(parsed(MODEL), "it")),)
    assert image.tags == (f"{NAME}:v1",)
    assert image.digests == (f"{NAME}@{MODEL.digest}",)
    assert image.size == sum(len(data) for _, data in CONTENT)
    assert node.registry.count("read") == 0  # of its config: it may be anything
    assert node.journal.rows[("image", image.id)] == image
    node.consistent()


async def test_it_is_found_by_everything_it_is_called_also_after_a_restart(node: Node) -> None:
    image = await node.images.pull("model:v1")
    await node.images.pull("a.test/model:v1")
    node.restart()
    await node.images.start()
    for text in ("model:v1", "a.test/model:v1", f"model@{MODEL.digest}", image.id, image.id[7:19]):
        found = node.images.find(text)
        assert found is not None and found.id == image.id, text
    assert [each.id for each in node.images.list()] == [image.id]


async def test_a_pull_again_costs_one_request(node: Node) -> None:
    first = await node.images.pull("model:v1")
    node.registry.asked.clear()
    assert await node.images.pull("model:v1") == first
    assert node.registry.asked == ["resolve v1"]


async def test_the_same_files_under_another_kind_are_another_image_of_the_same_layer(node: Node) -> None:
    node.registry.push(images.artifact(CONTENT, kind="application/vnd.test.other"), f"{NAME}:other")
    first = await node.images.pull("model:v1")
    streamed = node.registry.count("stream")
    second = await node.images.pull("model:other")
    assert first.id != second.id and first.layers == second.layers
    assert node.registry.count("stream") == streamed
    await node.images.remove(first.id)
    node.consistent()
    await node.images.remove(second.id)
    assert not node.layers.published


async def test_an_index_leads_to_this_machines_artifact_and_past_attestations(node: Node) -> None:
    other = images.artifact([("for", b"arm64")])
    index = json.loads(images.index({"arm64": other, "amd64": MODEL}))
    for each in index["manifests"]:
        each["artifactType"] = "application/vnd.test.thing"
    attestation = {
        **index["manifests"][1],
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {manifest.ATTESTED: "attestation-manifest"},
    }
    index["manifests"].insert(0, attestation)
    data = images.dump(index)
    node.registry.push_manifest(data, f"{NAME}:multi")
    image = await node.images.pull("model:multi")
    assert image.id == MODEL.digest
    assert image.digests == (f"{NAME}@{images.sha256(data)}",)


async def test_what_an_image_says_of_itself_beside_is_no_matter(node: Node) -> None:
    """An image with a subject and an artifactType is an image: other runtimes run it."""
    one = images.image([images.layer([Entry("f")])], architecture="amd64")
    body = json.loads(one.manifest)
    body["artifactType"] = "application/vnd.test.thing"
    body["subject"] = {"mediaType": images.MANIFEST, "digest": MODEL.digest, "size": len(MODEL.manifest)}
    node.registry.push(images.Image(one.blobs, images.dump(body)), f"{NAME}:image")
    image = await node.images.pull("model:image")
    assert (image.id, image.artifact) == (one.id, "")


async def test_progress_is_told_of_the_whole(node: Node) -> None:
    told: list[Progress] = []
    image = await node.images.pull("model:v1", progress=told.append)
    assert {each.layer for each in told} == set(image.layers)
    assert told[-1].ready and told[-1].done == told[-1].total == max(each.done for each in told)


async def test_pulls_of_it_that_meet_are_one(node: Node) -> None:
    await asyncio.gather(*(node.images.pull(name) for name in ("model:v1", "model:v1", "a.test/model:v1")))
    assert node.registry.count("stream") == len([data for _, data in CONTENT if data])
    node.consistent()


async def test_an_artifact_without_files_is_empty(node: Node) -> None:
    node.registry.push(images.artifact([]), f"{NAME}:empty")
    image = await node.images.pull("model:empty")
    assert image.size == 0 and len(image.layers) == 1
    node.consistent()


# --- what is refused ----------------------------------------------------------------------------------------


def of_another_size(change: int) -> images.Image:
    body = json.loads(MODEL.manifest)
    body["layers"][1]["size"] += change
    return images.Image(MODEL.blobs, images.dump(body))


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("damage", ["cut", "longer", "other", "empty", "first"])
async def test_a_blob_that_is_not_what_was_promised_leaves_nothing(
    node: Node, place: int, damage: str
) -> None:
    digest = layer_digests(MODEL)[place]
    data = MODEL.blobs[digest]
    node.registry.blobs[digest] = {
        "cut": data[:-1],
        "longer": data + b"x",
        "other": data[:-1] + b"!",
        "empty": b"",
        "first": b"!" + data[1:],
    }[damage]
    with pytest.raises(Invalid, match=f"blob {digest}"):
        await node.images.pull("model:v1")
    assert not node.state.images and not node.layers.published
    node.consistent()
    node.registry.push(MODEL, f"{NAME}:v1")
    assert (await node.images.pull("model:v1")).id == MODEL.digest


@pytest.mark.parametrize("change", [-1, 1, 1 << 50])
async def test_a_manifest_that_lies_about_a_size_leaves_nothing(node: Node, change: int) -> None:
    node.registry.push(of_another_size(change), f"{NAME}:lie")
    with pytest.raises(Invalid, match="bytes"):
        await node.images.pull("model:lie")
    node.consistent()
    assert not node.state.images


async def test_an_empty_file_has_the_digest_of_nothing(node: Node) -> None:
    body = json.loads(MODEL.manifest)
    body["layers"][1]["size"] = 0
    node.registry.push(images.Image(MODEL.blobs, images.dump(body)), f"{NAME}:lie")
    with pytest.raises(Invalid, match="other content"):
        await node.images.pull("model:lie")
    node.consistent()


async def test_no_byte_is_fetched_of_what_does_not_fit_on_the_disk(node: Node) -> None:
    node.layers.room = 20_000
    with pytest.raises(Exhausted, match="model:v1 needs"):
        await node.images.pull("model:v1")
    assert node.registry.count("stream") == 0
    node.consistent()


@pytest.mark.parametrize("error", [NotFound("gone"), RegistryUnavailable("down")])
async def test_a_registry_that_fails_in_the_middle_leaves_nothing(node: Node, error: Exception) -> None:
    node.registry.failing[layer_digests(MODEL)[1]] = error
    with pytest.raises(type(error)):
        await node.images.pull("model:v1")
    assert not node.layers.published and not node.layers.staged and not node.state.images


@pytest.mark.parametrize("title", ["../up", "/etc/passwd", ".wh.x", "a\nb", "a/"])
async def test_hostile_names_cost_no_download(node: Node, title: str) -> None:
    node.registry.push(images.artifact([(title, b"x")]), f"{NAME}:bad")
    with pytest.raises(Invalid, match="model:bad: blob sha256"):
        await node.images.pull("model:bad")
    assert node.registry.count("stream") == 0
    node.consistent()


async def test_the_archive_ends_where_a_blob_is_wrong() -> None:
    """Nothing that could pass for the end of an archive comes after the blob."""
    files = artifact.files(parsed(MODEL), "it")

    async def bad(blob: Descriptor) -> AsyncGenerator[bytes, None]:
        yield MODEL.blobs[blob.digest][:-1] + b"?"

    out = bytearray()
    with pytest.raises(Invalid):
        async for piece in artifacts.archive(files, bad):
            out += piece
    with pytest.raises(tarfile.ReadError), tarfile.open(fileobj=io.BytesIO(out[:-1])) as cut:
        cut.getmembers()


# --- using it -------------------------------------------------------------------------------------------------


async def test_no_container_is_made_of_an_artifact() -> None:
    system = wire()
    found = artifacts.found(parsed(MODEL), MODEL.manifest, "it", lambda _: None)  # type: ignore[arg-type,return-value]
    await system.state.commit(found.image)
    pod = await system.pod()
    before = system.world.census()
    with pytest.raises(Invalid, match=r"is an OCI artifact.*mount it in a container"):
        await system.container(pod, image=cri.ImageSpec(image=found.image.id))
    assert system.world.census() == before and not system.state.containers
    await system.tasks.stop()


async def test_it_outlives_its_removal_while_a_container_shows_it(node: Node) -> None:
    image = await node.images.pull("model:v1")
    await node.contain(image)
    await node.images.remove("model:v1")
    assert not node.images.list() and len(node.layers.published) == 1
    await node.state.commit(Gone("container", "c1"))
    await until(lambda: not node.layers.published)
    node.consistent()


async def test_it_is_pinned_like_any_image() -> None:
    node = Node((f"{NAME}*",))
    node.registry.push(MODEL, f"{NAME}:v1")
    assert (await node.images.pull("model:v1")).pinned
    await node.tasks.stop()


async def test_a_tag_moves_between_an_image_and_an_artifact(node: Node) -> None:
    await node.images.pull("model:v1")
    one = images.image([images.layer([Entry("f")])], architecture="amd64")
    node.registry.push(one, f"{NAME}:v1")
    assert (await node.images.pull("model:v1")).id == one.id
    old = node.images.find(MODEL.digest)
    assert old is not None and old.tags == ()
    node.registry.push(MODEL, f"{NAME}:v1")
    assert (await node.images.pull("model:v1")).tags == (f"{NAME}:v1",)
    node.consistent()


# --- importing ------------------------------------------------------------------------------------------------


def archived(one: images.Image, *tags: str) -> ArchivedImage:
    async def content(blob: Descriptor) -> AsyncGenerator[bytes, None]:
        yield one.blobs[blob.digest]

    return ArchivedImage(tags, (), b"", (), ArchivedArtifact(parsed(one), one.manifest, content))


async def test_an_imported_artifact_is_the_one_that_would_be_pulled(node: Node) -> None:
    node.archives.found = [archived(MODEL, f"{NAME}:v1")]
    (imported,) = await node.images.import_archive(Path("archive.tar"))
    assert imported.tags == (f"{NAME}:v1",)
    pulled = await node.images.pull("model:v1")
    assert (pulled.id, pulled.layers, pulled.manifest) == (imported.id, imported.layers, imported.manifest)
    node.consistent()


async def test_an_imported_blob_that_is_damaged_is_refused(node: Node) -> None:
    blobs: dict[str, Any] = {**MODEL.blobs, layer_digests(MODEL)[0]: b"x" * 15000}
    node.archives.found = [archived(images.Image(blobs, MODEL.manifest), f"{NAME}:v1")]
    with pytest.raises(Invalid, match="arrived as other content"):
        await node.images.import_archive(Path("archive.tar"))
    assert not node.state.images
    node.consistent()
