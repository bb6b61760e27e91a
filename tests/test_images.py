"""The images that tests build are what they claim to be, and a real registry takes and serves them."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable

import pytest
import zstandard

from tests import images
from tests.conftest import PushImage


def test_a_layer_holds_its_entries_as_given() -> None:
    hostile = images.Entry("../../etc/shadow", "symlink", link="/etc/passwd", uid=7)
    data = images.layer(
        [images.Entry("a", data=b"x", mode=0o4755, pax={"SCHILY.xattr.user.k": "v"}), hostile]
    )
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        first, second = tar.getmembers()
    assert (first.name, first.mode, first.pax_headers) == ("a", 0o4755, {"SCHILY.xattr.user.k": "v"})
    assert (second.name, second.linkname, second.uid) == ("../../etc/shadow", "/etc/passwd", 7)


@pytest.mark.parametrize(("compression", "suffix"), [("gzip", "+gzip"), ("zstd", "+zstd"), ("none", "")])
def test_digests_and_diff_ids_agree_with_the_bytes(compression: str, suffix: str) -> None:
    tar = images.layer([images.Entry("a", data=b"x")])
    one = images.image([tar], {"User": "1000"}, compression=compression)
    (described,) = json.loads(one.manifest)["layers"]
    blob = one.blobs[described["digest"]]
    undo: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "zstd": zstandard.decompress}
    assert described["mediaType"] == images.LAYER + suffix
    assert described["size"] == len(blob)
    assert undo.get(compression, bytes)(blob) == tar
    assert one.config["rootfs"]["diff_ids"] == [images.sha256(tar)]
    assert one.config["config"] == {"User": "1000"}
    assert images.sha256(one.blobs[one.id]) == one.id


def test_a_layout_leads_from_its_index_to_every_blob() -> None:
    one = images.image([images.layer([])])
    with tarfile.open(fileobj=io.BytesIO(images.oci_layout({"demo/app:1": one}))) as tar:
        files = {member.name: tar.extractfile(member) for member in tar.getmembers()}
        index_file = files["index.json"]
        assert index_file
        (described,) = json.loads(index_file.read())["manifests"]
    assert described["annotations"]["org.opencontainers.image.ref.name"] == "demo/app:1"
    assert f"blobs/{described['digest'].replace(':', '/')}" in files
    assert all(f"blobs/{digest.replace(':', '/')}" in files for digest in one.blobs)


def test_what_was_pushed_is_served(registry: images.Registry, push_image: PushImage) -> None:
    one = images.busybox()
    assert push_image("self/test", one, "v1") == f"{registry.address}/self/test:v1"
    served = registry.request("HEAD", "/v2/self/test/manifests/v1")
    assert served["Docker-Content-Digest"] == one.digest
    assert registry.has_blob("self/test", one.id)
    assert not registry.has_blob("self/test", images.sha256(b"never pushed"))
