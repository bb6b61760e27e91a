"""The places in an image where the kernel's file systems are mounted: they must be real directories, or absent.

crun before 1.28 has followed a /dev that was a link, and made device nodes where it led (CVE-2026-47766).
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from sampan.host.storage.trash import opened
from sampan.model.errors import Invalid

_NAMES = ("dev", "proc", "sys")


def check(layers: Sequence[Path]) -> None:
    """Raise Invalid unless they are, in what these directories (the highest first) show when merged. One may be the
    merged root itself."""
    missing = list(_NAMES)
    for layer in layers:
        with opened(layer) as fd:
            missing = [name for name in missing if not _there(fd, name)]
        if not missing:
            return


def _there(layer: int, name: str) -> bool:
    """Whether this layer says what is at `name`: a directory, or by a whiteout (0:0) nothing."""
    try:
        found = os.stat(name, dir_fd=layer, follow_symlinks=False)
    except FileNotFoundError:
        return False
    whiteout = stat.S_ISCHR(found.st_mode) and not found.st_rdev
    if not (whiteout or stat.S_ISDIR(found.st_mode)):
        raise Invalid(f"the image's /{name} is not a directory, so no container can be made from it")
    return True
