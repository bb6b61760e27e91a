"""Image archives on disk: the port `Archives`. Nothing in one is taken out by its name: a tar stays one file
in which places are looked up, a directory is read by the few names that the layout allows, no link followed.

What the content means is `wire.archive`.
"""

import os
import stat
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import zstandard
from isal import igzip
from isal.igzip_lib import IsalError

from sampan.host.threads import in_slow_thread, in_thread
from sampan.model.errors import Exhausted, Invalid
from sampan.runtime.image_ports import ArchivedArtifact, ArchivedImage, LayerSource
from sampan.tasks import finish, step
from sampan.wire import archive
from sampan.wire.manifest import Descriptor
from sampan.wire.tar_index import TarIndex

PIECE = 1 << 20  # bytes read or written at once
RESERVE = 512 << 20  # bytes of disk that an archive on its way in leaves free
CHECK_EVERY = 64 << 20  # bytes written between two looks at the free space
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_WINDOW = 128 << 20  # bytes; what `zstd --long=27` needs, and no more


class Archives:
    """Reads image archives; what streams in is kept in `scratch` while it is read."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch

    @asynccontextmanager
    async def open(
        self, source: Path | AsyncIterator[bytes], machine: str
    ) -> AsyncIterator[Sequence[ArchivedImage]]:
        """The images in a directory, in a file, or in what streams in."""
        if isinstance(source, Path) and await in_thread(source.is_dir):
            yield await _images(_Directory(source), machine)
            return
        async with _scratch_file(self._scratch) as tar:
            if isinstance(source, Path):
                await finish(in_slow_thread(_expand, source, tar, self._scratch))
            else:
                await self._receive(source, tar)
            yield await _images(await in_slow_thread(_Tar, tar), machine)

    async def _receive(self, stream: AsyncIterator[bytes], tar: BinaryIO) -> None:
        """Write the stream to disk, then expand it: a bomb then costs disk that is watched, not memory."""
        await step("image.import.receive")
        async with _scratch_file(self._scratch) as packed:
            written = 0
            async for piece in stream:
                await in_thread(packed.write, piece)
                written += len(piece)
                if written >= CHECK_EVERY:
                    await in_thread(_check_space, packed, self._scratch)
                    written = 0
            await in_thread(packed.flush)
            # The thread cannot be called back: its files must stay open until it is done.
            received = Path(f"/proc/self/fd/{packed.fileno()}")
            await finish(in_slow_thread(_expand, received, tar, self._scratch))


class _Store(Protocol):
    """Files by name."""

    def read(self, name: str, limit: int) -> bytes | None: ...

    def opener(self, name: str) -> Callable[[], AsyncGenerator[bytes, None]]: ...


async def _images(store: _Store, machine: str) -> list[ArchivedImage]:
    found = await in_slow_thread(archive.images, store.read, machine)

    def content(blob: Descriptor) -> AsyncGenerator[bytes, None]:
        return store.opener(archive.file(blob.digest))()

    return [
        ArchivedImage(
            image.tags,
            image.digests,
            image.config,
            tuple(
                LayerSource(layer.digest, layer.size, layer.compression, store.opener(layer.file))
                for layer in image.layers
            ),
            ArchivedArtifact(*image.artifact, content) if image.artifact else None,
        )
        for image in found
    ]


class _Tar:
    """A tar in an open file."""

    def __init__(self, file: BinaryIO) -> None:
        self._fd = file.fileno()
        self._index = TarIndex(self._pread, os.fstat(self._fd).st_size)

    def _pread(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def read(self, name: str, limit: int) -> bytes | None:
        place = self._index.find(name)
        if place is None:
            return None
        if place.size > limit:
            raise Invalid(f"{name[:200]!r} in the archive has {place.size} bytes; the limit is {limit}")
        return self._pread(place.offset, place.size)

    def opener(self, name: str) -> Callable[[], AsyncGenerator[bytes, None]]:
        place = self._index.find(name)
        if place is None:
            raise Invalid(f"layer {name[:200]!r}, which the archive refers to, is not in it")
        return lambda: _pieces(self._fd, place.offset, place.size)


@dataclass(frozen=True, slots=True)
class _Directory:
    """An OCI layout as a directory."""

    path: Path

    def read(self, name: str, limit: int) -> bytes | None:
        try:
            fd = self._open(name)
        except FileNotFoundError:
            return None
        with os.fdopen(fd, "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise Invalid(f"{name[:200]!r} in {self.path} is larger than {limit} bytes")
        return data

    def opener(self, name: str) -> Callable[[], AsyncGenerator[bytes, None]]:
        return lambda: self._stream(name)

    async def _stream(self, name: str) -> AsyncGenerator[bytes, None]:
        fd = await in_thread(self._open, name)
        try:
            async for piece in _pieces(fd, 0, os.fstat(fd).st_size):
                yield piece
        finally:
            os.close(fd)

    def _open(self, name: str) -> int:
        """Open a regular file, refusing a link at every step of the way."""
        *directories, last = name.split("/")
        if not all(part and part not in (".", "..") for part in (*directories, last)):
            raise Invalid(f"{name[:200]!r} is no file of an OCI layout")
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part, kind in ((part, os.O_DIRECTORY) for part in directories):
                fd = _step_into(fd, part, kind)
            fd = _step_into(fd, last, os.O_NONBLOCK)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Invalid(f"{name[:200]!r} in {self.path} is no regular file")
        except OSError as error:
            os.close(fd)
            if isinstance(error, FileNotFoundError):
                raise
            raise Invalid(f"{name[:200]!r} in {self.path} cannot be read: {error.strerror}") from None
        except BaseException:
            os.close(fd)
            raise
        return fd


def _step_into(fd: int, name: str, flags: int) -> int:
    below = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=fd)
    os.close(fd)
    return below


async def _pieces(fd: int, offset: int, size: int) -> AsyncGenerator[bytes, None]:
    end = offset + size
    while offset < end:
        piece = await in_thread(os.pread, fd, min(PIECE, end - offset), offset)
        if not piece:
            raise Invalid("the archive is cut short")
        offset += len(piece)
        yield piece


@asynccontextmanager
async def _scratch_file(directory: Path) -> AsyncIterator[BinaryIO]:
    """A file without a name: it is gone with the daemon, whatever happens."""
    await in_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
    file = await finish(in_thread(_nameless, directory))
    try:
        yield file
    finally:
        await finish(in_slow_thread(file.close))  # frees its blocks: slow for a large one


def _nameless(directory: Path) -> BinaryIO:
    return cast(BinaryIO, tempfile.TemporaryFile(dir=directory, prefix="import-"))


def _expand(packed: Path, tar: BinaryIO, place: Path) -> None:
    """Copy an archive into `tar`, uncompressed, which is in the directory `place`."""
    try:
        with packed.open("rb") as raw:
            head = raw.read(4)
            raw.seek(0)
            if head.startswith(GZIP_MAGIC):
                _copy(igzip.IGzipFile(fileobj=raw).read, tar, place)  # type: ignore[no-untyped-call]
            elif head.startswith(ZSTD_MAGIC):
                unpacker = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
                _copy(unpacker.stream_reader(raw).read, tar, place)
            else:
                _copy(raw.read, tar, place)
    except (igzip.BadGzipFile, IsalError, zstandard.ZstdError, EOFError) as error:  # type: ignore[misc]  # see host.unpack.inflate
        raise Invalid(f"the archive's compression is damaged: {error}") from None


def _copy(read: Callable[[int], bytes], tar: BinaryIO, place: Path) -> None:
    written = 0
    while piece := read(PIECE):
        tar.write(piece)
        written += len(piece)
        if written >= CHECK_EVERY:
            _check_space(tar, place)
            written = 0
    tar.flush()


def _check_space(file: BinaryIO, place: Path) -> None:
    disk = os.fstatvfs(file.fileno())
    free = disk.f_bavail * disk.f_frsize
    if free < RESERVE:
        raise Exhausted(
            f"the archive does not fit: an import leaves {RESERVE >> 20} MiB free on the disk of {place}, "
            f"and there are {free >> 20} MiB; remove images (sampan prune) or make room"
        )
