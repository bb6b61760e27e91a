"""The layer store: stacks against a plain oracle, publishing, what a restart finds, removing."""

import asyncio
import os
import shutil
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sampan.host import mounts
from sampan.host.storage import layer_store
from sampan.host.storage import layers as layers_module
from sampan.model.errors import Exhausted, Invalid, NotFound
from tests import images
from tests.host import stores
from tests.host.stores import InProcess, Store, fingerprint
from tests.images import Entry
from tests.layer_oracle import RefusedError, Tree, listing, random_stack

pytestmark = pytest.mark.root

DIRECTORY, FILE = Entry("etc", "dir"), Entry("etc/passwd", data=b"root")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with stores.opened(tmp_path) as store:
        yield store


# --- stacks -------------------------------------------------------------------------------------------------


async def agrees_with_the_oracle(store: Store, stack: list[list[Entry]]) -> bool:
    """Whether the merged root is what the oracle says; False where both refuse the stack."""
    tree = Tree()
    try:
        for number, layer in enumerate(stack):
            tree.apply(number, layer)
    except RefusedError:
        with pytest.raises(Invalid):
            async with store.merged(*stack):
                pass
        return False
    async with store.merged(*stack) as root:
        assert listing(root) == tree.listing()
    return True


async def test_four_hundred_random_stacks_look_as_if_applied_one_after_the_other(tmp_path: Path) -> None:
    async with stores.opened(tmp_path, InProcess) as store:
        applied = [await agrees_with_the_oracle(store, random_stack(seed)) for seed in range(400)]
    assert sum(applied) > 350


@pytest.mark.parametrize("seed", range(1000, 1015))
async def test_random_stacks_through_the_child_process(store: Store, seed: int) -> None:
    await agrees_with_the_oracle(store, random_stack(seed))


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
    "a file where a directory was": [[DIRECTORY, FILE], [Entry("etc")]],
    "a directory after a file of its name": [[DIRECTORY, FILE], [Entry("etc"), DIRECTORY]],
}


@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
async def test_stacks_that_builders_make(store: Store, stack: list[list[Entry]]) -> None:
    said = [[replace(entry, mode=_mode(entry)) for entry in layer] for layer in stack]
    assert await agrees_with_the_oracle(store, said)


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
    assert (staged.inodes, staged.size) == (2, 4096 + 12288)
    await store.layers.publish(staged, "sha256:a", [])
    assert store.layers.has("sha256:a")
    assert store.layers.size("sha256:a") == staged.size
    assert (await store.layers.fs_usage()).bytes == staged.size
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
        usage = await store.layers.fs_usage()
        await store.unpack([FILE])  # left half way
    async with stores.opened(tmp_path) as store:
        assert all(store.layers.has(chain_id) for chain_id in chain)
        assert await store.layers.fs_usage() == usage
        assert not store.leftovers()
        async with store.merged([DIRECTORY], [FILE]) as root:
            assert (root / "etc/passwd").read_bytes() == b"root"


def _file_as_content(place: Path) -> None:
    shutil.rmtree(place / "fs")
    (place / "fs").touch()


def _file_as_layer(place: Path) -> None:
    shutil.rmtree(place)
    place.touch()


DAMAGE: dict[str, Callable[[Path], object]] = {
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
        place = store.layers.directory(bad[0]).parent
    damage(place)
    async with stores.opened(tmp_path) as store:
        assert store.layers.has(good[0])
        assert not store.layers.has(bad[0])
        assert await store.add([FILE]) == bad


async def test_nobody_else_can_look_into_the_store(store: Store) -> None:
    await store.chain([Entry("sh", mode=0o4755)])
    for place in (store.paths.layers, *store.paths.layers.iterdir()):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700, place


# --- removing -----------------------------------------------------------------------------------------------


async def test_a_removed_layer_is_gone_at_once_and_its_name_is_free(store: Store) -> None:
    (chain_id,) = await store.add([DIRECTORY, FILE])
    place = store.layers.directory(chain_id).parent
    await store.layers.remove(chain_id)
    await store.layers.remove(chain_id)
    assert not store.layers.has(chain_id)
    assert not place.exists()
    assert (await store.layers.fs_usage()).bytes == 0
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
