"""Unpacks stacks of layers without the child's confinement, so that `host.unpack.write` stands alone: the first wall.

Every stack gets a process of its own, whose root is a made-up host: what gets out of a layer lands there, and shows.
Run as a program by `unconfined`; it prints what went wrong, by stack, as JSON.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sampan.config import Paths
from sampan.host import syscalls
from sampan.host.storage.layers import Layers
from sampan.host.storage.rootfs import OverlayRootfs
from sampan.host.unpack.layout import OVERLAY_OPTIONS
from sampan.model.errors import Exhausted, Invalid
from sampan.wire import tar_sparse
from tests import breakouts, hostile_archives, images
from tests.host.stores import InProcess, Store, fingerprint
from tests.hostile_archives import EITHER, FITS, INVALID

SECONDS, EACH = 240, 20
NOISES = 400
AT_ONCE = 6  # most of their time goes by with the kernel taking namespaces apart
OWN = ("/store", "/merged", "/proc")
Good = Callable[[Path], bool]
HOST = ("canary/etc", "canary/tmp", "etc", "tmp", "dne", "dummy", "sbin", "dev")
assert tar_sparse  # nothing is imported once a process is in its made-up host


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers, what must come of the last, and how the merged view must look."""

    layers: Sequence[bytes]
    verdict: str
    good: Good = lambda _: True


def unconfined(which: str) -> dict[str, str]:
    """What went wrong with the stacks of `STACKS[which]`, by their names."""
    argv = [sys.executable, "-m", "tests.bare_unpack", which]
    done = subprocess.run(
        argv, capture_output=True, timeout=SECONDS, check=False, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    wrong: dict[str, str] = json.loads(done.stdout)
    return wrong


def of_breakouts() -> dict[str, Stack]:
    cases = breakouts.NAMED | breakouts.OWN
    cases = {name: case for name, case in cases.items() if name != "WithXattrsUser"}  # an old tmpfs has none
    return {
        name: Stack(
            [images.layer(layer) for layer in breakouts.real(stack, "/canary")],
            *((FITS, good) if good else (INVALID,)),
        )
        for name, (stack, good) in (cases | breakouts.splits(cases)).items()
    }


def of_archives() -> dict[str, Stack]:
    """Six hundred without noise: what needs no disk, and the same over another layer."""
    made = [*hostile_archives.edges(), *hostile_archives.duplicates("/canary")]
    made += [hostile_archives.noise(seed, "/canary") for seed in range(NOISES)]
    return {one.name: Stack(one.layers, one.verdict) for one in made if not one.disk}


STACKS: Mapping[str, Callable[[], dict[str, Stack]]] = {
    "breakouts": of_breakouts,
    "archives": of_archives,
}


def main() -> None:
    """Try each stack; print the names of those that went wrong, and why."""
    wrong: dict[str, str] = {}
    ahead: deque[tuple[str, int, int]] = deque()
    with tempfile.TemporaryDirectory() as place:
        for name, stack in STACKS[sys.argv[1]]().items():
            ahead.append((name, *started(Path(place), stack)))
            while len(ahead) >= AT_ONCE:
                wrong |= ended(*ahead.popleft())
        while ahead:
            wrong |= ended(*ahead.popleft())
    print(json.dumps(wrong))


def started(place: Path, stack: Stack) -> tuple[int, int]:
    """A process that tries one stack: its id, and where it says what went wrong."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    signal.alarm(EACH)  # ends it
    words = "it died"
    try:
        words = in_a_host(place, stack)
    except BaseException:  # noqa: BLE001 - whatever it is, it is told
        words = traceback.format_exc()[-1500:]
    finally:
        os.write(writer, words.encode()[:4000])
        os._exit(0)


def ended(name: str, child: int, reader: int) -> dict[str, str]:
    with os.fdopen(reader, "rb") as said:
        words = said.read().decode()
    _, status = os.waitpid(child, 0)
    return {name: f"{words} (status {status})"} if words or status else {}


def in_a_host(place: Path, stack: Stack) -> str:
    """Make the host, go there, unpack, and see whether it is as it was."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", place, "tmpfs", 0, "size=128m")
    (place / "proc").mkdir()
    syscalls.mount("proc", place / "proc", "proc", syscalls.MS_RDONLY)
    os.chroot(place)
    os.chdir("/")
    for part in HOST:
        Path("/", part).mkdir(parents=True)
    for file in ("/etc/passwd", "/etc/whitedout", "/canary/etc/passwd", "/tmp/out"):
        Path(file).write_text("outside")
        Path(file).chmod(0o640)
    os.mknod("/dev/null", 0o020666, os.makedev(1, 3))
    before = whole()
    for own in OWN:
        Path(own).mkdir(exist_ok=True)
    words = asyncio.run(outcome(stack))
    if changed := {str(each[0]) for each in whole() ^ before}:
        return f"{words} the host is not as it was: {sorted(changed)}"
    return words


def whole() -> set[tuple[object, ...]]:
    """The made-up host, but for what is ours."""
    return {one for top in Path("/").iterdir() if str(top) not in OWN for one in fingerprint(top)}


async def outcome(stack: Stack) -> str:
    paths = Paths(Path("/store/root"), Path("/store/state"))
    there: Layers = InProcess(paths)
    await there.open()
    store = Store(paths, there, OverlayRootfs(paths, there))
    chain: list[str] = []
    try:
        for layer in stack.layers:
            chain = await store.add(layer, chain)
    except (Invalid, Exhausted) as refused:
        fine = stack.verdict in (type(refused).__name__, EITHER)
        return "" if fine else f"{type(refused).__name__}, not {stack.verdict}: {refused}"
    finally:
        await there.close()
    return "not refused" if stack.verdict not in (FITS, EITHER) else seen(there, chain, stack.good)


def seen(layers: Layers, chain: Sequence[str], good: Good) -> str:
    os.chdir(layers.root)
    lowers = ":".join([*layers.lowers(chain), "0/fs"])
    options = f"lowerdir={lowers},{OVERLAY_OPTIONS}"
    syscalls.mount("overlay", "/merged", "overlay", syscalls.MS_RDONLY, options)
    right = good(Path("/merged"))
    os.chdir("/")
    syscalls.umount("/merged", syscalls.MNT_DETACH)
    return "" if right else "the result is another"


if __name__ == "__main__":
    main()
