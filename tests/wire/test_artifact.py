"""The files of an artifact: what they are called, and the archive they make."""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.model.errors import Invalid, NotFound
from sampan.wire import artifact, manifest, tar
from sampan.wire.artifact import File
from sampan.wire.manifest import Descriptor, Index, Manifest
from sampan.wire.tar_source import Source
from tests import images

IMAGE_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
EMPTY = "application/vnd.oci.empty.v1+json"


def parsed(one: images.Image) -> Manifest:
    found = manifest.parse(one.manifest, "it")
    assert isinstance(found, Manifest)
    return found


def named(*titles: str) -> tuple[File, ...]:
    """The files of an artifact whose blobs, all different, have these titles."""
    return artifact.files(
        parsed(images.artifact([(title, b"%d" % n) for n, title in enumerate(titles)])), "it"
    )


def archive(files: Sequence[File], blobs: dict[str, bytes]) -> bytes:
    return b"".join(
        before + (blobs[blob.digest] if blob else b"") + after
        for before, blob, after in artifact.members(files)
    )


# --- what is an artifact ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, "application/vnd.test.thing"),
        ({"artifactType": None}, EMPTY),
        ({"config": (b"{}", "application/vnd.cncf.helm.config.v1+json")}, "application/vnd.test.thing"),
        (
            {"config": (b"{}", "application/vnd.cncf.model.config.v1+json"), "artifactType": None},
            "application/vnd.cncf.model.config.v1+json",
        ),
        ({"config": (b"{}", images.CONFIG)}, "application/vnd.test.thing"),
        ({"config": (b"{}", images.CONFIG), "media_type": IMAGE_LAYER}, ""),
        ({"config": (b"{}", images.CONFIG), "media_type": IMAGE_LAYER, "artifactType": None}, ""),
        ({"config": (b"{}", "application/vnd.wasm.config.v1+json"), "media_type": IMAGE_LAYER}, None),
        ({"subject": {"mediaType": images.MANIFEST, "digest": "sha256:" + "0" * 64, "size": 7}}, None),
        ({"kind": "x" * 1000}, "x" * 255),
    ],
)
def test_a_manifest_is_an_image_or_an_artifact(change: dict[str, Any], kind: str | None) -> None:
    found = parsed(images.artifact([("file", b"content")], **change))
    assert found.artifact == ("application/vnd.test.thing" if kind is None else kind)


def test_an_image_config_and_layers_that_are_none_are_refused_still() -> None:
    """As are signatures: nobody would mount them, and no other runtime takes them for images."""
    one = images.artifact([("file", b"content")], config=(b"{}", images.CONFIG), artifactType=None)
    with pytest.raises(Invalid, match="no file system layer"):
        parsed(one)


@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mediaType": IMAGE_LAYER + "+encrypted"}, "is encrypted.*--decryption-key"),
        ({"mediaType": IMAGE_LAYER.upper() + "+ENCRYPTED"}, "is encrypted"),
        ({"urls": ["https://elsewhere.test/"]}, "is foreign.*push the image again"),
        ({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}, "is foreign"),
        ({"digest": "sha512:" + "0" * 128}, "not named by a sha256 digest"),
        ({"digest": "sha256:../../etc/passwd"}, "malformed digest"),
    ],
)
def test_blobs_that_cannot_be_had_are_refused_with_what_to_do(
    image: bool, change: dict[str, Any], words: str
) -> None:
    body = json.loads((images.image([b"tar"]) if image else images.artifact([("file", b"content")])).manifest)
    body["layers"][0] |= change
    with pytest.raises(Invalid, match=words):
        manifest.parse(images.dump(body), "it")


# --- which entry of an index ------------------------------------------------------------------------------


def entry(number: int, **more: Any) -> dict[str, Any]:
    return {"mediaType": images.MANIFEST, "digest": f"sha256:{number:064x}", "size": 7, **more}


AMD, ARM = ({"platform": {"os": "linux", "architecture": name}} for name in ("amd64", "arm64"))
UNKNOWN = {"platform": {"os": "unknown", "architecture": "unknown"}}
ATTESTATION = {"annotations": {manifest.ATTESTED: "attestation-manifest"}}
THING = {"artifactType": "application/vnd.test.thing"}


@pytest.mark.parametrize(
    ("entries", "chosen"),
    [
        ([THING | AMD, AMD], 1),
        ([THING, AMD], 1),
        ([THING | AMD, {"platform": {"os": "linux", "architecture": "386"}}], 1),
        ([THING | ARM, THING | AMD], 1),
        ([THING, THING | AMD], 1),
        ([THING, THING], 0),
        ([{}, AMD], 1),
        ([ARM, {}], 1),
        ([THING, {}], 1),
        ([UNKNOWN | ATTESTATION, AMD], 1),
        ([AMD | ATTESTATION, AMD], 1),
        ([ATTESTATION, AMD], 1),
        ([ATTESTATION | THING, {}], 1),
        ([UNKNOWN | THING], None),
        ([UNKNOWN | ATTESTATION], None),
        ([AMD | ATTESTATION], None),
        ([ATTESTATION], None),
        ([THING | ARM], None),
    ],
)
def test_an_image_goes_before_an_artifact_and_nothing_before_an_attestation(
    entries: list[dict[str, Any]], chosen: int | None
) -> None:
    data = images.dump(
        {"schemaVersion": 2, "manifests": [entry(number, **each) for number, each in enumerate(entries)]}
    )
    found = manifest.parse(data, "it")
    assert isinstance(found, Index)
    if chosen is None:
        with pytest.raises(NotFound, match="has no image for linux/amd64"):
            manifest.choose(found, "x86_64", "it")
    else:
        assert manifest.choose(found, "x86_64", "it").digest == entry(chosen)["digest"]


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("titles", "why"),
    [
        (["../up"], "leads up"),
        (["a/../../up"], "leads up"),
        (["a/.."], "leads up"),
        ([".."], "leads up"),
        (["/etc/passwd"], "absolute"),
        (["//etc/passwd"], "absolute"),
        (["a\0b"], "cannot be shown"),
        (["a\nb"], "cannot be shown"),
        (["\x1b[2J"], "cannot be shown"),
        (["a\u202eb"], "cannot be shown"),
        (["."], "names no file"),
        (["./"], "names no file"),
        (["a/"], "names no file"),
        (["a//b"], "names no file"),
        ([".wh.passwd"], "is deleted"),
        (["a/.wh..wh..opq"], "is deleted"),
        ([".wh.a/b"], "is deleted"),
        (["x" * 256], "longer than Linux"),
        (["ü" * 128], "longer than Linux"),
        (["/".join(["x" * 200] * 21)], "longer than Linux"),
        (["d/" * 64 + "f"], "more than 64 directories"),
        (["same", "same"], "two files called"),
        (["same", "./same"], "two files called"),
        (["a/b", "a"], "both a file"),
        (["a", "a/b/c"], "both a file"),
        (["a", "a.b", "a/b"], "both a file"),
    ],
)
def test_hostile_names_are_refused(titles: list[str], why: str) -> None:
    with pytest.raises(Invalid, match=why):
        named(*titles)


def test_a_name_that_is_no_text_is_refused() -> None:
    body = json.loads(images.artifact([("file", b"content")]).manifest)
    body["layers"][0]["annotations"] = {"org.opencontainers.image.title": "\ud800"}
    with pytest.raises(Invalid, match="not valid JSON"):
        manifest.parse(json.dumps(body).encode(), "it")


def test_what_is_left_of_a_name_is_its_path() -> None:
    found = named("./b", "a/./c", "Größe.txt", "...", "..x", "x" * 255, "-rf", "a/b\\c", ".wh", "~")
    assert [file.path.decode() for file in found] == sorted(
        ["b", "a/c", "Größe.txt", "...", "..x", "x" * 255, "-rf", "a/b\\c", ".wh", "~"],
        key=lambda name: name.encode(),
    )


def test_a_model_may_be_named_by_its_own_annotation() -> None:
    one = images.artifact([("weights/1", b"x")], naming="org.cncf.model.filepath")
    assert [file.path for file in artifact.files(parsed(one), "it")] == [b"weights/1"]


def test_the_title_wins_over_the_models_annotation() -> None:
    body = json.loads(images.artifact([("title", b"x")]).manifest)
    body["layers"][0]["annotations"]["org.cncf.model.filepath"] = "path"
    found = manifest.parse(images.dump(body), "it")
    assert isinstance(found, Manifest)
    assert [file.path for file in artifact.files(found, "it")] == [b"title"]


def test_a_blob_without_a_name_is_called_by_its_digest_once() -> None:
    one = images.artifact([("", b"x"), ("", b"y"), ("", b"x")])
    assert {file.path.decode() for file in artifact.files(parsed(one), "it")} == {
        hashlib.sha256(data).hexdigest() for data in (b"x", b"y")
    }


def test_the_empty_blob_is_no_file_unless_it_has_a_name() -> None:
    assert artifact.files(parsed(images.artifact([("", b"{}")], media_type=EMPTY)), "it") == ()
    assert len(artifact.files(parsed(images.artifact([("empty", b"{}")], media_type=EMPTY)), "it")) == 1


def test_a_name_that_is_anothers_digest_is_refused() -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    with pytest.raises(Invalid, match="two files called"):
        artifact.files(parsed(images.artifact([("", b"x"), (digest, b"y")])), "it")
    with pytest.raises(Invalid, match="two files called"):
        artifact.files(parsed(images.artifact([(digest, b"y"), ("", b"x")])), "it")


def test_sizes_that_cannot_be_are_refused() -> None:
    body = json.loads(images.artifact([("a", b"x"), ("b", b"y")]).manifest)
    for layer in body["layers"]:
        layer["size"] = 1 << 60
    found = manifest.parse(images.dump(body), "it")
    assert isinstance(found, Manifest)
    with pytest.raises(Invalid, match="more than"):
        artifact.files(found, "it")


# --- the archive ----------------------------------------------------------------------------------------------

COMPONENT = st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1, max_size=60).filter(
    lambda text: "/" not in text and text not in (".", "..") and not text.startswith(".wh.")
)
PATHS = st.lists(COMPONENT, min_size=1, max_size=6).map("/".join)


@given(st.dictionaries(PATHS, st.binary(max_size=2000), max_size=8))
def test_what_two_readers_find_in_the_archive_are_the_files(content: dict[str, bytes]) -> None:
    one = images.artifact(list(content.items()))
    try:
        found = artifact.files(parsed(one), "it")
    except Invalid as error:
        assert any(other.startswith(f"{path}/") for path in content for other in content), error
        return
    data = archive(found, dict(one.blobs))
    assert len(data) == artifact.archive_size(found)
    with tarfile.open(fileobj=io.BytesIO(data)) as read:
        members = read.getmembers()
        files = {member.name: read.extractfile(member) for member in members if member.isfile()}
        assert {name: file.read() for name, file in files.items() if file} == content
    assert {(member.isdir(), member.mode) for member in members} <= {(True, 0o755), (False, 0o444)}
    assert {(member.uid, member.gid, member.mtime) for member in members} == {(0, 0, 0)}
    reader = tar.Reader(Source(iter([data])))
    ours = {
        each.name.decode(): b"".join(map(bytes, reader.data())) for each in reader if each.kind == tar.FILE
    }
    assert ours == content


@pytest.mark.parametrize("size", [(1 << 33) - 1, 1 << 33, 1 << 45])
def test_a_file_may_be_larger_than_a_plain_header_can_say(size: int) -> None:
    blob = Descriptor(digest="sha256:" + "a" * 64, size=size)
    _, (before, there, after), _ = artifact.members([File(b"weights", blob)])
    assert there == blob and (len(before) + size + len(after)) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(before)) as read:
        first = read.next()
        assert first is not None and first.size == size
    assert next(iter(tar.Reader(Source(iter([before]))))).size == size


def test_the_same_files_are_the_same_layer_in_whatever_order() -> None:
    first, second = (
        artifact.files(parsed(images.artifact(content)), "it")
        for content in ([("a", b"1"), ("b", b"2")], [("b", b"2"), ("a", b"1")])
    )
    assert artifact.chain_id(first) == artifact.chain_id(second)
    assert list(artifact.members(first)) == list(artifact.members(second))


@pytest.mark.parametrize(
    "content", [[], [("a", b"1")], [("a", b"2"), ("b", b"1")], [("a", b"1"), ("c", b"2")], [("a/b", b"1")]]
)
def test_other_files_are_another_layer(content: list[tuple[str, bytes]]) -> None:
    files = artifact.files(parsed(images.artifact([("a", b"1"), ("b", b"2")])), "it")
    assert artifact.chain_id(artifact.files(parsed(images.artifact(content)), "it")) != artifact.chain_id(
        files
    )
