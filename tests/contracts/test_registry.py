"""What every registry does, the one in memory and the client before a server."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sampan.host.registry.client import RegistryClient
from sampan.host.registry.download import Effort
from sampan.host.storage.spool import Spool
from sampan.model.errors import NotFound
from sampan.runtime.image_ports import Registry, Repository
from sampan.wire import manifest, reference, sigstore
from sampan.wire.manifest import Descriptor
from tests import images, signing
from tests.evil_registry import running
from tests.fake_registry import FakeRegistry

IMAGE = images.image([images.layer([images.Entry("file", data=b"x" * 100_000)])], compression="none")
NAME = "docker.io/library/app"


SIGNATURES = signing.signed_in_bundle(signing.Key(), IMAGE.digest)


@contextlib.asynccontextmanager
async def in_memory(_: Path) -> AsyncIterator[Registry]:
    registry = FakeRegistry()
    registry.push(IMAGE, f"{NAME}:latest")
    registry.attach(NAME, SIGNATURES)
    yield registry


@contextlib.asynccontextmanager
async def served(certs: Path) -> AsyncIterator[Registry]:
    async with running() as server:
        server.serve(IMAGE, "library/app")
        server.serve_signatures(SIGNATURES, IMAGE.digest, "library/app")
        server.hosts_toml(certs, "docker.io")
        effort = Effort(keep_after=0.0)
        yield RegistryClient([certs], spool=Spool(certs / "parts"), effort=effort)


@pytest.fixture(params=[in_memory, served])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registry]:
    async with request.param(tmp_path) as registry:
        yield registry


@pytest.fixture
async def repository(registry: Registry) -> AsyncIterator[Repository]:
    async with registry.open(reference.parse("app"), None) as opened:
        yield opened


async def test_a_tag_is_resolved_to_its_digest(repository: Repository) -> None:
    assert await repository.resolve("latest") == IMAGE.digest
    assert await repository.resolve(IMAGE.digest) == IMAGE.digest


async def test_a_manifest_is_had_by_tag_and_by_digest(repository: Repository) -> None:
    assert await repository.manifest("latest") == IMAGE.manifest
    assert await repository.manifest(IMAGE.digest) == IMAGE.manifest


async def test_blobs_are_had_whole_and_in_pieces(repository: Repository) -> None:
    found = manifest.parse(IMAGE.manifest, "it")
    assert isinstance(found, manifest.Manifest)
    assert await repository.read(found.config, 1 << 20) == IMAGE.blobs[IMAGE.id]
    pieces = [piece async for piece in repository.stream(found.layers[0])]
    assert b"".join(pieces) == IMAGE.blobs[found.layers[0].digest]
    assert all(pieces)


async def test_a_download_may_be_left_in_the_middle(repository: Repository) -> None:
    found = manifest.parse(IMAGE.manifest, "it")
    assert isinstance(found, manifest.Manifest)
    for _ in range(3):
        stream = repository.stream(found.layers[0])
        assert await anext(stream)
        await stream.aclose()
    assert await repository.resolve("latest") == IMAGE.digest


@pytest.mark.parametrize("target", ["nope", "sha256:" + "0" * 64])
async def test_what_is_not_there_is_not_found(repository: Repository, target: str) -> None:
    with pytest.raises(NotFound):
        await repository.resolve(target)
    with pytest.raises(NotFound):
        await repository.manifest(target)


async def test_a_blob_that_is_not_there_is_not_found(repository: Repository) -> None:
    absent = Descriptor(digest="sha256:" + "0" * 64, size=1)
    with pytest.raises(NotFound):
        await repository.read(absent, 10)
    with pytest.raises(NotFound):
        await anext(repository.stream(absent))


async def test_a_blob_is_settled_as_often_as_one_likes(repository: Repository) -> None:
    found = manifest.parse(IMAGE.manifest, "it")
    assert isinstance(found, manifest.Manifest)
    await repository.settle(found.layers[0])
    async with contextlib.aclosing(repository.stream(found.layers[0])) as stream:
        first = await anext(stream)
        await repository.settle(found.layers[0])  # somebody else is done with it
        rest = [piece async for piece in stream]
    assert b"".join([first, *rest]) == IMAGE.blobs[found.layers[0].digest]
    await repository.settle(found.layers[0])
    await repository.settle(found.layers[0])
    pieces = [piece async for piece in repository.stream(found.layers[0])]
    assert b"".join(pieces) == IMAGE.blobs[found.layers[0].digest]


async def test_what_a_download_left_is_tidied_once_it_is_old(registry: Registry) -> None:
    found = manifest.parse(IMAGE.manifest, "it")
    assert isinstance(found, manifest.Manifest)
    async with registry.open(reference.parse("app"), None) as repository:
        async with contextlib.aclosing(repository.stream(found.layers[0])) as stream:
            assert await anext(stream)
            assert await registry.tidy(-1)  # it is in use
        assert await registry.tidy(600)  # it may still be wanted
        assert not await registry.tidy(-1)
        await repository.settle(found.layers[0])
        assert not await registry.tidy(600)


async def test_what_refers_to_a_manifest_is_listed(repository: Repository) -> None:
    index = await repository.referrers(IMAGE.digest, signing.BUNDLE)
    assert sigstore.bundles(index, "it") == (images.sha256(SIGNATURES.manifests[0][1]),)
    with pytest.raises(NotFound):
        await repository.referrers("sha256:" + "0" * 64, signing.BUNDLE)
