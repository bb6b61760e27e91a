"""How large the file system of a directory is, and which device it is on; and the names of block devices.

Sources: statvfs(3), proc_pid_mountinfo(5), /sys/dev/block.
"""

import os
from functools import lru_cache
from pathlib import Path

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


@lru_cache(maxsize=256)
def block_device(number: str) -> str:
    """`254:0` → /dev/vda; the number itself where the kernel does not say."""
    try:
        return "/dev/" + Path(f"/sys/dev/block/{number}").readlink().name
    except OSError:
        return number


@lru_cache(maxsize=16)
def _device(directory: Path) -> str:
    """The source of the innermost mount that it is beneath; it stays as long as we run, for our root is in use."""
    real = str(directory.resolve())
    mounts = mountinfo.parse(Path("/proc/thread-self/mountinfo").read_bytes())
    above = [one for one in mounts if _beneath(real, one.point)]
    return max(reversed(above), key=lambda one: len(one.point)).source if above else ""


def _beneath(path: str, point: str) -> bool:
    return point == "/" or path == point or path.startswith(point + "/")
