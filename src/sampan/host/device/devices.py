"""Device files of the host: those that a request names, and all of them for a privileged container.

Only what a node is (kind, number, permissions) is read, from the file itself, never opened: opening a device
can rewind a tape. Whether a container may have it is decided in `spec.devices`.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from sampan.host.threads import in_own_thread
from sampan.spec.facts import DeviceNode

# Folders of /dev that a container gets of its own, or that hold no devices; and the host's console.
_NOT_OURS = frozenset(
    {"pts", "ptmx", "shm", "fd", "mqueue", "hugepages", "console", ".lxc", ".lxd-mounts", ".udev"}
)


async def device_nodes(paths: Iterable[str]) -> dict[str, tuple[DeviceNode, ...]]:
    """The devices by the path asked for: of a device file itself, of a folder all beneath it. Links are
    followed for the path asked for, not beneath. A path where there is none is left out. May block on a dead
    file system."""
    return await in_own_thread(lambda: {path: nodes for path in paths if (nodes := _at(path))})


async def all_devices() -> tuple[DeviceNode, ...]:
    """Every device below /dev but terminals and what every container gets of its own."""
    return await in_own_thread(lambda: tuple(_beneath(Path("/dev"))))


def _at(path: str) -> tuple[DeviceNode, ...]:
    if not path.startswith("/") or "\0" in path:
        return ()
    try:
        real = Path(path).resolve(strict=True)
        found = real.stat()
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, until Python 3.13
        return ()
    if stat.S_ISDIR(found.st_mode):
        return tuple(_beneath(real))
    # A link's device shows in the container where the link was: /dev/disk/by-id/x is asked for by that name.
    node = _node(path, found)
    return (node,) if node else ()


def _beneath(folder: Path) -> Iterator[DeviceNode]:
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError:  # gone since, or unreadable: a device folder may change at any time
        return
    for entry in listed:
        if entry.name in _NOT_OURS:
            continue
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        if stat.S_ISDIR(found.st_mode):
            yield from _beneath(Path(entry.path))
        elif node := _node(entry.path, found):
            yield node


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
