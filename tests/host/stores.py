"""A layer store and root file systems in a temporary directory, for tests on the real kernel."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sampan.config import Paths
from sampan.host import mounts, process, python_child, syscalls
from sampan.host.process import Child
from sampan.host.storage import rootfs, unpacking
from sampan.host.storage.layers import Layers
from sampan.host.storage.rootfs import OverlayRootfs
from sampan.host.storage.unpacking import Unpacked
from sampan.host.threads import in_own_thread
from sampan.host.unpack.child import unpack
from sampan.host.unpack.cursor import Budget
from sampan.host.unpack.layout import MERGED, OVERLAY_OPTIONS, REST, ROOT, STAGING, WHITEOUTS, WORK
from sampan.host.unpack.merge import MergedWriter
from sampan.host.unpack.write import Writer
from sampan.runtime.image_ports import Staged
from tests import images
from tests.images import Entry

Content = bytes | Sequence[Entry]
LABEL = "system_u:object_r:container_file_t:s0:c1,c2"
CONTEXT = f'context="{LABEL}"'


@dataclass(frozen=True)
class Store:
    """All of it."""

    paths: Paths
    layers: Layers
    rootfs: OverlayRootfs

    async def unpack(self, content: Content, compression: str = "none", *, base: bool = False) -> Staged:
        return await self.layers.unpack(chunks(content, compression), compression, base=base)

    async def add(self, content: Content, below: Sequence[str] = (), compression: str = "none") -> list[str]:
        """Unpack and publish one more layer; the chain with it. The name is made of what is in it."""
        staged = await self.unpack(content, compression, base=not below)
        chain_id = "sha256:" + sha256("".join([*below, staged.diff_id]).encode()).hexdigest()
        try:
            await self.layers.publish(staged, chain_id, below)
        except BaseException:
            await self.layers.discard(staged)
            raise
        return [*below, chain_id]

    async def chain(self, *contents: Content, compression: str = "none") -> list[str]:
        below: list[str] = []
        for content in contents:
            below = await self.add(content, below, compression)
        return below

    @asynccontextmanager
    async def merged(self, *contents: Content, compression: str = "none") -> AsyncIterator[Path]:
        """The root of a container over these layers."""
        layers = await self.chain(*contents, compression=compression)
        try:
            yield await self.rootfs.prepare("c", layers)
        finally:
            await self.rootfs.remove("c")
            for chain_id in reversed(layers):
                await self.layers.remove(chain_id)

    def leftovers(self) -> list[str]:
        """Names in the staging directory."""
        return [place.name for place in (self.paths.layers / STAGING).iterdir()]


@asynccontextmanager
async def opened(directory: Path, kind: type[Layers] = Layers) -> AsyncIterator[Store]:
    """Closed in the end, with nothing left mounted."""
    paths = Paths(directory / "root", directory / "state")
    layers = kind(paths)
    rootfs = OverlayRootfs(paths, layers)
    await layers.open()
    try:
        yield Store(paths, layers, rootfs)
    finally:
        await rootfs.close()
        await layers.close()
        with suppress(FileNotFoundError):
            mounts.detach(paths.bundle("any").parent)


async def chunks(content: Content, compression: str = "none") -> AsyncIterator[bytes]:
    """A layer's blob as it would come from a registry."""
    archive = content if isinstance(content, bytes) else images.layer(content)
    blob = images.compress(archive, compression)[0]
    for start in range(0, max(len(blob), 1), 100_000):
        yield blob[start : start + 100_000]


class InProcess(Layers):
    """Layers without the child process: fifty times faster where thousands are needed."""

    async def _stage(self, key: str, chunks: AsyncIterator[bytes], compression: str, base: bool) -> Unpacked:
        place = self._store.staging(key)
        archive = b"".join([chunk async for chunk in chunks])
        with mask(), directory(place / ROOT) as root, (place / REST).open("wb", buffering=0) as rest:
            budget = Budget(root, 0, 0)
            writer = Writer(root, budget, base=base)
            done = unpack(iter([archive]), writer, budget, rest.fileno())
        (place / WHITEOUTS).write_bytes(b"".join(name + b"\0" for name in writer.whiteouts))
        return Unpacked(
            size=budget.size,
            inodes=budget.inodes,
            has_root=writer.has_root,
            diff_id=sha256(archive).hexdigest(),
            rest=not done,
            whiteouts=bool(writer.whiteouts),
            opaque=writer.opaque,
        )

    async def _merge(self, key: str, below: Sequence[str]) -> Unpacked:
        lowers = ":".join(f"{name}/{ROOT}" for name in below or ("0",))
        here = f"{STAGING}/{key}"

        def work() -> Unpacked:
            syscalls.unshare(syscalls.CLONE_FS | syscalls.CLONE_NEWNS)
            syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
            os.umask(0)
            os.chdir(self.root)
            options = f"lowerdir={lowers},upperdir={here}/{ROOT},workdir={here}/{WORK},{OVERLAY_OPTIONS}"
            syscalls.mount("overlay", f"{here}/{MERGED}", "overlay", 0, options)
            try:
                with directory(Path(here) / ROOT) as upper, directory(Path(here) / MERGED) as root:
                    budget = Budget(root, 0, 0)
                    writer = MergedWriter(root, upper, budget)
                    unpack(iter([(Path(here) / REST).read_bytes()]), writer, budget)
            finally:
                syscalls.umount(f"{here}/{MERGED}", syscalls.MNT_DETACH)
            return Unpacked(size=budget.size, inodes=budget.inodes, has_root=writer.has_root)

        return await in_own_thread(work)


class mask:
    """The child's umask, for this process."""

    def __enter__(self) -> None:
        self._before = os.umask(0)

    def __exit__(self, *failure: object) -> None:
        os.umask(self._before)


class directory:
    """A directory by descriptor."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> int:
        self._fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        return self._fd

    def __exit__(self, *failure: object) -> None:
        os.close(self._fd)


def canary(place: Path) -> None:
    """A small tree outside the store that must come out of every test unchanged."""
    (place / "etc").mkdir(parents=True)
    (place / "tmp").mkdir()
    (place / "etc/passwd").write_text("outside")
    (place / "etc/passwd").chmod(0o640)
    (place / "link").symlink_to("etc")


def fingerprint(place: Path) -> list[tuple[object, ...]]:
    """Everything about a tree that a write could change."""
    found: list[tuple[object, ...]] = []
    for path in sorted([place, *place.rglob("*")]):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found.append(
            (path, status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content)
        )
    return found


async def eventually(true: Callable[[], bool]) -> None:
    """Wait until something is so; TimeoutError if that takes ten seconds."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - nobody could set an event: the kernel or a child process does it
            await asyncio.sleep(0.001)


def is_empty(place: Path) -> bool:
    return not any(place.iterdir())


@asynccontextmanager
async def guarded(directory: Path) -> AsyncIterator[Store]:
    """A store beside a canary, which must be untouched in the end, with nothing half done left."""
    canary(directory / "canary")
    before = fingerprint(directory / "canary")
    async with opened(directory) as store:
        yield store
        assert not store.leftovers()
    assert fingerprint(directory / "canary") == before


def children(monkeypatch: pytest.MonkeyPatch, module: Any = unpacking) -> list[Child]:
    """The children that a module, by default the unpacker, starts from now on."""
    seen: list[Child] = []

    @asynccontextmanager
    async def spy(*args: Any, **options: Any) -> AsyncIterator[Child]:
        async with process.spawn(*args, **options) as child:
            seen.append(child)
            yield child

    monkeypatch.setattr(module, "spawn", spy)
    return seen


def peaks(monkeypatch: pytest.MonkeyPatch, path: Path) -> Callable[[], list[int]]:
    """The most memory, in bytes, that each unpacking child which is started from now on had resident when it ended;
    they write it to `path`."""
    path.touch()
    wrapped = (  # not by getrusage, whose figure is that of the process before it was the child, where larger
        "import os; status, end = os.open('/proc/self/status', os.O_RDONLY), os._exit\n"
        f"fd = os.open({str(path)!r}, os.O_WRONLY | os.O_APPEND)\n"
        "def ended(code):\n"
        "    os.write(fd, os.pread(status, 4096, 0).partition(b'VmHWM:')[2].split()[0] + b'\\n')\n"
        "    end(code)\n"
        "os._exit = ended\n"
    )
    monkeypatch.setattr(python_child, "_LOADER", wrapped + python_child._LOADER)
    return lambda: [int(line) << 10 for line in path.read_text().split()]


async def whole(blob: bytes) -> AsyncIterator[bytes]:
    """A blob in one piece."""
    yield blob


def d(path: str) -> Entry:
    return Entry(path, "dir", mode=0o755)


def f(path: str, data: bytes = b"x") -> Entry:
    return Entry(path, data=data)


def s(path: str, link: str) -> Entry:
    return Entry(path, "symlink", link=link)


def h(path: str, link: str) -> Entry:
    return Entry(path, "hardlink", link=link)


def without_labels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From now on mounts are made without the label, which a kernel without SELinux refuses: the options they were to
    have, in their order."""
    asked: list[str] = []
    mount = syscalls.mount

    def plainly(source: Any, target: Any, fstype: str = "", flags: int = 0, data: str = "") -> None:
        if data:
            asked.append(data)
        mount(source, target, fstype, flags, data.replace(f",{CONTEXT}", ""))

    monkeypatch.setattr(syscalls, "mount", plainly)
    monkeypatch.setattr(rootfs, "mount", plainly)
    return asked
