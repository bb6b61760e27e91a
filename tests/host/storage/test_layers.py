"""The layer store: stacks against a plain oracle, publishing, what a restart finds, removing."""

import asyncio
import os
import shutil
import stat
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sampan.host import mounts, syscalls
from sampan.host.storage import layer_store, layer_view
from sampan.host.storage import layers as layers_module
from sampan.host.storage.layer_store import LayerStore
from sampan.host.storage.layers import Layers
from sampan.host.storage.rootfs import OverlayRootfs
from sampan.model.errors import Exhausted, Invalid, NotFound
from tests import images
from tests.host import stores
from tests.host.stores import Store, fingerprint
from tests.images import Entry
from tests.layer_oracle import XATTR
from tests.layer_stacks import applied, disagreement

pytestmark = pytest.mark.root

DIRECTORY, FILE = Entry("etc", "dir"), Entry("etc/passwd", data=b"root")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with stores.opened(tmp_path) as store:
        yield store


# --- stacks -------------------------------------------------------------------------------------------------


STACKS = {
    "an implicit directory is like the one below": [
        [Entry("usr", "dir", mode=0o1751, uid=7, gid=8, mtime=99)],
        [Entry("usr/bin/tool", data=b"x")],
    ],
    "an implicit directory below is a symlink": [
        [
            Entry("usr", "dir"),
            Entry("usr/lib", "dir", mode=0o711, mtime=5),
            Entry("lib", "symlink", link="usr/lib"),
        ],
        [Entry("lib/x86/libc.so", data=b"elf"), Entry("lib/.wh.nothing")],
    ],
    "a hard link to a file below": [
        [DIRECTORY, FILE],
        [Entry("etc/group", "hardlink", link="etc/passwd")],
    ],
    "a whiteout of what this layer replaces": [
        [DIRECTORY, FILE],
        [Entry(".wh.etc"), DIRECTORY, Entry("etc/new")],
    ],
    "a whiteout of nothing": [
        [DIRECTORY],
        [DIRECTORY, Entry("etc/.wh.nothing"), Entry("new", "dir"), Entry("new/.wh.nothing")],
    ],
    "whiteouts in the lowest layer": [
        [Entry(".wh.x"), DIRECTORY, Entry("etc/.wh.y"), Entry("etc/.wh..wh..opq")]
    ],
    "a whiteout that hides a whiteout": [
        [DIRECTORY, FILE],
        [DIRECTORY, Entry("etc/.wh.passwd")],
        [DIRECTORY, Entry("etc/.wh.passwd")],
        [FILE],
    ],
    "a whiteout above a hundred directories that this layer has something in": [
        [Entry("/".join(["d"] * depth), "dir") for depth in range(1, 101)],
        [Entry("d/" * 100 + "new"), Entry(".wh.d")],
    ],
    "opaque, then things from below": [
        [DIRECTORY, FILE, Entry("etc/d", "dir"), Entry("etc/d/f")],
        [DIRECTORY, Entry("etc/.wh..wh..opq"), Entry("etc/d", "dir"), Entry("etc/d/g")],
        [Entry("etc/d/h")],
    ],
    "an opaque root": [
        [DIRECTORY, FILE],
        [Entry("./.wh..wh..opq"), Entry("only")],
        [Entry("only/../more")],
    ],
    "a root with an owner": [
        [Entry("./", "dir", mode=0o750, uid=4, mtime=3), DIRECTORY],
        [Entry("f")],
        [Entry("etc/passwd")],
    ],
    "an implicit directory in one that gives its group away": [
        [Entry("var", "dir", mode=0o2775, gid=7), Entry("var/lib/x/y"), Entry("var/own", "dir", mode=0o700)],
        [Entry("var/log/z")],
    ],
    "a set-user-id bit on what cannot be opened": [
        [Entry("pipe", "fifo", mode=0o4750, uid=3), Entry("null", "char", mode=0o6666, gid=4, device=(1, 3))]
    ],
    "an entry for a directory says all its attributes": [
        [Entry("etc", "dir", pax={f"{XATTR}trusted.one": "1", f"{XATTR}trusted.two": "2"})],
        [Entry("etc/a/b"), Entry("etc", "dir", pax={f"{XATTR}trusted.two": "3"}), Entry("etc/c")],
    ],
    "a way that leads through what is replaced": [
        [
            *(Entry(path, "dir") for path in ("a", "a/b", "x", "x/y")),
            Entry("way", "symlink", link="a/b/.."),
            Entry("way/in_a"),
            Entry("way/b", "symlink", link="/x/y"),
            Entry("way/in_x"),
        ]
    ],
    "a file where a directory was": [[DIRECTORY, FILE], [Entry("etc")]],
    "a directory after a file of its name": [[DIRECTORY, FILE], [Entry("etc"), DIRECTORY]],
}


@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
async def test_stacks_that_builders_make(store: Store, stack: list[list[Entry]]) -> None:
    said = [[replace(entry, mode=_mode(entry)) for entry in layer] for layer in stack]
    assert applied(said)
    assert not await disagreement(store, said)


def _mode(entry: Entry) -> int:
    return entry.mode if entry.mode is not None else 0o644 if entry.kind == "file" else 0o755


async def test_no_lone_whiteout_shows(store: Store) -> None:
    """overlayfs would list one that hides nothing as a file that cannot be opened."""
    chain = await store.chain([DIRECTORY], [Entry("new", "dir"), Entry("new/.wh.nothing"), Entry(".wh.no")])
    devices = [path for path in store.layers.directory(chain[-1]).rglob("*") if path.is_char_device()]
    assert not devices


# --- publishing ---------------------------------------------------------------------------------------------


async def test_a_published_layer_is_there_with_its_size(store: Store) -> None:
    staged = await store.unpack([DIRECTORY, Entry("etc/big", data=bytes(10_000))], "gzip")
    assert not store.layers.has("sha256:a")
    recipe = (1, 4096)
    assert (staged.inodes, staged.size) == (2 + recipe[0], 4096 + 12288 + recipe[1])
    await store.layers.publish(staged, "sha256:a", [])
    assert store.layers.has("sha256:a")
    assert store.layers.size("sha256:a") == staged.size
    assert not store.leftovers()


async def test_publishing_twice_is_fine(store: Store) -> None:
    staged = [await store.unpack([DIRECTORY]) for _ in range(3)]
    await asyncio.gather(*(store.layers.publish(each, "sha256:a", []) for each in staged))
    await store.layers.publish(staged[0], "sha256:a", [])
    await store.layers.discard(staged[1])
    assert not store.leftovers()
    assert [place.name for place in store.paths.layers.iterdir() if place.name.isdigit()] == ["0", "1"]


async def test_what_is_discarded_cannot_be_published(store: Store) -> None:
    staged = await store.unpack([DIRECTORY])
    await store.layers.discard(staged)
    with pytest.raises(NotFound, match="unpack it again"):
        await store.layers.publish(staged, "sha256:a", [])


async def test_a_layer_below_must_be_published(store: Store) -> None:
    staged = await store.unpack([DIRECTORY])
    with pytest.raises(NotFound, match="pull its image again"):
        await store.layers.publish(staged, "sha256:a", ["sha256:gone"])
    await store.layers.discard(staged)


async def test_a_layer_whose_rest_is_damaged_is_invalid_and_leaves_the_others_alone(store: Store) -> None:
    base = await store.add([DIRECTORY, FILE])
    before = fingerprint(store.layers.directory(base[0]))
    archive = images.layer([Entry("etc/a"), Entry("etc/b", "hardlink", link="nowhere")])
    with pytest.raises(Invalid):
        await store.add(archive, base)
    assert fingerprint(store.layers.directory(base[0])) == before
    assert not store.leftovers()


async def test_a_full_disk_is_said_to_be_full_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounts.tmpfs(small, 16 << 20, 0o700)
    try:
        async with stores.opened(small) as store:
            kept = await store.add([DIRECTORY, FILE])
            for reserve in ((0, 0), (8 << 20, 0)):
                monkeypatch.setattr(layers_module.Layers, "_reserve", _constant(reserve))
                with pytest.raises(Exhausted):
                    await store.unpack([Entry(f"f{n}", data=os.urandom(1 << 20)) for n in range(17)])
            monkeypatch.undo()
            assert not store.leftovers()
            assert len(await store.add([Entry("etc/group")], kept)) == 2
    finally:
        mounts.detach(small)


def _constant(reserve: tuple[int, int]) -> object:
    async def constant(_: object) -> tuple[int, int]:
        return reserve

    return constant


# --- a restart ----------------------------------------------------------------------------------------------


async def test_a_restart_finds_what_was_published_and_nothing_else(tmp_path: Path) -> None:
    async with stores.opened(tmp_path) as store:
        chain = await store.chain([DIRECTORY], [FILE])
        await store.layers.commit(chain)
        await store.unpack([FILE])  # left half way
    async with stores.opened(tmp_path) as store:
        assert all(store.layers.has(chain_id) for chain_id in chain)
        assert not store.leftovers()
        async with store.merged([DIRECTORY], [FILE]) as root:
            assert (root / "etc/passwd").read_bytes() == b"root"


def _file_as_content(place: Path) -> None:
    shutil.rmtree(place / "fs")
    (place / "fs").touch()


def _file_as_layer(place: Path) -> None:
    shutil.rmtree(place)
    place.touch()


def _link_as_content(place: Path) -> None:
    shutil.move(place / "fs", place.parent.parent / "elsewhere")
    (place / "fs").symlink_to(place.parent.parent / "elsewhere")


def _link_as_layer(place: Path) -> None:
    shutil.move(place, place.parent.parent / "elsewhere")
    place.symlink_to(place.parent.parent / "elsewhere")


def _record_of(other: str) -> Callable[[Path], object]:
    def write(place: Path) -> None:
        record = place / "layer.json"
        text = record.read_text()
        record.write_text(text.replace(msgspec.json.decode(text)["chain_id"], other))

    return write


DAMAGE: dict[str, Callable[[Path], object]] = {
    "half a record": lambda place: os.truncate(place / "layer.json", 40),
    "a record of zeros": lambda place: (place / "layer.json").write_bytes(bytes(300)),
    "the record of another layer": _record_of("sha256:" + "a" * 64),
    "a link as content": _link_as_content,
    "a link in its place": _link_as_layer,
    "nothing": shutil.rmtree,
    "no record": lambda place: (place / "layer.json").unlink(),
    "an empty record": lambda place: (place / "layer.json").write_bytes(b""),
    "a record of another kind": lambda place: (place / "layer.json").write_text("[1]"),
    "no content": lambda place: shutil.rmtree(place / "fs"),
    "a file as content": _file_as_content,
    "a file in its place": _file_as_layer,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_a_damaged_layer_is_not_there_after_a_restart(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    async with stores.opened(tmp_path) as store:
        good = await store.add([DIRECTORY])
        bad = await store.add([FILE])
        await store.layers.commit([*good, *bad])
        place = store.layers.directory(bad[0]).parent
    damage(place)
    async with stores.opened(tmp_path) as store:
        assert store.layers.has(good[0])
        assert not store.layers.has(bad[0])
        assert await store.add([FILE]) == bad


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_a_layer_that_is_damaged_while_we_run_is_given_up_when_it_is_looked_at(
    store: Store, damage: Callable[[Path], object]
) -> None:
    (good,), (bad,) = await store.add([DIRECTORY]), await store.add([FILE])
    await store.layers.commit([good, bad])
    assert await store.layers.damaged([good, bad]) == []
    place = store.layers.directory(bad).parent
    damage(place)
    assert await store.layers.damaged([good, bad]) == [bad]
    assert store.layers.has(good) and not store.layers.has(bad)
    assert await store.layers.damaged([good, bad]) == []
    assert await store.add([FILE]) == [bad]
    assert store.layers.directory(bad).parent != place


async def test_what_is_published_and_not_committed_yet_is_not_damaged(store: Store) -> None:
    chain = await store.add([DIRECTORY])
    assert await store.layers.damaged(chain) == [] and store.layers.has(chain[0])


async def test_a_damaged_layer_that_is_mounted_stays_until_it_is_not(tmp_path: Path) -> None:
    async with stores.opened(tmp_path) as store:
        chain = await store.add([DIRECTORY, FILE])
        await store.layers.commit(chain)
        place = store.layers.directory(chain[0]).parent
    paths = store.paths
    first, second, third = (Layers(paths) for _ in range(3))
    rootfs = OverlayRootfs(paths, first)
    await first.open()
    try:
        root = await rootfs.prepare("c", chain)
        (place / "layer.json").write_bytes(b"")
        await second.open()
        assert not second.has(chain[0]) and (root / "etc/passwd").read_bytes() == b"root"
        assert second._new_name() != place.name
        await second.close()
        await rootfs.remove("c")
        await third.open()
        await stores.eventually(lambda: not place.exists())
        await third.close()
    finally:
        await rootfs.close()
        await first.close()
        mounts.detach(paths.bundle("any").parent)


async def test_nobody_else_can_look_into_the_store(store: Store) -> None:
    await store.chain([Entry("sh", mode=0o4755)])
    for place in (store.paths.layers, *store.paths.layers.iterdir()):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700, place


async def test_whiteouts_deep_in_a_tree_are_not_looked_up_from_every_directory_above_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, depth, count = Counter[str](), 200, 50

    def counted(*arguments: Any, **options: Any) -> int:
        calls["openat2"] += 1
        return syscalls.openat2(*arguments, **options)

    monkeypatch.setattr(layer_view, "openat2", counted)
    tree = [Entry("d/" * level, "dir") for level in range(1, depth + 1)]
    below = await store.add(tree)
    await store.add([*tree, *(Entry("d/" * depth + f".wh.{number}") for number in range(count))], below)
    assert calls["openat2"] < 4 * depth + 5 * count


async def test_a_pull_that_is_cancelled_while_its_place_is_made_leaves_none(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, begun, go = LayerStore.stage, asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(*arguments: Any) -> None:
        loop.call_soon_threadsafe(begun.set)
        go.wait(10)
        stage(*arguments)

    monkeypatch.setattr(LayerStore, "stage", slow)
    work = asyncio.create_task(store.unpack([DIRECTORY]))
    await begun.wait()
    work.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert store.leftovers() == []


# --- removing -----------------------------------------------------------------------------------------------


async def test_a_removed_layer_is_gone_at_once_and_its_name_is_free(store: Store) -> None:
    (chain_id,) = await store.add([DIRECTORY, FILE])
    place = store.layers.directory(chain_id).parent
    await store.layers.remove(chain_id)
    await store.layers.remove(chain_id)
    assert not store.layers.has(chain_id)
    assert not place.exists()
    with pytest.raises(NotFound):
        store.layers.size(chain_id)
    await store.add([DIRECTORY])
    assert place.exists()


async def test_the_space_of_what_was_removed_comes_back(store: Store) -> None:
    await store.layers.remove((await store.add([DIRECTORY, FILE]))[0])
    trash = store.paths.layers / layer_store.TRASH
    await stores.eventually(lambda: stores.is_empty(trash))


async def test_a_sweep_keeps_what_is_wanted_and_what_is_being_made(store: Store) -> None:
    keep, drop = await store.add([DIRECTORY]), await store.add([FILE])
    staged = await store.unpack([FILE])
    (store.paths.layers / "staging" / "left").mkdir()
    await store.layers.sweep(keep)
    assert (store.layers.has(keep[0]), store.layers.has(drop[0])) == (True, False)
    assert store.leftovers() == [staged.key]
    await store.layers.publish(staged, "sha256:new", keep)


async def test_five_hundred_layers_are_the_limit(store: Store) -> None:
    (chain_id,) = await store.add([DIRECTORY])
    assert len(store.layers.lowers([chain_id] * 500)) == 500
    with pytest.raises(Invalid, match="501 layers"):
        store.layers.lowers([chain_id] * 501)
