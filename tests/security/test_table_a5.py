"""A5, A6: archives that leave the directory they are unpacked to (CVE-2025-47290, CVE-2025-4517 and their family).

The cases are in `tests.breakouts`. Each meets both walls: the real child, in every compression; and what writes the
entries alone, without the child's confinement, in a made-up host (`tests.bare_unpack`), also cut into layers.
"""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sampan.model.errors import Invalid
from tests import breakouts
from tests.bare_unpack import of_breakouts, unconfined
from tests.breakouts import NAMED, OWN, Good, Stack
from tests.host import stores
from tests.host.stores import Store, fingerprint, h, s
from tests.images import Entry

pytestmark = pytest.mark.root

SPLITS = {  # at one place each; all places are tried without the child
    name: case
    for name, case in breakouts.splits(NAMED).items()
    if name.endswith(f"-{len(NAMED[name.rpartition('-')[0]][0][0]) // 2}")
}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """Beside a canary, which must be as it was in the end; with nothing half done left."""
    async with stores.guarded(tmp_path) as store:
        yield store


async def holds(store: Store, stack: Stack, good: Good | None, compression: str) -> None:
    """The host's own files are as they were, and the result is in the root, or there is none."""
    before = of_the_host()
    canary = str(store.paths.root.parent / "canary")
    layers = breakouts.real(stack, canary)
    if good is None:
        with pytest.raises(Invalid):
            await store.chain(*layers, compression=compression)
    else:
        async with store.merged(*layers, compression=compression) as root:
            assert good(root)
    assert of_the_host() == before


def of_the_host() -> list[object]:
    """What the absolute names in the cases mean outside."""
    names = sorted(path.name for place in ("/", "/etc") for path in Path(place).iterdir())
    return [names, fingerprint(Path("/etc/passwd"))]


def test_a5_the_table_is_whole() -> None:
    assert len(NAMED) >= 42
    assert not set(NAMED) & set(OWN)
    assert len(SPLITS) >= 20
    assert len(of_breakouts()) > 250


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize(("stack", "good"), NAMED.values(), ids=NAMED)
async def test_a5_breakouts(store: Store, stack: Stack, good: Good | None, compression: str) -> None:
    await holds(store, stack, good, compression)


@pytest.mark.parametrize(("stack", "good"), OWN.values(), ids=OWN)
async def test_a5_more_breakouts(store: Store, stack: Stack, good: Good | None) -> None:
    await holds(store, stack, good, "gzip")


@pytest.mark.parametrize(("stack", "good"), SPLITS.values(), ids=SPLITS)
async def test_a5_breakouts_across_layers(store: Store, stack: Stack, good: Good | None) -> None:
    await holds(store, stack, good, "none")


def test_a5_the_writer_is_safe_without_the_childs_confinement() -> None:
    """Every case, and every one-layer case cut in two at every place: nothing of the made-up host changes."""
    assert unconfined("breakouts") == {}


# --- A6: modes and owners through links (CVE-2021-32760) --------------------------------------------------------

CHANGED: dict[str, Any] = {"mode": 0o777, "uid": 99, "gid": 99, "mtime": 7}
OUT = "CANARY/etc/passwd"
THROUGH = {
    "a hard link to a link": [s("p", OUT), Entry("h", "hardlink", link="p", **CHANGED)],
    "a hard link to a link to it": [s("p", OUT), s("q", "p"), Entry("h", "hardlink", link="q", **CHANGED)],
    "a hard link to a hard link": [s("p", OUT), h("g", "p"), Entry("h", "hardlink", link="g", **CHANGED)],
    "a link": [Entry("p", "symlink", link=OUT, **CHANGED)],
    "a link over a file": [Entry("p", **CHANGED), Entry("p", "symlink", link=OUT, **CHANGED)],
    "a file over a link": [s("p", OUT), Entry("p", **CHANGED)],
    "a directory over a link": [s("p", "CANARY/etc"), Entry("p", "dir", **CHANGED)],
    "a device over a link": [s("p", OUT), Entry("p", "char", device=(1, 3), **CHANGED)],
    "a FIFO over a link": [s("p", OUT), Entry("p", "fifo", **CHANGED)],
    "a file below a link": [s("p", "CANARY/etc"), Entry("p/passwd", **CHANGED)],
    "a directory named by a link": [
        s("p", "CANARY"),
        Entry("p/", "dir", **CHANGED),
        Entry("p/etc/", "dir", **CHANGED),
    ],
    "attributes of a link": [Entry("p", "symlink", link=OUT, pax={"SCHILY.xattr.user.a": "b"})],
    "attributes of a hard link to a link": [
        s("p", OUT),
        Entry("h", "hardlink", link="p", pax={"SCHILY.xattr.user.a": "b"}),
    ],
}


@pytest.mark.parametrize("apart", [False, True], ids=["one layer", "two layers"])
@pytest.mark.parametrize("entries", THROUGH.values(), ids=THROUGH)
async def test_a6_no_mode_owner_or_time_passes_through_a_link(
    store: Store, entries: list[Entry], apart: bool
) -> None:
    """The canary is as it was, and so is what a link is: its mode is not its target's."""
    stack = [entries[:1], entries[1:]] if apart else [entries]
    outside = store.paths.root.parent / "canary/etc/passwd"
    before = outside.stat()
    async with store.merged(*breakouts.real(stack, str(outside.parents[1]))) as merged:
        assert merged.is_dir()
    after = outside.stat()
    assert (before.st_mode, before.st_uid, before.st_mtime_ns) == (
        after.st_mode,
        after.st_uid,
        after.st_mtime_ns,
    )
    assert os.listxattr(outside) == []
