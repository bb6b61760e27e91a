"""The small files of an archive, and headers that tar readers understand."""

import io
import json
import tarfile

import pytest

from sampan.wire import archive
from sampan.wire.archive_write import BLOCK, END, LAYER_TYPE, Blob, Exported, files, header
from tests import images

APP = images.image([images.layer([])], {"Cmd": ["app"]}, architecture="amd64")
LAYER = Blob(LAYER_TYPE + "+gzip", "sha256:" + "a" * 64, 77)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 100_000, (1 << 33) - 1, 1 << 33, 1 << 45])
def test_a_header_says_name_and_size(size: int) -> None:
    name = "blobs/sha256/" + "f" * 64
    found = tarfile.TarInfo.frombuf(header(name, size), "utf-8", "strict")
    assert (found.name, found.size, found.mode, found.isreg()) == (name, size, 0o644, True)
    assert len(header(name, size)) == BLOCK


def test_the_archive_reads_as_what_it_was_made_of() -> None:
    tags = ("docker.io/library/app:v1", "localhost:5000/app:v2")
    made = files([Exported(APP.blobs[APP.id], tags, [LAYER])])
    found = archive.images(lambda name, limit: made.get(name), "x86_64")
    assert [image.tags for image in found] == [(tag,) for tag in tags]
    assert {image.config for image in found} == {APP.blobs[APP.id]}
    (layer,) = found[0].layers
    assert (layer.digest, layer.size, layer.compression) == (LAYER.digest, 77, "gzip")


def test_a_machine_that_the_image_is_not_for_finds_none_in_it() -> None:
    made = files([Exported(APP.blobs[APP.id], (), [LAYER])])
    entry = json.loads(made["index.json"])["manifests"][0]
    assert entry["platform"] == {"architecture": "amd64", "os": "linux"}
    assert "annotations" not in entry


def test_it_is_a_tar() -> None:
    made = files([Exported(APP.blobs[APP.id], (), [])])
    data = b"".join(header(name, len(body)) + body + bytes(-len(body) % BLOCK) for name, body in made.items())
    with tarfile.open(fileobj=io.BytesIO(data + END)) as tar:
        assert tar.getnames() == list(made)
