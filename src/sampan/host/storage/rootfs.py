"""Containers' root file systems: overlayfs over the image's layers, one writable layer each.

The mount is private and ours alone (`mounts.hide`). Device nodes of the image stay usable, as containers that
make their own expect: what may be opened is the device cgroup's decision, so there is no nodev here. Nothing
is written into a root that a container could have touched.
"""

import logging
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from errno import ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EXDEV
from pathlib import Path

from sampan.config import Paths
from sampan.host import mounts
from sampan.host.filesystems import filesystem
from sampan.host.storage import chown, kernel_directories, trees
from sampan.host.storage.idmap import NotMappable, mapped
from sampan.host.storage.layers import Layers
from sampan.host.storage.trash import Trash, opened
from sampan.host.syscalls import CLONE_FS, mount, unshare
from sampan.host.threads import in_own_thread, in_slow_thread, in_thread
from sampan.host.unpack.cursor import resolve
from sampan.host.unpack.layout import OVERLAY_OPTIONS
from sampan.model.errors import Invalid, WrongState
from sampan.runtime.image_ports import Filesystem, IdMapped, Usage
from sampan.tasks import KeyedLock, finish, step_now
from sampan.wire import mountinfo

UPPER, WORK = "upper", "work"
VOLUMES = "volumes"  # `Paths.volumes`: directories for what the image declares
GIVEN = "given"  # there once the slow way has changed every owner (`host.storage.chown`)
LAYERS = "layers"  # where a bundle has the layers with ids mapped, while the overlay is made

log = logging.getLogger("sampan.rootfs")


class OverlayRootfs:
    """`runtime.ports.Rootfs` by overlayfs."""

    def __init__(self, paths: Paths, layers: Layers, *, slow_chown: bool = False) -> None:
        """`slow_chown`: where the file system cannot map ids, a container in a user namespace gets a copy of every
        file instead of an error."""
        self._slow_chown = slow_chown
        self._paths = paths
        self._layers = layers
        self._trash = Trash(paths.root / "trash")
        self._locks = KeyedLock()
        self._begun = False

    async def close(self) -> None:
        """Stop deleting what was removed; the next start goes on with it."""
        await self._trash.close()

    # --- making ---------------------------------------------------------------------------------------------

    async def prepare(
        self, id: str, layers: Sequence[str], users: IdMapped | None = None, label: str = ""
    ) -> Path:
        """Mount the overlay for container `id` over these chain ids (lowest first); returns the merged root.

        With `users` it shows the layers' files with the ids of that user namespace, and what is written bears them
        on disk too. Unavailable if the file system cannot do that. With `label` all have that SELinux label, on disk
        none.

        Invalid if its /dev, /proc or /sys is there but no real directory: crun has followed such links out of
        the root (CVE-2026-47766).
        """
        lowers = self._layers.lowers(layers)

        def work() -> None:
            self._make(id, lowers[0], users)
            self._mount(id, lowers, users, label)

        async with self._locks(id):
            await self._begin()
            await finish(in_own_thread(work))
        return self._paths.rootfs(id)

    async def _begin(self) -> None:
        """Once: hide our mounts from the rest of the machine, delete what an earlier life left."""
        if not self._begun:
            await in_thread(self._hide)
            self._trash.empty()
            self._begun = True

    def _hide(self) -> None:
        folder = self._paths.bundle("any").parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mounts.hide(folder)

    def _make(self, id: str, top: str, users: IdMapped | None) -> None:
        """The writable layer; its root is like the image's."""
        step_now("rootfs.make", id)
        writable = self._paths.writable(id)
        upper = writable / UPPER
        writable.mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in (upper, writable / WORK):
            part.mkdir(mode=0o700, exist_ok=True)
        like = (self._layers.root / top).stat()
        os.chown(upper, *(chown.outside(like, users.maps) if users else (like.st_uid, like.st_gid)))
        upper.chmod(stat.S_IMODE(like.st_mode))
        os.utime(upper, ns=(like.st_mtime_ns, like.st_mtime_ns))

    def _mount(self, id: str, lowers: Sequence[str], users: IdMapped | None, label: str) -> None:
        """In a thread of its own: its working directory makes the many lower directories' names short."""
        rootfs = self._paths.rootfs(id)
        rootfs.parent.mkdir(mode=0o700, exist_ok=True)  # `parents=True` would leave it open to others
        rootfs.mkdir(mode=0o700, exist_ok=True)
        mounts.detach(rootfs)
        unshare(CLONE_FS)
        try:
            if users is None:
                self._overlay(id, lowers, self._layers.root, label)
            else:
                self._mount_mapped(id, lowers, users, label)
            kernel_directories.check([rootfs])
        except BaseException:
            mounts.detach(rootfs)
            raise

    def _overlay(self, id: str, lowers: Sequence[str], layers: Path, label: str) -> None:
        """`layers` is the layers' root, or a mount that shows it."""
        writable = self._paths.writable(id)
        upper, work = _escaped(writable / UPPER), _escaped(writable / WORK)
        options = f"lowerdir={':'.join(lowers)},upperdir={upper},workdir={work},{OVERLAY_OPTIONS}"
        step_now("rootfs.mount", id)
        os.chdir(layers)
        mount("overlay", self._paths.rootfs(id), "overlay", 0, options + mounts.labelled(label))

    def _mount_mapped(self, id: str, lowers: Sequence[str], users: IdMapped, label: str) -> None:
        """One mount shows all layers with their ids mapped, so a hundred layers cost no more than one."""
        place = self._paths.bundle(id) / LAYERS
        step_now("rootfs.layers", id)
        try:
            with mapped(self._layers.root, place, users.namespace):
                self._overlay(id, lowers, place, label)
        except NotMappable as refused:
            if not self._slow_chown:
                raise
            log.warning("copying the whole image for container %s: %s", id, refused)
            self._give(id, lowers, users, label)

    def _give(self, id: str, lowers: Sequence[str], users: IdMapped, label: str) -> None:
        """Once in a container's life: a file that was changed already looks like one that was not."""
        given = self._paths.writable(id) / GIVEN
        if not given.exists() and any((self._paths.writable(id) / UPPER).iterdir()):
            raise WrongState(f"changing the owners in container {id} was cut short; remove the container")
        if not given.exists():
            like = (self._layers.root / lowers[0]).stat()  # moved below, with all the rest
            os.chown(self._paths.writable(id) / UPPER, like.st_uid, like.st_gid)
        self._overlay(id, lowers, self._layers.root, label)
        if not given.exists():
            step_now("rootfs.chown", id)
            with opened(self._paths.rootfs(id)) as root:
                chown.give(root, users.maps)
            given.touch()

    # --- removing -------------------------------------------------------------------------------------------

    async def remove(self, id: str) -> None:
        """Unmount and delete the container's layer; its space comes back soon after. Idempotent.

        WrongState, and nothing is deleted, if something stays mounted in it.
        """
        async with self._locks(id):
            await self._begin()
            await finish(in_thread(self._remove, id))
        self._trash.empty()

    def _remove(self, id: str) -> None:
        rootfs, writable = self._paths.rootfs(id), self._paths.writable(id)
        step_now("rootfs.unmount", id)
        mounts.detach(rootfs)
        with suppress(FileNotFoundError):
            rootfs.rmdir()
        if os.fsencode(id) in Path("/proc/thread-self/mountinfo").read_bytes():  # parsing it all takes long
            _unmount_beneath(writable)
        step_now("rootfs.remove", id)
        self._trash.take(writable)

    # --- reading --------------------------------------------------------------------------------------------

    async def usage(self, id: str) -> Usage:
        """What the container has written: bytes of disk, and inodes."""
        return await in_slow_thread(self._usage, id)

    async def filesystem(self) -> Filesystem:
        """Where all containers write."""
        return await in_thread(filesystem, self._paths.root)

    def _usage(self, id: str) -> Usage:
        try:
            writable = os.open(self._paths.writable(id), os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            return Usage(0, 0)
        try:
            own, volumes = trees.measure(writable, UPPER), trees.measure(writable, VOLUMES)
            return Usage(own[0] + volumes[0], own[1] + volumes[1])
        finally:
            os.close(writable)

    async def read(self, root: Path, path: str, limit: int) -> bytes | None:
        """A regular file of the image, resolved inside `root`; None if absent. Invalid if it is special
        or larger.
        """
        return await in_thread(_read, root, path, limit)


def _escaped(path: Path) -> str:
    """A path as overlayfs's options want it (kernel fs/overlayfs: backslash before a comma or itself)."""
    return str(path).replace("\\", "\\\\").replace(",", "\\,")


def _unmount_beneath(path: Path) -> None:
    """WrongState if something stays mounted in `path`: it must not be deleted then (CVE-2024-23652)."""
    real = str(path.resolve())
    for found in mountinfo.beneath(mounts.table(), real):
        mounts.detach(Path(found.point))
    if left := mountinfo.beneath(mounts.table(), real):
        raise WrongState(
            f"{path} is not deleted: {left[0].point} is still mounted; unmount it, then try again"
        )


def _read(root: Path, path: str, limit: int) -> bytes | None:
    with opened(root) as top:
        try:
            found = resolve(top, path, os.O_PATH)
        except OSError as error:
            if error.errno in (ENOENT, ENOTDIR):
                return None
            if error.errno in (ELOOP, ENAMETOOLONG, EXDEV):
                raise Invalid(f"{path} of the image cannot be followed: {error.strerror}") from error
            raise
    try:
        # looked at before it is opened: opening a device or a FIFO can block or do something
        status = os.fstat(found)
        if not stat.S_ISREG(status.st_mode):
            raise Invalid(f"{path} of the image is not a regular file")
        if status.st_size > limit:
            raise Invalid(f"{path} of the image has {status.st_size} bytes; the limit is {limit}")
        with open(f"/proc/self/fd/{found}", "rb") as file:  # noqa: PTH123 - the very inode that was looked at
            content = file.read(limit + 1)
    finally:
        os.close(found)
    if len(content) > limit:
        raise Invalid(f"{path} of the image grew beyond {limit} bytes")
    return content
