"""Manifests and indexes: what is read, what is refused, which platform is chosen."""

import json
from typing import Any

import pytest

from sampan.model.errors import Invalid, NotFound
from sampan.wire import manifest
from sampan.wire.manifest import Index, Manifest, Platform

DIGEST = "sha256:" + "a" * 64
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def descriptor(**over: Any) -> dict[str, Any]:
    return {"mediaType": LAYER, "digest": DIGEST, "size": 7, **over}


def body(**over: Any) -> bytes:
    config = descriptor(mediaType="application/vnd.oci.image.config.v1+json")
    whole = {"schemaVersion": 2, "config": config, "layers": [descriptor()], **over}
    return json.dumps({key: value for key, value in whole.items() if value != "gone"}).encode()


def index(*platforms: str, **over: Any) -> bytes:
    entries = []
    for number, platform in enumerate(platforms):
        os, architecture, variant = [*platform.split("/"), "", ""][:3]
        entry = descriptor(mediaType=manifest.OCI_MANIFEST, digest=f"sha256:{number:064x}")
        entries.append({**entry, "platform": {"os": os, "architecture": architecture, "variant": variant}})
    return json.dumps({"schemaVersion": 2, "manifests": entries, **over}).encode()


@pytest.mark.parametrize("media_type", ["gone", manifest.OCI_MANIFEST, manifest.DOCKER_MANIFEST])
def test_a_manifest_is_read(media_type: str) -> None:
    found = manifest.parse(body(mediaType=media_type, annotations={"a": "b"}, subject=None), "it")
    assert isinstance(found, Manifest)
    assert [layer.digest for layer in found.layers] == [DIGEST]


@pytest.mark.parametrize("media_type", [manifest.OCI_INDEX, manifest.DOCKER_LIST])
def test_an_index_is_read(media_type: str) -> None:
    found = manifest.parse(index("linux/amd64", mediaType=media_type), "it")
    assert isinstance(found, Index)
    assert str(found.manifests[0].platform) == "linux/amd64"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"[]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"{}", "malformed"),
        (body(layers="gone"), "malformed"),
        (body(config="gone"), "malformed"),
        (body(layers=None), "malformed"),
        (body(layers={}), "malformed"),
        (body(layers=[7]), "malformed"),
        (body(manifests=[]), "as a manifest and as an index"),
        (body(layers="gone", manifests=[]), "as a manifest and as an index"),
        (body(Layers=[]), "differ only in case"),
        (body(schemaVersion=1), "schema 1"),
        (body(fsLayers=[]), "schema 1"),
        (body(schemaVersion=3), "no image manifest"),
        (body(schemaVersion="2"), "malformed"),
        (body(mediaType=manifest.OCI_INDEX), "no image manifest"),
        (body(mediaType="text/html"), "no image manifest"),
        (index(mediaType=manifest.OCI_MANIFEST), "no image index"),
        (index(schemaVersion=3), "no image index"),
        (index(*["linux/amd64"] * 1001), "1001 entries"),
        (body(layers=[descriptor()] * 501), "501 layers"),
        (body(layers=[descriptor(size=-1)]), "malformed"),
        (body(layers=[descriptor(size=1.5)]), "malformed"),
        (body(layers=[descriptor(size="7")]), "malformed"),
        (body(layers=[descriptor(size=True)]), "malformed"),
        (body(layers=[descriptor(size=1 << 63)]), "malformed"),
        (body(layers=[descriptor(size=1 << 70)]), "64 bits"),
        (body(layers=[descriptor(digest="sha256:../../x")]), "malformed digest"),
        (body(layers=[descriptor(digest="sha256:" + "A" * 64)]), "malformed digest"),
        (body(layers=[descriptor(digest="sha256:" + "a" * 63)]), "malformed digest"),
        (body(layers=[descriptor(digest="sha256:" + "a" * 64 + "\n")]), "malformed digest"),
        (body(layers=[descriptor(digest="md5:" + "a" * 32)]), "malformed digest"),
        (body(config=descriptor(digest="x")), "malformed digest"),
        (body(layers=[descriptor(digest="sha512:" + "a" * 128)]), "not named by a sha256"),
        (body(layers=[descriptor(urls=["https://elsewhere.test/"])]), "foreign"),
        (body(layers=[descriptor(mediaType=FOREIGN)]), "foreign"),
        (body(layers=[descriptor(mediaType=LAYER.replace("layer", "layer.nondistributable"))]), "foreign"),
        (body(layers=[descriptor(mediaType=LAYER + "+encrypted")]), "encrypted"),
        (body(layers=[descriptor(mediaType="application/vnd.wasm")]), "no file system layer"),
        (body(layers=[descriptor(mediaType="")]), "no file system layer"),
    ],
)  # fmt: skip
def test_what_is_not_clearly_an_image_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        manifest.parse(data, "it")


@pytest.mark.parametrize(
    ("machine", "have", "chosen"),
    [
        ("x86_64", ["linux/arm64", "linux/amd64"], 1),
        ("x86_64", ["windows/amd64", "linux/amd64"], 1),
        ("x86_64", ["linux/386", "linux/amd64"], 1),
        ("x86_64", ["linux/arm64", "linux/386"], 1),
        ("x86_64", ["linux/amd64/v3", "linux/amd64"], 1),
        ("x86_64", ["linux/amd64/v1"], 0),
        ("x86_64", ["unknown/unknown", "linux/amd64"], 1),
        ("x86_64", ["linux/amd64", "linux/amd64"], 0),
        ("aarch64", ["linux/amd64", "linux/arm64/v8"], 1),
        ("aarch64", ["linux/arm64"], 0),
        ("aarch64", ["linux/arm/v7", "linux/arm64"], 1),
        ("aarch64", ["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], 1),
        ("armv7l", ["linux/arm/v5", "linux/arm/v6"], 1),
        ("armv7l", ["linux/arm64", "linux/arm"], 1),
        ("armv6l", ["linux/arm/v7", "linux/arm/v6"], 1),
        ("armv6l", ["linux/arm/v7", "linux/arm/v5"], 1),
        ("i686", ["linux/amd64", "linux/386"], 1),
        ("s390x", ["linux/amd64", "linux/s390x"], 1),
        ("riscv64", ["linux/riscv64"], 0),
        ("ppc64le", ["linux/ppc64le"], 0),
        ("loongarch64", ["linux/loong64"], 0),
        ("x86_64", ["linux/arm64"], None),
        ("x86_64", ["linux/amd64/v3"], None),
        ("armv6l", ["linux/arm/v7"], None),
        ("armv7l", ["linux/arm64"], None),
        ("x86_64", ["windows/amd64"], None),
        ("x86_64", [], None),
    ],
)
def test_the_platform_that_suits_best_is_chosen(machine: str, have: list[str], chosen: int | None) -> None:
    found = manifest.parse(index(*have), "it")
    assert isinstance(found, Index)
    if chosen is None:
        with pytest.raises(NotFound, match="has no image for linux/"):
            manifest.choose(found, machine, "it")
    else:
        assert manifest.choose(found, machine, "it").digest == f"sha256:{chosen:064x}"


def test_a_missing_platform_is_told_with_those_there_are() -> None:
    found = manifest.parse(index("linux/arm64/v8", "windows/amd64"), "app:1")
    assert isinstance(found, Index)
    with pytest.raises(
        NotFound, match=r"app:1 has no image for linux/amd64; it has linux/arm64/v8, windows/amd64"
    ):
        manifest.choose(found, "x86_64", "app:1")


@pytest.mark.parametrize(
    ("platform", "runs"),
    [
        (Platform("linux", "amd64"), True),
        (Platform("linux", "386"), True),
        (Platform(), True),
        (Platform("linux", ""), True),
        (Platform("", "amd64"), True),
        (Platform("linux", "arm64"), False),
        (Platform("windows", "amd64"), False),
        (Platform("linux", "amd64", "v4"), False),
    ],
)
def test_what_runs_on_a_pc(platform: Platform, runs: bool) -> None:
    assert manifest.runs_here(platform, "x86_64") is runs


@pytest.mark.parametrize(
    ("media_type", "name"),
    [
        (LAYER, "gzip"),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", "gzip"),
        ("application/vnd.oci.image.layer.v1.tar+zstd", "zstd"),
        ("application/vnd.oci.image.layer.v1.tar", "none"),
        ("application/vnd.docker.image.rootfs.diff.tar", "none"),
    ],
)
def test_how_a_layer_should_be_compressed(media_type: str, name: str) -> None:
    assert manifest.compression(media_type) == name
