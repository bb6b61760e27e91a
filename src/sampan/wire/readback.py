"""The limits that were asked for against those that the kernel has. Pure: `host.cgroup_limits` reads the files.

A limit may get lost on its way without an error (CVE-2025-47291: containers ended up outside of the group of their
pod), and it may be made of other stuff: the kernel rounds bytes to pages, v2 has weights where v1 has shares. What was
asked for is the `linux.resources` object that the OCI runtime was given (runtime-spec config-linux.md#control-groups).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.wire import cgroupfs
from sampan.wire.cgroupfs import UNLIMITED, Limits

_PAGE = 64 << 10  # bytes; the largest page that limits are rounded to
_TOLERANCE = 0.01  # of a CPU quota
_DEFAULT_PERIOD = 100_000  # µs, the kernel's
_PLAIN = re.compile(r"(?:max|-?[0-9]+)(?: [0-9]+)?")  # also cpu.max's
_CAPS = frozenset(("memory.max", "memory.high", "memory.swap.max", "pids.max"))


@dataclass(frozen=True, slots=True)
class Difference:
    """One limit that is not what was asked for. `lost`: it is absent or wider, so that it does not protect."""

    what: str
    asked: str
    got: str
    lost: bool

    def __str__(self) -> str:
        return f"{self.what} is {self.got}, not {self.asked} as asked"


def files(asked: Mapping[str, Any], *, v2: bool) -> tuple[str, ...]:
    """The files to read beside the usual ones (`Limits.files`)."""
    pages = [_hugetlb(limit["pageSize"], v2) for limit in asked.get("hugepageLimits", ())]
    return (*pages, *asked.get("unified", {}))


def differences(asked: Mapping[str, Any], got: Limits, *, v2: bool) -> tuple[Difference, ...]:
    """Every limit that is not what was asked for."""
    found = [
        *_memory(asked.get("memory", {}), got),
        *_cpu(asked.get("cpu", {}), got),
        *_hugepages(asked.get("hugepageLimits", ()), got, v2),
        *(_file(name, value, got.files.get(name)) for name, value in asked.get("unified", {}).items()),
    ]
    return tuple(difference for difference in found if difference is not None)


def _memory(asked: Mapping[str, int], got: Limits) -> list[Difference | None]:
    memory = _bytes("the memory limit", asked.get("limit", 0), got.memory)
    if memory is not None and memory.lost:
        return [memory]  # the sum of memory and swap says nothing more
    return [memory, _bytes("the limit of memory and swap", asked.get("swap", 0), got.memory_swap)]


def _bytes(what: str, asked: int, got: int | None, page: int = _PAGE) -> Difference | None:
    if not asked or (got is None and not 0 < asked < UNLIMITED):
        return None
    if got is None:
        return Difference(what, str(asked), "absent", lost=True)
    if asked < 0:
        return Difference(what, "none", str(got), lost=False)
    if asked - page < got <= asked:
        return None
    return Difference(what, str(asked), str(got), lost=got > asked)


def _cpu(asked: Mapping[str, Any], got: Limits) -> list[Difference | None]:
    return [
        _shares(asked.get("shares", 0), got),
        _quota(asked.get("quota", 0), asked.get("period", _DEFAULT_PERIOD), got),
        _list("cpuset.cpus", asked.get("cpus", ""), got.cpuset_cpus),
        _list("cpuset.mems", asked.get("mems", ""), got.cpuset_mems),
    ]


def _shares(asked: int, got: Limits) -> Difference | None:
    """Never lost: a weight is a share of what others leave."""
    if not asked or asked == got.cpu_shares:
        return None
    if got.cpu_weight is not None and cgroupfs.shares_fit(asked, got.cpu_weight):
        return None
    have = got.cpu_shares if got.cpu_weight is None else f"a weight of {got.cpu_weight}"
    return Difference("cpu.shares", str(asked), "absent" if have is None else str(have), lost=False)


def _quota(asked: int, period: int, got: Limits) -> Difference | None:
    if asked <= 0:
        same = not asked or got.cpu_quota is None
        return None if same else Difference("the CPU quota", "none", str(got.cpu_quota), lost=False)
    wanted = f"{asked} of {period} µs"
    if got.cpu_quota is None:
        return Difference("the CPU quota", wanted, "absent", lost=True)
    ratio = got.cpu_quota * period / (asked * (got.cpu_period or _DEFAULT_PERIOD))
    if abs(ratio - 1) <= _TOLERANCE:
        return None
    have = f"{got.cpu_quota} of {got.cpu_period} µs"
    return Difference("the CPU quota", wanted, have, lost=ratio > 1)


def _list(what: str, asked: str, got: str | None) -> Difference | None:
    if not asked:
        return None
    wanted, have = numbers(asked), numbers(got or "")
    if wanted == have:
        return None
    return Difference(what, asked, got or "absent", lost=not have or not have <= wanted)


def numbers(text: str) -> frozenset[int]:
    """What a list such as 0-3,8 names (cpuset(7))."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def _hugepages(asked: Sequence[Mapping[str, Any]], got: Limits, v2: bool) -> list[Difference | None]:
    found: list[Difference | None] = []
    for limit in asked:
        name = _hugetlb(limit["pageSize"], v2)
        have = _number(got.files.get(name))
        if limit["limit"]:
            found.append(_bytes(name, limit["limit"], have, _page_bytes(limit["pageSize"])))
        elif have != 0:
            found.append(Difference(name, "0", "absent" if have is None else str(have), lost=True))
    return found


def _hugetlb(page_size: str, v2: bool) -> str:
    return f"hugetlb.{page_size}.{'max' if v2 else 'limit_in_bytes'}"


def _page_bytes(page_size: str) -> int:
    return int(page_size[:-2]) << {"K": 10, "M": 20, "G": 30}[page_size[-2]]


def _number(text: str | None) -> int | None:
    value = cgroupfs.number(text.encode()) if text is not None else None
    return None if value is None or value >= UNLIMITED else value


def _file(name: str, asked: str, got: str | None) -> Difference | None:
    """A file of v2 that was asked for by name. Only single values can be compared: the others are shown by the kernel
    in forms of its own."""
    have = (got or "").strip()
    if got is not None and (have == asked.strip() or " " in asked.strip() or "\n" in asked.strip()):
        return None
    wanted, value = _number(asked), _number(got)
    if got is None:
        return Difference(name, asked, "absent", lost=name in _CAPS)
    if wanted is None:
        return Difference(name, asked, have, lost=False)
    if value is not None and name.startswith("memory.") and wanted - _PAGE < value <= wanted:
        return None
    return Difference(name, asked, have, lost=name in _CAPS and (value is None or value > wanted))


def shown(asked: cri.LinuxContainerResources, got: Limits, *, v2: bool) -> cri.LinuxContainerResources:
    """What was asked for with the kernel's values in it, where those are others: not where it rounds to pages, or has a
    weight for shares, because the kubelet takes a value that is not its own for a resize that is not done. What was
    asked of files by name stays: the kernel shows those in forms of its own."""
    result = cri.LinuxContainerResources()
    result.CopyFrom(asked)
    memory, swap = asked.memory_limit_in_bytes, asked.memory_swap_limit_in_bytes
    quota, period = _shown_quota(asked, got)
    values = {
        "memory_limit_in_bytes": _shown_bytes(memory, got.memory),
        "memory_swap_limit_in_bytes": _shown_bytes(swap, got.memory_swap),
        "cpu_quota": quota,
        "cpu_period": period,
        "cpu_shares": _shown_shares(asked.cpu_shares, got),
        "cpuset_cpus": got.cpuset_cpus or asked.cpuset_cpus,
        "cpuset_mems": got.cpuset_mems or asked.cpuset_mems,
    }
    for name, value in values.items():
        if getattr(asked, name):
            setattr(result, name, value)
    for limit in result.hugepage_limits:
        if (bytes_ := _number(got.files.get(_hugetlb(limit.page_size, v2)))) is not None:
            page = _page_bytes(limit.page_size)
            limit.limit = _shown_bytes(limit.limit, bytes_, page) if limit.limit else bytes_
    return result


def _shown_bytes(asked: int, got: int | None, page: int = _PAGE) -> int:
    return asked if _bytes("", asked, got, page) is None else _or_unlimited(got)


def _shown_quota(asked: cri.LinuxContainerResources, got: Limits) -> tuple[int, int]:
    period = asked.cpu_period or _DEFAULT_PERIOD
    if asked.cpu_quota and _quota(asked.cpu_quota, period, got) is None:
        return asked.cpu_quota, asked.cpu_period
    return _or_unlimited(got.cpu_quota), got.cpu_period or asked.cpu_period


def _shown_shares(asked: int, got: Limits) -> int:
    if got.cpu_weight is None or cgroupfs.shares_fit(asked, got.cpu_weight):
        return got.cpu_shares or asked
    return 2 + (got.cpu_weight - 1) * 262142 // 9999  # by the linear conversion


def _or_unlimited(value: int | None) -> int:
    return -1 if value is None else value


def restoring(
    changed: Mapping[str, Any], before: Limits, unified_before: Mapping[str, str] | None = None, *, v2: bool
) -> dict[str, Any]:
    """The `linux.resources` that take back `changed`: the kernel's values of before, for what is in it. Of files by
    name it is what was asked for before; the kernel's text only where it is a plain value, as it can be written."""
    asked = unified_before or {}
    found = {name: before.files.get(name, "").strip() for name in changed.get("unified", {})}
    unified = {
        name: asked.get(name, text) for name, text in found.items() if name in asked or _PLAIN.fullmatch(text)
    }
    cpu: dict[str, Any] = {}
    for name, value in _cpu_before(before):
        if name in changed.get("cpu", {}) and value:
            cpu[name] = value
    if "shares" in changed.get("cpu", {}) and before.cpu_weight is not None:
        unified["cpu.weight"] = str(before.cpu_weight)  # the shares it came from cannot be told
    memory = {}
    if "limit" in changed.get("memory", {}):
        memory["limit"] = _or_unlimited(before.memory)
    if "swap" in changed.get("memory", {}):
        memory["swap"] = _or_unlimited(before.memory_swap)
    pages = [
        {"pageSize": limit["pageSize"], "limit": value}
        for limit in changed.get("hugepageLimits", ())
        if (value := _number(before.files.get(_hugetlb(limit["pageSize"], v2)))) is not None
    ]
    parts = {"cpu": cpu, "memory": memory, "hugepageLimits": pages, "unified": unified}
    return {name: part for name, part in parts.items() if part}


def _cpu_before(before: Limits) -> tuple[tuple[str, Any], ...]:
    return (
        ("shares", before.cpu_shares),
        ("quota", _or_unlimited(before.cpu_quota)),
        ("period", before.cpu_period),
        ("cpus", before.cpuset_cpus),
        ("mems", before.cpuset_mems),
    )
