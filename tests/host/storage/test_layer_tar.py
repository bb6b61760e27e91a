"""Layers read again by the real child: the tar as it came, and whatever was done to the files since."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from sampan.host.storage import layer_tar
from sampan.host.storage.layer_tar import LayerTars
from sampan.host.unpack import recorder
from sampan.model.errors import Invalid, Lost
from sampan.wire.tar_recipe import IRREGULAR, MAGIC, NOTES, frame, note
from tests import images
from tests.host import stores
from tests.host.stores import Store, d, f, h, s
from tests.images import Entry

pytestmark = pytest.mark.root

LOWER = images.layer([d("etc"), f("etc/low", b"low"), d("opt"), f("opt/old", b"old"), d("srv"), f("srv/x")])
TOP = images.layer(
    [
        d("etc"),
        Entry("etc/passwd", data=b"root:x:0:0" * 1000, mode=0o640, uid=3, gid=4, mtime=1234),
        Entry("etc/cap", data=b"c", pax={"SCHILY.xattr.user.note": "n"}),
        s("etc/link", "passwd"),
        h("etc/hard", "etc/passwd"),
        Entry("etc/pipe", "fifo"),
        Entry("etc/null", "char", device=(1, 3)),
        d("opt"),
        f("opt/.wh.old", b""),
        d("srv"),
        f("srv/.wh..wh..opq", b""),
        f("a/implicit", b"i"),
    ]
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with stores.opened(tmp_path) as store:
        yield store


@pytest.fixture
async def chain(store: Store) -> list[str]:
    chain = await store.chain(LOWER, TOP)
    await store.layers.commit(chain)
    return chain


@pytest.fixture
def tars(store: Store) -> LayerTars:
    return LayerTars(store.layers)


async def whole(tars: LayerTars, chain: list[str]) -> bytes:
    return b"".join([piece async for piece in tars.tar(chain)])


# --- rebuilding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
async def test_the_tar_comes_back_whatever_its_blob_was(
    store: Store, tars: LayerTars, compression: str
) -> None:
    chain = await store.chain(LOWER, TOP, compression=compression)
    await store.layers.commit(chain)
    for count, archive in ((1, LOWER), (2, TOP)):
        described = await tars.describe(chain[count - 1])
        assert (described.digest, described.size) == (images.sha256(archive), len(archive))
        assert await whole(tars, chain[:count]) == archive
        assert (await tars.verify(chain[:count])).differences == ()


async def test_a_part_that_went_over_lower_layers_comes_back(store: Store, tars: LayerTars) -> None:
    below = images.layer([d("real"), f("real/one", b"1"), s("way", "real")])
    over = images.layer(
        [f("first", b"0"), f("way/two", b"2" * 5000), h("three", "real/one"), f("way/.wh.one", b"")]
    )
    chain = await store.chain(below, over)
    await store.layers.commit(chain)
    assert await whole(tars, chain) == over
    assert await tars.verify(chain) == await tars.verify(chain)
    assert (await tars.verify(chain)).differences == ()
    (store.layers.directory(chain[1]) / "three").write_bytes(b"7")
    assert any(line.startswith("/three ") for line in (await tars.verify(chain)).differences)


async def test_what_an_entry_replaced_comes_back(store: Store, tars: LayerTars) -> None:
    """One replaced, one with another name left, a directory with files, and a link."""
    archive = images.layer(
        [
            f("a", b"first" * 500),
            f("a", b"second"),
            f("b", b"linked"),
            h("c", "b"),
            f("b", b"anew"),
            f("dir/x", b"gone"),
            s("dir", "c"),
        ]
    )
    chain = await store.chain(archive)
    await store.layers.commit(chain)
    assert await whole(tars, chain) == archive
    assert (await tars.verify(chain)).differences == ()
    (store.layers.directory(chain[0]) / "c").write_bytes(b"linkeD")
    assert (await tars.verify(chain)).differences


async def test_a_layer_that_replaces_too_much_says_what_to_do(store: Store, tars: LayerTars) -> None:
    size = recorder.GONE_LIMIT + 1
    archive = images.layer([f("big", b"1" * size), f("big", b"2"), f("other", b"3")])
    chain = await store.chain(archive, compression="gzip")
    await store.layers.commit(chain)
    with pytest.raises(Invalid, match="keep_blobs"):
        await tars.describe(chain[0])
    with pytest.raises(Invalid, match="cannot be"):
        await whole(tars, chain)
    verdict = await tars.verify(chain)
    assert verdict.differences == () and "replaces more than 16 MiB" in verdict.unknown
    (store.layers.directory(chain[0]) / "other").chmod(0o600)
    assert (await tars.verify(chain)).differences == ("/other has mode 600 instead of 644",)


async def test_a_layer_of_an_earlier_version_is_not_verified(
    store: Store, tars: LayerTars, chain: list[str]
) -> None:
    place = store.layers.directory(chain[1]).parent
    record = place / "layer.json"
    record.write_bytes(record.read_bytes().replace(b'"recipe":true', b'"recipe":false'))
    (place / "recipe").unlink()
    verdict = await tars.verify(chain)
    assert verdict.differences == () and "without a recipe" in verdict.unknown
    with pytest.raises(Invalid, match="pull the image anew"):
        await tars.describe(chain[1])


async def test_a_kept_blob_is_given_as_it_came(tmp_path: Path) -> None:
    blob = images.compress(TOP, "gzip")[0]
    async with stores.opened(tmp_path) as store:
        store.layers._keep = "keep"
        chain = await store.chain(TOP, compression="gzip")
        await store.layers.commit(chain)
        tars = LayerTars(store.layers)
        described = await tars.describe(chain[0])
        assert (described.digest, described.size, described.compression) == (
            images.sha256(blob),
            len(blob),
            "+gzip",
        )
        assert await whole(tars, chain) == blob
        kept = store.layers.blob(chain[0])
        assert kept is not None
        kept.write_bytes(blob[:-1] + b"?")
        with pytest.raises(Lost, match="is damaged"):
            await whole(tars, chain)


async def test_a_reader_that_leaves_ends_the_child(
    store: Store, tars: LayerTars, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = await store.chain(images.layer([f("big", b"x" * (8 << 20))]))
    await store.layers.commit(chain)
    seen = stores.children(monkeypatch, layer_tar)
    stream = tars.tar(chain)
    assert await anext(stream)
    await stream.aclose()
    assert seen and not seen[0].running


def resident(pid: int) -> int:
    """KiB that a process had at most, 0 if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


async def test_rebuilding_takes_little_memory(
    store: Store, tars: LayerTars, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MiB of content, and 20,000 entries, in a child that stays small."""
    seen = stores.children(monkeypatch, layer_tar)
    used = 0
    big = images.layer([f("big", os.urandom(64 << 20)), *(f(f"{n}", b"x") for n in range(20_000))])
    chain = await store.chain(big)
    await store.layers.commit(chain)
    size = 0
    async for piece in tars.tar(chain):
        size += len(piece)
        assert len(piece) <= 2 * layer_tar.PIECE
        used = max(used, resident(seen[0].pid))
    assert size == len(big)
    checking = asyncio.create_task(tars.verify(chain))
    while not checking.done():
        await asyncio.sleep(0.01)
        used = max(used, *(resident(child.pid) for child in seen))
    assert checking.result().differences == ()
    assert 10 << 10 < used < 96 << 10


# --- damage -------------------------------------------------------------------------------------------------


def flipped(root: Path) -> None:
    file = root / "etc/passwd"
    times = file.stat()
    data = bytearray(file.read_bytes())
    data[4000] ^= 1
    with file.open("r+b") as opened:
        opened.write(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def replaced(path: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        times = (root / path).parent.stat()
        (root / path).unlink()
        make(root / path)
        os.utime((root / path).parent, ns=(times.st_atime_ns, times.st_mtime_ns))

    return damage


def truncated(root: Path) -> None:
    os.truncate(root / "etc/passwd", 17)


def grown(root: Path) -> None:
    with (root / "etc/cap").open("ab") as file:
        file.write(b"more")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit flipped": (flipped, "holds other content"),
    "truncated": (truncated, "/etc/passwd has 17 bytes instead of 10000"),
    "grown": (grown, "/etc/cap has 5 bytes instead of 1"),
    "mode": (lambda root: (root / "etc/passwd").chmod(0o666), "has mode 666 instead of 640"),
    "set-user-id": (lambda root: (root / "etc/cap").chmod(0o4644), "has mode 4644 instead of 644"),
    "mode of a directory": (lambda root: (root / "etc").chmod(0o777), "/etc has mode 777 instead of 755"),
    "owner": (lambda root: os.chown(root / "etc/passwd", 0, 4), "belongs to 0:4 instead of 3:4"),
    "group": (lambda root: os.chown(root / "etc/passwd", 3, 0), "belongs to 3:0 instead of 3:4"),
    "owner of a symlink": (lambda root: os.lchown(root / "etc/link", 9, 0), "/etc/link belongs to 9:0"),
    "time": (lambda root: os.utime(root / "etc/passwd", (5, 5)), "has the time 5000000000 instead of"),
    "attribute changed": (lambda root: os.setxattr(root / "etc/cap", "user.note", b"m"), "user.note"),
    "attribute lost": (lambda root: os.removexattr(root / "etc/cap", "user.note"), "user.note"),
    "attribute more": (lambda root: os.setxattr(root / "etc/passwd", "user.new", b""), "user.new"),
    "a file more": (lambda root: (root / "etc/more").write_bytes(b""), "/etc/more is not part of the layer"),
    "a directory more": (lambda root: (root / "a/more").mkdir(), "/a/more is not part of the layer"),
    "a device more": (lambda root: os.mknod(root / "sda", 0o60666, os.makedev(8, 0)), "/sda is not part"),
    "a file missing": (lambda root: (root / "etc/cap").unlink(), "/etc/cap is missing"),
    "a directory missing": (lambda root: shutil.rmtree(root / "a"), "/a/implicit is missing"),
    "another target": (replaced("etc/link", lambda path: path.symlink_to("shadow")), "leads to b'shadow'"),
    "a file for a symlink": (replaced("etc/link", Path.touch), "is a file instead of a symlink"),
    "a symlink for a file": (
        replaced("etc/cap", lambda path: path.symlink_to("/etc/shadow")),
        "is a symlink instead of a file",
    ),
    "a directory for a file": (replaced("etc/cap", Path.mkdir), "is a directory instead of a file"),
    "a FIFO for a file": (replaced("etc/cap", os.mkfifo), "is a FIFO instead of a file"),
    "another device": (
        replaced("etc/null", lambda path: os.mknod(path, 0o20755, os.makedev(1, 5))),
        "/etc/null is device 1:5",
    ),
    "a copy for a hard link": (
        replaced("etc/hard", lambda path: shutil.copy2(path.parent / "passwd", path)),
        "is no hard link",
    ),
    "a whiteout missing": (replaced("opt/old", lambda _: None), "/opt/old of a lower layer is not hidden"),
    "a whiteout more": (lambda root: os.mknod(root / "etc/low", 0o20000, 0), "/etc/low is not part"),
    "no longer opaque": (
        lambda root: os.removexattr(root / "srv", "trusted.overlay.opaque"),
        "/srv does not hide what is below any more",
    ),
    "opaque": (lambda root: os.setxattr(root / "etc", "trusted.overlay.opaque", b"y"), "/etc hides what"),
    "the root": (lambda root: root.chmod(0o777), "/ has mode 777"),
}


@pytest.mark.parametrize("kind", DAMAGE)
async def test_damage_is_found(store: Store, tars: LayerTars, chain: list[str], kind: str) -> None:
    damage, words = DAMAGE[kind]
    assert (await tars.verify(chain)).differences == ()
    damage(store.layers.directory(chain[1]))
    differences = (await tars.verify(chain)).differences
    assert any(words in line for line in differences), differences
    assert (await tars.verify(chain[:1])).differences == ()


async def test_damaged_content_is_not_exported_as_if_it_were_good(
    store: Store, tars: LayerTars, chain: list[str]
) -> None:
    flipped(store.layers.directory(chain[1]))
    with pytest.raises(Lost, match="verify --repair"):
        await whole(tars, chain)


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("/etc/hostname"), lambda path: path.mkdir()]
)
async def test_what_is_no_file_any_more_is_not_read(
    store: Store, tars: LayerTars, chain: list[str], make: Callable[[Path], None]
) -> None:
    replaced("etc/passwd", make)(store.layers.directory(chain[1]))
    with pytest.raises(Lost, match="/etc/passwd"):
        await whole(tars, chain)


@pytest.mark.parametrize("part", ["start", "middle", "end", "all", "missing"])
async def test_a_damaged_recipe_is_damage(store: Store, tars: LayerTars, chain: list[str], part: str) -> None:
    recipe = store.layers.directory(chain[1]).parent / "recipe"
    data = bytearray(recipe.read_bytes())
    at = {"start": 3, "middle": len(data) // 2, "end": len(data) - 20}.get(part, 0)
    data[at] ^= 0xFF
    if part == "missing":
        recipe.unlink()
    else:
        recipe.write_bytes(data if part != "all" else b"")
    assert (await tars.verify(chain)).differences


async def test_a_recipe_may_not_name_what_is_outside(store: Store, tars: LayerTars, chain: list[str]) -> None:
    """It is our own file, but who changes the layer can change it too."""
    recipe = store.layers.directory(chain[1]).parent / "recipe"
    elsewhere = frame(NOTES, note(b"W", 1, b"../../1/fs/etc/passwd"))
    recipe.write_bytes(recipe.read_bytes().replace(MAGIC, MAGIC + elsewhere))
    with pytest.raises(Lost):
        await whole(tars, chain)


async def test_an_irregular_recipe_says_why(store: Store, tars: LayerTars, chain: list[str]) -> None:
    recipe = store.layers.directory(chain[1]).parent / "recipe"
    with recipe.open("ab") as file:
        file.write(frame(NOTES, note(IRREGULAR, 0, text=b"for a reason")))
    with pytest.raises(Invalid, match="for a reason"):
        await tars.describe(chain[1])


async def test_a_condemned_layer_is_noticed_by_the_store(
    store: Store, tars: LayerTars, chain: list[str]
) -> None:
    place = store.layers.directory(chain[1])
    for _ in range(2):
        await tars.condemn(chain[1])
    assert await store.layers.damaged(chain) == [chain[1]]
    assert not store.layers.has(chain[1]) and store.layers.has(chain[0])
    assert (place / "etc/passwd").exists()  # for containers that have it
