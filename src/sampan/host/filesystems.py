"""How large the file system of a directory is, and which device it is on; and the names of block devices.

Sources: statvfs(3), proc_pid_mountinfo(5), /sys/dev/block.
"""

import os
from functools import lru_cache
from pathlib import Path

from sampan.model.paths import Paths
from sampan.runtime.image_ports import Filesystem
from sampan.wire import mountinfo


def filesystem(directory: Path) -> Filesystem:
    """The file system that `directory` lies on."""
    found = os.statvfs(directory)
    return Filesystem(
        device=_device(directory),
        bytes=found.f_frsize * found.f_blocks,
        inodes=found.f_files,
        inodes_free=found.f_ffree,
    )


def disks(paths: Paths) -> tuple[Path, Path]:
    """What stands for the file system of image layers, and for that of containers' writable layers. The kubelet holds
    the two against each other as text (KEP-4191), so on one disk both must be the same directory."""
    layers, root = paths.layers.resolve(), paths.root
    if layers.stat().st_dev == root.stat().st_dev or _one_device(layers, root):
        return root, root
    return layers, root


def _one_device(one: Path, other: Path) -> bool:
    """Whether both are of one block device, as subvolumes of btrfs are."""
    device = _device(one)
    return device.startswith("/dev/") and device == _device(other)


def block_device(number: str) -> str:
    """`254:0` → /dev/vda; the number itself where the kernel does not say. Not cached: numbers are used again."""
    try:
        return "/dev/" + Path(f"/sys/dev/block/{number}").readlink().name
    except OSError:
        return number


@lru_cache(maxsize=16)
def _device(directory: Path) -> str:
    """The source of the mount that it lies on; it stays as long as we run, for our root is in use."""
    mounts = mountinfo.parse(Path("/proc/thread-self/mountinfo").read_bytes())
    found = mountinfo.under(mounts, str(directory.resolve()))
    return found.source if found else ""
