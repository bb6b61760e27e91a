"""The daemon's side of unpacking: starts the child (`host.unpack.child`) for one layer, feeds it, reads its answer."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from sampan.host.process import Child, spawn
from sampan.host.python_child import argv
from sampan.host.storage.layer_child import Answer, answer
from sampan.host.storage.trash import opened

log = logging.getLogger("sampan")
_CHILD, _DOES = "sampan.host.unpack.child", "unpacks a layer"
# One malloc arena instead of one a thread (address space is limited), and freed buffers kept instead of
# given back and zeroed again by the kernel (mallopt(3)).
_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
    "MALLOC_TOP_PAD_": str(4 << 20),
}


class Unpacked(msgspec.Struct):
    """What the child says of a layer. See `host.unpack.child.stage` and `merge`."""

    size: int
    inodes: int
    has_root: bool
    blob_digest: str = ""
    blob_size: int = 0
    diff_id: str = ""
    rest: bool = False
    recipe: bool = False
    spent: str = ""  # where the CPU time went, for people
    whiteouts: bool = False
    opaque: bool = False


async def stage(place: Path, arguments: Sequence[str], chunks: AsyncIterator[bytes]) -> Unpacked:
    """Unpack a blob in the staging directory `place`, as far as it goes without the layers below; `arguments` as
    `host.unpack.child.stage` takes them. Raises Invalid, Exhausted, Lost."""
    with opened(place) as fd:
        async with spawn(
            argv(_CHILD, ["stage", *arguments]), env=_ENVIRONMENT, stdin=True, fds=[fd]
        ) as child:
            with suppress(BrokenPipeError):  # it has seen enough, and says so
                await _feed(child, chunks)
            await child.close_stdin()
            unpacked = answer(await child.finished(), Answer[Unpacked], _DOES)
    log.debug("blob %s is unpacked; CPU ms: %s", unpacked.blob_digest, unpacked.spent)
    return unpacked


async def merge(store: Path, arguments: Sequence[str]) -> Unpacked:
    """Write the rest of a layer over the layers below; `arguments` as `host.unpack.child.merge` takes them."""
    with opened(store) as fd:
        async with spawn(argv(_CHILD, ["merge", *arguments]), env=_ENVIRONMENT, fds=[fd]) as child:
            return answer(await child.finished(), Answer[Unpacked], _DOES)


async def _feed(child: Child, chunks: AsyncIterator[bytes]) -> None:
    async for chunk in chunks:
        await child.write(chunk)
