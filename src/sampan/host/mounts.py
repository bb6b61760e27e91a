"""Mounts of ours, and deleting directories that may hold some. Sources: mount(2), umount2(2),
mount_namespaces(7).

Everything here blocks and is for code that already runs in a thread (`host.threads`). What a container sees
is mounted by the OCI runtime, never here: nothing in this file touches a tree that a container can write
(CVE-2021-30465 and its kin).
"""

import errno
import os
from pathlib import Path

from sampan.host import syscalls
from sampan.model.errors import WrongState
from sampan.wire import mountinfo

CLOSED = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
_DETACH = syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW
_STACKED = 64  # mounts on top of each other at one place; we make one, a hostile or broken history a few
_WITHIN = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_XDEV


def table() -> list[mountinfo.Mount]:
    """Every mount of the daemon's mount namespace."""
    return mountinfo.parse(Path("/proc/thread-self/mountinfo").read_bytes())


def hide(path: Path) -> None:
    """Make the existing directory `path` a mount of its own that stays ours. Idempotent, also across
    restarts.

    Mounts made beneath it afterwards do not propagate to other mount namespaces, and a container that mounts
    a folder above it (`/run`, `/`) gets neither it nor them: a copy over there would keep a pod's namespaces
    alive, or a root file system busy, after we removed ours. What lies beneath can still be bind-mounted by
    its own path.
    """
    real = path.resolve(strict=True)
    if not any(mount.point == str(real) for mount in table()):
        syscalls.mount(real, real, "", syscalls.MS_BIND)
    syscalls.mount("", real, "", syscalls.MS_UNBINDABLE)


def labelled(label: str) -> str:
    """The option, to be put behind others, that gives all files of a new mount this SELinux label; "" for none. In
    quotes, for a label has commas in it (mount(8), context=)."""
    return f',context="{label}"' if label else ""


def tmpfs(
    target: Path, size: int, mode: int, inodes: int = 0, owner: tuple[int, int] = (0, 0), label: str = ""
) -> None:
    """A new tmpfs of at most `size` bytes (0 would mean half of the memory: refused) without devices or
    programs; `owner` are uid and gid of its root, `label` is everything's."""
    if size <= 0:
        raise ValueError(f"a tmpfs at {target} needs a size")
    data = f"size={size},mode={mode:o},uid={owner[0]},gid={owner[1]}"
    data += f",nr_inodes={inodes}" if inodes else ""
    data += labelled(label)
    syscalls.mount("sampan", target, "tmpfs", CLOSED, data)


def detach(path: Path) -> None:
    """Unmount whatever is mounted at `path`, with all that is mounted beneath it, at once: busy or not."""
    for _ in range(_STACKED):
        try:
            syscalls.umount(path, _DETACH)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
                return  # no mount point, or no such place
            raise
    raise WrongState(
        f"{path} still has something mounted on it after {_STACKED} unmounts; look at findmnt {path}"
    )


def delete(path: Path) -> None:
    """Delete `path`, a directory of ours, whatever became of it: unmounted first, links not followed.

    Refuses (WrongState) to delete anything while something stays mounted in it, so a host directory that was
    bound there is never emptied (CVE-2024-23652). Idempotent.
    """
    detach(path)
    try:
        path.rmdir()
    except FileNotFoundError:
        return
    except NotADirectoryError:
        path.unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EBUSY):
            raise
        _unmount_beneath(path)
        delete_tree(path)


def _unmount_beneath(path: Path) -> None:
    for mount in _beneath(path):
        syscalls.umount(mount.point, _DETACH)
    if left := _beneath(path):
        points = ", ".join(mount.point for mount in left[:5])
        raise WrongState(
            f"{path} is not deleted: still mounted in it: {points}; unmount them, then try again"
        )


def _beneath(path: Path) -> list[mountinfo.Mount]:
    """What is mounted at `path` and in it, the deepest first. Parsing a busy node's table takes milliseconds: most
    often a look for the name, which no escape can hide if it is plain, is enough."""
    text = Path("/proc/thread-self/mountinfo").read_bytes()
    if path.name.isalnum() and path.name.isascii() and path.name.encode() not in text:
        return []
    return mountinfo.beneath(mountinfo.parse(text), str(path.parent.resolve() / path.name))


def delete_tree(path: Path) -> None:
    """Delete a directory of ours with all it holds; links are not followed. Idempotent.

    Nothing is unmounted: WrongState if something is mounted in it, and what lies behind the mount is not
    touched.
    """
    try:
        parent = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        _delete_entry(parent, path.name)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EBUSY):
            raise
        raise WrongState(
            f"{path} is not deleted: something is mounted in it; unmount it, then try again"
        ) from error
    finally:
        os.close(parent)


def _delete_entry(parent: int, name: str) -> None:
    try:
        # By descriptor from the parent down; NO_XDEV makes the kernel refuse to step onto any mount.
        fd = syscalls.openat2(parent, name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, resolve=_WITHIN)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        os.unlink(name, dir_fd=parent)
        return
    try:
        with os.scandir(fd) as entries:
            listed = [(not entry.is_dir(follow_symlinks=False), entry.name) for entry in entries]
        # Directories first: if one holds a mount, as little as possible is gone before that is found out.
        for is_plain, entry_name in sorted(listed):
            if is_plain:
                os.unlink(entry_name, dir_fd=fd)
            else:
                _delete_entry(fd, entry_name)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)
