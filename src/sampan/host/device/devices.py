"""Device files of the host: those that a request names, and all of them for a privileged container.

Only what a node is (kind, number, permissions) is read, from the file itself, never opened: opening a device
can rewind a tape. Whether a container may have it is decided in `spec.devices`.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from sampan.host.threads import look_at
from sampan.model.errors import Exhausted
from sampan.spec.facts import DeviceNode

_DEV = Path("/dev")
_MOST = 20_000  # files of a folder and all beneath it
# Folders of /dev that a container gets of its own, or that hold no devices; and the host's console.
_NOT_OURS = frozenset(
    {"pts", "ptmx", "shm", "fd", "mqueue", "hugepages", "console", ".lxc", ".lxd-mounts", ".udev"}
)


async def device_nodes(paths: Iterable[str]) -> dict[str, tuple[DeviceNode, ...]]:
    """The devices by the path asked for: of a device file itself, of a folder in /dev all beneath it. Links are
    followed for the path asked for, not beneath. A path where there is none is left out. May block on a dead
    file system. Raises Exhausted for a folder of too many files."""
    asked = tuple(paths)
    return await look_at(asked, lambda: {path: nodes for path in asked if (nodes := _at(path))})


async def all_devices() -> tuple[DeviceNode, ...]:
    """Every device below /dev but terminals and what every container gets of its own."""
    return await look_at([str(_DEV)], lambda: tuple(_beneath(_DEV)))


def _at(path: str) -> tuple[DeviceNode, ...]:
    if not path.startswith("/") or "\0" in path:
        return ()
    try:
        real = Path(path).resolve(strict=True)
        found = real.stat()
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, until Python 3.13
        return ()
    if stat.S_ISDIR(found.st_mode):
        return tuple(_beneath(real)) if real.is_relative_to(_DEV) else ()
    # A link's device shows in the container where the link was: /dev/disk/by-id/x is asked for by that name.
    node = _node(path, found)
    return (node,) if node else ()


def _beneath(folder: Path) -> Iterator[DeviceNode]:
    """In the order of their names."""
    pending, seen = [str(folder)], 0
    while pending:
        path = pending.pop()
        try:
            found = os.lstat(path)
            if not stat.S_ISDIR(found.st_mode):
                if node := _node(path, found):
                    yield node
                continue
            names = sorted(os.listdir(path), reverse=True)  # noqa: PTH208 - thousands of them
        except OSError:  # gone since, or unreadable: a device folder may change at any time
            continue
        seen += len(names)
        if seen > _MOST:
            raise Exhausted(
                f"{folder} has more than {_MOST} files: they are too many to look for devices there"
            )
        pending += [f"{path}/{name}" for name in names if name not in _NOT_OURS]


def _node(path: str, found: os.stat_result) -> DeviceNode | None:
    kind = "c" if stat.S_ISCHR(found.st_mode) else "b" if stat.S_ISBLK(found.st_mode) else ""
    if not kind:
        return None
    return DeviceNode(
        path=path,
        kind=kind,
        major=os.major(found.st_rdev),
        minor=os.minor(found.st_rdev),
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
    )
