"""What containers mount beside their root: images, and directories of their own for their image's VOLUMEs.

An image is shown by a read-only overlay of its layers in the container's bundle, hidden like the root itself and
mounted before anything of the container runs; the OCI runtime binds it into the container. Nothing here is on record:
what is mounted where follows from the container's id, so taking it back works after any crash.
"""

import asyncio
import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import EINVAL, EPERM
from pathlib import Path
from threading import Event

from sampan.host import mounts, syscalls
from sampan.host.storage import copy_up, idmap, trees
from sampan.host.storage.layer_store import EMPTY
from sampan.host.storage.layers import Layers
from sampan.host.storage.relabel import relabel
from sampan.host.storage.trash import opened
from sampan.host.threads import in_own_thread, in_slow_thread, in_thread, look_at
from sampan.host.unpack.cursor import resolve
from sampan.host.unpack.layout import OVERLAY_OPTIONS, ROOT
from sampan.model.errors import ImageVolumeMountFailed, Invalid, SampanError
from sampan.model.paths import Paths
from sampan.runtime.image_ports import IdMapped, ImageMount
from sampan.tasks import finish, step_now
from sampan.wire import mountinfo

_EMPTY = f"{EMPTY}/{ROOT}"
_SHOWN = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV


class HostVolumes:
    """`runtime.image_ports.Volumes` on the real machine."""

    def __init__(self, paths: Paths, layers: Layers) -> None:
        self._paths = paths
        self._layers = layers
        self._copies = asyncio.Semaphore(2)  # other long work shall not wait for a third

    # --- images ---------------------------------------------------------------------------------------------

    async def show(self, id: str, image: ImageMount, users: IdMapped | None = None, label: str = "") -> str:
        """Mount an image read-only for container `id`, whose root is prepared; the path to bind into it, sub path
        and links resolved. With `users` it shows the ids of that namespace, with `label` all files have that SELinux
        label. Raises ImageVolumeMountFailed."""
        try:
            if not image.layers:
                raise Invalid("it has no layers, so there is nothing in it")
            lowers = self._layers.lowers(image.layers)
            return await finish(in_own_thread(lambda: self._show(id, image, lowers, users, label)))
        except ImageVolumeMountFailed:
            raise
        except idmap.NotMappable as error:
            raise ImageVolumeMountFailed(
                f"mounts[{image.number}]: the file system of {self._layers.root} cannot show files with their ids "
                "mapped, which an image in a pod with a user namespace needs; have it on ext4, xfs or btrfs"
            ) from error
        except (SampanError, OSError) as error:
            raise ImageVolumeMountFailed(
                f"mounts[{image.number}]: the image cannot be mounted: {error}"
            ) from error

    def _show(
        self, id: str, image: ImageMount, lowers: Sequence[str], users: IdMapped | None, label: str
    ) -> str:
        """In a thread of its own: its working directory makes the many lower directories' names short."""
        target = self._paths.image_mounts(id) / str(image.number)
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        mounts.detach(target)
        below = ":".join([*lowers, _EMPTY])  # overlayfs takes no single lower directory
        options = f"lowerdir={below},{OVERLAY_OPTIONS}{mounts.labelled(label)}"
        step_now("volume.image.mount", id)
        syscalls.unshare(syscalls.CLONE_FS)
        with self._as_seen_by(users, target.with_name("layers")) as layers:
            os.chdir(layers)
            syscalls.mount("overlay", target, "overlay", _SHOWN, options)
            os.chdir("/")
        return _resolved(target, image)

    @contextmanager
    def _as_seen_by(self, users: IdMapped | None, place: Path) -> Iterator[Path]:
        """The layers' root, or a mount that shows it with ids mapped, at `place` for the block."""
        if users is None:
            yield self._layers.root
            return
        with idmap.mapped(self._layers.root, place, users.namespace):
            yield place

    async def remove(self, id: str) -> None:
        """Unmount what `show` mounted for the container. Idempotent."""
        await finish(in_thread(self._remove, id))

    def _remove(self, id: str) -> None:
        step_now("volume.image.unmount", id)
        place = self._paths.image_mounts(id)
        with suppress(FileNotFoundError):
            for target in place.iterdir():
                mounts.detach(target)
                target.rmdir()
            place.rmdir()

    async def sweep(self, keep: Collection[str]) -> None:
        """At boot: unmount what was shown to containers that are not in `keep`."""
        await in_thread(self._sweep, frozenset(keep))

    def _sweep(self, keep: frozenset[str]) -> None:
        bundles = self._paths.bundle("any").parent
        for place in bundles.glob(f"*/{self._paths.image_mounts('any').name}"):
            if place.parent.name not in keep:
                self._remove(place.parent.name)

    # --- VOLUMEs --------------------------------------------------------------------------------------------

    async def make(
        self, id: str, root: Path, volumes: Sequence[str], users: IdMapped | None = None
    ) -> dict[str, str]:
        """A directory for each of these places of the prepared `root`, with what the image has there, before any
        process runs in it: host directories by the canonical place in the root. Root (of `users`) owns those that
        the image does not have. Raises Invalid, Exhausted."""
        owner = users.maps.root if users else (0, 0)
        async with self._copies:
            return await finish(in_slow_thread(self._make, id, root, volumes, owner))

    def _make(self, id: str, root: Path, volumes: Sequence[str], owner: tuple[int, int]) -> dict[str, str]:
        place = self._paths.volumes(id)
        step_now("volume.make", id)
        place.mkdir(mode=0o700, exist_ok=True)
        real = place.resolve()  # `relabel` takes no links
        made: dict[str, str] = {}
        with opened(root) as top, opened(place) as folder:
            for number, volume in enumerate(volumes):
                where, source = copy_up.locate(top, volume)
                try:
                    if where not in made:
                        _fill(folder, str(number), source, owner)
                        made[where] = str(real / str(number))
                finally:
                    if source >= 0:
                        os.close(source)
        return made

    # --- the host's directories -------------------------------------------------------------------------------

    async def check_idmaps(self, paths: Sequence[str], users: IdMapped) -> None:
        """Raise Invalid naming the mount and its file system if one of these host paths cannot be mounted with the ids
        of this namespace."""
        await look_at(paths, lambda: _check_idmaps(paths, users.namespace))

    async def relabel(self, paths: Sequence[str], label: str, seconds: float) -> None:
        """Give these trees an SELinux label, but those whose top has it. Raises Unavailable past `seconds`. Cancelled,
        it ends with the file it is at."""
        deadline, stopped = time.monotonic() + seconds, Event()

        def work() -> None:
            for path in paths:
                relabel(path, label, deadline, stopped.is_set)

        try:
            await look_at(paths, work)
        finally:
            stopped.set()


def _resolved(target: Path, image: ImageMount) -> str:
    """The directory in the image, and never out of it, whatever links say. Nobody can change it later."""
    with opened(target) as top:
        try:
            found = resolve(top, image.sub_path.strip("/") or ".", os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise ImageVolumeMountFailed(
                f"mounts[{image.number}].image_sub_path {image.sub_path!r}: {error.strerror}; it must be a directory "
                "of the image"
            ) from error
    try:
        return str(Path(f"/proc/self/fd/{found}").readlink())
    finally:
        os.close(found)


def _fill(folder: int, name: str, source: int, owner: tuple[int, int]) -> None:
    """A fresh directory, with what `source` holds; -1 is nothing."""
    trees.remove(folder, name)  # of an attempt that was cut short
    os.mkdir(name, 0o700, dir_fd=folder)
    target = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        if source < 0:
            os.fchown(target, *owner)
            os.fchmod(target, 0o755)
        else:
            copy_up.copy_tree(source, target)
    finally:
        os.close(target)


def _check_idmaps(paths: Sequence[str], user_namespace: Path) -> None:
    namespace = os.open(user_namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for path in paths:
            copy = _copied(path)
            try:
                syscalls.mount_setattr(copy, set_attr=syscalls.MOUNT_ATTR_IDMAP, userns_fd=namespace)
            except OSError as error:
                if error.errno not in (*idmap.REFUSALS, EPERM):
                    raise
                raise Invalid(_unmappable(path)) from error
            finally:
                os.close(copy)
    finally:
        os.close(namespace)


def _copied(path: str) -> int:
    """A mount of `path` that is nowhere yet."""
    try:
        return syscalls.open_tree(syscalls.AT_FDCWD, path)
    except OSError as error:
        hint = (
            "; is it, or a mount above it, unbindable (mount_namespaces(7))?" if error.errno == EINVAL else ""
        )
        raise Invalid(f"{path} cannot be mounted in a container: {error.strerror}{hint}") from error


def _unmappable(path: str) -> str:
    found = mountinfo.under(mounts.table(), path)
    where = f"on {found.point}, a {found.fstype} file system" if found else "on a file system"
    return (
        f"{path} lies {where} that this kernel cannot mount with mapped ids, which a pod with a user namespace "
        "needs; use a volume on one that can (ext4, xfs, btrfs and tmpfs can), or run the pod without a user namespace"
    )
