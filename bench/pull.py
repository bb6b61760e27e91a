"""What a pull costs: time, the machine's CPU, where both go, and what eight clients at once cost.

The times come from the daemon's own log, which says them at `debug`; the bytes that were fetched from the loopback
device, over which the registry sends them.
"""

import re
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.work import Bench, busy, spent, timed
from sampan.api import cri_pb2 as pb

CLIENTS = 8
REST_SECONDS = 3  # after a removal: its files go in the background, and must not count for the next pull
_LAPS = re.compile(r"pulled \S+, (\d+) MiB, in ([0-9.]+) s \((.*)\)")
_CPU = re.compile(r"CPU ms: (.*)")
_PART = re.compile(r"([a-z -]+?) ([0-9.]+)(?: s)?(?:, |$)")


@dataclass(frozen=True, slots=True)
class Processes:
    """Whose CPU time is told apart; the rest of the machine's is the kernel's own, and everybody else's."""

    daemon: int
    registry: int


def large_pulls(bench: Bench, image: str, times: int) -> None:
    """Pull and unpack, each time from nothing."""
    for _ in range(times):
        before, received = busy(), loopback_bytes()
        _, took = timed(lambda: bench.pull(image))
        bench.measures.add("pull_large", took / 1000)
        bench.measures.add("pull_large_bytes", loopback_bytes() - received)
        bench.measures.add("pull_large_cpu", busy() - before)
        remove(bench, image)


def shared_pull(bench: Bench, image: str) -> None:
    """The same image pulled by several clients at once, after `large_pulls`; how often it was fetched for them."""
    before, received = busy(), loopback_bytes()
    with ThreadPoolExecutor(CLIENTS) as clients:
        _, took = timed(lambda: set(clients.map(lambda _: bench.pull(image), range(CLIENTS))))
    bench.measures.add("pull_shared", took / 1000)
    bench.measures.add("pull_shared_cpu", busy() - before)
    bench.measures.add(
        "pull_shared_downloads", (loopback_bytes() - received) / bench.measures.p50("pull_large_bytes")
    )
    remove(bench, image)


def remove(bench: Bench, image: str) -> None:
    bench.images.RemoveImage(pb.RemoveImageRequest(image=pb.ImageSpec(image=image)))
    time.sleep(REST_SECONDS)


def loopback_bytes() -> int:
    """Bytes that the loopback device has received so far."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if "lo:" in line)
    return int(line.split()[1])


def where(bench: Bench, image: str, times: int, log: Path, processes: Processes) -> Iterator[str]:
    """A table of where the time of a pull goes, and its CPU time: medians of `times` pulls."""
    machine, daemon, registry = [], [], []
    for _ in range(times + 1):  # the first also loads what only pulls need
        before = busy(), spent([processes.daemon]), spent([processes.registry])
        bench.pull(image)
        machine.append(busy() - before[0])
        daemon.append(spent([processes.daemon]) - before[1])
        registry.append(spent([processes.registry]) - before[2])
        remove(bench, image)
    text = log.read_text()
    laps = [match for match in _LAPS.finditer(text) if match]
    yield f"where the time of a pull goes ({laps[-1][1]} MiB unpacked; medians of {times}, the first left out)"
    yield from _medians("", [match[3] for match in laps[1:]], 1000, "ms")
    layers = len(_CPU.findall(text)) // (times + 1)
    children = [_CPU.findall(text)[n * layers : (n + 1) * layers] for n in range(1, times + 1)]
    yield "CPU of that"
    yield from _medians("unpacking: ", [_sum(lines) for lines in children], 1, "ms")
    own = [a - b / 1000 for a, b in zip(daemon[1:], map(_total, children), strict=True)]
    for name, values in (
        ("daemon and the children's exits", own),
        ("registry", registry[1:]),
        ("whole machine", machine[1:]),
    ):
        yield f"  {name:34} {statistics.median(values) * 1000:>8.0f} ms"


def _medians(prefix: str, lines: Sequence[str], scale: float, unit: str) -> Iterator[str]:
    found = [{name: float(value) for name, value in _PART.findall(line)} for line in lines]
    for name in found[0]:
        value = statistics.median(each[name] for each in found) * scale
        yield f"  {prefix + name:34} {value:>8.0f} {unit}"


def _sum(lines: Sequence[str]) -> str:
    """One line for all layers."""
    found = [{name: float(value) for name, value in _PART.findall(line)} for line in lines]
    return ", ".join(f"{name} {sum(each[name] for each in found)}" for name in found[0])


def _total(lines: Sequence[str]) -> float:
    return sum(float(value) for line in lines for _, value in _PART.findall(line))
