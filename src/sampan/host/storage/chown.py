"""Giving a whole tree to a user namespace by changing the owner of every file: the slow way, where the file system
cannot map ids (`host.storage.idmap`).

In an overlay that copies every file up into the writable layer. Blocking; for a tree that no container has touched.
"""

import os
import stat
import struct
from errno import ENODATA, ENOTSUP

from sampan.host.storage import trees
from sampan.spec.userns import Mappings, Range

_CAPABILITY = "security.capability"
# linux/include/uapi/linux/capability.h: revision in the top byte, flags below; 3 adds the id of the root it counts for
_REVISION, _REVISION_2, _REVISION_3 = 0xFF000000, 0x02000000, 0x03000000
_SETS = struct.Struct("<5I")


def give(root: int, maps: Mappings) -> None:
    """Every file in the directory `root`, and it, from the ids of the namespace to the host's for them. Ids that are
    not mapped stay. Set-id bits and file capabilities are kept."""
    pending = [b"."]
    while pending:
        path = pending.pop()
        fd = trees.enter(root, path)
        try:
            os.fchown(fd, *outside(os.fstat(fd), maps))
            with os.scandir(fd) as entries:
                listed = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
            for name, is_directory in listed:
                if is_directory:
                    pending.append(path + b"/" + name)
                else:
                    _give(fd, name, maps)
        finally:
            os.close(fd)


def _give(directory: int, name: bytes, maps: Mappings) -> None:
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode):
        os.chown(name, *outside(found, maps), dir_fd=directory, follow_symlinks=False)
        return
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    try:
        capability = _capability(fd)
        os.fchown(fd, *outside(found, maps))  # takes set-id bits and capabilities away
        if found.st_mode & (stat.S_ISUID | stat.S_ISGID):
            os.fchmod(fd, stat.S_IMODE(found.st_mode))
        if capability:
            os.setxattr(fd, _CAPABILITY, owned(capability, maps.uids.host))
    finally:
        os.close(fd)


def outside(found: os.stat_result, maps: Mappings) -> tuple[int, int]:
    """The host's owner and group for a file that has these in the namespace; -1, which changes nothing, for an id that
    is not mapped."""
    return _shift(found.st_uid, maps.uids), _shift(found.st_gid, maps.gids)


def _shift(id: int, ids: Range) -> int:
    return ids.host + id if id < ids.length else -1


def _capability(fd: int) -> bytes:
    try:
        return os.getxattr(fd, _CAPABILITY)
    except OSError as error:
        if error.errno in (ENODATA, ENOTSUP):
            return b""
        raise


def owned(capability: bytes, root: int) -> bytes:
    """A file capability that counts where `root` is the host's number for root (capabilities(7), namespaced file
    capabilities); one of another revision as it is."""
    if len(capability) < _SETS.size:
        return capability
    first, *sets = _SETS.unpack_from(capability)
    if first & _REVISION not in (_REVISION_2, _REVISION_3):
        return capability
    return _SETS.pack(_REVISION_3 | first & ~_REVISION, *sets) + struct.pack("<I", root)
