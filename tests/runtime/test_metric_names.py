"""The table of metrics: exactly those that critest and the kubelet know."""

import pytest

from sampan.runtime.metric_names import BASE_LABELS, METRICS, Described

GROUPS = {
    "": "blkio_device_usage_total file_descriptors last_seen oom_events_total processes sockets "
    "start_time_seconds threads threads_max ulimits_soft",
    "cpu_": "cfs_periods_total cfs_throttled_periods_total cfs_throttled_seconds_total system_seconds_total "
    "usage_seconds_total user_seconds_total",
    "fs_": "inodes_free inodes_total limit_bytes reads_bytes_total reads_total usage_bytes writes_bytes_total "
    "writes_total",
    "hugetlb_": "max_usage_bytes usage_bytes",
    "memory_": "cache failcnt failures_total kernel_usage mapped_file max_usage_bytes rss swap usage_bytes "
    "working_set_bytes",
    "network_receive_": "bytes_total errors_total packets_dropped_total packets_total",
    "network_transmit_": "bytes_total errors_total packets_dropped_total packets_total",
    "pressure_": "cpu_stalled_seconds_total cpu_waiting_seconds_total io_stalled_seconds_total "
    "io_waiting_seconds_total memory_stalled_seconds_total memory_waiting_seconds_total",
    "spec_": "cpu_period cpu_quota cpu_shares memory_limit_bytes memory_reservation_limit_bytes "
    "memory_swap_limit_bytes",
}
EXTRA_LABELS = {
    "container_cpu_usage_seconds_total": ("cpu",),
    "container_memory_failures_total": ("failure_type", "scope"),
    "container_hugetlb_usage_bytes": ("pagesize",),
    "container_hugetlb_max_usage_bytes": ("pagesize",),
    "container_blkio_device_usage_total": ("device", "major", "minor", "operation"),
    "container_ulimits_soft": ("ulimit",),
}
COUNTERS = {"container_memory_failcnt"} | {
    f"container_fs_{what}_total" for what in ("reads", "reads_bytes", "writes", "writes_bytes")
}


def test_the_names_are_the_56() -> None:
    names = {f"container_{start}{end}" for start, ends in GROUPS.items() for end in ends.split()}
    assert len(names) == 56
    assert METRICS.keys() == names


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_each_is_described(metric: Described) -> None:
    assert metric.help.endswith(".")
    assert metric.label_keys[: len(BASE_LABELS)] == ("id", "name", "image", "pod", "namespace", "container")
    family = metric.name.split("_")[1]
    per_family = {"network": ("interface",), "fs": ("device",)}
    assert metric.labels == EXTRA_LABELS.get(metric.name, per_family.get(family, ()))
    assert metric.counter is (metric.name in COUNTERS or (metric.name.endswith("_total") and family != "fs"))
