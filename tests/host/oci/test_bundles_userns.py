"""Bundles of containers in a user namespace: its root must find its root directory, and nobody else anything."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from sampan.config import Paths
from sampan.host import process
from sampan.host.oci.bundles import HostBundles
from sampan.model.errors import Invalid, ToolFailed

pytestmark = pytest.mark.root

ID = "f" * 64
SPEC = {
    "linux": {
        "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "gidMappings": [{"containerID": 0, "hostID": 200000, "size": 65536}],
    }
}


@pytest.fixture
def paths() -> Iterator[Paths]:
    """Not in pytest's own directory, which is closed to others."""
    with TemporaryDirectory(prefix="sampan-", dir="/var/tmp") as directory:
        Path(directory).chmod(0o711)
        state = Path(directory, "state")
        state.mkdir(mode=0o700)
        yield Paths(root=Path(directory, "root"), state=state)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def as_other(user: int, group: int, *argv: str | Path) -> None:
    argv = ("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", *map(str, argv))
    await process.run([str(word) for word in argv])


async def test_only_root_of_the_namespace_reaches_the_root_directory(paths: Paths) -> None:
    bundle = await HostBundles(paths).write(ID, SPEC)
    root = paths.rootfs(ID)
    assert (root.stat().st_uid, root.stat().st_gid, mode(root)) == (100000, 200000, 0o755)
    assert (mode(paths.state), mode(bundle.parent), mode(bundle)) == (0o711, 0o711, 0o710)
    await as_other(100000, 200000, "touch", root / "proc")  # a mount point that the OCI runtime makes
    with pytest.raises(ToolFailed):
        await as_other(100001, 200001, "stat", root)
    for closed in (bundle / "config.json", bundle, bundle.parent):
        with pytest.raises(ToolFailed):
            await as_other(100000, 200000, "cat" if closed.is_file() else "ls", closed)


async def test_without_a_user_namespace_everything_stays_closed(paths: Paths) -> None:
    bundle = await HostBundles(paths).write(ID, {"linux": {}})
    assert (mode(paths.state), mode(bundle)) == (0o700, 0o700)
    root = paths.rootfs(ID).stat()
    assert (root.st_uid, root.st_gid) == (0, 0)
    assert mode(bundle / "config.json") & 0o077 == 0


async def test_a_closed_directory_above_state_is_named(paths: Paths) -> None:
    above = paths.state.parent
    above.chmod(0o700)
    with pytest.raises(Invalid, match=f"chmod o\\+x {above}"):
        await HostBundles(paths).write(ID, SPEC)


async def test_writing_again_after_the_overlay_was_mounted_changes_no_owner(paths: Paths) -> None:
    root = paths.rootfs(ID)
    root.mkdir(parents=True)
    os.chown(root, 5, 6)
    await HostBundles(paths).write(ID, SPEC)
    assert (root.stat().st_uid, root.stat().st_gid) == (5, 6)
