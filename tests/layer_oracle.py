"""What a stack of image layers must look like, by the plainest means: entries applied one after the other to
a tree in memory.

An independent second opinion on the unpacker, which never sees the layers in one piece. Semantics: OCI
image-spec layer.md; where that is silent, what the comments say.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from tests.images import Entry

XATTR = "SCHILY.xattr."
KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
}


class RefusedError(Exception):
    """The stack cannot be applied; the runtime must say Invalid."""


@dataclass(eq=False)
class Node:
    """A file, directory, symlink, device or FIFO. `mtime` is in ns; a symlink's `data` is its target."""

    kind: str
    mode: int = 0o755
    owner: tuple[int, int] = (0, 0)
    mtime: int = 0
    data: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict)
    children: "dict[str, Child]" = field(default_factory=dict)


@dataclass
class Child:
    """A name in a directory, the layer that put it there, and which of the files on disk it names.

    `file` is (layer, number): linking to a file of a lower layer makes a copy in the upper one, and the other
    names of the lower file stay with it (overlayfs with index=off).
    """

    node: Node
    layer: int
    file: tuple[int, int] = (-1, -1)


class Tree:
    """The merged view after the layers applied so far."""

    def __init__(self) -> None:
        self.root = Node("dir")
        self._files = 0

    def apply(self, layer: int, entries: Sequence[Entry]) -> None:
        for entry in entries:
            parts = clean(entry.path)
            if not parts:
                if entry.kind == "dir":
                    dress(self.root, entry)
                continue
            *parent, leaf = parts
            if leaf.startswith(".wh."):
                self._whiteout(layer, parent, leaf)
            elif entry.kind == "hardlink":
                self._link(layer, parent, leaf, entry)
            else:
                self._make(layer, self.directory(parent, layer), leaf, entry)

    def _make(self, layer: int, parent: Node, leaf: str, entry: Entry) -> None:
        if entry.kind == "char" and entry.device == (0, 0):
            raise RefusedError("overlayfs's own whiteout")
        found = parent.children.get(leaf)
        if entry.kind == "dir" and found and found.node.kind == "dir":
            node = found.node
        else:
            node = Node(entry.kind, data=entry.link.encode() if entry.kind == "symlink" else entry.data)
        dress(node, entry)
        parent.children[leaf] = Child(node, layer, self._file(layer))

    def _file(self, layer: int) -> tuple[int, int]:
        self._files += 1
        return layer, self._files

    def _link(self, layer: int, parent: Sequence[str], leaf: str, entry: Entry) -> None:
        target = clean(entry.link)
        if not target:
            raise RefusedError("a hard link to the root")
        directory = self.directory(parent, layer)
        source = self.existing(target[:-1])
        child = source.children.get(target[-1]) if source else None
        if child is None or child.node.kind == "dir":
            raise RefusedError("a hard link to a directory or to nothing")
        old = directory.children.get(leaf)
        if old and old.file == child.file:
            return
        if old and old.node.kind == "dir" and holds(old.node, child.node):
            raise RefusedError("a hard link that replaces what it links to")
        if child.file[0] != layer:
            child.file = self._file(layer)
        directory.children[leaf] = Child(child.node, layer, child.file)

    def _whiteout(self, layer: int, parent: Sequence[str], leaf: str) -> None:
        directory = self.existing(parent)
        if directory is None:
            return
        if leaf == ".wh..wh..opq":
            for name in list(directory.children):
                hide(directory, name, layer)
        elif not leaf.startswith(".wh..wh."):
            hide(directory, leaf[4:], layer)

    def existing(self, parts: Sequence[str]) -> Node | None:
        """The directory a path leads to, if it is there and is one."""
        try:
            return self.directory(parts, None)
        except (FileNotFoundError, NotADirectoryError, RefusedError):
            return None

    def directory(self, parts: Sequence[str], make: int | None) -> Node:
        """Resolve in the root as a chroot would; missing directories are made, 0755, time 0, by layer
        `make`.
        """
        todo, way, links = list(reversed(parts)), [self.root], 0
        missing: list[str] = []  # what of the way is not there; ".." takes it back
        while todo:
            part = todo.pop()
            if part == "..":
                if missing:
                    missing.pop()
                else:
                    del way[max(1, len(way) - 1) :]
            elif part in ("", "."):
                continue
            elif missing or part not in way[-1].children:
                missing.append(part)
            elif (node := way[-1].children[part].node).kind == "symlink":
                links += 1
                if links > 40:
                    raise RefusedError("too many symlinks")
                target = node.data.decode()
                if target.startswith("/"):
                    del way[1:]
                todo += reversed(target.split("/"))
            else:
                way.append(node)
                check_directory(node, make)
        return self._made(way[-1], missing, make)

    def _made(self, directory: Node, missing: Sequence[str], make: int | None) -> Node:
        if missing and make is None:
            raise FileNotFoundError
        for name in missing:
            directory.children[name] = Child(Node("dir"), make or 0)
            directory = directory.children[name].node
        return directory

    def listing(self) -> "Listing":
        found = Listing()
        todo = [("", Child(self.root, 0))]
        while todo:
            path, child = todo.pop()
            node = child.node
            found.add(path, child.file if node.kind != "dir" else None, as_seen(node))
            todo += [(f"{path}/{name}", inner) for name, inner in node.children.items()]
        return found


@dataclass
class Listing:
    """A tree as it looks: what is at each path, and which paths name one file."""

    nodes: dict[str, tuple[object, ...]] = field(default_factory=dict)
    names: dict[object, set[str]] = field(default_factory=dict)

    def add(self, path: str, file: object, node: tuple[object, ...]) -> None:
        self.nodes[path] = node
        if file is not None:
            self.names.setdefault(file, set()).add(path)

    def differences(self, other: "Listing") -> list[str]:
        """What differs, a line each; `other` is how it should be."""
        paths = sorted(self.nodes.keys() | other.nodes.keys())
        pairs = [(path, self.nodes.get(path), other.nodes.get(path)) for path in paths]
        lines = [f"{path or '/'}: {is_}, should be {should}" for path, is_, should in pairs if is_ != should]
        linked, should_be = (
            sorted(sorted(names) for names in each.names.values() if len(names) > 1) for each in (self, other)
        )
        return lines if linked == should_be else [*lines, f"one file: {linked}, should be {should_be}"]


def as_seen(node: Node) -> tuple[object, ...]:
    return node.kind, oct(node.mode), node.owner, node.mtime, node.data, node.device, node.xattrs


def check_directory(node: Node, make: int | None) -> None:
    if node.kind != "dir":
        raise NotADirectoryError if make is None else RefusedError("a file where a directory is needed")


def dress(node: Node, entry: Entry) -> None:
    """An entry says everything about what it names, also of a directory that was there."""
    node.mode = 0o777 if entry.kind == "symlink" else entry.mode or 0
    node.owner, node.mtime = (entry.uid, entry.gid), entry.mtime * 1_000_000_000
    if "mtime" in entry.pax:
        node.mtime = int(Decimal(entry.pax["mtime"]) * 1_000_000_000)
    if entry.kind in ("char", "block"):
        node.device = entry.device
    if entry.kind in ("file", "dir"):  # of the others only some kinds could be set, and nobody does
        node.xattrs = {
            key.removeprefix(XATTR): value.encode()
            for key, value in entry.pax.items()
            if key.startswith(XATTR)
        }


def holds(directory: Node, node: Node) -> bool:
    return any(
        child.node is node or (child.node.kind == "dir" and holds(child.node, node))
        for child in directory.children.values()
    )


def hide(directory: Node, name: str, layer: int) -> bool:
    """Remove what lower layers put there; what this layer brought stays, and the directories that lead to
    it.
    """
    child = directory.children.get(name)
    if child is None:
        return False
    if child.node.kind == "dir":
        for inner in list(child.node.children):
            hide(child.node, inner, layer)
        keep = child.layer == layer or bool(child.node.children)
    else:
        keep = child.layer == layer
    if not keep:
        del directory.children[name]
    return keep


def clean(path: str) -> list[str]:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return parts


def listing(root: Path) -> Listing:
    """The same of a real directory."""
    found = Listing()
    todo = [("", root)]
    while todo:
        path, place = todo.pop()
        status = place.lstat()
        kind = KINDS[stat.S_IFMT(status.st_mode)]
        node = Node(kind, stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid), status.st_mtime_ns)
        if kind == "dir":
            todo += [(f"{path}/{name}", place / name) for name in os.listdir(place)]  # noqa: PTH208 - faster
        elif kind == "symlink":
            node.data = os.readlink(place).encode()  # noqa: PTH115 - pathlib tidies the target
        elif kind == "file":
            node.data = place.read_bytes()
        elif kind != "fifo":
            node.device = os.major(status.st_rdev), os.minor(status.st_rdev)
        if kind in ("file", "dir"):
            node.xattrs = {key: os.getxattr(place, key) for key in os.listxattr(place)}
        found.add(path, None if kind == "dir" else (status.st_dev, status.st_ino), as_seen(node))
    return found
