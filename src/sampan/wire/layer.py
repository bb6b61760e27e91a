"""What one archive entry means for an image layer: where it goes, whether it is a whiteout, what of it is
allowed.

Paths are taken as in a chroot: a leading slash or ".." never leads above the layer's root. Resolving symlinks
is the unpacker's work (host/unpack/write.py), on descriptors. Source: OCI image-spec layer.md.
"""

from sampan.model.errors import Invalid

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
AUFS_PRIVATE = b".wh..wh."  # AUFS kept its own files under such names; they were never part of an image
PATH_LIMIT = 4095  # bytes (PATH_MAX, less the NUL)
NAME_LIMIT = 255
ID_LIMIT = (1 << 31) - 1  # (uid_t)-1 means "leave alone" to the kernel, and crun has made root of it
# Extended attributes that are applied. Others (SELinux labels of the build machine, ACLs) are passed over.
_XATTRS = (b"user.", b"trusted.", b"security.")
_FOREIGN = (b"security.selinux", b"security.SMACK64")
_OVERLAY = (b"trusted.overlay.", b"user.overlay.")


def place(name: bytes) -> tuple[bytes, bytes]:
    """The parent directory and the last component of an entry's name, both relative; ("", "") is the root
    itself.
    """
    if len(name) > PATH_LIMIT:
        raise Invalid(f"a path of {len(name)} bytes is longer than Linux allows: {name[:80]!r}...")
    if name[:2] == b"./":
        name = name[2:]
    if b"//" in name or b"/." in name or name[:1] in (b".", b"/", b""):
        name = _clean(name)
    elif name[-1:] == b"/":
        name = name[:-1]
    parent, _, leaf = name.rpartition(b"/")
    if len(leaf) > NAME_LIMIT:
        raise Invalid(f"a file name of {len(leaf)} bytes is longer than Linux allows: {leaf[:80]!r}...")
    return parent, leaf


def _clean(name: bytes) -> bytes:
    done: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del done[-1:]
        elif part not in (b"", b"."):
            done.append(part)
    return b"/".join(done)


def whiteout(leaf: bytes) -> bytes | None:
    """The name that a whiteout `.wh.NAME` hides in the layers below; b"" for AUFS's own files, to be
    passed over.
    """
    if leaf.startswith(AUFS_PRIVATE):
        return b""
    hidden = leaf[len(WHITEOUT) :]
    if hidden in (b"", b".", b".."):
        raise Invalid(f"the whiteout {leaf!r} names no file")
    return hidden


def check_ids(uid: int, gid: int, name: bytes) -> None:
    """Invalid unless both are in 0..2^31-1."""
    if not (0 <= uid <= ID_LIMIT and 0 <= gid <= ID_LIMIT):
        raise Invalid(f"{name[:200]!r} is owned by {uid}:{gid}; ids go from 0 to {ID_LIMIT}")


def check_device(kind_is_char: bool, major: int, minor: int, name: bytes) -> None:
    """Invalid for numbers Linux does not have, and for 0/0, which is how overlayfs writes a whiteout."""
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise Invalid(f"{name[:200]!r} is a device with the impossible number {major}:{minor}")
    if kind_is_char and not major and not minor:
        raise Invalid(f"{name[:200]!r} is the character device 0:0, which only overlayfs itself may make")


def allow_xattrs(xattrs: dict[bytes, bytes], name: bytes) -> None:
    """Take out those of an entry's extended attributes that are not applied. Invalid for overlayfs's own."""
    for key in list(xattrs):
        if key.startswith(_OVERLAY):
            raise Invalid(f"{name[:200]!r} carries {key[:80]!r}, which only overlayfs itself may set")
        if not of_image(key):
            del xattrs[key]


def of_image(key: bytes) -> bool:
    """Whether a file's extended attribute is one that images set: not a label of a machine, not overlayfs's."""
    return key.startswith(_XATTRS) and not key.startswith((*_FOREIGN, *_OVERLAY))
