"""Image archives on disk: streams, files and directories, also hostile ones."""

import contextlib
import gzip
import io
import os
import tarfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import zstandard

from sampan.host.storage import archive
from sampan.host.storage.archive import Archives
from sampan.model.errors import Exhausted, Invalid
from sampan.runtime.image_ports import ArchivedImage
from tests import images
from tests.images import Entry

ONE = images.image(
    [images.layer([Entry("one", data=os.urandom(3 << 20))])], {"Cmd": ["one"]}, architecture="amd64"
)
NAME = "docker.io/library/one:v1"
TAR = images.oci_layout({NAME: ONE})


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def nothing_in(directory: Path) -> bool:
    return not directory.exists() or not list(directory.iterdir())


async def stream(data: bytes, piece: int = 100_000) -> AsyncIterator[bytes]:
    for offset in range(0, len(data), piece):
        yield data[offset : offset + piece]


@contextlib.asynccontextmanager
async def opened(scratch: Path, source: Path | bytes) -> AsyncIterator[Sequence[ArchivedImage]]:
    """The images of an archive; afterwards neither files nor descriptors are left."""
    before = open_files()
    try:
        given = source if isinstance(source, Path) else stream(source)
        async with Archives(scratch).open(given, "x86_64") as found:
            yield found
    finally:
        assert nothing_in(scratch)
        assert open_files() <= before


async def contents(image: ArchivedImage) -> list[bytes]:
    return [b"".join([piece async for piece in layer.open()]) for layer in image.layers]


PACKED = {
    "plain": TAR,
    "gzip": gzip.compress(TAR, 1),
    "gzip in members": gzip.compress(TAR[:700_000], 1) + gzip.compress(TAR[700_000:], 1),
    "zstd": zstandard.ZstdCompressor().compress(TAR),
}


@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED.keys())
@pytest.mark.parametrize("streamed", [True, False])
async def test_an_archive_may_be_streamed_or_lie_in_a_file(
    tmp_path: Path, packed: bytes, streamed: bool
) -> None:
    (tmp_path / "file").write_bytes(packed)
    async with opened(tmp_path / "scratch", packed if streamed else tmp_path / "file") as (image,):
        assert image.tags == (NAME,)
        assert image.config == ONE.blobs[ONE.id]
        assert await contents(image) == [data for digest, data in ONE.blobs.items() if digest != ONE.id]


def unpack(directory: Path) -> Path:
    directory.mkdir()
    with tarfile.open(fileobj=io.BytesIO(TAR)) as tar:
        tar.extractall(directory, filter="data")
    return directory


async def test_a_layout_may_be_a_directory(tmp_path: Path) -> None:
    async with opened(tmp_path / "scratch", unpack(tmp_path / "layout")) as (image,):
        assert image.config == ONE.blobs[ONE.id]
        assert await contents(image) == [data for digest, data in ONE.blobs.items() if digest != ONE.id]


@pytest.mark.parametrize("name", ["index.json", "blobs", "blobs/sha256", f"blobs/{ONE.id.replace(':', '/')}"])
async def test_no_link_is_followed_in_a_directory(tmp_path: Path, name: str) -> None:
    layout = unpack(tmp_path / "layout")
    (layout / name).rename(tmp_path / "elsewhere")
    (layout / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Invalid, match=r"regular file|cannot be read"):
        async with opened(tmp_path / "scratch", layout):
            pass


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: os.mknod(path, 0o20666, os.makedev(1, 5))]
)
async def test_nothing_but_files_is_read_in_a_directory(tmp_path: Path, make: object) -> None:
    layout = unpack(tmp_path / "layout")
    (layout / "index.json").unlink()
    make(layout / "index.json")  # type: ignore[operator]
    with pytest.raises(Invalid, match=r"regular file|cannot be read"):
        async with opened(tmp_path / "scratch", layout):
            pass


async def test_what_docker_saves_is_read_with_its_links(tmp_path: Path) -> None:
    manifest = images.dump(
        [{"Config": "c.json", "RepoTags": ["one:v1"], "Layers": ["a/layer.tar", "b/layer.tar"]}]
    )
    data = images.layer(
        [
            Entry("a/layer.tar", data=b"first layer"),
            Entry("b/layer.tar", "symlink", link="../a/layer.tar"),
            Entry("c.json", data=b"{}"),
            Entry("manifest.json", data=manifest),
        ]
    )
    async with opened(tmp_path / "scratch", data) as (image,):
        assert await contents(image) == [b"first layer", b"first layer"]
        assert [(layer.digest, layer.size) for layer in image.layers] == [("", -1), ("", -1)]


SECRET = "/etc/hostname"


@pytest.mark.parametrize(
    "entries",
    [
        [Entry("manifest.json", data=images.dump([{"Config": SECRET, "Layers": []}]))],
        [Entry("manifest.json", data=images.dump([{"Config": "../../../.." + SECRET, "Layers": []}]))],
        [
            Entry("manifest.json", data=images.dump([{"Config": "c", "Layers": [SECRET]}])),
            Entry("c", data=b"{}"),
        ],
        [
            Entry("manifest.json", data=images.dump([{"Config": "c", "Layers": []}])),
            Entry("c", "symlink", link=SECRET),
        ],
        [
            Entry("manifest.json", data=images.dump([{"Config": "c", "Layers": []}])),
            Entry("c", "hardlink", link=SECRET),
        ],
        [Entry("manifest.json", "symlink", link="/proc/self/environ")],
    ],
)
async def test_nothing_outside_the_archive_is_ever_read(tmp_path: Path, entries: list[Entry]) -> None:
    with pytest.raises(Invalid, match=r"is not in it|no image archive"):
        async with opened(tmp_path / "scratch", images.layer(entries)):
            pass


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"\x1f\x8b",
        b"\x1f\x8b" + b"x" * 100,
        PACKED["gzip"][:-9],
        PACKED["gzip"][:50_000],
        PACKED["zstd"][:50_000],
        b"\x28\xb5\x2f\xfd" + b"x" * 100,
        TAR[:100_000],
        gzip.compress(PACKED["gzip"], 1),
        b"PK\x03\x04" + bytes(1000),
        b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 1000,  # a deflate block of no type there is
    ],
)
async def test_a_damaged_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(Invalid):
        async with opened(tmp_path / "scratch", data):
            pass


@pytest.mark.parametrize("compress", [lambda data: data, lambda data: gzip.compress(data, 1)])
async def test_a_full_disk_ends_an_import(
    tmp_path: Path, compress: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "RESERVE", 1 << 60)
    monkeypatch.setattr(archive, "CHECK_EVERY", 1 << 20)
    with pytest.raises(
        Exhausted,
        match=rf"an import leaves \d+ MiB free on the disk of {tmp_path}/scratch, and there are \d+ MiB",
    ):
        async with opened(tmp_path / "scratch", compress(TAR)):  # type: ignore[operator]
            pass


async def test_a_client_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield TAR[:1000]
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        async with Archives(tmp_path / "scratch").open(broken(), "x86_64"):
            pass
    assert nothing_in(tmp_path / "scratch")


async def test_the_scratch_directory_is_for_us_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "scratch", TAR):
        assert (tmp_path / "scratch").stat().st_mode & 0o777 == 0o700
