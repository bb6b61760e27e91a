"""The walls around the unpacking child."""

import gzip
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sampan.host import process, python_child
from sampan.host.process import Child
from sampan.host.storage.trash import Trash
from sampan.host.unpack import confine
from sampan.model.errors import Invalid
from tests import images
from tests.host import stores
from tests.host.stores import Store, eventually, f, h
from tests.images import Entry

pytestmark = pytest.mark.root

CHILDREN = list[Child]
ZIPPED = gzip.compress(images.layer([Entry("file", data=b"x" * 3000)]))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with stores.guarded(tmp_path) as store:
        yield store


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> CHILDREN:
    return stores.children(monkeypatch)


# --- confinement --------------------------------------------------------------------------------------------


OUR_NAMESPACES = {Path(f"/proc/self/ns/{kind}").readlink() for kind in ("mnt", "net", "ipc")}


def status_of(child: Child) -> str:
    return Path(f"/proc/{child.pid}/status").read_text()


def looked_at(child: Child) -> dict[str, object]:
    """What /proc tells of a process."""
    place = Path(f"/proc/{child.pid}")
    root = (place / "root").stat()
    directories = [fd.stat() for fd in (place / "fd").iterdir() if fd.is_dir()]
    return {
        "status": status_of(child),
        "limits": (place / "limits").read_text(),
        "mounts": len((place / "mounts").read_text().splitlines()),
        "namespaces": [(place / "ns" / kind).readlink() for kind in ("mnt", "net", "ipc")],
        "directories": {(found.st_dev, found.st_ino) for found in directories},
        "root": {(root.st_dev, root.st_ino)},
    }


async def test_the_child_is_locked_in(store: Store, children: CHILDREN) -> None:
    """Looked at from outside while it waits for the second half of a layer."""
    kept = sum(1 << number for number in confine._KEPT)
    seen: dict[str, object] = {}

    async def look() -> AsyncIterator[bytes]:
        yield ZIPPED[:40]
        await eventually(lambda: f"CapBnd:\t{kept:016x}" in status_of(children[0]))
        seen.update(looked_at(children[0]))
        yield ZIPPED[40:]

    staged = await store.layers.unpack(look(), "gzip")
    layer = (store.paths.layers / "staging" / staged.key / "fs").stat()
    await store.layers.discard(staged)
    status = str(seen["status"])
    for line in (f"CapPrm:\t{kept:016x}", f"CapEff:\t{kept:016x}", "CapInh:\t" + "0" * 16, "NoNewPrivs:\t1"):
        assert line in status
    limit = next(line for line in str(seen["limits"]).splitlines() if line.startswith("Max address space"))
    assert limit.split()[3:5] == [str(confine.MEMORY)] * 2
    assert seen["root"] == {(layer.st_dev, layer.st_ino)}
    assert seen["directories"] in (set(), seen["root"])
    assert seen["mounts"] == 1
    theirs = seen["namespaces"]
    assert isinstance(theirs, list)
    assert OUR_NAMESPACES.isdisjoint(theirs)


async def test_nothing_of_the_image_is_imported(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules where Python looks for its own, and an archive that makes the child fail and explain itself."""
    monkeypatch.setattr(Trash, "empty", lambda self: None)  # what failed stays to be looked at
    mark = b"open('/imported', 'w')\n"
    places = {path for entry in sys.path if (path := entry.lstrip("/"))}
    names = ("traceback", "linecache", "encodings/idna", "json/__init__", "re", "warnings", "sitecustomize")
    planted = [f(f"{place}/{name}.py", mark) for place in places for name in names]
    with pytest.raises(Invalid):
        await store.unpack([*planted, h("a", "nothing")], base=True)
    await store.chain([*planted, f("end")])
    found = {path.name for path in store.paths.layers.rglob("*")}
    assert {"end", "traceback.py"} <= found
    assert "imported" not in found


INSIDE = """
import sys
sys.path[:0] = sys.argv[1].split(":")
from sampan.host import python_child
from sampan.host import (process)
from sampan.host.unpack import confine
confine.private_mounts()
confine.enter("fs")
try:
    import of_the_image
except ImportError:
    print("refused")
"""


async def test_an_import_inside_the_layer_fails_even_where_the_image_has_the_module(tmp_path: Path) -> None:
    """CVE-2019-14271 in Python: a late import would run the image's code as root."""
    found = python_child.search_path() + ":" + ":".join(filter(None, sys.path))
    for entry in found.split(":"):
        place = tmp_path / "fs" / entry.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        (place / "of_the_image.py").write_text("open('/imported', 'w')")
    arguments = [sys.executable, "-I", "-S", "-c", f"import os; os.chdir({str(tmp_path)!r})\n{INSIDE}", found]
    assert (await process.run(arguments)).stdout == b"refused\n"
    assert "imported" not in [path.name for path in (tmp_path / "fs").iterdir()]
