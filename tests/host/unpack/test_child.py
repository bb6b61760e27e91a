"""The unpacking child: what a layer says is what is there, and archives that are cut off.

Hostile ones are in tests/security: test_table_a5.py, test_table_a.py, test_hostile_archives.py.
"""

import os
import stat
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from sampan.model.errors import Invalid
from tests.host import stores
from tests.host.stores import Store
from tests.images import Entry

pytestmark = pytest.mark.root


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with stores.guarded(tmp_path) as store:
        yield store


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
async def test_what_a_layer_says_is_what_is_there(store: Store, compression: str) -> None:
    capability = bytes.fromhex("0100000202000000000000000000000000000000").decode("latin-1")
    entries = [
        Entry("./", "dir", mode=0o751, uid=3, mtime=5),
        Entry("d", "dir", mode=0o2750, uid=10, gid=20, mtime=111),
        Entry("d/f", data=b"content" * 1000, mode=0o4755, uid=7, gid=8, mtime=222),
        Entry("d/root", data=b"", mode=0o600, mtime=223),
        Entry("d/l", "symlink", link="/etc/./x/", uid=9, gid=9, mtime=333),
        Entry("d/h", "hardlink", link="d/f"),
        Entry("null", "char", device=(1, 3), mode=0o666, mtime=444),
        Entry("disk", "block", device=(8, 0), mode=0o660, gid=6),
        Entry("pipe", "fifo", mode=0o622),
        Entry("x", pax={"SCHILY.xattr.user.note": "hello", "SCHILY.xattr.security.selinux": "label"}),
        Entry("ping", uid=5, pax={"SCHILY.xattr.security.capability": capability}),
    ]
    async with store.merged(entries, compression=compression) as root:
        d, file, link = (root / "d").stat(), (root / "d/f").stat(), (root / "d/l").lstat()
        assert (root.stat().st_mode & 0o7777, root.stat().st_uid, root.stat().st_mtime) == (0o751, 3, 5)
        assert (d.st_mode & 0o7777, d.st_uid, d.st_gid, d.st_mtime) == (0o2750, 10, 20, 111)
        assert (file.st_mode & 0o7777, file.st_uid, file.st_gid, file.st_mtime) == (0o4755, 7, 8, 222)
        assert ((root / "d/root").stat().st_gid, (root / "d/root").stat().st_mtime) == (0, 223)
        assert (link.st_uid, link.st_gid, link.st_mtime) == (9, 9, 333)
        assert os.readlink(root / "d/l") == "/etc/./x/"  # noqa: PTH115 - pathlib tidies the target
        assert (root / "d/f").read_bytes() == b"content" * 1000
        assert (root / "d/h").samefile(root / "d/f")
        null, disk = (root / "null").stat(), (root / "disk").stat()
        assert (stat.S_ISCHR(null.st_mode), null.st_rdev) == (True, os.makedev(1, 3))
        assert (stat.S_ISBLK(disk.st_mode), disk.st_rdev) == (True, os.makedev(8, 0))
        assert stat.S_ISFIFO((root / "pipe").stat().st_mode)
        assert os.getxattr(root / "x", "user.note") == b"hello"
        assert "security.selinux" not in os.listxattr(root / "x")
        assert os.getxattr(root / "ping", "security.capability")[:4] == bytes.fromhex("01000002")


@pytest.mark.parametrize(("count", "size"), [(1, 60_000), (500, 120)])
async def test_more_attributes_than_a_file_can_have_are_no_full_disk(
    store: Store, count: int, size: int
) -> None:
    """ext4 answers "no space left"; other file systems take them."""
    attributes = {f"SCHILY.xattr.user.{number}": "v" * size for number in range(count)}
    with suppress(Invalid):
        await store.layers.discard(await store.unpack([Entry("f", pax=attributes)]))
