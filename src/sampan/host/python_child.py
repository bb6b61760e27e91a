"""Programs of ours that run as children: how one is started without what it does not need."""

import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# Its first argument says where to look for modules, its second which one it is.
_LOADER = (
    "import sys; sys.path[:0] = sys.argv.pop(1).split(':');"
    " __import__(sys.argv.pop(1), fromlist=['main']).main()"
)


def argv(child: str, arguments: Sequence[str]) -> list[str]:
    """The command that runs `main` of the module `child`."""
    return [sys.executable, "-I", "-S", "-c", _LOADER, search_path(), child, *arguments]


@cache
def search_path() -> str:
    """Where the child finds us and the libraries of children; it is started without `site`, which takes a while."""
    origins = [Path(__file__).parents[2]]
    for library in ("isal", "zstandard", "msgspec"):
        spec = find_spec(library)
        if spec is not None and spec.origin is not None:
            origins.append(Path(spec.origin).parents[1])
    return ":".join(dict.fromkeys(map(str, origins)))
