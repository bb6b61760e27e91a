"""The identity of a process, which is never its number alone."""

import msgspec


class ProcessRef(msgspec.Struct, frozen=True):
    """A process id and its start time in clock ticks since boot (proc(5), /proc/PID/stat field 22).

    Pid numbers are used again, also across a restart of the daemon; the pair is not.
    """

    pid: int
    start: int
