"""Mounts that show the owners of files as a user namespace numbers them (mount_setattr(2), "ID-mapped mounts").

What lies on disk is not changed: id 0 of a file is seen as the host's number for root of the namespace, and a file
made there as that number is written as 0. Needs a file system that allows it (ext4, xfs, btrfs, tmpfs and others).
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sampan.host import mounts, syscalls
from sampan.model.errors import Unavailable

# What the kernel answers where it, or the file system, cannot: no such call, no such flag.
REFUSALS = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class NotMappable(Unavailable):
    """The kernel or the file system does not map ids there."""


@contextmanager
def mapped(source: Path, place: Path, namespace: Path | int) -> Iterator[None]:
    """The directory `source`, read-only and without what is mounted in it, at `place`, with ids mapped as the user
    namespace does (its file, or a descriptor). For the block; `place` is made and removed. Raises NotMappable.

    An overlay that is mounted meanwhile keeps what it needs of it. It has to be attached somewhere: before Linux
    6.15 an overlay takes no layer from a detached mount.
    """
    place.mkdir(mode=0o700, exist_ok=True)
    mounts.detach(place)  # an earlier life may have been cut short here
    try:
        _attach(source, place, namespace)
        yield
    finally:
        mounts.detach(place)
        with suppress(FileNotFoundError):
            place.rmdir()


def _attach(source: Path, place: Path, namespace: Path | int) -> None:
    users = (
        os.open(namespace, os.O_RDONLY | os.O_CLOEXEC) if isinstance(namespace, Path) else os.dup(namespace)
    )
    try:
        tree = syscalls.open_tree(syscalls.AT_FDCWD, source)
        try:
            _map(tree, users, source)
            syscalls.move_mount(tree, place)
        finally:
            os.close(tree)
    finally:
        os.close(users)


def _map(tree: int, users: int, source: Path) -> None:
    attributes = syscalls.MOUNT_ATTR_IDMAP | syscalls.MOUNT_ATTR_RDONLY
    try:
        syscalls.mount_setattr(tree, set_attr=attributes, propagation=syscalls.MS_PRIVATE, userns_fd=users)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise NotMappable(
            f"the file system of {source} cannot show files with their ids mapped, which a user namespace needs: "
            f"{error.strerror}; have it on ext4, xfs or btrfs, or set images.slow_chown"
        ) from error
