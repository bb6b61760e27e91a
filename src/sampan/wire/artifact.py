"""The files of an OCI artifact (image-spec manifest.md, "Guidelines for Artifact Usage"), and the archive that holds
them as one file system layer.

A registry keeps an artifact's files as blobs; an annotation says what each is called. Every name is checked here, and
the archive is written so that the same files always give the same bytes. Not the blobs' content: who fetches it
checks it.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sampan.model.errors import Invalid
from sampan.wire.layer import NAME_LIMIT, PATH_LIMIT, WHITEOUT
from sampan.wire.manifest import Descriptor, Manifest

# What names a file: image-spec annotations.md; ModelPack's model-spec annotations.md, for models whose tools set that
# alone. CRI-O reads the same two in this order.
NAMES = ("org.opencontainers.image.title", "org.cncf.model.filepath")
EMPTY = "application/vnd.oci.empty.v1+json"  # stands where there is no content but a blob must be
DEPTH_LIMIT = 64  # directories above a file
SIZE_LIMIT = 1 << 60  # bytes of all files

_BLOCK = 512
_FIRST = b"sampan artifact 1\0"  # begins what a layer's name is the hash of; changes with the archive's form


@dataclass(frozen=True, slots=True)
class File:
    """A file of an artifact: its path, relative and canonical, and the blob that it is."""

    path: bytes
    blob: Descriptor


def files(manifest: Manifest, what: str) -> tuple[File, ...]:
    """The artifact's files by path. A blob without a name has its digest's hex digits for one, but the empty blob is
    none. Raises Invalid for names that could not be files side by side."""
    found: dict[bytes, File] = {}
    for blob in manifest.layers:
        name = _name(blob.annotations or {})
        if not name and blob.media_type == EMPTY:
            continue
        path = _path(name, blob, what) if name else blob.digest.partition(":")[2].encode()
        same = found.get(path)
        if same is not None and (name or same.blob.digest != blob.digest):
            raise Invalid(f"{what} has two files called {path.decode()!r}")
        found[path] = File(path, blob)
    for path in found:
        for parent in parents(path):
            if parent in found:
                raise Invalid(f"{what} has both a file {parent.decode()!r} and one in it, {path.decode()!r}")
    if sum(file.blob.size for file in found.values()) > SIZE_LIMIT:
        raise Invalid(f"{what} claims to have more than {SIZE_LIMIT} bytes")
    return tuple(found[path] for path in sorted(found))


def chain_id(files: Sequence[File]) -> str:
    """The name in the layer store of the layer that has exactly these files."""
    whole = hashlib.sha256(_FIRST)
    for file in files:
        whole.update(b"%b\0%b\0%d\0" % (file.path, file.blob.digest.encode(), file.blob.size))
    return "sha256:" + whole.hexdigest()


def members(files: Sequence[File]) -> Iterator[tuple[bytes, Descriptor | None, bytes]]:
    """The archive in its order: what stands before a blob, the blob, what stands after it; without a blob where there
    is none. Everything belongs to root; files may be read and nothing else."""
    yield _header(b"./", 0, directory=True), None, b""
    made: set[bytes] = set()
    for file in files:
        for parent in parents(file.path):
            if parent not in made:
                made.add(parent)
                yield _header(parent + b"/", 0, directory=True), None, b""
        size = file.blob.size
        yield _header(file.path, size), file.blob, bytes(-size % _BLOCK)
    yield bytes(2 * _BLOCK), None, b""


def archive_size(files: Sequence[File]) -> int:
    """Bytes of the archive."""
    return sum(
        len(before) + (blob.size if blob else 0) + len(after) for before, blob, after in members(files)
    )


def parents(path: bytes) -> Iterator[bytes]:
    """The directories above a path, the highest first."""
    at = path.find(b"/")
    while at >= 0:
        yield path[:at]
        at = path.find(b"/", at + 1)


def _name(annotations: Mapping[str, str]) -> str:
    return next((annotations[key] for key in NAMES if annotations.get(key)), "")


def _path(name: str, blob: Descriptor, what: str) -> bytes:
    """The path that a name stands for. Raises Invalid for one that no file below a directory can have, or that a layer
    would take for something else than a file's."""
    parts = [part for part in name.split("/") if part != "."]
    whole = "/".join(parts)
    why = ""
    if not name.isprintable():
        why = "has characters that cannot be shown"
    elif name.startswith("/"):
        why = "is absolute"
    elif "" in parts or not parts:
        why = "names no file"
    elif ".." in parts:
        why = "leads up with '..'"
    elif any(part.startswith(WHITEOUT.decode()) for part in parts):
        why = "is how a layer says that a file is deleted"
    elif len(whole.encode()) > PATH_LIMIT or any(len(part.encode()) > NAME_LIMIT for part in parts):
        why = "is longer than Linux allows"
    elif len(parts) > DEPTH_LIMIT:
        why = f"lies in more than {DEPTH_LIMIT} directories"
    if why:
        raise Invalid(f"{what}: blob {blob.digest} is called {name[:200]!r}, which {why}")
    return whole.encode()


# --- the archive's form: POSIX pax(1p) --------------------------------------------------------------------


def _header(path: bytes, size: int, *, directory: bool = False) -> bytes:
    """The header of a member, with a PAX header before it for what does not fit."""
    records = b""
    if len(path) > 100:
        records += _record(b"path", path)
    if size >= 1 << 33:  # eleven octal digits
        records += _record(b"size", b"%d" % size)
    kind, mode = (b"5", 0o755) if directory else (b"0", 0o444)
    plain = _block(path[:100], 0 if size >= 1 << 33 else size, kind, mode)
    if not records:
        return plain
    return _block(b"PaxHeader", len(records), b"x", 0o644) + records + bytes(-len(records) % _BLOCK) + plain


def _block(name: bytes, size: int, kind: bytes, mode: int) -> bytes:
    before = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, 0, 0, size, 0)
    after = kind + bytes(100) + b"ustar\x0000" + bytes(247)
    return b"%b%06o\0 %b" % (before, sum(before) + 8 * 32 + sum(after), after)


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH key=value\\n`, where LENGTH counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)
