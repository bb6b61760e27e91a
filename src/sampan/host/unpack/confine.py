"""Locks the unpacking child in: mount, network and IPC namespaces of its own, the layer as its root, few
capabilities, little memory.

From `enter` on nothing may be imported or looked up by path, because it would be the image's: the import
system is emptied. This is the second wall; `host.unpack.write` is written to be safe without it.
"""

import os
import resource
import sys
from hashlib import sha256

from sampan.host.syscalls import (
    CAP_CHOWN,
    CAP_DAC_OVERRIDE,
    CAP_FOWNER,
    CAP_FSETID,
    CAP_MKNOD,
    CAP_SETFCAP,
    CAP_SYS_ADMIN,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    MS_REMOUNT,
    PR_SET_DUMPABLE,
    keep_capabilities,
    mount,
    no_new_privileges,
    open_tree,
    pivot_root,
    prctl,
    umount,
    unshare,
)

MEMORY = 256 << 20  # bytes of address space
_FILES = 1024  # a whiteout that spares what this layer brought holds one for each directory on its way down
_CLOSED = MS_NOSUID | MS_NODEV | MS_NOEXEC
# SYS_ADMIN only for trusted.* attributes (overlayfs's opaque mark is one); it has no mount left to act on
_KEPT = (CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_MKNOD, CAP_SETFCAP, CAP_SYS_ADMIN)


def private_mounts() -> None:
    """Leave the host's namespaces; what is mounted from here on is seen by nobody and ends with us."""
    unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC)
    mount("", "/", "", MS_REC | MS_PRIVATE)


def detached(path: str) -> int:
    """A directory as a mount of its own that nothing leads out of, not even ".."."""
    return open_tree(-100, path)


def enter(path: str) -> None:
    """Make `path` (a directory, or the root of a mount of ours) the root, and drop what is not needed to
    write there.
    """
    mount(path, path, "", MS_BIND)
    mount("", path, "", MS_REMOUNT | MS_BIND | _CLOSED)
    os.chdir(path)
    pivot_root(".", ".")
    umount(".", MNT_DETACH)
    os.chdir("/")
    os.umask(0)
    sha256()  # libcrypto reads its configuration when first used
    keep_capabilities(_KEPT)
    no_new_privileges()
    prctl(PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, _FILES))
    for store in (sys.path, sys.meta_path, sys.path_hooks, sys.path_importer_cache):
        store.clear()
