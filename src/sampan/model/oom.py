"""A process of a container that the kernel killed because memory ran out: where, whom, and how that is told.

"Where" is what tells a limit that is too low from a node that is too full. Sources:
Documentation/admin-guide/cgroup-v2.rst (memory.events), mm/oom_kill.c (the log line).
"""

from enum import Enum

import msgspec

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


class OomScope(Enum):
    """Whose memory was used up."""

    CONTAINER = "container"
    POD = "pod"
    GROUP = "group"  # a group above the pod's, such as that of all pods
    NODE = "node"
    UNKNOWN = "unknown"


class OomKill(msgspec.Struct, frozen=True, kw_only=True):
    """The last kill in a container, and how many there were (0: nobody counted).

    `limit` is in bytes, `group` the path of the group for scope GROUP; `victim` and `pid` (as the host numbers it)
    are known where the kernel's log can be read. `first_process`: the container's own is known to have been a victim.
    """

    count: int = 0
    scope: OomScope = OomScope.UNKNOWN
    limit: int | None = None
    group: str = ""
    victim: str = ""
    pid: int = 0
    first_process: bool = False


def told(kill: OomKill) -> str:
    """For people: which process was killed and why."""
    whom = f"process `{kill.victim}` (pid {kill.pid})" if kill.victim else "a process"
    several = f"; {kill.count} of its processes were killed so" if kill.count > 1 else ""
    return f"the kernel killed {whom}: {_why(kill)}{several}"


def _why(kill: OomKill) -> str:
    limit = f" of {size(kill.limit)}" if kill.limit is not None else ""
    match kill.scope:
        case OomScope.CONTAINER:
            return f"the container's memory limit{limit} was reached"
        case OomScope.POD:
            return f"the pod's memory limit{limit} was reached"
        case OomScope.GROUP:
            return f"the memory limit{limit} of the control group {kill.group} was reached"
        case OomScope.NODE:
            return "the node ran out of memory"
    return "memory ran out"


def size(count: int) -> str:
    """Bytes in the largest binary unit, exact where that takes no fraction: 64 MiB, 1.5 GiB."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.4g} {_UNITS[unit]}" if value < 1000 else f"{value:.0f} {_UNITS[unit]}"
