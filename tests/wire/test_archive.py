"""Image archives: OCI layouts and what `docker save` writes."""

import json
from typing import Any

import pytest

from sampan.model.errors import Invalid, NotFound
from sampan.wire import archive, manifest
from tests import images
from tests.images import Entry, Image

MACHINE = "x86_64"
ONE = images.image([images.layer([Entry("one")])], {"Cmd": ["one"]}, architecture="amd64")
TWO = images.image([images.layer([Entry("two")])], {"Cmd": ["two"]}, architecture="amd64")
ARM = images.image([images.layer([Entry("arm")])], {"Cmd": ["arm"]}, architecture="arm64")
OCI = "org.opencontainers.image.ref.name"
CONTAINERD = "io.containerd.image.name"

Files = dict[str, bytes]


def read(files: Files, machine: str = MACHINE) -> list[archive.Found]:
    def reader(name: str, limit: int) -> bytes | None:
        data = files.get(name)
        if data is not None and len(data) > limit:
            raise Invalid("too large")
        return data

    return archive.images(reader, machine)


def described(one: Image | bytes, media_type: str = images.MANIFEST, **over: Any) -> dict[str, Any]:
    data = one if isinstance(one, bytes) else one.manifest
    return {"mediaType": media_type, "digest": images.sha256(data), "size": len(data), **over}


def layout(*entries: dict[str, Any], also: tuple[Image | bytes, ...] = ()) -> Files:
    blobs: Files = {}
    for one in (ONE, TWO, ARM, *also):
        if isinstance(one, Image):
            blobs |= one.blobs
        data = one if isinstance(one, bytes) else one.manifest
        blobs[images.sha256(data)] = data
    index = {"schemaVersion": 2, "mediaType": images.INDEX, "manifests": list(entries)}
    return {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": images.dump(index),
        **{f"blobs/{digest.replace(':', '/')}": data for digest, data in blobs.items()},
    }


def saved(*entries: Any, **files: bytes) -> Files:
    return {
        "manifest.json": images.dump(list(entries)),
        **{name.replace("__", "."): data for name, data in files.items()},
    }


def test_a_layout_gives_images_with_names_configs_and_layers() -> None:
    found = read(layout(described(ONE, annotations={OCI: "docker.io/library/one:v1"}), described(TWO)))
    assert [one.tags for one in found] == [("docker.io/library/one:v1",), ()]
    assert found[0].digests == (f"docker.io/library/one@{ONE.digest}",)
    assert [one.config for one in found] == [ONE.blobs[ONE.id], TWO.blobs[TWO.id]]
    parsed = manifest.parse(ONE.manifest, "it")
    assert isinstance(parsed, manifest.Manifest)
    assert [(layer.digest, layer.size) for layer in found[0].layers] == [
        (layer.digest, layer.size) for layer in parsed.layers
    ]
    assert found[0].layers[0].file == "blobs/" + parsed.layers[0].digest.replace(":", "/")


@pytest.mark.parametrize(
    ("annotations", "tags"),
    [
        ({OCI: "a.test/one:v1"}, ("a.test/one:v1",)),
        ({OCI: "one:v1"}, ("docker.io/library/one:v1",)),
        ({OCI: "v1"}, ()),
        ({OCI: "latest", CONTAINERD: "docker.io/library/one:latest"}, ("docker.io/library/one:latest",)),
        ({OCI: "a.test/../x:v1"}, ()),
        ({OCI: "a.test/one@" + ONE.digest}, ()),
        ({}, ()),
        (None, ()),
    ],
)
def test_names_are_taken_where_they_are_whole(annotations: Any, tags: tuple[str, ...]) -> None:
    assert read(layout(described(ONE, annotations=annotations)))[0].tags == tags


def test_an_index_in_a_layout_gives_the_image_for_this_machine() -> None:
    both = images.index({"arm64": ARM, "amd64": ONE})
    files = layout(described(both, images.INDEX, annotations={OCI: "a.test/x:1"}), also=(both,))
    assert read(files)[0].config == ONE.blobs[ONE.id]
    assert read(files, "aarch64")[0].config == ARM.blobs[ARM.id]
    assert read(files)[0].digests == (f"a.test/x@{images.sha256(both)}",)
    with pytest.raises(NotFound, match="linux/s390x"):
        read(files, "s390x")


def test_entries_for_other_machines_are_passed_over() -> None:
    arm = {"os": "linux", "architecture": "arm64"}
    proof = {"os": "unknown", "architecture": "unknown"}
    files = layout(described(ARM, platform=arm), described(TWO, platform=proof), described(ONE))
    assert [one.config for one in read(files)] == [ONE.blobs[ONE.id]]
    with pytest.raises(NotFound):
        read(layout(described(ARM, platform=arm)))


def test_an_artifact_is_given_with_its_manifest() -> None:
    thing = images.artifact([("file", b"content")])
    entry = described(thing, annotations={OCI: "a.test/thing:1"})
    found, plain = read(layout(entry, described(ONE), also=(thing,)))
    assert found.tags == ("a.test/thing:1",) and found.digests == (f"a.test/thing@{thing.digest}",)
    assert (found.config, found.layers) == (b"", ())
    assert found.artifact is not None and found.artifact[1] == thing.manifest
    assert plain.artifact is None and plain.config == ONE.blobs[ONE.id]


def test_attestations_are_no_artifacts_of_an_archive() -> None:
    proof = images.artifact([("", b"{}")])
    entry = described(proof, annotations={"vnd.docker.reference.type": "attestation-manifest"})
    assert len(read(layout(entry, described(ONE), also=(proof,)))) == 1
    with pytest.raises(NotFound):
        read(layout(entry, also=(proof,)))


def test_indexes_in_indexes_end_somewhere() -> None:
    nested = [
        images.dump(
            {
                "schemaVersion": 2,
                "manifests": [described(ONE, platform={"os": "linux", "architecture": "amd64"})],
            }
        )
    ]
    for _ in range(3):
        entry = described(nested[-1], images.INDEX, platform={"os": "linux", "architecture": "amd64"})
        nested.append(images.dump({"schemaVersion": 2, "manifests": [entry]}))
    assert read(layout(described(nested[1], images.INDEX), also=tuple(nested)))
    with pytest.raises(Invalid, match="deeper"):
        read(layout(described(nested[3], images.INDEX), also=tuple(nested)))


def damaged(files: Files, digest: str, data: bytes | None) -> Files:
    name = f"blobs/{digest.replace(':', '/')}"
    rest = {key: value for key, value in files.items() if key != name}
    return rest if data is None else {**rest, name: data}


GOOD = layout(described(ONE))


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "no image archive"),
        ({"index.json": GOOD["index.json"]}, "no image archive"),
        ({"oci-layout": b"{}"}, "no image archive"),
        ({**GOOD, "index.json": ONE.manifest}, "no index"),
        ({**GOOD, "index.json": b"[]"}, "not a JSON object"),
        ({**GOOD, "index.json": b" " * (5 << 20)}, "too large"),
        (layout(described(ONE, digest="sha256:../../../etc/passwd")), "malformed digest"),
        (layout(described(ONE, size=1)), "damaged"),
        (damaged(GOOD, ONE.digest, None), "not in it"),
        (damaged(GOOD, ONE.digest, TWO.manifest), "damaged"),
        (damaged(GOOD, ONE.id, None), "not in it"),
        (damaged(GOOD, ONE.id, ONE.blobs[ONE.id] + b" "), "damaged"),
        (saved({"Config": "c.json", "Layers": []}), "not in it"),
        (
            saved({"Config": "c.json", "RepoTags": ["UPPER:v"], "Layers": []}, c__json=b"{}"),
            "no repository name",
        ),
        (saved({"Config": "c.json", "Layers": ["x"] * 501}, c__json=b"{}"), "malformed"),
        (saved({"Config": 7, "Layers": []}), "malformed"),
        (saved(*[{"Config": "c.json"}] * 1001, c__json=b"{}"), "1001 images"),
        ({"manifest.json": b"{}"}, "malformed"),
        ({"manifest.json": b'[{"Config":"a","Config":"b"}]'}, "twice"),
    ],
)
def test_what_is_no_sound_archive_is_refused(files: Files, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        read(files)


def test_what_docker_saves_is_read() -> None:
    entry = {
        "Config": "c.json",
        "RepoTags": ["one:v1", "a.test/one:v2"],
        "Layers": ["a/layer.tar", "b/layer.tar"],
    }
    (found,) = read(saved(entry, c__json=b"config"))
    assert found.tags == ("docker.io/library/one:v1", "a.test/one:v2")
    assert found.digests == ()
    assert found.config == b"config"
    assert found.layers == (archive.Layer("a/layer.tar"), archive.Layer("b/layer.tar"))


def test_what_docker_saves_without_names_or_layers_is_read() -> None:
    (found,) = read(saved({"Config": "c.json", "RepoTags": None, "Layers": None}, c__json=b"config"))
    assert found == archive.Found((), (), b"config", ())


def test_an_archive_of_both_kinds_is_read_as_a_layout() -> None:
    files = GOOD | saved({"Config": "c.json", "RepoTags": ["evil:v1"]}, c__json=json.dumps({}).encode())
    assert read(files)[0].config == ONE.blobs[ONE.id]
