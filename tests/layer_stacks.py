"""Random stacks of layers, and whether the layer store makes of them what the oracle says.

Run as a program by `disagreements`, for a range of seeds: `python -m tests.layer_stacks HOW FIRST END DIRECTORY`, with
HOW `process` (the child's code in one process, for thousands) or `child` (the real child). Its mounts are its own: a
memory file system holds the store, and goes away with the process. It prints what went wrong, by seed, as JSON, each
with the smallest stack that goes wrong in the same way.
"""

import asyncio
import copy
import json
import os
import random
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sampan.host import mounts, syscalls
from sampan.host.storage.layers import Layers
from sampan.host.storage.unpacking import Unpacked
from sampan.host.unpack.child import unpack
from sampan.host.unpack.cursor import Budget
from sampan.host.unpack.layout import MERGED, OVERLAY_OPTIONS, REST, ROOT, STAGING, WORK
from sampan.host.unpack.merge import MergedWriter
from sampan.model.errors import Invalid
from tests.host import stores
from tests.host.stores import InProcess, Store
from tests.images import Entry
from tests.layer_oracle import XATTR, RefusedError, Tree, clean, listing

Stack = Sequence[Sequence[Entry]]
NAMES = ("a", "b", "c")
SECONDS = 240
SPACE = 256 << 20  # bytes of the memory file system
FILE_MODES = (0o644, 0o644, 0o600, 0o755, 0o4755, 0o2755, 0o6711, 0o1644, 0)
DIRECTORY_MODES = (0o755, 0o755, 0o700, 0o1777, 0o2775, 0o3770)
OWNERS = ((0, 0), (0, 0), (5, 0), (0, 7), (1000, 1000), (65534, 100000), (2147483647, 2147483647))
CAPABILITY = "security.capability"
NET_BIND = "\x01\x00\x00\x02\x00\x04" + "\x00" * 14  # capabilities(7), version 2: cap_net_bind_service=ep


# --- running ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of some stacks: how many were applied, how many refused as they must be, and what went wrong."""

    applied: int
    refused: int
    wrong: dict[str, str]


def disagreements(directory: Path, how: str, seeds: range, workers: int = 2) -> Outcome:
    """Compare the stacks of these seeds, in several processes."""
    parts = [seeds[number::workers] for number in range(workers)]
    running = []
    for number, part in enumerate(parts):
        place = directory / f"{how}{number}"
        place.mkdir()
        argv = [sys.executable, "-m", "tests.layer_stacks", how]
        argv += [*map(str, (part.start, part.stop, part.step)), str(place)]
        running.append(
            subprocess.Popen(
                argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[1]
            )
        )
    try:
        found = [process.communicate(timeout=SECONDS) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    for process, (_, errors) in zip(running, found, strict=True):
        assert process.returncode == 0, errors.decode()[-3000:]
    outcomes = [Outcome(**json.loads(output)) for output, _ in found]
    wrong = {seed: text for outcome in outcomes for seed, text in outcome.wrong.items()}
    return Outcome(sum(each.applied for each in outcomes), sum(each.refused for each in outcomes), wrong)


def main() -> None:
    """In a process of its own."""
    how, first, end, step, directory = sys.argv[1:]
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    mounts.tmpfs(Path(directory), SPACE, 0o700)
    outcome = asyncio.run(_compare(Path(directory), how, range(int(first), int(end), int(step))))
    sys.stdout.write(json.dumps({"applied": outcome[0], "refused": outcome[1], "wrong": outcome[2]}))


async def _compare(directory: Path, how: str, seeds: range) -> tuple[int, int, dict[str, str]]:
    counts = [0, 0]
    wrong: dict[str, str] = {}
    async with stores.opened(directory, Alone if how == "process" else Layers) as store:
        for seed in seeds:
            stack = random_stack(seed)
            text = await disagreement(store, stack)
            counts[_refused(stack)] += 1
            if text and len(wrong) < 5:  # to find the smallest takes a while
                small = await smallest(store, stack)
                text = "\n".join([await disagreement(store, small), *_shown(small)])
            if text:
                wrong[str(seed)] = text
    return counts[0], counts[1], wrong


class Alone(InProcess):
    """In a process that has its mounts for itself."""

    async def _merge(self, key: str, below: Sequence[str]) -> Unpacked:
        os.chdir(self.root)
        lowers = ":".join(f"{name}/{ROOT}" for name in below or ("0",))
        here = Path(STAGING, key)
        options = f"lowerdir={lowers},upperdir={here}/{ROOT},workdir={here}/{WORK},{OVERLAY_OPTIONS}"
        syscalls.mount("overlay", here / MERGED, "overlay", 0, options)
        try:
            with (
                stores.mask(),
                stores.directory(here / ROOT) as upper,
                stores.directory(here / MERGED) as root,
            ):
                budget = Budget(root, 0, 0)
                writer = MergedWriter(root, upper, budget)
                unpack(iter([(here / REST).read_bytes()]), writer, budget)
        finally:
            syscalls.umount(here / MERGED, syscalls.MNT_DETACH)
        return Unpacked(size=budget.size, inodes=budget.inodes, has_root=writer.has_root)


async def disagreement(store: Store, stack: Stack) -> str:
    """How the merged root differs from what the oracle says; "" if it does not, or both refuse the stack."""
    try:
        tree = applied(stack)
    except RefusedError:
        tree = None
    try:
        async with store.merged(*stack) as root:
            if tree is None:
                return "it must be refused"
            return "\n".join(listing(root).differences(tree.listing()))
    except Invalid as error:
        return "" if tree is None else f"it was refused: {error}"
    except Exception:  # noqa: BLE001 - whatever it is, it is what went wrong
        return traceback.format_exc()


def applied(stack: Stack) -> Tree:
    """What the oracle makes of a stack. RefusedError if nothing."""
    tree = Tree()
    for number, layer in enumerate(stack):
        tree.apply(number, layer)
    return tree


def _refused(stack: Stack) -> bool:
    try:
        applied(stack)
    except RefusedError:
        return True
    return False


async def smallest(store: Store, stack: Stack) -> Stack:
    """The stack without all that can go while it still goes wrong."""
    again = True
    while again:
        again = False
        for less in _smaller(stack):
            if await disagreement(store, less):
                stack, again = less, True
                break
    return stack


def _smaller(stack: Stack) -> Iterator[Stack]:
    """The stack with one thing taken away from it."""
    for number, layer in enumerate(stack):
        if len(stack) > 1:
            yield [*stack[:number], *stack[number + 1 :]]
        for at, entry in enumerate(layer):
            for instead in ([], *([each] for each in _plainer(entry))):
                changed = [*layer[:at], *instead, *layer[at + 1 :]]
                yield [*stack[:number], changed, *stack[number + 1 :]]


def _plainer(entry: Entry) -> Iterator[Entry]:
    plainer = (
        replace(entry, pax={}),
        replace(entry, uid=0, gid=0),
        replace(entry, mode=0o755),
        replace(entry, data=b""),
    )
    yield from (each for each in plainer if each != entry)


def _shown(stack: Stack) -> Iterator[str]:
    for number, layer in enumerate(stack):
        yield f"layer {number}"
        for entry in layer:
            plain = Entry(entry.path)
            said = {name: getattr(entry, name) for name in Entry.__slots__}
            yield f"  {entry.path!r}: " + ", ".join(
                f"{name}={oct(value) if name == 'mode' else value!r}"
                for name, value in said.items()
                if name != "path" and value != getattr(plain, name) and value is not None
            )


# --- making -------------------------------------------------------------------------------------------------


def random_stack(seed: int) -> Stack:
    """A few layers of a few entries over a few names, so that they get in each other's way. Most can be
    applied.
    """
    dice = random.Random(seed)
    tree = Tree()
    stack: list[list[Entry]] = []
    for number in range(dice.choice((1, 2, 2, 3, 3, 4, 5))):
        layer: list[Entry] = []
        for entry in random_layer(dice, base=not number):
            after = copy.deepcopy(tree)
            try:
                after.apply(number, [entry])
            except RefusedError:
                if dice.random() < 0.98:
                    continue
            tree = after
            layer.append(entry)
        stack.append(layer)
    return stack


def random_layer(dice: random.Random, *, base: bool) -> list[Entry]:
    entries = [entry for _ in range(dice.randint(2, 8)) for entry in random_entries(dice)]
    if base or dice.random() < 0.4:  # as real builders do: every directory has its entry
        parents = {"/".join(clean(entry.path)[:depth]) for entry in entries for depth in range(1, 3)}
        explicit = [directory(dice, path) for path in sorted(parents) if path and ".wh." not in path]
        entries = explicit + entries
    if dice.random() < 0.1:
        entries.insert(dice.randint(0, len(entries)), replace(directory(dice, "./"), pax={}))
    return entries


def random_path(dice: random.Random) -> str:
    path = "/".join(dice.choices(NAMES, k=dice.choice((1, 1, 2, 2, 3, 4))))
    return dice.choice(("", "", "", "", "./", "/", "../", "c/../", "a//")) + path


def random_entries(dice: random.Random) -> list[Entry]:
    """An entry, or a few that builders put together."""
    path = random_path(dice)
    return dice.choice(GROUPS)(dice, path)


def hidden(path: str) -> Entry:
    head, slash, leaf = path.rpartition("/")
    return Entry(f"{head}{slash}.wh.{leaf}")


def opaque(path: str) -> Entry:
    return Entry(f"{path}/.wh..wh..opq".removeprefix("/"))


def marked(dice: random.Random, path: str) -> list[Entry]:
    """An opaque marker before or behind something in its directory."""
    return [directory(dice, path), *dice.sample([opaque(path), leaf_entry(dice, f"{path}/b")], 2)]


def led_elsewhere(dice: random.Random, path: str) -> list[Entry]:
    """A symlink, and things whose way leads through it."""
    through = [leaf_entry(dice, f"{path}/{random_path(dice)}"), hidden(f"{path}/a")]
    return [symlink(dice, path), *through[: dice.choice((1, 1, 2))]]


def linked(dice: random.Random, path: str) -> list[Entry]:
    return [leaf_entry(dice, path), Entry(random_path(dice), "hardlink", link=path)]


GROUPS: Sequence[Callable[[random.Random, str], list[Entry]]] = (
    lambda _, path: [hidden(path)],
    lambda _, path: [opaque(path.rpartition("/")[0])],
    lambda dice, path: dice.sample([hidden(path), leaf_entry(dice, path)], 2),
    marked,
    led_elsewhere,
    linked,
    lambda dice, path: [Entry(path, "hardlink", link=random_path(dice))],
    *[lambda dice, path: [directory(dice, path)]] * 2,
    *[lambda dice, path: [leaf_entry(dice, path)]] * 3,
)


def directory(dice: random.Random, path: str) -> Entry:
    return dressed(dice, Entry(path, "dir", mode=dice.choice(DIRECTORY_MODES)))


def symlink(dice: random.Random, path: str) -> Entry:
    target = dice.choice(("", "", "/", "../", "../../")) + random_path(dice)
    return dressed(dice, Entry(path, "symlink", link=target))


def leaf_entry(dice: random.Random, path: str) -> Entry:
    """Anything that is not a directory."""
    match dice.randint(0, 9):
        case 0 | 1 | 2:
            return symlink(dice, path)
        case 3:
            return dressed(dice, Entry(path, "fifo", mode=dice.choice(FILE_MODES)))
        case 4:
            kind = dice.choice(("char", "block"))
            device = dice.choice(((1, 3), (8, 0), (4095, 1048575), (0, 5), (0, 0)))
            return dressed(dice, Entry(path, kind, mode=dice.choice(FILE_MODES), device=device))
    data = dice.randbytes(dice.choice((0, 3, 700, 5000)))
    return dressed(dice, Entry(path, data=data, mode=dice.choice(FILE_MODES)))


def dressed(dice: random.Random, entry: Entry) -> Entry:
    """With an owner, a time and perhaps extended attributes."""
    uid, gid = dice.choice(OWNERS)
    pax: dict[str, str] = {}
    if dice.random() < 0.2:
        pax["mtime"] = f"{dice.choice((-77, 5, 1 << 31, 1 << 33))}.{dice.randint(1, 999999999):09}"
    for name in ("one", "two"):
        if dice.random() < 0.15:
            pax[f"{XATTR}trusted.{name}"] = dice.choice(("", "x", "y" * 300))
    if entry.kind == "file" and dice.random() < 0.15:
        pax[XATTR + CAPABILITY] = NET_BIND
    return replace(entry, uid=uid, gid=gid, mtime=dice.randint(1, 99), pax=pax)


def report(wrong: Mapping[str, str]) -> str:
    """What went wrong, to be read."""
    return "\n\n".join(f"seed {seed}\n{text}" for seed, text in wrong.items())


if __name__ == "__main__":
    main()
