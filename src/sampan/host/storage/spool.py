"""Parts of blobs on disk: what long downloads leave for the try after them, and what arrives out of turn.

    parts/NAME/OFFSET    so many bytes of a blob, from OFFSET on

NAME is the caller's for the blob (`host.registry.client`: its digest, and the repository it comes from).

A part's length is its file's, so nothing has to be written down beside it, and the end of the daemon loses what
was in flight and no more. Parts are never synced and never trusted: whoever reads a blob checks its digest. Quick
downloads leave nothing here (`host.registry.download` decides).
"""

import asyncio
import logging
import os
import shutil
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from contextlib import suppress
from errno import ENOSPC
from pathlib import Path

from sampan.host.threads import in_slow_thread, in_thread
from sampan.host.unpack.cursor import reserve
from sampan.tasks import KeyedLock, finish, step

READ = 1 << 20  # bytes read of a part at once
UNPACKED = 3  # times its blob's size is what a layer takes, or about that: it comes before a part of the blob
log = logging.getLogger("sampan")


class Part:
    """Bytes `start` to `end` of a blob, in a file that is made with the first of them. It grows at its end while
    somebody writes it."""

    def __init__(self, start: int, path: Path, *, due: int = 0, room: int = 0) -> None:
        """`due`: up to where it is to grow, if that is known; `room`: bytes that must be free where it begins."""
        self.start = self.end = start
        self.growing = True
        self._due = due
        self._path = path
        self._room = room
        self._fd = -1
        self._writing = self._closed = False
        self._news = asyncio.Event()

    @classmethod
    def found(cls, start: int, path: Path) -> "Part":
        """One that an earlier try left. Blocking."""
        part = cls(start, path)
        part.growing = False
        part._fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        part.end = start + os.fstat(part._fd).st_size
        return part

    @property
    def taken(self) -> int:
        """Up to where it has the blob, or will have it."""
        return max(self.end, self._due) if self.growing else self.end

    async def append(self, data: bytes) -> bool:
        """Write more of it, unless it was ended: whether it still grows. OSError where the disk does not take it; then
        it ends where it did."""
        if self.growing:
            # To its end: a cancelled call would go on with a descriptor that is closed and another file's by then
            await finish(self._append(data))
        return self.growing

    async def _append(self, data: bytes) -> None:
        self._writing = True
        try:
            if self._fd < 0:
                await step("image.spool.part", f"{self._path.parent.name[:12]} {self.start}")
                self._fd = await in_thread(_made, self._path, self._room)
            await in_thread(_written, self._fd, data, self.end - self.start)
            if self.growing:
                self.end += len(data)
                self._news.set()
        finally:
            self._writing = False
            if self._closed:
                self.close()

    async def read(self, offset: int, patience: float | None = None) -> bytes:
        """Bytes of the blob from `offset` on, waiting for them where the part still grows, but not longer than
        `patience` seconds: then it is ended. None if it ends there, as it does where it cannot be read."""
        if offset >= self.end and self.growing:
            await self._grown(offset, patience)
        size = min(READ, self.end - offset)
        try:
            data = await finish(in_thread(os.pread, self._fd, size, offset - self.start)) if size > 0 else b""
        except OSError as error:
            log.warning("%s cannot be read, and what it has is fetched again: %s", self._path, error)
            data = b""
        if not data:
            self.stop()
            self.end = min(self.end, offset)
        return data

    async def _grown(self, offset: int, patience: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while offset >= self.end and self.growing:
                    self._news.clear()
                    await self._news.wait()

    def stop(self) -> None:
        """Nobody writes it any more."""
        self.growing = False
        self._news.set()

    def close(self) -> None:
        """Let go of the file, as soon as nothing is written to it."""
        self.stop()
        self._closed = True
        if self._fd >= 0 and not self._writing:
            os.close(self._fd)
            self._fd = -1


class Parts:
    """The parts of one blob, in order; none reaches into the next. `writable`: there may be more."""

    def __init__(self, directory: Path, size: int, *, writable: bool = False) -> None:
        self._directory = directory
        self.size = size
        self.writable = writable
        self._parts: list[Part] = []

    async def find(self) -> None:
        """Add what an earlier try left; if that is of no use, it is fetched again."""
        try:
            self._parts = await in_thread(_found, self._directory, self.size)
        except OSError as error:
            log.warning("parts of blob %s cannot be used: %s", self._directory.name, error)

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

    def gap(self, offset: int) -> tuple[int, int]:
        """The first bytes from `offset` on that nobody has or fetches: none, at the end, where all is taken."""
        while offset < self.size:
            place = bisect_right(self._parts, offset, key=_start) - 1
            taken = self._parts[place].taken if place >= 0 else 0
            if offset >= taken:
                return offset, self.free(offset)
            offset = taken
        return self.size, self.size

    def begin(self, offset: int, due: int = 0) -> Part:
        """A new part, empty and growing, up to `due` if that is known: from now on nobody else begins one there."""
        # Without room for the layer itself, what is kept of its blob would be what is in its way.
        part = Part(offset, self._directory / str(offset), due=due, room=self.size * UNPACKED)
        place = bisect_left(self._parts, offset, key=_start)
        for old in self._parts[place : place + 1]:
            if old.start == offset:  # one that was given up
                del self._parts[place]
                old.close()
        self._parts.insert(place, part)
        return part

    def end(self, part: Part) -> None:
        """Nobody writes this part any more; one that has nothing is none. Idempotent."""
        part.stop()
        place = bisect_left(self._parts, part.start, key=_start)
        if part.end == part.start and self._parts[place : place + 1] == [part]:
            del self._parts[place]
            part.close()

    def close(self) -> None:
        """Let go of the files; they stay."""
        for part in self._parts:
            part.close()
        self._parts.clear()


class Spool:
    """The directory of all parts."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: Counter[str] = Counter()
        self._locks = KeyedLock()  # of blobs: one is not removed while it is opened

    async def open(self, digest: str, size: int) -> Parts:
        """What there is of a blob. The caller closes it, and then `close`s it here. Of two who fetch the same at once,
        the second keeps nothing and finds nothing."""
        name = _name(digest)
        if self._open[name]:
            self._open[name] += 1
            return Parts(self._root / name, size)
        self._open[name] = 1
        parts = Parts(self._root / name, size, writable=True)
        try:
            async with self._locks(name):
                await finish(parts.find())
        except BaseException:
            parts.close()
            self.close(digest)
            raise
        return parts

    def close(self, digest: str) -> None:
        """Undo one `open`."""
        name = _name(digest)
        self._open[name] -= 1
        if not self._open[name]:
            del self._open[name]

    async def drop(self, digest: str) -> None:
        """Forget the parts of a blob that nobody has open. Idempotent; never fails: what cannot be removed is said, and
        tried again by `tidy`."""
        name = _name(digest)
        async with self._locks(name):
            if name not in self._open:
                await finish(in_slow_thread(_removed, self._root / name))

    async def tidy(self, age: float) -> bool:
        """Forget what nobody has open and nobody added to for `age` seconds. Whether something is left."""
        before = time.time() - age
        for name, newest in (await in_slow_thread(_kept, self._root)).items():
            if newest < before:
                await self.drop(f":{name}")
        return bool(await in_slow_thread(_kept, self._root))


def _name(digest: str) -> str:
    return digest.partition(":")[2]


def _start(part: Part) -> int:
    return part.start


def _made(path: Path, room: int) -> int:
    """A new file, if there is so much room beside it."""
    for place in reversed(path.parents[:3]):  # `parents` of mkdir would not mind the mode
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    disk = os.statvfs(path.parent)
    if disk.f_bavail * disk.f_frsize - reserve(disk)[0] < room:
        raise OSError(ENOSPC, os.strerror(ENOSPC), str(path))
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _written(fd: int, data: bytes, offset: int) -> None:
    """Write it, unless the disk would have less than a reserve left: what is kept for another try is worth no more."""
    disk = os.fstatvfs(fd)
    if disk.f_bavail * disk.f_frsize - reserve(disk)[0] < len(data):
        raise OSError(ENOSPC, os.strerror(ENOSPC))
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def _found(directory: Path, size: int) -> list[Part]:
    """The parts of a directory, none reaching into the next."""
    parts: list[Part] = []
    try:
        for start in sorted(int(name) for name in _names(directory) if name.isascii() and name.isdigit()):
            if start < size:
                parts.append(Part.found(start, directory / str(start)))
                _fit(parts, size)
    except BaseException:
        for part in parts:
            part.close()
        raise
    return parts


def _fit(parts: list[Part], size: int) -> None:
    """Have the last of these parts end with the blob, and the one before it where it begins; or not have it."""
    *before, last = parts
    last.end = min(last.end, size)
    if last.end <= (before[-1].end if before else last.start):
        parts.pop().close()
    elif before:
        before[-1].end = min(before[-1].end, last.start)


def _names(directory: Path) -> list[str]:
    try:
        return [entry.name for entry in directory.iterdir()]
    except FileNotFoundError:
        return []


def _kept(root: Path) -> dict[str, float]:
    """The blobs that there are parts of, and when something was last added to them."""
    return {name: _newest(root / name) for name in _names(root)}


def _newest(directory: Path) -> float:
    newest = 0.0
    for path in (directory, *(directory / name for name in _names(directory))):
        with suppress(FileNotFoundError):
            newest = max(newest, path.lstat().st_mtime)
    return newest


def _removed(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("parts of blob %s cannot be removed: %s", directory.name, error)
