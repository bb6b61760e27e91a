"""A10: archives that tools read differently, or not at all: cut off anywhere, or made by GNU tar in all its formats.

One class of error, nothing left behind. The single odd fields are in test_hostile_archives.py.
"""

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sampan.host import process
from sampan.model.errors import Invalid
from tests import images
from tests.host import stores
from tests.host.stores import InProcess, Store, d, f, h, s, whole
from tests.images import Entry

pytestmark = pytest.mark.root

BLOCK = 512
LONG = "n" * 200
EVERYTHING = images.layer(
    [
        *(
            d("a"),
            f("a/f", b"x" * 3000),
            h("a/h", "a/f"),
            s("a/s", "f"),
            Entry("p", "fifo"),
            f(f"{LONG}/{LONG}"),
        ),
        *(
            Entry("null", "char", device=(1, 3)),
            Entry("attributes", pax={"SCHILY.xattr.trusted.a": "b" * 900}),
        ),
        *(f(".wh.x"), f("a/.wh..wh..opq"), s("long", "t" * 300), f("last", b"z" * 5000)),
    ]
)


@pytest.mark.parametrize("lowers", [[], [d("a")]], ids=["alone", "over another"])
async def test_a10_an_archive_cut_off_anywhere_is_invalid_or_shorter(
    tmp_path: Path, lowers: list[Entry]
) -> None:
    """At each block, and within each."""
    outcomes = {"shorter": 0, "invalid": 0}
    async with stores.opened(tmp_path, InProcess) as store:
        below = await store.add(lowers) if lowers else []
        for end in sorted({*range(0, len(EVERYTHING), BLOCK), *range(100, len(EVERYTHING), 3 * BLOCK)}):
            try:
                *_, chain_id = await store.add(EVERYTHING[:end], below)
            except Invalid:
                outcomes["invalid"] += 1
                continue
            await store.layers.remove(chain_id)
            outcomes["shorter"] += 1
            assert end % BLOCK == 0, "a part of a block is no end"
        assert not store.leftovers()
    assert min(outcomes.values()) > 10, outcomes


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
async def test_a10_nor_is_half_of_it_taken_for_all_by_the_child(tmp_path: Path, compression: str) -> None:
    async with stores.guarded(tmp_path) as store:
        blob = images.compress(EVERYTHING, compression)[0]
        for end in range(1, len(blob) - 2 * BLOCK, max(len(blob) // 7, 1)):
            try:
                staged = await store.layers.unpack(whole(blob[:end]), compression)
            except Invalid:
                continue
            assert compression == "none" and staged.diff_id == images.sha256(blob[:end])
            await store.layers.discard(staged)


# --- what GNU tar makes -----------------------------------------------------------------------------------------


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with stores.guarded(tmp_path) as store:
        yield store


def tree(place: Path) -> None:
    """Everything that all formats can say."""
    place.mkdir()
    (place / "directory").mkdir(mode=0o2750)
    (place / "directory/file").write_bytes(os.urandom(70_000))
    (place / "directory/file").chmod(0o6755)
    os.chown(place / "directory/file", 1000, 2000)
    (place / "directory/file").chmod(0o4711)
    (place / "empty").touch()
    (place / "link").symlink_to("../../etc/passwd")
    os.link(place / "empty", place / "hard")
    os.mkfifo(place / "fifo")
    os.mknod(place / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (place / "odd \n\\ name").write_text("odd")
    (place / os.fsdecode(b"no \xff text")).write_text("odd")
    with (place / "holes").open("wb") as file:
        for offset in range(0, 40 << 20, 1 << 20):  # more extents than a header block holds
            file.seek(offset)
            file.write(b"data at %d" % offset)
        file.truncate(50 << 20)
    for number, path in enumerate(sorted(place.rglob("*"))):
        os.utime(path, (number * 1000, number * 1000), follow_symlinks=False)


def seen(place: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(place.rglob("*")):
        status = path.lstat()
        content: object = b""
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)  # noqa: PTH115 - pathlib tidies the target
        found[str(path.relative_to(place))] = (
            *(
                status.st_mode,
                status.st_uid,
                status.st_gid,
                int(status.st_mtime),
                status.st_rdev,
                status.st_nlink,
            ),
            *(status.st_size if not stat.S_ISDIR(status.st_mode) else 0, content),
        )
    return found


SPARSE = [["posix", "-S", f"--sparse-version={version}"] for version in ("0.0", "0.1", "1.0")]


@pytest.mark.parametrize("options", [["ustar"], ["gnu"], ["posix"], ["gnu", "-S"], *SPARSE], ids=" ".join)
async def test_a10_what_gnu_tar_packs_is_what_it_packed(
    store: Store, tmp_path: Path, options: list[str]
) -> None:
    tree(tmp_path / "packed")
    (tmp_path / "packed" / "deep").mkdir()
    if options[0] != "ustar":
        deep = tmp_path / "packed" / "deep" / ("n" * 200) / ("m" * 200)
        deep.mkdir(parents=True)
        (deep / "far").symlink_to("t" * 1000)
    before = seen(tmp_path / "packed")
    archive = tmp_path / "archive.tar"
    packed = str(tmp_path / "packed")
    await process.run(["tar", f"--format={options[0]}", *options[1:], "-C", packed, "-cf", str(archive), "."])
    if "-S" in options:
        assert archive.stat().st_size < 4 << 20
    async with store.merged(archive.read_bytes()) as root:
        assert seen(root) == before
        if "-S" in options:
            assert (root / "holes").stat().st_blocks < 2 * (4 << 20) // 512
