"""Which process of a container the kernel killed for memory, and whose memory it was that ran out.

Three witnesses: the counter of the container's group says that there was a kill, the kernel's log names the victim and
the group that was full, and where the log is out of reach (or has moved on), the groups above say which of them was
full. systemd removes a scope together with its counters; then it is the log, or else conmon's note. Which kill ended
the container is not for this module, but `model.container.finished`. For code that runs in a thread. Sources:
Documentation/admin-guide/cgroup-v2.rst (memory.events), cgroup-v1/memory.rst.
"""

import errno
import os
from pathlib import Path

from sampan.host.cgroup.container_cgroup import ContainerCgroup
from sampan.host.oci.runtime_state import RuntimeState
from sampan.host.processes import read_small
from sampan.model.container import SIGKILLED
from sampan.model.oom import OomKill, OomScope
from sampan.wire import cgroupfs, conmon, oomlog

KERNEL_LOG = Path("/dev/kmsg")
_RECORD = 8192  # bytes; the kernel hands out one record a read, and none is longer
_PAGE = 64 << 10  # the largest there is: a group counts as full within one page of its limit


def killed(state: RuntimeState, init: int, code: int, log: Path = KERNEL_LOG) -> OomKill | None:
    """The last kill for memory in the container whose init had the pid `init` and ended with `code`; None if there was
    none. OSError when it cannot be told now."""
    cgroup = state.cgroup()
    count = cgroup.oom_kills()
    certain = bool(count) or (state.bundle / conmon.OOM).exists()
    if not certain and (code != SIGKILLED or cgroup):
        return None
    kills = _logged(cgroup.root, log) if cgroup.root else []
    if not kills:
        return _deduced(cgroup, count) if certain else None
    last = kills[-1]
    scope, group = _scope(last, cgroup.root)
    return OomKill(
        count=max(count, len(kills)),
        scope=scope,
        limit=cgroup.memory_limit(group) if group else None,
        group=group,
        victim=last.name,
        pid=last.pid,
        first_process=any(kill.pid == init for kill in kills),
    )


def _logged(root: str, log: Path) -> list[oomlog.Killed]:
    """The kills in the group `root` that the kernel's log remembers (it is a ring; 2,000 records take 3 ms)."""
    try:
        file = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # no such device, or not for us
        return []
    found = []
    try:
        while record := _record(file):
            for line in record.split(b"\n") if b"oom-kill:" in record else ():
                kill = oomlog.parse(line)
                if kill is not None and oomlog.within(kill.group, root) is not None:
                    found.append(kill)
    finally:
        os.close(file)
    return found


def _record(file: int) -> bytes:
    """The next record; b"" at the end."""
    while True:
        try:
            return os.read(file, _RECORD)
        except BlockingIOError:
            return b""
        except OSError as error:
            if error.errno != errno.EPIPE:  # overwritten before we came to it; the next read goes on behind
                return b""


def _scope(kill: oomlog.Killed, root: str) -> tuple[OomScope, str]:
    """Whose memory ran out, and the path of that group in our hierarchies."""
    if not kill.limited:
        return OomScope.NODE, ""
    above = oomlog.within(kill.group, root) or ""
    group = kill.limited.removeprefix(above).strip("/")
    if oomlog.within(f"/{group}", root) is not None:
        return OomScope.CONTAINER, group
    return _above(root, group)


def _above(root: str, group: str) -> tuple[OomScope, str]:
    return (OomScope.POD if group == root.rpartition("/")[0] else OomScope.GROUP), group


def _deduced(cgroup: ContainerCgroup, count: int) -> OomKill:
    """Without the log: the innermost group that has been full."""
    if not cgroup:  # systemd was quicker
        return OomKill(count=count)
    group = cgroup.below
    while group:
        if _was_full(cgroup, group):
            inside = oomlog.within(f"/{group}", cgroup.root) is not None
            scope, group = (OomScope.CONTAINER, group) if inside else _above(cgroup.root, group)
            return OomKill(count=count, scope=scope, limit=cgroup.memory_limit(group), group=group)
        group = group.rpartition("/")[0]
    return OomKill(count=count, scope=OomScope.NODE)


def _was_full(cgroup: ContainerCgroup, group: str) -> bool:
    """v2 counts in each group how often its own limit left no way out; v1 has the high-water mark alone."""
    try:
        if not cgroup.memory_v1:
            return bool(
                cgroupfs.table(read_small(cgroup.memory_file(group, "memory.events.local"))).get(b"oom")
            )
        limit = cgroup.memory_limit(group)
        highest = cgroupfs.number(read_small(cgroup.memory_file(group, "memory.max_usage_in_bytes")))
    except FileNotFoundError:
        return False
    return limit is not None and highest is not None and highest + _PAGE >= limit
