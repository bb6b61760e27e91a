"""Parts of blobs on disk: what long downloads leave for the try after them, and what arrives out of turn.

    spool/HEX/OFFSET    so many bytes of the blob with that digest, from OFFSET on

A part's length is its file's, so nothing has to be written down beside it, and the end of the daemon loses what
was in flight and no more. Parts are never synced and never trusted: whoever reads a blob checks its digest. Quick
downloads leave nothing here (`host.registry.download` decides).
"""

import asyncio
import logging
import os
import shutil
import time
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from sampan.host.threads import in_slow_thread, in_thread
from sampan.tasks import finish, step

READ = 1 << 20  # bytes read of a part at once
log = logging.getLogger("sampan")


class Part:
    """Bytes `start` to `end` of a blob, in a file. It grows at its end while somebody writes it."""

    def __init__(self, start: int, length: int, fd: int) -> None:
        self.start, self.end = start, start + length
        self.growing = False
        self._fd = fd
        self._news = asyncio.Event()

    async def append(self, data: bytes) -> None:
        """Write more of it. OSError where the disk does not take it; then the part ends where it did."""
        done, view = 0, memoryview(data)
        while done < len(view):
            # To its end: a cancelled call would go on with a descriptor that is closed and another file's by then
            done += await finish(in_thread(os.pwrite, self._fd, view[done:], self.end - self.start + done))
        self.end += len(data)
        self._news.set()

    async def read(self, offset: int) -> bytes:
        """Bytes of the blob from `offset` on, waiting for them where the part still grows; none if it ends
        there."""
        while offset >= self.end and self.growing:
            self._news.clear()
            await self._news.wait()
        size = min(READ, self.end - offset)
        return await finish(in_thread(os.pread, self._fd, size, offset - self.start)) if size > 0 else b""

    def stop(self) -> None:
        """Nobody writes it any more."""
        self.growing = False
        self._news.set()

    def close(self) -> None:
        os.close(self._fd)


class Parts:
    """The parts of one blob, in order; none reaches into the next."""

    def __init__(self, directory: Path, size: int, found: Collection[Part]) -> None:
        self._directory = directory
        self.size = size
        self._parts = sorted(found, key=_start)

    def at(self, offset: int) -> Part | None:
        """The part that has this byte, or waits for it."""
        place = bisect_right(self._parts, offset, key=_start) - 1
        if place < 0:
            return None
        part = self._parts[place]
        return part if offset < part.end or (part.growing and offset == part.end) else None

    def free(self, offset: int) -> int:
        """Where the first part behind `offset` begins, or the blob ends: up to there nobody has anything."""
        place = bisect_right(self._parts, offset, key=_start)
        return self._parts[place].start if place < len(self._parts) else self.size

    async def begin(self, offset: int) -> Part:
        """A new part, empty and growing. OSError where the disk has no room for it."""
        await step("image.spool.part", f"{self._directory.name[:12]} {offset}")
        part = Part(offset, 0, await in_thread(_made, self._directory / str(offset)))
        part.growing = True
        empty = self.at(offset)
        if empty is not None and empty.start == offset:
            self._parts.remove(empty)
            empty.close()
        insort(self._parts, part, key=_start)
        return part

    def close(self) -> None:
        """Let go of the files; they stay."""
        for part in self._parts:
            part.stop()
            part.close()
        self._parts.clear()


class Spool:
    """The directory of all parts."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: Counter[str] = Counter()

    async def open(self, digest: str, size: int) -> Parts:
        """What there is of a blob. The caller closes it, and then `close`s it here, or `drop`s it."""
        name = digest.partition(":")[2]
        self._open[name] += 1
        if self._open[name] > 1:  # of two who fetch the same at once, one keeps nothing
            return Parts(self._root / name, size, ())
        try:
            return Parts(self._root / name, size, await in_thread(_found, self._root / name, size))
        except OSError as error:
            log.warning("parts of blob %s cannot be used and are fetched again: %s", digest, error)
            return Parts(self._root / name, size, ())

    def only(self, digest: str) -> bool:
        """Whether a single reader has the blob's parts open: a second must not write any."""
        return self._open[digest.partition(":")[2]] == 1

    def close(self, digest: str) -> None:
        """Undo one `open`."""
        name = digest.partition(":")[2]
        self._open[name] -= 1
        if not self._open[name]:
            del self._open[name]

    async def drop(self, digest: str) -> None:
        """Forget the parts of a blob that nobody has open. Idempotent."""
        name = digest.partition(":")[2]
        if name not in self._open:
            await finish(in_slow_thread(_removed, self._root / name))

    async def tidy(self, age: float) -> None:
        """Forget what nobody has open and nobody added to for `age` seconds."""
        before = time.time() - age
        for name in await in_slow_thread(_idle, self._root, before):
            if name not in self._open:
                await finish(in_slow_thread(_removed, self._root / name))


def _start(part: Part) -> int:
    return part.start


def _made(path: Path) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _found(directory: Path, size: int) -> list[Part]:
    """The parts of a directory that fit beside each other; others are passed over."""
    parts: list[Part] = []
    end = 0
    names = sorted(int(name) for name in _names(directory) if name.isascii() and name.isdigit())
    for start in names:
        if start < end or start >= size:
            continue
        fd = os.open(directory / str(start), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        length = min(os.fstat(fd).st_size, size - start)
        if not length:
            os.close(fd)
            continue
        parts.append(Part(start, length, fd))
        end = start + length
    return parts


def _names(directory: Path) -> list[str]:
    try:
        return [entry.name for entry in directory.iterdir()]
    except FileNotFoundError:
        return []


def _idle(root: Path, before: float) -> list[str]:
    """The blobs whose parts are all older."""
    return [name for name in _names(root) if _newest(root / name) < before]


def _newest(directory: Path) -> float:
    newest = 0.0
    for path in (directory, *(directory / name for name in _names(directory))):
        with suppress(FileNotFoundError):
            newest = max(newest, path.lstat().st_mtime)
    return newest


def _removed(directory: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)
