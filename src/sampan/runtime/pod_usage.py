"""What a pod as a whole uses: its own control group where it has one, else the sum of its containers. Pure.

The kubelet makes a group for each pod and names it after the pod's uid; that group counts what no container's does
(the pod's init, memory of ended containers). Parents that other pods share, as `crictl` gives, say nothing of one pod.
The name decides, and not how many pods are in the parent just now: a pod's counters must not jump when another comes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sampan.model.pod import Pod
from sampan.runtime.ports import CgroupUsage
from sampan.wire.net_dev import Interface


@dataclass(frozen=True, slots=True)
class Sample:
    """The last reading of a group, and how much CPU it used between the last two (nano-cores)."""

    usage: CgroupUsage
    nano_cores: int | None = None


@dataclass(frozen=True, slots=True)
class PodSample:
    """The last reading of a pod, `at` ns since the epoch: its own group, if it has one, and the interfaces of its own
    network, if it has one."""

    at: int
    group: Sample | None = None
    interfaces: tuple[Interface, ...] = ()


def has_group(pod: Pod) -> bool:
    """Whether the pod's cgroup parent is its own: `/kubepods/burstable/pod<uid>` or `kubepods-burstable-pod<uid with
    underscores>.slice`."""
    uid = pod.config.metadata.uid
    name = pod.cgroup_parent.rstrip("/").rpartition("/")[2].removesuffix(".slice")
    return bool(uid) and (name == f"pod{uid}" or name.endswith(f"-pod{uid.replace('-', '_')}"))


def whole(pod: PodSample, containers: Sequence[Sample]) -> Sample:
    """The pod's usage. As a sum it has no pressure and nothing available: those do not add up."""
    if pod.group is not None:
        return pod.group
    usages = [sample.usage for sample in containers]

    def total(figure: Callable[[CgroupUsage], int | None]) -> int:
        return sum(figure(usage) or 0 for usage in usages)

    rates = [sample.nano_cores for sample in containers if sample.nano_cores is not None]
    return Sample(
        CgroupUsage(
            at=max((usage.at for usage in usages), default=pod.at),
            cpu_ns=total(lambda usage: usage.cpu_ns),
            memory_usage=total(lambda usage: usage.memory_usage),
            memory_working_set=total(lambda usage: usage.memory_working_set),
            memory_rss=total(lambda usage: usage.memory_rss),
            page_faults=total(lambda usage: usage.page_faults),
            major_page_faults=total(lambda usage: usage.major_page_faults),
            swap_usage=total(lambda usage: usage.swap_usage),
            processes=total(lambda usage: usage.processes),
        ),
        nano_cores=sum(rates) if len(rates) == len(containers) else None,
    )


def rate(before: Sample | None, usage: CgroupUsage) -> int | None:
    """CPU time per second between two readings, in units of 10^-9 of a core."""
    if before is None or before.usage.cpu_ns is None or usage.cpu_ns is None or usage.at <= before.usage.at:
        return None
    return max(0, (usage.cpu_ns - before.usage.cpu_ns) * 1_000_000_000 // (usage.at - before.usage.at))
