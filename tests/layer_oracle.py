"""What a stack of image layers must look like, by the plainest means: entries applied one after the other to
a tree in memory.

An independent second opinion on the unpacker, which never sees the layers in one piece. Semantics: OCI
image-spec layer.md; where that is silent, what the comments say.
"""

import copy
import os
import random
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.images import Entry

NAMES = ("a", "b", "c")


class RefusedError(Exception):
    """The stack cannot be applied; the runtime must say Invalid."""


@dataclass(eq=False)
class Node:
    """A file, directory, symlink or FIFO."""

    kind: str
    mode: int = 0o755
    uid: int = 0
    mtime: int = 0
    data: bytes = b""
    children: "dict[str, Child]" = field(default_factory=dict)


@dataclass
class Child:
    """A name in a directory, and the layer that put it there."""

    node: Node
    layer: int


class Tree:
    """The merged view after the layers applied so far."""

    def __init__(self) -> None:
        self.root = Node("dir")

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
        found = parent.children.get(leaf)
        if entry.kind == "dir" and found and found.node.kind == "dir":
            node = found.node
        else:
            node = Node(entry.kind, data=entry.link.encode() if entry.kind == "symlink" else entry.data)
        dress(node, entry)
        parent.children[leaf] = Child(node, layer)

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
        if old and old.node is child.node:
            return
        if old and old.node.kind == "dir" and holds(old.node, child.node):
            raise RefusedError("a hard link that replaces what it links to")
        directory.children[leaf] = Child(child.node, layer)

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

    def listing(self) -> dict[str, tuple[object, ...]]:
        found: dict[str, tuple[object, ...]] = {}
        todo = [("", self.root)]
        while todo:
            path, node = todo.pop()
            found[path] = (node.kind, node.mode, node.uid, node.mtime, node.data)
            todo += [(f"{path}/{name}", child.node) for name, child in node.children.items()]
        return found


def check_directory(node: Node, make: int | None) -> None:
    if node.kind != "dir":
        raise NotADirectoryError if make is None else RefusedError("a file where a directory is needed")


def dress(node: Node, entry: Entry) -> None:
    node.mode = 0o777 if entry.kind == "symlink" else entry.mode or 0
    node.uid, node.mtime = entry.uid, entry.mtime


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


def listing(root: Path) -> dict[str, tuple[object, ...]]:
    """The same of a real directory."""
    found: dict[str, tuple[object, ...]] = {}
    todo = [("", root)]
    while todo:
        path, place = todo.pop()
        status = place.lstat()
        kind, data = "file", b""
        if stat.S_ISDIR(status.st_mode):
            kind = "dir"
            todo += [(f"{path}/{inner.name}", inner) for inner in place.iterdir()]
        elif stat.S_ISLNK(status.st_mode):
            kind = "symlink"
            data = os.readlink(place).encode()  # noqa: PTH115 - pathlib tidies the target
        elif stat.S_ISFIFO(status.st_mode):
            kind = "fifo"
        else:
            data = place.read_bytes()
        found[path] = (kind, stat.S_IMODE(status.st_mode), status.st_uid, int(status.st_mtime), data)
    return found


def random_stack(seed: int) -> list[list[Entry]]:
    """A few layers of a few entries over a few names, so that they get in each other's way. Most can be
    applied.
    """
    dice = random.Random(seed)
    tree = Tree()
    stack: list[list[Entry]] = []
    for number in range(dice.randint(1, 4)):
        layer: list[Entry] = []
        for entry in random_layer(dice, base=not number):
            after = copy.deepcopy(tree)
            try:
                after.apply(number, [entry])
            except RefusedError:
                if dice.random() < 0.98:
                    continue
            tree = after
            layer.append(entry)
        stack.append(layer)
    return stack


def random_layer(dice: random.Random, *, base: bool) -> list[Entry]:
    entries = [random_entry(dice) for _ in range(dice.randint(3, 10))]
    if base or dice.random() < 0.4:  # as real builders do: every directory has its entry
        parents = {"/".join(clean(entry.path)[:depth]) for entry in entries for depth in range(1, 3)}
        explicit = [directory(dice, path) for path in sorted(parents) if path and ".wh." not in path]
        entries = explicit + entries
    return entries


def random_path(dice: random.Random) -> str:
    path = "/".join(dice.choices(NAMES, k=dice.choice((1, 1, 2, 2, 3))))
    return dice.choice(("", "", "", "", "./", "/", "../", "c/../")) + path


def directory(dice: random.Random, path: str) -> Entry:
    return Entry(
        path,
        "dir",
        mode=dice.choice((0o755, 0o700, 0o1777)),
        uid=dice.choice((0, 7)),
        mtime=dice.randint(1, 99),
    )


def random_entry(dice: random.Random) -> Entry:
    path = random_path(dice)
    kind = dice.choice(
        ("file", "file", "dir", "dir", "symlink", "symlink", "hardlink", "white", "white", "opaque", "fifo")
    )
    mtime, uid = dice.randint(1, 99), dice.choice((0, 0, 5))
    match kind:
        case "dir":
            return directory(dice, path)
        case "symlink":
            return Entry(
                path,
                "symlink",
                link=dice.choice(("", "", "/", "../", "../../")) + random_path(dice),
                mtime=mtime,
            )
        case "hardlink":
            return Entry(path, "hardlink", link=random_path(dice))
        case "white" | "opaque":
            head, slash, leaf = path.rpartition("/")
            return Entry(f"{head}{slash}.wh.{leaf if kind == 'white' else '.wh..opq'}")
        case "fifo":
            return Entry(path, "fifo", mode=0o640, uid=uid, mtime=mtime)
    return Entry(
        path,
        data=dice.randbytes(dice.choice((0, 3, 700))),
        mode=dice.choice((0o644, 0o4755)),
        uid=uid,
        mtime=mtime,
    )
