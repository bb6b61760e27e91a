"""The text of /proc/PID/mountinfo → values. Source: proc_pid_mountinfo(5), kernel
Documentation/filesystems/proc.rst.

Pure: who reads the file, and what is unmounted, is `host.mounts`' business.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

# The kernel writes space, tab, newline, backslash and '#' of a name as three octal digits.
_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")
_ESCAPED = re.compile(rb"[ \t\n\\#]")
RESTRICTIONS = ("nodev", "noexec", "nosuid")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line. `root` is the directory of the file system that shows at `point`; `options` are the mount's
    own, `super_options` the file system's. `shared` and `master` are peer group numbers, 0 for none."""

    id: int
    parent: int
    device: str
    root: str
    point: str
    options: frozenset[str]
    shared: int
    master: int
    unbindable: bool
    fstype: str
    source: str
    super_options: frozenset[str]

    @property
    def propagation(self) -> str:
        """shared, slave or private. One that is both slave and shared propagates onwards, so it is shared."""
        if self.shared:
            return "shared"
        return "slave" if self.master else "private"

    @property
    def restrictions(self) -> tuple[str, ...]:
        """Those of nodev, noexec and nosuid that hold on this mount."""
        return tuple(name for name in RESTRICTIONS if name in self.options)


def parse(text: bytes) -> list[Mount]:
    """Every mount, in the order of the file. A line that is not one (there is none such) is left out."""
    return [mount for mount in map(_line, text.split(b"\n")) if mount is not None]


def find(text: bytes, mount_id: int) -> Mount | None:
    """The mount with this id, without parsing all the others: the file has thousands of lines on a busy
    node."""
    found = re.search(rb"^%d [^\n]*" % mount_id, text, re.MULTILINE)
    return _line(found[0]) if found else None


def covers(text: bytes, mount_id: int, path: str) -> bool:
    """Whether something is mounted beneath `path`, which has no links in it and lies on the mount with this id: what
    hangs on another mount cannot be seen there, whatever its name."""
    stem = path.rstrip("/") + "/"
    if b" " + _ESCAPED.split(os.fsencode(stem))[0] not in text:  # as good as always, and soon known
        return False
    lines = re.finditer(rb"^\d+ %d [^ \n]+ [^ \n]+ ([^ \n]+)" % mount_id, text, re.MULTILINE)
    return any(name.startswith(stem) and name != path for name in (_name(line[1]) for line in lines))


def beneath(mounts: Iterable[Mount], path: str) -> list[Mount]:
    """The mounts at `path` and below it, the deepest first: the order in which they can be unmounted."""
    stem = path.rstrip("/") + "/"
    inside = [mount for mount in mounts if mount.point == path or mount.point.startswith(stem)]
    return sorted(inside, key=lambda mount: mount.point.count("/"), reverse=True)


def under(mounts: Iterable[Mount], path: str) -> Mount | None:
    """The mount that `path`, which has no links in it, lies on: from the root on, as the kernel looks it up. One that
    was mounted over, or whose parent was, does not count, however long its name."""
    inside: dict[int, list[Mount]] = {}
    for mount in mounts:
        if mount.point in ("/", path) or path.startswith(mount.point + "/"):
            inside.setdefault(mount.parent if mount.parent != mount.id else -1, []).append(mount)
    known = {mount.id for found in inside.values() for mount in found}
    found = next((one for parent, few in inside.items() if parent not in known for one in few), None)
    while found is not None and (over := inside.pop(found.id, None)):
        found = min(over, key=lambda one: len(one.point))
    return found


def _line(line: bytes) -> Mount | None:
    """`36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`; the tags before `-`
    vary."""
    fields = line.split(b" ")
    if len(fields) < 9 or b"-" not in fields[6:]:
        return None
    dash = fields.index(b"-", 6)
    if len(fields) < dash + 3 or not fields[0].isdigit() or not fields[1].isdigit():
        return None
    tags = dict(tag.partition(b":")[::2] for tag in fields[6:dash])
    return Mount(
        id=int(fields[0]),
        parent=int(fields[1]),
        device=fields[2].decode("ascii", "replace"),
        root=_name(fields[3]),
        point=_name(fields[4]),
        options=_options(fields[5]),
        shared=int(tags.get(b"shared", 0)),
        master=int(tags.get(b"master", 0)),
        unbindable=b"unbindable" in tags,
        fstype=_name(fields[dash + 1]),
        source=_name(fields[dash + 2]),
        super_options=_options(fields[dash + 3]) if len(fields) > dash + 3 else frozenset(),
    )


def _name(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), field))


def _options(field: bytes) -> frozenset[str]:
    return frozenset(_name(field).split(","))
