"""The text of control group files → numbers, for cgroup v1 and v2. Pure: `host.cgroup.cgroups` reads the files.

A file that is absent is None here and yields None. Sources: kernel
Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst; sched-bwc.rst.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_DIGITS = re.compile(rb"-?[0-9]{1,20}")
UNLIMITED = 1 << 62  # v1 says "no limit" by a number near 2^63, rounded to the page size of the machine


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one group in bytes; `available` and `swap_available` are None without a limit."""

    usage: int | None = None
    working_set: int | None = None
    available: int | None = None
    rss: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None
    swap_usage: int | None = None
    swap_available: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a group is limited to; None where it is not. `memory_swap` is memory and swap together, as in OCI.

    `cpu_shares` is v1's, `cpu_weight` v2's: which shares a weight came from cannot be told, see `shares_fit`.
    """

    memory: int | None = None
    memory_swap: int | None = None
    cpu_shares: int | None = None
    cpu_weight: int | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    pids: int | None = None
    files: Mapping[str, str] = field(default_factory=dict)  # others that were asked for, by name


def number(text: bytes | None) -> int | None:
    """A file that holds one number; None for `max`, or what is none."""
    stripped = (text or b"").strip()
    return int(stripped) if _DIGITS.fullmatch(stripped) else None


def table(text: bytes | None) -> dict[bytes, int]:
    """A file of `key number` lines: memory.stat, cpu.stat, memory.events."""
    found: dict[bytes, int] = {}
    for line in (text or b"").split(b"\n"):
        key, _, value = line.partition(b" ")
        if value.isdigit():
            found[key] = int(value)
    return found


def cpu_v2(stat: bytes | None) -> int | None:
    """CPU time in ns, from cpu.stat. (v1's cpuacct.usage is one number in ns.)"""
    used = table(stat).get(b"usage_usec")
    return None if used is None else used * 1000


def memory_v1(usage: bytes | None, stat: bytes | None) -> Memory:
    """From memory.usage_in_bytes and memory.stat, descendants included."""
    used, stats = number(usage), table(stat)
    working_set = _without(used, stats.get(b"total_inactive_file", 0))
    swap = stats.get(b"total_swap")
    both = _limit(stats.get(b"hierarchical_memsw_limit"))
    return Memory(
        usage=used,
        working_set=working_set,
        available=_room(_limit(stats.get(b"hierarchical_memory_limit")), working_set),
        rss=stats.get(b"total_rss"),
        page_faults=stats.get(b"total_pgfault"),
        major_page_faults=stats.get(b"total_pgmajfault"),
        swap_usage=swap,
        swap_available=None if used is None or swap is None else _room(both, used + swap),
    )


def memory_v2(
    current: bytes | None,
    maximum: bytes | None,
    stat: bytes | None,
    swap: bytes | None,
    swap_max: bytes | None,
) -> Memory:
    """From memory.current, memory.max, memory.stat, memory.swap.current and memory.swap.max."""
    used, stats, swapped = number(current), table(stat), number(swap)
    working_set = _without(used, stats.get(b"inactive_file", 0))
    return Memory(
        usage=used,
        working_set=working_set,
        available=_room(number(maximum), working_set),
        rss=stats.get(b"anon"),
        page_faults=stats.get(b"pgfault"),
        major_page_faults=stats.get(b"pgmajfault"),
        swap_usage=swapped,
        swap_available=_room(number(swap_max), swapped),
    )


def limits_v1(files: dict[str, bytes | None]) -> Limits:
    """From the v1 files of these names (memory.limit_in_bytes, cpu.shares, …)."""
    return Limits(
        memory=_limit(number(files.get("memory.limit_in_bytes"))),
        memory_swap=_limit(number(files.get("memory.memsw.limit_in_bytes"))),
        cpu_shares=number(files.get("cpu.shares")),
        cpu_quota=_positive(number(files.get("cpu.cfs_quota_us"))),
        cpu_period=number(files.get("cpu.cfs_period_us")),
        cpuset_cpus=_line(files.get("cpuset.cpus")),
        cpuset_mems=_line(files.get("cpuset.mems")),
        pids=number(files.get("pids.max")),
    )


def limits_v2(files: dict[str, bytes | None]) -> Limits:
    """From the v2 files of these names (memory.max, cpu.max, …)."""
    memory, swap = number(files.get("memory.max")), number(files.get("memory.swap.max"))
    quota, _, period = (files.get("cpu.max") or b"").strip().partition(b" ")
    return Limits(
        memory=memory,
        memory_swap=None if memory is None or swap is None else memory + swap,
        cpu_weight=number(files.get("cpu.weight")),
        cpu_quota=number(quota),
        cpu_period=number(period),
        cpuset_cpus=_line(files.get("cpuset.cpus")),
        cpuset_mems=_line(files.get("cpuset.mems")),
        pids=number(files.get("pids.max")),
    )


def shares_fit(shares: int, weight: int) -> bool:
    """Whether a v2 `cpu.weight` is what an OCI runtime makes of `shares` (2..262144).

    There are two conversions: the linear one of the first years of v2, and the quadratic one that keeps the
    default at the default (1024 → 100), which crun uses from 1.23 on.
    """
    shares = min(max(shares, 2), 262144)
    linear = 1 + (shares - 2) * 9999 // 262142
    log = math.log2(shares)
    quadratic = math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))
    return weight in (linear, quadratic)


def _limit(value: int | None) -> int | None:
    return None if value is None or value >= UNLIMITED else value


def _positive(value: int | None) -> int | None:
    return value if value is not None and value > 0 else None


def _without(usage: int | None, inactive: int) -> int | None:
    """The working set: what the kernel cannot drop at once."""
    return None if usage is None else max(0, usage - inactive)


def _room(limit: int | None, used: int | None) -> int | None:
    return None if limit is None or used is None else max(0, limit - used)


def _line(text: bytes | None) -> str | None:
    return None if text is None else text.decode("ascii", "replace").strip()
