"""The kernel log's line about a kill for want of memory. Pure: `host.cgroup.oom` reads the log.

One record of /dev/kmsg is `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT` (Documentation/ABI/testing/dev-kmsg), and
the text is made by dump_oom_victim in mm/oom_kill.c (Linux 5.0 and later). Anybody with access to /dev/kmsg can write
there, but not as the facility of the kernel.
"""

import re
from dataclasses import dataclass

from sampan.wire.proc import printable

_KILL = re.compile(
    r"oom-kill:constraint=(?P<constraint>[A-Z_]+),.*?,(?:oom_memcg=(?P<limited>.*?)|global_oom),"
    r"task_memcg=(?P<group>.*?),task=(?P<name>.*),pid=(?P<pid>[0-9]{1,10}),uid=[0-9]+"
)


@dataclass(frozen=True, slots=True)
class Killed:
    """One kill. `group` is the victim's; `limited` the one whose limit was reached, "" where
    the machine had no memory left. Both paths are from the root of the hierarchy."""

    group: str
    limited: str
    name: str
    pid: int


def parse(record: bytes) -> Killed | None:
    """The kill that a record tells of; None if it is of something else, or was not written by the kernel."""
    head, separator, text = record.partition(b";")
    fields = head.split(b",")
    if not separator or len(fields) < 3 or not (fields[0].isdigit() and fields[2].isdigit()):
        return None
    if int(fields[0]) >> 3:  # the facility; 0 is the kernel's
        return None
    line = text.partition(b"\n")[0].decode("ascii", "replace")
    found = _KILL.fullmatch(line)
    if found is None:
        return None
    return Killed(
        group=found["group"],
        limited=found["limited"] or "",
        name=printable(found["name"]),
        pid=int(found["pid"]),
    )


def within(path: str, below: str) -> str | None:
    """What stands before `/below` in `path` ("" if nothing): how much deeper the kernel's root is than ours. None if
    `path` is neither that group nor one in it."""
    mark = f"/{below.strip('/')}/"
    position = f"{path}/".find(mark)
    return None if position < 0 else path[:position]
