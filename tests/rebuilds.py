"""Unpacks stacks of layers, with recipes, and writes every layer's tar again: it must be the same, byte for byte, and
the layer must be found whole.

Run as a program by `failures`: `python -m tests.rebuilds WHAT FIRST END DIRECTORY`. Its mounts are its own, its store
is in memory, and it prints what went wrong, by stack, as JSON, with how many layers were rebuilt.
"""

import asyncio
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from sampan.host import mounts, syscalls
from sampan.host.rebuild.check import Check
from sampan.host.rebuild.recipe import Recipe as Written
from sampan.host.rebuild.tar import pieces
from sampan.host.storage.unpacking import Unpacked
from sampan.host.unpack.child import unpack
from sampan.host.unpack.cursor import Budget
from sampan.host.unpack.layout import MERGED, OVERLAY_OPTIONS, RECIPE, REST, ROOT, STAGING, WHITEOUTS, WORK
from sampan.host.unpack.recorder import Recipe, RecordedMergedWriter, RecordedWriter
from sampan.model.errors import Exhausted, Invalid
from sampan.wire.layer_state import State
from tests import hostile_archives, images
from tests.host import stores
from tests.host.stores import InProcess, Store
from tests.layer_stacks import SPACE, random_stack

SECONDS = 240
_APPEND = os.O_WRONLY | os.O_APPEND
Stack = Sequence[bytes]


def failures(directory: Path, what: str, seeds: range) -> tuple[int, dict[str, str]]:
    """How many layers were rebuilt, and what went wrong."""
    argv = [sys.executable, "-m", "tests.rebuilds", what, str(seeds.start), str(seeds.stop), str(directory)]
    done = subprocess.run(
        argv, capture_output=True, timeout=SECONDS, check=False, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    count, wrong = json.loads(done.stdout)
    return count, wrong


def main() -> None:
    """In a process of its own."""
    what, first, end, directory = sys.argv[1:]
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    mounts.tmpfs(Path(directory), SPACE, 0o700)
    found = asyncio.run(_all(Path(directory), what, range(int(first), int(end))))
    sys.stdout.write(json.dumps(found))


async def _all(directory: Path, what: str, seeds: range) -> tuple[int, dict[str, str]]:
    count, wrong = 0, {}
    async with stores.opened(directory, Recorded) as store:
        for name, stack in STACKS[what](seeds):
            try:
                count += await _one(store, stack)
            except (Invalid, Exhausted):
                continue  # a stack that cannot be unpacked
            except Exception:  # noqa: BLE001 - whatever it is, it is what went wrong
                wrong[name] = traceback.format_exc()[-2000:]
    return count, wrong


async def _one(store: Store, stack: Stack) -> int:
    chain: list[str] = []
    try:
        for archive in stack:
            chain = await store.add(archive, chain)
        for number, archive in enumerate(stack):
            _compare(store, chain[: number + 1], archive)
        return len(stack)
    finally:
        for chain_id in reversed(chain):
            await store.layers.remove(chain_id)


def _compare(store: Store, chain: Sequence[str], archive: bytes) -> None:
    place = store.layers.directory(chain[-1]).parent
    lowers = store.layers.lowers(chain[:-1]) if chain[1:] else []
    opened = [os.open(path, os.O_RDONLY) for path in (place / RECIPE, place / ROOT)]
    below = [os.open(store.layers.root / lower, os.O_RDONLY) for lower in lowers]
    try:
        recipe = Written(opened[0])
        assert not recipe.notes.irregular, recipe.notes.irregular
        assert recipe.size == len(archive)
        state = State(recipe.notes, base=not lowers).run(recipe.entries()) if recipe.notes.cleared else None
        assert b"".join(pieces(recipe, opened[1], state)) == archive, "another tar"
        check = Check(Written(opened[0]), opened[1], below, base=not lowers)
        assert not check.run("sha256:" + sha256(archive).hexdigest())
        assert not check.differences, "; ".join(check.differences)
    finally:
        for fd in (*opened, *below):
            os.close(fd)


class Recorded(InProcess):
    """What the child does, in a process that has its mounts for itself."""

    async def _stage(self, key: str, chunks: AsyncIterator[bytes], compression: str, base: bool) -> Unpacked:
        place = self._store.staging(key)
        archive = b"".join([chunk async for chunk in chunks])
        size = random.Random(len(archive)).choice((1 << 18, 512, 700, 5000))
        cut = (archive[at : at + size] for at in range(0, len(archive), size))
        with stores.mask(), stores.directory(place / ROOT) as root, (place / REST).open("wb", 0) as rest:
            budget = Budget(root, 0, 0)
            writer = RecordedWriter(root, budget, base=base)
            with (place / RECIPE).open("wb", buffering=0) as file:
                recipe = Recipe(file.fileno(), budget)
                writer.record(recipe)
                done = unpack(cut, writer, budget, rest.fileno())
                recipe.end(len(archive))
        (place / WHITEOUTS).write_bytes(b"".join(name + b"\0" for name in writer.whiteouts))
        return Unpacked(
            size=budget.size,
            inodes=budget.inodes,
            has_root=writer.has_root,
            diff_id="sha256:" + sha256(archive).hexdigest(),
            rest=not done,
            recipe=True,
            whiteouts=bool(writer.whiteouts),
            opaque=writer.opaque,
        )

    async def _merge(self, key: str, below: Sequence[str]) -> Unpacked:
        os.chdir(self.root)
        lowers = ":".join(f"{name}/{ROOT}" for name in below or ("0",))
        here = Path(STAGING, key)
        options = f"lowerdir={lowers},upperdir={here}/{ROOT},workdir={here}/{WORK},{OVERLAY_OPTIONS}"
        syscalls.mount("overlay", here / MERGED, "overlay", 0, options)
        file = os.open(here / RECIPE, _APPEND)
        try:
            with (
                stores.mask(),
                stores.directory(here / ROOT) as upper,
                stores.directory(here / MERGED) as root,
            ):
                budget = Budget(root, 0, 0)
                writer = RecordedMergedWriter(root, upper, budget)
                recipe = Recipe(file, budget, more=True)
                writer.record(recipe)
                unpack(iter([(here / REST).read_bytes()]), writer, budget)
                writer.snapshot()
                recipe.end()
        finally:
            os.close(file)
            syscalls.umount(here / MERGED, syscalls.MNT_DETACH)
        return Unpacked(size=budget.size, inodes=budget.inodes, has_root=writer.has_root)


# --- stacks -------------------------------------------------------------------------------------------------


def _stacks(seeds: range) -> Iterator[tuple[str, Stack]]:
    """Layers whose entries get in each other's way, with odd ends."""
    for seed in seeds:
        dice = random.Random(seed)
        yield (
            str(seed),
            [images.layer(layer) + dice.choice((b"", b"", b"\0" * 512, b"x" * 5000, dice.randbytes(700)))
             for layer in random_stack(seed)],
        )  # fmt: skip


def _formats(seeds: range) -> Iterator[tuple[str, Stack]]:
    """Every format that Python writes, with names and sizes that need its extensions, and odd padding."""
    for seed in seeds:
        dice = random.Random(seed)
        buffer = io.BytesIO()
        form = dice.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT))
        with tarfile.open(fileobj=buffer, mode="w", format=form, pax_headers={"comment": "global"}) as tar:
            for number in range(dice.randint(1, 60)):
                long = dice.choice(("", "", "d" * 80 + "/"))
                if form != tarfile.USTAR_FORMAT:
                    long += dice.choice(("", "e" * 90 + "/", "f" * 250 + "/", "\u00e4" * 100 + "/"))
                info = tarfile.TarInfo(f"{long}f{number}")
                info.size = dice.choice((0, 1, 511, 512, 513, 4096, 70_000))
                info.mode, info.mtime = dice.choice((0o644, 0o4755)), dice.randint(0, 1 << 31)
                tar.addfile(info, io.BytesIO(dice.randbytes(info.size)))
                if dice.random() < 0.3:
                    info = tarfile.TarInfo(f"l{number}")
                    info.type, info.linkname = tarfile.LNKTYPE, f"{long}f{number}"
                    tar.addfile(info)
        yield str(seed), [_dirtied(dice, buffer.getvalue())]


def _dirtied(dice: random.Random, archive: bytes) -> bytes:
    """With something else than zeros between a member's end and the next block: readers pass over it."""
    changed = bytearray(archive)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            end = member.offset_data + member.size
            if member.isreg() and end % 512 and dice.random() < 0.5:
                changed[end] = 7
    return bytes(changed)


def _archives(seeds: range) -> Iterator[tuple[str, Stack]]:
    """The hostile archives that must fit, and those that may."""
    canary = "/nowhere"
    every = [
        *hostile_archives.edges(),
        *hostile_archives.duplicates(canary),
        *hostile_archives.escapes(canary),
        *(hostile_archives.noise(seed, canary) for seed in seeds),
    ]
    for archive in every:
        yield archive.name, archive.layers


STACKS = {"stacks": _stacks, "formats": _formats, "archives": _archives}

if __name__ == "__main__":
    main()
