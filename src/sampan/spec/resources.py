"""Limits: CRI's LinuxContainerResources → OCI `linux.resources` (runtime-spec
config-linux.md#control-groups)."""

import re
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.spec.facts import Host
from sampan.spec.text import shown

FIELD = "linux.resources"
UNLIMITED = -1
SHARES = (2, 262144)  # the kernel's, cpu.shares
MIN_QUOTA = 1000  # microseconds, the kernel's
PERIODS = (1000, 1_000_000)  # microseconds, the kernel's
DEFAULT_PERIOD = 100_000  # likewise

_CPU_LIST = re.compile(r"[0-9]{1,5}(?:-[0-9]{1,5})?(?:,[0-9]{1,5}(?:-[0-9]{1,5})?)*")
_PAGE_SIZE = re.compile(r"[1-9][0-9]{0,5}[KMG]B")
_UNIFIED_KEY = re.compile(r"(?!cgroup\.)[a-z0-9_]+(?:\.[A-Za-z0-9_]+)+")
_UNIFIED_VALUE = re.compile(r"[ -~]{1,256}(?:\n[ -~]{1,256})*")  # some files take several lines


def build(resources: cri.LinuxContainerResources, host: Host) -> dict[str, Any]:
    """The limits without device rules, for config.json. Raises Invalid."""
    parts = {
        "cpu": _new_cpu(resources, host),
        "memory": _memory(resources, host),
        "hugepageLimits": _hugepages(resources, host),
        "unified": _unified(resources, host),
    }
    return {name: part for name, part in parts.items() if part}


def update(resources: cri.LinuxContainerResources, host: Host) -> dict[str, Any]:
    """The limits for `update --resources` on a container that has others: all that are to hold, not the difference
    alone, because runtimes fill in what is missing (crun takes a period without a quota for no quota). Raises
    Invalid."""
    changed = build(resources, host)
    cpu = _cpu(resources, host)
    if "quota" in cpu:
        cpu.setdefault("period", DEFAULT_PERIOD)  # without it crun takes -1 on v2 for "leave it"
    return {**changed, "cpu": cpu} if cpu else changed


def merged(
    current: cri.LinuxContainerResources, change: cri.LinuxContainerResources
) -> cri.LinuxContainerResources:
    """`current` with what `change` sets; zero and empty mean unchanged (CRI proto, UpdateContainerResources).

    Swap is said as the sum of memory and swap: where only the memory limit changes, it is the amount of swap that
    stays.
    """
    result = cri.LinuxContainerResources()
    result.CopyFrom(current)
    if change.hugepage_limits:
        del result.hugepage_limits[:]
    result.MergeFrom(change)
    if change.memory_limit_in_bytes and not change.memory_swap_limit_in_bytes:
        result.memory_swap_limit_in_bytes = _same_swap(current, change.memory_limit_in_bytes)
    return result


def _same_swap(current: cri.LinuxContainerResources, limit: int) -> int:
    swap = current.memory_swap_limit_in_bytes
    if swap <= 0:
        return swap
    return UNLIMITED if limit == UNLIMITED else limit + swap - current.memory_limit_in_bytes


def _new_cpu(resources: cri.LinuxContainerResources, host: Host) -> dict[str, Any]:
    """For a new group, which has no quota: one of -1 says nothing more (and crun 1.8 cannot write it on v1)."""
    cpu = _cpu(resources, host)
    if cpu.get("quota") == UNLIMITED:
        del cpu["quota"]
    return cpu


def _cpu(resources: cri.LinuxContainerResources, host: Host) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    if shares := _at_least(resources.cpu_shares, 0, "cpu_shares"):
        cpu["shares"] = min(max(shares, SHARES[0]), SHARES[1])
    if quota := resources.cpu_quota:
        if quota != UNLIMITED and quota < MIN_QUOTA:
            raise Invalid(
                f"{FIELD}.cpu_quota {quota} is less than {MIN_QUOTA} microseconds (-1 is unlimited)"
            )
        cpu["quota"] = quota
    if period := resources.cpu_period:
        if not PERIODS[0] <= period <= PERIODS[1]:
            raise Invalid(f"{FIELD}.cpu_period {period} is not in {PERIODS[0]} to {PERIODS[1]} microseconds")
        cpu["period"] = period
    for name, value in (("cpus", resources.cpuset_cpus), ("mems", resources.cpuset_mems)):
        if value:
            if not _CPU_LIST.fullmatch(value):
                raise Invalid(f"{FIELD}.cpuset_{name} {shown(value)} is not a list such as 0-3,8 (cpuset(7))")
            cpu[name] = value
    _check_processors(resources.cpuset_cpus, host)
    return cpu


def _check_processors(cpus: str, host: Host) -> None:
    """Raise Invalid for a list with a number that no processor of this host can ever have."""
    if max(map(int, re.findall("[0-9]+", cpus)), default=0) > host.last_cpu:
        raise Invalid(
            f"{FIELD}.cpuset_cpus {shown(cpus)} is more than this host has: CPUs 0 to {host.last_cpu}"
        )


def _memory(resources: cri.LinuxContainerResources, host: Host) -> dict[str, Any]:
    """`swap` is the sum of memory and swap. Where nothing is said of it a container with a limit gets no
    swap."""
    limit = _at_least(resources.memory_limit_in_bytes, UNLIMITED, "memory_limit_in_bytes")
    swap = _at_least(resources.memory_swap_limit_in_bytes, UNLIMITED, "memory_swap_limit_in_bytes")
    if swap > 0 and limit <= 0:
        raise Invalid(f"{FIELD}.memory_swap_limit_in_bytes needs a memory_limit_in_bytes")
    if 0 < swap < limit:
        raise Invalid(
            f"{FIELD}.memory_swap_limit_in_bytes {swap} is less than the memory limit {limit} it includes"
        )
    memory = {}
    if limit:
        memory["limit"] = limit
    if host.swap and (swap or limit):
        memory["swap"] = swap or limit
    return memory


def _hugepages(resources: cri.LinuxContainerResources, host: Host) -> list[dict[str, Any]]:
    """Limits per page size; left out where the kernel has no hugetlb controller, and so no huge pages to
    limit."""
    for limit in resources.hugepage_limits:
        if not _PAGE_SIZE.fullmatch(limit.page_size):
            raise Invalid(
                f"{FIELD}.hugepage_limits: page_size {shown(limit.page_size)} is not one such as 2MB"
            )
    if "hugetlb" not in host.controllers:
        return []
    return [{"pageSize": limit.page_size, "limit": limit.limit} for limit in resources.hugepage_limits]


def _unified(resources: cri.LinuxContainerResources, host: Host) -> dict[str, str]:
    """Files of cgroup v2 by name. Never `cgroup.*`: those move and freeze processes, they are no limits."""
    if resources.unified and not host.cgroup_v2:
        raise Invalid(f"{FIELD}.unified needs cgroup v2, and this host runs v1")
    for key, value in resources.unified.items():
        if not _UNIFIED_KEY.fullmatch(key):
            raise Invalid(f"{FIELD}.unified: {shown(key)} is not the name of a controller's file")
        if not _UNIFIED_VALUE.fullmatch(value):
            raise Invalid(f"{FIELD}.unified: the value of {key} is not printable text")
    return dict(sorted(resources.unified.items()))


def _at_least(value: int, least: int, name: str) -> int:
    if value < least:
        raise Invalid(f"{FIELD}.{name} {value} is less than {least}")
    return value
