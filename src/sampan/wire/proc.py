"""Text of /proc/PID files → values. Source: proc_pid_stat(5)."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

_GONE = (b"Z", b"X")
_STOPPED = (b"T", b"t")


@dataclass(frozen=True, slots=True)
class Stat:
    """The part of /proc/PID/stat that tells who a process is and where it belongs; `start` in clock ticks
    since boot."""

    pid: int
    dead: bool  # a zombie, or on its way out
    stopped: bool  # by SIGSTOP or a tracer: it can neither run nor fork
    parent: int
    session: int
    start: int


def stat(text: bytes) -> Stat:
    """Parse a stat file. The second field is the program's name and may hold anything, parentheses too."""
    pid, _, rest = text.partition(b" (")
    fields = rest[rest.rindex(b")") + 2 :].split()
    return Stat(
        pid=int(pid),
        dead=fields[0] in _GONE,
        stopped=fields[0] in _STOPPED,
        parent=int(fields[1]),
        session=int(fields[3]),
        start=int(fields[19]),
    )


def state(text: bytes) -> str:
    """The letter that says what a process is doing; D is waiting where no signal reaches it."""
    return text[text.rindex(b")") + 2 :][:1].decode("ascii", "replace")


def printable(name: str) -> str:
    """A process names itself: nothing of it may look like our own words, in which it stands between ``."""
    return "".join(char if char.isprintable() and char != "`" else "?" for char in name)[:64]


def family(processes: Iterable[Stat], root: int, sessions: Collection[int] = ()) -> set[Stat]:
    """Everything alive that descends from `root`, itself included, or is in one of their sessions.

    Children that lost their parent are found by their session: it stays when the kernel gives them another
    parent. `sessions` are those already known to belong, from a look at a time when more of the family was
    alive.
    """
    living = [process for process in processes if not process.dead]
    found = {process for process in living if process.pid == root or process.session in sessions}
    known = set(sessions)
    while True:
        pids = {process.pid for process in found} | {root}
        # the session of `root` only if it is its own: else its starter is in it too
        known |= {p.session for p in found if p.pid != root or p.session == root}
        more = {p for p in living if p not in found and (p.parent in pids or p.session in known)}
        if not more:
            return found
        found |= more


def pids(text: bytes) -> list[int]:
    """The numbers in a cgroup.procs or a children file."""
    return [int(word) for word in re.findall(rb"[0-9]+", text)]


def soft_limit(limits: bytes, name: bytes) -> int | None:
    """The soft value of the line `name` of a limits file; None if it is unlimited, or not there. Source:
    proc_pid_limits(5): the name, some blanks, soft, hard, unit."""
    for line in limits.split(b"\n"):
        if line.startswith(name + b" "):
            values = line[len(name) :].split()
            return int(values[0]) if values and values[0].isdigit() else None
    return None
