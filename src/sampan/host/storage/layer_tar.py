"""Layers as they came: the port `LayerTars`. A child process (`host.rebuild.child`) reads what is on disk; the daemon
passes it on, or is told what differs.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from sampan.host.process import spawn
from sampan.host.python_child import argv
from sampan.host.rebuild.recipe import Recipe
from sampan.host.storage.layer_child import Answer, answer
from sampan.host.storage.layer_store import RECORD, Record
from sampan.host.storage.layers import Layers
from sampan.host.storage.trash import opened
from sampan.host.threads import in_thread
from sampan.host.unpack.inflate import MAGIC, sniff
from sampan.host.unpack.layout import RECIPE
from sampan.model import errors
from sampan.runtime.image_ports import LayerTar, Verdict
from sampan.tasks import step

PIECE = 1 << 20  # bytes of a tar that are handed on at once
_AT_ONCE = 1  # children: whoever verifies a hundred images has time
_CHILD, _DOES = "sampan.host.rebuild.child", "reads a layer"
_UNKNOWN = "it was unpacked without a recipe, by an earlier version; pull the image anew to have one"


class _Found(msgspec.Struct):
    """What the child says of a layer."""

    differences: tuple[str, ...] = ()
    count: int = 0
    partly: str = ""


class LayerTars:
    """The layers of a store, read again. What is read must be held by the caller."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._children = asyncio.Semaphore(_AT_ONCE)

    async def describe(self, chain_id: str) -> LayerTar:
        """Digest and size; Invalid if the tar cannot be rebuilt, naming the layer and what to do."""
        place, blob = self._layers.directory(chain_id).parent, self._layers.blob(chain_id)
        return await in_thread(_kept, place, blob) if blob else await in_thread(_described, place)

    async def tar(self, chain: Sequence[str]) -> AsyncGenerator[bytes, None]:
        """The last of these layers (lowest first), as it came. Lost where a file is not as it was."""
        blob = self._layers.blob(chain[-1])
        stream = _blob(blob) if blob else self._rebuilt(chain)
        wanted, hashed = await self.describe(chain[-1]), sha256()
        async with aclosing(stream):
            async for piece in stream:
                await in_thread(hashed.update, piece)
                yield piece
        if "sha256:" + hashed.hexdigest() != wanted.digest:
            raise errors.Lost(
                f"layer {wanted.digest} is damaged: the disk holds other content;"
                " `sampan images verify --repair` pulls it anew"
            )

    async def _rebuilt(self, chain: Sequence[str]) -> AsyncGenerator[bytes, None]:
        place = self._layers.directory(chain[-1]).parent
        read, write = os.pipe()
        try:
            with opened(self._layers.root) as store:
                arguments = ["tar", place.name, "upper" if chain[1:] else "base"]
                async with spawn(argv(_CHILD, arguments), fds=[store, write]) as child:
                    os.close(write)
                    write = -1
                    async for piece in _pieces(read):
                        yield piece
                    answer(await child.finished(), Answer[_Found], _DOES)
        finally:
            os.close(read)
            if write >= 0:
                os.close(write)

    async def condemn(self, chain_id: str) -> None:
        """Take a layer's record away: without it the layer is not whole, which the store notices by itself."""
        await step("layer.condemn", chain_id)
        await in_thread((self._layers.directory(chain_id).parent / RECORD).unlink, missing_ok=True)

    async def verify(self, chain: Sequence[str]) -> Verdict:
        """Compare the last of these layers (lowest first) with what was pulled."""
        place = self._layers.directory(chain[-1]).parent
        try:
            record = await in_thread(_record, place)
        except (OSError, msgspec.DecodeError) as error:
            return Verdict(chain[-1], (f"its record cannot be read: {error}",))
        if not record.recipe:
            return Verdict(chain[-1], (), unknown=_UNKNOWN)
        lowers = self._layers.lowers(chain[:-1]) if chain[1:] else []
        arguments = ["verify", place.name, "upper" if lowers else "base", record.diff_id, ":".join(lowers)]
        async with self._children:
            with opened(self._layers.root) as store:
                async with spawn(argv(_CHILD, arguments), fds=[store]) as child:
                    try:
                        found = answer(await child.finished(), Answer[_Found], _DOES)
                    except (errors.Invalid, errors.Lost) as error:
                        return Verdict(chain[-1], (str(error),))
        more = found.count - len(found.differences)
        lines = (*found.differences, f"and {more} differences more") if more else found.differences
        return Verdict(chain[-1], lines, unknown=found.partly)


def _described(place: Path) -> LayerTar:
    record = _record(place)
    advice = "set `keep_blobs = true` under [images], remove the image and pull it again"
    if not record.recipe:
        raise errors.Invalid(f"layer {record.diff_id} cannot be written again: {_UNKNOWN}")
    fd = os.open(place / RECIPE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        recipe = Recipe(fd)
    finally:
        os.close(fd)
    if recipe.notes.irregular:
        raise errors.Invalid(
            f"layer {record.diff_id} cannot be written again: {recipe.notes.irregular}; {advice}"
        )
    return LayerTar(record.diff_id, recipe.size)


def _kept(place: Path, blob: Path) -> LayerTar:
    record = _record(place)
    with blob.open("rb") as file:
        found = sniff(file.read(MAGIC), "none")
    compression = "" if found == "none" else f"+{found}"
    return LayerTar(record.blob_digest, record.blob_size, compression)


async def _blob(path: Path) -> AsyncGenerator[bytes, None]:
    fd = await in_thread(os.open, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while piece := await in_thread(os.read, fd, PIECE):
            yield piece
    finally:
        os.close(fd)


def _record(place: Path) -> Record:
    return msgspec.json.decode((place / RECORD).read_bytes(), type=Record)


async def _pieces(fd: int) -> AsyncGenerator[bytes, None]:
    """What comes through a pipe, in large pieces."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    held = bytearray()
    while True:
        try:
            piece = os.read(fd, PIECE)
        except BlockingIOError:
            ready = loop.create_future()
            loop.add_reader(fd, _settle, ready)
            try:
                await ready
            finally:
                loop.remove_reader(fd)
            continue
        held += piece
        if held and (len(held) >= PIECE // 2 or not piece):
            yield bytes(held)
            held.clear()
        if not piece:
            return


def _settle(future: "asyncio.Future[None]") -> None:
    with suppress(asyncio.InvalidStateError):
        future.set_result(None)
