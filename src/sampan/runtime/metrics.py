"""Samples and details → the values of metrics. Pure; the names and what they mean are in `metric_names`.

A value is (name, labels beyond the base ones, number). The CRI has only whole numbers, so seconds are cut off, as
every runtime does. What the kernel does not say has no value: zero would be a statement.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sampan.runtime.image_ports import Filesystem, Usage
from sampan.runtime.pod_usage import Sample
from sampan.runtime.ports import CgroupDetails, CgroupUsage
from sampan.wire.cgroup_stats import DeviceIo, shares_of
from sampan.wire.cgroupfs import Limits, shares_fit
from sampan.wire.net_dev import Interface
from sampan.wire.psi import Pressure

SECOND = 1_000_000_000
DEFAULT_PERIOD = 100_000  # µs, where the kernel has no period because it has no quota (sched-bwc.rst)
Value = tuple[str, tuple[str, ...], int]
_Maybe = tuple[str, tuple[str, ...], int | None]


@dataclass(frozen=True, slots=True)
class Disk:
    """What a container has written, if that was measured yet, and where."""

    written: Usage | None
    filesystem: Filesystem


def of_group(sample: Sample, details: CgroupDetails | None, shares: int = 0) -> Iterator[Value]:
    """A control group's values: a container's, or those of a pod with a group of its own. `shares` were asked for."""
    usage = sample.usage
    yield from _known(_memory(usage))
    yield from _known(_pressures(usage))
    yield "container_last_seen", (), usage.at // SECOND
    yield from _known([("container_cpu_usage_seconds_total", ("total",), _seconds(usage.cpu_ns))])
    if details is not None:
        yield from _known(_details(details))
        yield from _known(_limits(details.limits, shares, details.stats.reservation))
        yield from _faults(usage, details)
        for pages in details.stats.huge_pages:
            yield "container_hugetlb_usage_bytes", (pages.size,), pages.usage
            yield from _known([("container_hugetlb_max_usage_bytes", (pages.size,), pages.peak)])
        yield from _devices(details.stats.io, details.devices)


def of_container(started_at: int, details: CgroupDetails | None, disk: Disk | None) -> Iterator[Value]:
    """What only a container has; `started_at` in ns since the epoch."""
    yield "container_start_time_seconds", (), started_at // SECOND
    if details is not None:
        yield from _known(
            [
                ("container_file_descriptors", (), details.descriptors),
                ("container_sockets", (), details.sockets),
                ("container_ulimits_soft", ("max_open_files",), details.open_files_limit),
            ]
        )
    if disk is not None:
        where = (disk.filesystem.device,)
        if disk.written is not None:
            yield "container_fs_usage_bytes", where, disk.written.bytes
        yield "container_fs_limit_bytes", where, disk.filesystem.bytes
        yield "container_fs_inodes_free", where, disk.filesystem.inodes_free
        yield "container_fs_inodes_total", where, disk.filesystem.inodes


def of_network(interfaces: Iterable[Interface]) -> Iterator[Value]:
    """A pod's interfaces, as seen from inside."""
    for one in interfaces:
        label = (one.name,)
        yield "container_network_receive_bytes_total", label, one.rx_bytes
        yield "container_network_receive_packets_total", label, one.rx_packets
        yield "container_network_receive_errors_total", label, one.rx_errors
        yield "container_network_receive_packets_dropped_total", label, one.rx_dropped
        yield "container_network_transmit_bytes_total", label, one.tx_bytes
        yield "container_network_transmit_packets_total", label, one.tx_packets
        yield "container_network_transmit_errors_total", label, one.tx_errors
        yield "container_network_transmit_packets_dropped_total", label, one.tx_dropped


def _known(values: Iterable[_Maybe]) -> Iterator[Value]:
    return ((name, labels, value) for name, labels, value in values if value is not None)


def _seconds(ns: int | None) -> int | None:
    return None if ns is None else ns // SECOND


def _memory(usage: CgroupUsage) -> Iterator[_Maybe]:
    yield "container_memory_usage_bytes", (), usage.memory_usage
    yield "container_memory_working_set_bytes", (), usage.memory_working_set
    yield "container_memory_rss", (), usage.memory_rss
    yield "container_memory_swap", (), usage.swap_usage


def _pressures(usage: CgroupUsage) -> Iterator[_Maybe]:
    yield from _pressure("cpu", usage.cpu_pressure)
    yield from _pressure("memory", usage.memory_pressure)
    yield from _pressure("io", usage.io_pressure)


def _pressure(resource: str, pressure: Pressure | None) -> Iterator[_Maybe]:
    if pressure is not None:
        yield f"container_pressure_{resource}_waiting_seconds_total", (), _seconds(pressure.some.total_ns)
        yield f"container_pressure_{resource}_stalled_seconds_total", (), _seconds(pressure.full.total_ns)


def _details(details: CgroupDetails) -> Iterator[_Maybe]:
    stats = details.stats
    yield "container_cpu_user_seconds_total", (), _seconds(stats.cpu_user_ns)
    yield "container_cpu_system_seconds_total", (), _seconds(stats.cpu_system_ns)
    yield "container_cpu_cfs_periods_total", (), stats.periods
    yield "container_cpu_cfs_throttled_periods_total", (), stats.throttled_periods
    yield "container_cpu_cfs_throttled_seconds_total", (), _seconds(stats.throttled_ns)
    yield "container_memory_cache", (), stats.cache
    yield "container_memory_mapped_file", (), stats.mapped_file
    yield "container_memory_kernel_usage", (), stats.kernel
    yield "container_memory_max_usage_bytes", (), stats.peak
    yield "container_memory_failcnt", (), stats.limit_hits
    yield "container_oom_events_total", (), stats.oom_kills
    yield "container_processes", (), details.processes
    yield "container_threads", (), details.threads
    yield "container_threads_max", (), details.limits.pids or 0


def _limits(limits: Limits, asked: int, reservation: int | None) -> Iterator[_Maybe]:
    shares, weight = limits.cpu_shares, limits.cpu_weight
    if weight is not None:  # v2: there is more than one conversion from shares
        shares = asked if asked and shares_fit(asked, weight) else shares_of(weight)
    yield "container_spec_cpu_period", (), limits.cpu_period or DEFAULT_PERIOD
    yield "container_spec_cpu_quota", (), limits.cpu_quota
    yield "container_spec_cpu_shares", (), shares
    yield "container_spec_memory_limit_bytes", (), limits.memory or 0
    yield "container_spec_memory_reservation_limit_bytes", (), reservation or 0
    yield "container_spec_memory_swap_limit_bytes", (), limits.memory_swap or 0


def _faults(usage: CgroupUsage, details: CgroupDetails) -> Iterator[Value]:
    stats, name = details.stats, "container_memory_failures_total"
    yield from _known(
        [
            (name, ("pgfault", "container"), stats.own_page_faults),
            (name, ("pgfault", "hierarchy"), usage.page_faults),
            (name, ("pgmajfault", "container"), stats.own_major_page_faults),
            (name, ("pgmajfault", "hierarchy"), usage.major_page_faults),
        ]
    )


_FS_NAMES = {
    "Read": ("container_fs_reads_total", "container_fs_reads_bytes_total"),
    "Write": ("container_fs_writes_total", "container_fs_writes_bytes_total"),
}


def _devices(operations: Iterable[DeviceIo], names: Mapping[str, str]) -> Iterator[Value]:
    for one in operations:
        device = names.get(one.device, one.device)
        major, _, minor = one.device.partition(":")
        yield "container_blkio_device_usage_total", (device, major, minor, one.operation), one.bytes
        if one.operation in _FS_NAMES:
            count, size = _FS_NAMES[one.operation]
            yield count, (device,), one.count
            yield size, (device,), one.bytes
