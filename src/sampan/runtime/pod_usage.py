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

SECOND = 1_000_000_000
SHORTEST = SECOND // 2  # the kernel adds CPU time up in steps: over less, a rate is a matter of luck


@dataclass(frozen=True, slots=True)
class Sample:
    """The last reading of a group, and how much CPU it used in the time before (nano-cores). The next rate counts from
    `base`, where that is not the last reading."""

    usage: CgroupUsage
    nano_cores: int | None = None
    base: CgroupUsage | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """What the ended containers of a pod had counted when they were last read."""

    cpu_ns: int = 0
    page_faults: int = 0
    major_page_faults: int = 0

    def plus(self, usage: CgroupUsage) -> "Ended":
        """With one more."""
        return Ended(
            self.cpu_ns + (usage.cpu_ns or 0),
            self.page_faults + (usage.page_faults or 0),
            self.major_page_faults + (usage.major_page_faults or 0),
        )


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


def whole(pod: PodSample, containers: Sequence[Sample], ended: Ended = Ended()) -> Sample:
    """The pod's usage. As a sum it has no pressure and nothing available: those do not add up. What only counts up
    does so in the sum too: containers that ended stay in it."""
    if pod.group is not None:
        return pod.group
    usages = [sample.usage for sample in containers]

    def total(figure: Callable[[CgroupUsage], int | None], before: int = 0) -> int | None:
        known = [value for usage in usages if (value := figure(usage)) is not None]
        return before + sum(known) if known or before or not usages else None

    rates = [sample.nano_cores for sample in containers if sample.nano_cores is not None]
    return Sample(
        CgroupUsage(
            at=max((usage.at for usage in usages), default=pod.at),
            cpu_ns=total(lambda usage: usage.cpu_ns, ended.cpu_ns),
            memory_usage=total(lambda usage: usage.memory_usage),
            memory_working_set=total(lambda usage: usage.memory_working_set),
            memory_rss=total(lambda usage: usage.memory_rss),
            page_faults=total(lambda usage: usage.page_faults, ended.page_faults),
            major_page_faults=total(lambda usage: usage.major_page_faults, ended.major_page_faults),
            swap_usage=total(lambda usage: usage.swap_usage),
            processes=total(lambda usage: usage.processes),
        ),
        nano_cores=sum(rates) if len(rates) == len(containers) else None,
    )


def following(before: Sample | None, usage: CgroupUsage) -> Sample:
    """The sample of a new reading. Within SHORTEST of its base the rate stays what it was, and the base too."""
    if before is None:
        return Sample(usage)
    base = before.base or before.usage
    if 0 <= before.usage.at - usage.at < SHORTEST:  # two were under way, and the earlier arrived later
        return before
    if usage.at < before.usage.at:  # the clock was set back
        return Sample(usage)
    if usage.at - base.at < SHORTEST:
        return Sample(usage, before.nano_cores, base)
    return Sample(usage, rate(base, usage))


def rate(before: CgroupUsage, usage: CgroupUsage) -> int | None:
    """CPU time per second between two readings, in units of 10^-9 of a core."""
    if before.cpu_ns is None or usage.cpu_ns is None:
        return None
    return max(0, (usage.cpu_ns - before.cpu_ns) * SECOND // (usage.at - before.at))
