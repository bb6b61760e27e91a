"""The layers on disk: where each lies, how one becomes durable and visible, what a start finds.

    layers/12/fs            a published layer's content; 12 is short, as 500 names must fit in a mount call
    layers/12/layer.json    what it is
    layers/12/blob          the layer as it came, if `images.keep_blobs`
    layers/12/recipe        what its tar had besides content (wire/tar_recipe.py)
    layers/0/fs             empty, for images without layers
    layers/staging/KEY/     being unpacked: fs, rest, whiteouts, work, merged (see host/unpack/child.py)
    layers/trash/           what is removed (host/storage/trash.py)

A layer becomes visible by one rename, and durable with its record, which is written when the content of all layers
of an image is on disk (syncfs, once for all of them): a power cut leaves it whole or without a record, and what has
no record is thrown away. Blocking; for threads.
"""

import fcntl
import logging
import os
import re
import secrets
import stat
import struct
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from sampan.host.storage import trees
from sampan.host.storage.layer_view import all_visible, is_whiteout, not_hidden, unlink
from sampan.host.storage.trash import Trash, opened
from sampan.host.syscalls import syncfs
from sampan.host.unpack.cursor import reserve
from sampan.host.unpack.layout import MERGED, REST, ROOT, STAGING, WHITEOUTS, WORK
from sampan.model.errors import Exhausted
from sampan.wire import mountinfo

EMPTY = "0"
TRASH, RECORD = "trash", "layer.json"
LOST_AND_FOUND = "lost+found"  # of a disk that is mounted here
_LOWER = re.compile(rf"(?:^|[:=/])(\d+)/{ROOT}(?=:|$)")
_GETFLAGS, _SETFLAGS, _TOPDIR = 0x80086601, 0x40086602, 0x00020000  # FS_IOC_*, EXT4_TOPDIR_FL (linux/fs.h)
log = logging.getLogger("sampan")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What layer.json says. `opaque`: the layer hides everything below it."""

    version: int = 1
    chain_id: str
    diff_id: str
    blob_digest: str
    blob_size: int
    size: int
    inodes: int
    opaque: bool = False
    blob: bool = False  # the blob is there as it came
    recipe: bool = False  # the tar that the layer came as can be rebuilt (host/rebuild)


class LayerStore:
    """The directory of all layers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trash = Trash(root / TRASH)
        self._unwritten: set[str] = set()  # keys and names of what is perhaps not on disk so far
        self._unwritable: dict[str, OSError] = {}  # those of which some may never get there

    def open(self) -> tuple[dict[str, tuple[str, Record]], set[str]]:
        """Make the directory; what is published in it: chain id → name and record. Leftovers go to `trash`, but
        for those that are mounted: the names of these come second.
        """
        for part in (self.root, self.root / TRASH, self.root / EMPTY):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.root / EMPTY / ROOT).mkdir(mode=0o755, exist_ok=True)
        self.discard_staging(())
        found: dict[str, tuple[str, Record]] = {}
        mounted, kept = _mounted(), set()
        for place in sorted(self.root.iterdir()):
            if place.name in (STAGING, TRASH, EMPTY, LOST_AND_FOUND):
                continue
            record = _record(place)
            if record is not None and record.chain_id not in found:
                found[record.chain_id] = place.name, record
            elif place.name in mounted:
                log.warning("%s is not a whole layer; it stays while containers have it mounted", place)
                kept.add(place.name)
            else:
                log.warning("%s is not a whole layer and is removed", place)
                self.trash.take(place)
        return found, kept

    def require_room(self, size: int, what: str) -> None:
        """Raise Exhausted if the disk has no room for `size` more bytes of `what`."""
        disk = os.statvfs(self.root)
        kept, free = reserve(disk)[0], disk.f_bavail * disk.f_frsize
        if size > free - kept:
            raise Exhausted(
                f"no space left for {what}: it takes at least {size} bytes more on the disk of {self.root}, "
                f"where {free} are free, {kept} of them in reserve; `sampan prune` removes images that nobody uses"
            )

    def broken(self, places: Mapping[str, str]) -> list[str]:
        """Those of these layers (chain id → name) that are not whole."""
        return [chain_id for chain_id, name in places.items() if not _is(self.root / name, chain_id)]

    def discard_staging(self, keep: Sequence[str]) -> None:
        """Move all staging directories but those of `keep` to the trash."""
        staging = self.root / STAGING
        staging.mkdir(mode=0o700, exist_ok=True)
        _spread(staging)
        for place in staging.iterdir():
            if place.name not in keep:
                self.trash.take(place)

    def new_key(self) -> str:
        """A name for `stage`."""
        return secrets.token_hex(6)

    def stage(self, key: str) -> None:
        """A new staging directory. `unstage` it also if this fails: a part of it may be there."""
        place = self.root / STAGING / key
        place.mkdir(mode=0o700)
        for part, mode in ((ROOT, 0o755), (WORK, 0o700), (MERGED, 0o700)):
            (place / part).mkdir(mode=mode)
            (place / part).chmod(mode)
        self._unwritten.add(key)

    def unstage(self, key: str) -> None:
        """Move a staging directory to the trash. Idempotent."""
        self.trash.take(self.staging(key))
        self._unwritten.discard(key)
        self._unwritable.pop(key, None)

    def staging(self, key: str) -> Path:
        return self.root / STAGING / key

    def inherit_root(self, key: str, lowers: Sequence[str]) -> None:
        """Give a layer that says nothing of its root directory the one of the layer below."""
        target = self.staging(key) / ROOT
        if not lowers:
            target.chmod(0o755)
            os.utime(target, (0, 0))
            return
        source = self.root / lowers[0] / ROOT
        found = source.stat()
        os.chown(target, found.st_uid, found.st_gid)
        target.chmod(stat.S_IMODE(found.st_mode))
        for attribute in os.listxattr(source):
            if attribute.startswith(("user.", "trusted.")) and not attribute.startswith("trusted.overlay."):
                os.setxattr(target, attribute, os.getxattr(source, attribute))
        os.utime(target, ns=(found.st_mtime_ns, found.st_mtime_ns))

    def prune_whiteouts(self, key: str, lowers: Sequence[str]) -> None:
        """Remove the whiteouts that hide nothing: overlayfs lists them as if they were files."""
        place = self.staging(key)
        names = (place / WHITEOUTS).read_bytes().split(b"\0")[:-1]
        if not names:
            return
        with ExitStack() as stack:
            own, *below = [
                stack.enter_context(opened(path))
                for path in (place / ROOT, *(self.root / lower / ROOT for lower in lowers))
            ]
            there = [name for name in sorted(names) if is_whiteout(own, name)]
            hiding = all_visible(below, not_hidden(own, there))
            for name in there:
                if name not in hiding:
                    unlink(own, name)

    def place(self, key: str, name: str) -> None:
        """Make a staged layer visible under `name`. Without a record a restart does not know it."""
        place = self.root / STAGING / key
        for leftover in (REST, WHITEOUTS):
            (place / leftover).unlink(missing_ok=True)
        with opened(place) as staged:
            for leftover in (WORK, MERGED):
                trees.remove(staged, leftover)
        place.rename(self.root / name)
        self._unwritten.add(name)
        self._unwritable.pop(name, None)  # of an earlier layer of that name
        if key in self._unwritable:
            self._unwritable[name] = self._unwritable.pop(key)
        self._unwritten.discard(key)

    def flush(self) -> None:
        """Have everything on disk that was written so far."""
        try:
            with opened(self.root) as root:
                syncfs(root)
        except OSError as error:
            # The kernel says so once (errseq), to whoever asks first, and not of which files: those who commit any of
            # them later would be told that all is well.
            self._unwritable |= dict.fromkeys(tuple(self._unwritten), error)
            raise

    def write_records(self, records: Mapping[str, Record]) -> None:
        """Say of placed layers, by name, what they are: from then on they survive a crash. Their content must be on
        disk, else a power cut could leave a record without it."""
        for name in records:
            if name in self._unwritable:
                raise self._unwritable[name]
        for name, record in records.items():
            (self.root / name / RECORD).write_bytes(msgspec.json.encode(record))
        self.flush()
        self._unwritten -= records.keys()


def _record(place: Path) -> Record | None:
    """A published layer's record; None if it is no whole layer."""
    try:
        record = msgspec.json.decode((place / RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None
    whole = place.name.isdigit() and _is_directory(place) and _is_directory(place / ROOT)
    return record if whole and record.version == 1 else None


def _is(place: Path, chain_id: str) -> bool:
    record = _record(place)
    return record is not None and record.chain_id == chain_id


def _is_directory(path: Path) -> bool:
    """Whether it is one itself: a link to one is damage."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _mounted() -> set[str]:
    """The names of layers that some overlay on this machine has below it; of another store's, too, which does no
    harm. Mounts name them relative to the store, or in full."""
    found = mountinfo.parse(Path("/proc/thread-self/mountinfo").read_bytes())
    options = (option for mount in found if mount.fstype == "overlay" for option in mount.super_options)
    return {name for option in options if option.startswith("lowerdir") for name in _LOWER.findall(option)}


def _spread(directory: Path) -> None:
    """Tell ext4 that what lies in a directory is unrelated, so each layer gets a part of the disk of its own.

    Unpacking an image right after one was deleted is ten times slower otherwise: ext4 does not reuse an
    inode for some minutes and searches past all of them. Other file systems do not know the flag.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        (flags,) = struct.unpack("l", fcntl.ioctl(fd, _GETFLAGS, bytes(8)))
        fcntl.ioctl(fd, _SETFLAGS, struct.pack("l", flags | _TOPDIR))
    except OSError as error:
        log.debug("%s: no flag for unrelated directories: %s", directory, error)
    finally:
        os.close(fd)
