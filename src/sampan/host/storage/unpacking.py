"""The daemon's side of unpacking: starts the child (`host.unpack.child`) for one layer, feeds it, reads its answer."""

import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import msgspec

from sampan.host.process import Child, Finished, spawn
from sampan.host.storage.trash import opened
from sampan.model import errors

log = logging.getLogger("sampan")
_LOADER = (
    "import sys; sys.path[:0] = sys.argv.pop(1).split(':'); from sampan.host.unpack.child import main; main()"
)
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


class _Answer(msgspec.Struct):
    ok: Unpacked | None = None
    error: tuple[str, str] | None = None


async def stage(place: Path, arguments: Sequence[str], chunks: AsyncIterator[bytes]) -> Unpacked:
    """Unpack a blob in the staging directory `place`, as far as it goes without the layers below; `arguments` as
    `host.unpack.child.stage` takes them. Raises Invalid, Exhausted, Lost."""
    with opened(place) as fd:
        async with spawn(_argv(["stage", *arguments]), env=_ENVIRONMENT, stdin=True, fds=[fd]) as child:
            with suppress(BrokenPipeError):  # it has seen enough, and says so
                await _feed(child, chunks)
            await child.close_stdin()
            unpacked = _answer(await child.finished())
    log.debug("blob %s is unpacked; CPU ms: %s", unpacked.blob_digest, unpacked.spent)
    return unpacked


async def merge(store: Path, arguments: Sequence[str]) -> Unpacked:
    """Write the rest of a layer over the layers below; `arguments` as `host.unpack.child.merge` takes them."""
    with opened(store) as fd:
        async with spawn(_argv(["merge", *arguments]), env=_ENVIRONMENT, fds=[fd]) as child:
            return _answer(await child.finished())


async def _feed(child: Child, chunks: AsyncIterator[bytes]) -> None:
    async for chunk in chunks:
        await child.write(chunk)


@cache
def search_path() -> str:
    """Where the child finds us and the decompressors; it is started without `site`, which takes a while."""
    origins = [Path(__file__).parents[3]]
    for library in ("isal", "zstandard", "msgspec"):
        spec = find_spec(library)
        if spec is not None and spec.origin is not None:
            origins.append(Path(spec.origin).parents[1])
    return ":".join(dict.fromkeys(map(str, origins)))


def _argv(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", _LOADER, search_path(), *arguments]


def _answer(finished: Finished) -> Unpacked:
    """What the child found, or its failure as ours."""
    try:
        answer = msgspec.json.decode(finished.stdout, type=_Answer)
    except msgspec.DecodeError:
        ending = f"signal {-finished.code}" if finished.code < 0 else f"exit code {finished.code}"
        words = finished.stderr[-500:].decode(errors="replace").strip() or "it said nothing"
        raise errors.Lost(f"the process that unpacks a layer died ({ending}): {words}") from None
    if answer.ok is not None:
        return answer.ok
    kind, message = answer.error or ("Lost", "the process that unpacks a layer gave no answer")
    raise {"Invalid": errors.Invalid, "Exhausted": errors.Exhausted}.get(kind, errors.Lost)(message)
