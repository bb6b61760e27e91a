"""What a daemon holds, sampled between rounds of work, and whether it grows with them.

The measure is the slope of a least-squares line through the samples, in things an operation. A round of work leaves
nothing: with a leak of one in a hundred operations the slope is 0.01, the criterion is a quarter of that. Memory has no
such measure of its own, since allocators keep what they have; Python's own blocks do, and the resident set may grow by
a figure that says so.
"""

import json
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.private_daemon import Daemon, processes_of

CRITERION = 0.0025  # things an operation
BLOCKS = 0.25  # of Python's memory: caches fill, a leaked object with a few attributes is several
RESIDENT = 256  # bytes an operation
COUNTS = ("descriptors", "threads", "processes", "files", "tasks", "cgroups")
SETTLE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Sample:
    """`count` by name; `resident` in bytes."""

    count: dict[str, int]
    resident: int
    names: dict[str, Any] = field(default_factory=dict)  # for who looks for the culprit


def sample(daemon: Daemon) -> Sample:
    """Everything as it is now. The daemon has to be `tests.watched`."""
    inside = ask(daemon)
    proc = Path(f"/proc/{daemon.pid}")
    count = {
        "descriptors": len(list((proc / "fd").iterdir())),
        "threads": len(threads(daemon.pid)) - inside["pools"],
        "processes": len({*processes_of(daemon.directory), *children(daemon.pid)}),
        "files": sum(len(names) + len(below) for _, below, names in os.walk(daemon.state)),
        "tasks": inside["tasks"],
        "cgroups": inside["cgroups"],
        "blocks": inside["blocks"],
    }
    names = {**inside["task_names"], "threads": threads(daemon.pid), "descriptors": descriptors(daemon.pid)}
    return Sample(count, memory(daemon.pid, "VmRSS"), names)


def descriptors(pid: int) -> list[str]:
    """What is open."""
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found.append(str(each.readlink()))
    return sorted(found)


def threads(pid: int) -> list[str]:
    """All but those of grpc's own pool, which come and go with its load."""
    names = [(task / "comm").read_text().strip() for task in Path(f"/proc/{pid}/task").iterdir()]
    return [name for name in names if not name.startswith("event_engine")]


def ask(daemon: Daemon) -> dict[str, Any]:
    place = daemon.directory / "counts.json"
    place.unlink(missing_ok=True)
    os.kill(daemon.pid, signal.SIGUSR1)
    deadline = time.monotonic() + 30
    while not place.exists():
        assert time.monotonic() < deadline, "the daemon does not say what it holds"
        time.sleep(0.005)
    counts: dict[str, Any] = json.loads(place.read_text())
    return counts


def settled(daemon: Daemon, at_most: Sample | None = None, descriptors: int = 0) -> Sample:
    """A sample when nothing comes or goes any more; with `at_most`, as soon as there is no more than then, but
    for so many descriptors."""
    deadline = time.monotonic() + SETTLE_SECONDS
    before = sample(daemon)
    while True:
        time.sleep(0.1)
        now = sample(daemon)
        quiet = all(now.count[name] == before.count[name] for name in COUNTS)
        low = at_most is None or all(
            now.count[name] <= at_most.count[name] + (descriptors if name == "descriptors" else 0)
            for name in COUNTS
        )
        if (quiet and low) or time.monotonic() > deadline:
            return now
        before = now


def memory(pid: int, name: str) -> int:
    """VmRSS or VmHWM in bytes (proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) << 10


def forget_highest(pid: int) -> None:
    """VmHWM begins anew (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def children(pid: int) -> Iterable[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


def slope(points: list[tuple[float, float]]) -> float:
    """Of the least-squares line."""
    middle = sum(x for x, _ in points) / len(points)
    return sum((x - middle) * y for x, y in points) / sum((x - middle) ** 2 for x, _ in points)


@dataclass
class Growth:
    """Samples after so many operations."""

    points: list[tuple[int, Sample]] = field(default_factory=list)

    def add(self, operations: int, sample: Sample) -> None:
        self.points.append((operations, sample))

    def slopes(self) -> dict[str, float]:
        """Things, blocks and resident bytes an operation."""
        names = self.points[0][1].count
        found = {name: slope([(n, each.count[name]) for n, each in self.points]) for name in names}
        found["resident"] = slope([(n, each.resident) for n, each in self.points])
        return found

    def leaks(self, resident: int = RESIDENT) -> dict[str, float]:
        """Those slopes that are beyond the criterion."""
        most = {"blocks": BLOCKS, "resident": resident}
        return {name: value for name, value in self.slopes().items() if value > most.get(name, CRITERION)}

    def counted(self) -> dict[str, float]:
        """The same of all but memory, which needs some thousand operations to tell a leak from a cache that fills."""
        return {name: value for name, value in self.leaks().items() if name in COUNTS}

    def words(self) -> str:
        first, last = self.points[0], self.points[-1]
        lines = [f"{len(self.points)} samples from operation {first[0]} to {last[0]}"]
        slopes = self.slopes()
        for name, value in slopes.items():
            ends = (
                (first[1].resident >> 10, last[1].resident >> 10)
                if name == "resident"
                else (first[1].count[name], last[1].count[name])
            )
            unit = " KiB" if name == "resident" else ""
            lines.append(f"  {name}: {ends[0]}{unit} -> {ends[1]}{unit}, slope {value:+.5f} an operation")
        for name in ("resident", "blocks"):
            values = [
                each.resident >> 10 if name == "resident" else each.count[name] for _, each in self.points
            ]
            lines.append(f"  {name}, each: {values}")
        return "\n".join(lines)
