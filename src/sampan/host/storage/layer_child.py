"""Child processes that work on layers: how one is started without what it does not need, and how it answers.

What they do is `host.unpack.child`'s and `host.rebuild.child`'s business.
"""

import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from sampan.host.process import Finished
from sampan.model import errors

T = TypeVar("T")
# Its first argument says where to look for modules, its second which one it is.
_LOADER = (
    "import sys; sys.path[:0] = sys.argv.pop(1).split(':');"
    " __import__(sys.argv.pop(1), fromlist=['main']).main()"
)


class Answer(msgspec.Struct, Generic[T]):
    """The line that a child ends with."""

    ok: T | None = None
    error: tuple[str, str] | None = None


def argv(child: str, arguments: Sequence[str]) -> list[str]:
    """The command that runs `main` of the module `child`."""
    return [sys.executable, "-I", "-S", "-c", _LOADER, search_path(), child, *arguments]


@cache
def search_path() -> str:
    """Where the child finds us and the decompressors; it is started without `site`, which takes a while."""
    origins = [Path(__file__).parents[3]]
    for library in ("isal", "zstandard", "msgspec"):
        spec = find_spec(library)
        if spec is not None and spec.origin is not None:
            origins.append(Path(spec.origin).parents[1])
    return ":".join(dict.fromkeys(map(str, origins)))


def answer(finished: Finished, kind: type[Answer[T]], does: str) -> T:
    """What the child found, or its failure as ours; `does` says what the child is for."""
    try:
        told = msgspec.json.decode(finished.stdout, type=kind)
    except msgspec.DecodeError:
        ending = f"signal {-finished.code}" if finished.code < 0 else f"exit code {finished.code}"
        words = finished.stderr[-500:].decode(errors="replace").strip() or "it said nothing"
        raise errors.Lost(f"the process that {does} died ({ending}): {words}") from None
    if told.ok is not None:
        return told.ok
    name, message = told.error or ("Lost", f"the process that {does} gave no answer")
    raise {"Invalid": errors.Invalid, "Exhausted": errors.Exhausted}.get(name, errors.Lost)(message)
