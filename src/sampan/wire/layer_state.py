"""What a layer must look like on disk once it is unpacked, worked out from its recipe (`wire.tar_recipe`): every path,
what is there, and where the content of each entry can be found. Pure; it mirrors `host.unpack.write`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sampan.wire import layer, tar
from sampan.wire.recipe_notes import Lifted, Note, lifted
from sampan.wire.tar_recipe import CLEARED, HIDES, IRREGULAR, IS_OPAQUE, LIFTED, SOURCE, WENT

FOREIGN = b"?"  # the kind of what came up from a layer below


class Thing:
    """What must be at a path; hard links share one. `number` is that of its entry, -1 if it has none."""

    __slots__ = (
        "device",
        "gid",
        "inode",
        "kind",
        "lifted",
        "lifting",
        "link",
        "mode",
        "mtime",
        "names",
        "number",
        "optional",
        "size",
        "uid",
        "xattrs",
    )

    def __init__(self, number: int, kind: bytes, entry: tar.Entry | None = None) -> None:
        self.number = number
        self.kind = kind
        self.names = 0  # how many lead to it
        self.inode = 0  # for whoever looks at the disk
        self.optional = kind == FOREIGN  # it may be absent
        self.lifted: Lifted | None = None
        self.lifting = False  # the root may have extended attributes of another entry or layer
        self.mode, self.uid, self.gid, self.mtime, self.size = 0o755, 0, 0, 0, 0
        self.link, self.device = b"", (0, 0)
        self.xattrs: dict[bytes, bytes] = {}
        if entry is not None:
            self.describe(entry)

    def describe(self, entry: tar.Entry) -> None:
        """It is as the entry says."""
        self.mode, self.uid, self.gid, self.mtime = entry.mode, entry.uid, entry.gid, entry.mtime
        self.size, self.link, self.device = entry.size, entry.link, entry.device
        xattrs = dict(entry.xattrs)
        layer.allow_xattrs(xattrs, entry.name)
        self.xattrs = xattrs


@dataclass(slots=True)
class Notes:
    """A recipe's notes, by what they are about. `second`: the entry at which the merged part begins."""

    went: dict[int, bytes] = field(default_factory=dict)
    sources: dict[int, bytes] = field(default_factory=dict)
    cleared: dict[int, list[Note]] = field(default_factory=dict)
    hides: set[bytes] = field(default_factory=set)
    opaque: set[bytes] = field(default_factory=set)
    lifted: dict[bytes, Lifted] = field(default_factory=dict)
    irregular: str = ""
    second: int | None = None

    def add(self, note: Note) -> None:
        """Take one in."""
        if note.kind == WENT:
            self.went[note.number] = note.path
        elif note.kind == SOURCE:
            self.sources[note.number] = note.path
        elif note.kind == CLEARED:
            self.cleared.setdefault(note.number, []).append(note)
        elif note.kind == HIDES:
            self.hides.add(note.path)
        elif note.kind == IS_OPAQUE:
            self.opaque.add(note.path)
        elif note.kind == LIFTED:
            self.lifted[note.path] = lifted(note.text)
        elif note.kind == IRREGULAR:
            self.irregular = note.text.decode(errors="replace")

    def place(self, number: int, entry: tar.Entry) -> bytes:
        """Where an entry is, its path without symlinks."""
        return self.went.get(number) or b"/".join(filter(None, layer.place(entry.name)))


class State:
    """The outcome of all entries: things by path; whiteouts; opaque directories. `gone` says where in the recipe the
    content of an entry is that is no longer on disk, `moved` at which path else it is."""

    def __init__(self, notes: Notes, *, base: bool) -> None:
        self._notes = notes
        self._base = base
        self.paths: dict[bytes, Thing] = {}
        self.whiteouts: set[bytes] = set()
        self.opaque: set[bytes] = set()
        self.gone: dict[int, int] = {}
        self.moved: dict[int, bytes] = {}

    def run(self, entries: Iterable[tuple[int, tar.Entry]]) -> "State":
        """Apply all entries, with their numbers."""
        for number, entry in entries:
            self._apply(number, entry)
        if self._notes.second is not None:
            self.whiteouts, self.opaque = set(self._notes.hides), self.opaque & {b""} | self._notes.opaque
            self._lift()
        for path, thing in self.paths.items():
            thing.names += 1
            if self.gone.pop(thing.number, None) is not None:
                self.moved[thing.number] = path
        return self

    def _apply(self, number: int, entry: tar.Entry) -> None:
        cleared = {note.path for note in self._clear(self._notes.cleared.get(number, ()))}
        path = self._notes.place(number, entry)
        _, leaf = layer.place(entry.name)
        merged = self._notes.second is not None and number >= self._notes.second
        if leaf.startswith(layer.WHITEOUT):
            if not merged and not self._base:
                self._hide(path.rpartition(b"/")[0], leaf)
        elif entry.kind == tar.DIRECTORY:
            self._directory(number, entry, path, merged=merged)
            if path in cleared and not merged and not self._base:
                self.opaque.add(path)
        elif leaf:
            self._parents(path, optional=merged)
            self.paths[path] = self._linked(number, entry) if entry.kind == tar.LINK else _made(number, entry)

    def _clear(self, notes: Sequence[Note]) -> Iterator[Note]:
        for note in notes:
            thing = self.paths.pop(note.path, None)
            self.whiteouts.discard(note.path)
            self.opaque.discard(note.path)
            if thing is not None and note.value >= 0:
                self.gone[thing.number] = note.value
            yield note

    def _directory(self, number: int, entry: tar.Entry, path: bytes, *, merged: bool) -> None:
        there = self.paths.get(path)
        if there is not None and there.kind == tar.DIRECTORY:
            there.number, there.optional, there.lifting = number, False, not path
            there.describe(entry)
            return
        self._parents(path, optional=merged)
        self.paths[path] = made = _made(number, entry)
        made.lifting = merged and not path

    def _linked(self, number: int, entry: tar.Entry) -> Thing:
        source = self._notes.sources.get(number) or b"/".join(filter(None, layer.place(entry.link)))
        return self.paths.get(source) or Thing(-1, FOREIGN)

    def _parents(self, path: bytes, *, optional: bool) -> None:
        """Directories that no entry names. In the merged part they may be a lower layer's, and gone again."""
        while path := path.rpartition(b"/")[0]:
            if path in self.paths:
                return
            self.paths[path] = thing = Thing(-1, tar.DIRECTORY)
            thing.optional = optional

    def _hide(self, parent: bytes, leaf: bytes) -> None:
        if parent and (parent not in self.paths or self.paths[parent].kind != tar.DIRECTORY):
            return  # the way to it leads nowhere
        if leaf == layer.OPAQUE:
            self.opaque.add(parent)
        elif hidden := layer.whiteout(leaf):
            path = b"/".join(filter(None, (parent, hidden)))
            there = self.paths.get(path)
            if there is None:
                self.whiteouts.add(path)
            elif there.kind == tar.DIRECTORY:
                self.opaque.add(path)

    def _lift(self) -> None:
        """What came up from below is as it was noted in the end."""
        for path, found in self._notes.lifted.items():
            thing = self.paths.get(path)
            if thing is None or thing.number < 0:
                self.paths[path] = thing = Thing(-1, FOREIGN)
                thing.lifted, thing.optional = found, False


def _made(number: int, entry: tar.Entry) -> Thing:
    return Thing(number, entry.kind, entry)
