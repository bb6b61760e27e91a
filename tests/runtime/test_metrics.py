"""Samples and details as values of metrics."""

from sampan.runtime import metrics
from sampan.runtime.image_ports import Filesystem, Usage
from sampan.runtime.metric_names import METRICS
from sampan.runtime.metrics import Disk, Value
from sampan.runtime.pod_usage import Sample
from sampan.runtime.ports import CgroupDetails, CgroupUsage
from sampan.wire.cgroup_stats import Details, DeviceIo, HugePages
from sampan.wire.cgroupfs import Limits
from sampan.wire.net_dev import Interface
from sampan.wire.psi import Pressure, Stall

AT = 1_700_000_000_900_000_000


def pressure(some: int, full: int) -> Pressure:
    """In seconds and a half."""
    return Pressure(some=Stall(some * 10**9 + 500_000_000), full=Stall(full * 10**9 + 500_000_000))


USAGE = CgroupUsage(
    at=AT,
    cpu_ns=5_999_999_999,
    memory_usage=100,
    memory_working_set=90,
    memory_rss=80,
    page_faults=12,
    major_page_faults=53,
    swap_usage=70,
    processes=60,
    cpu_pressure=pressure(31, 32),
    memory_pressure=pressure(33, 34),
    io_pressure=pressure(35, 36),
)
DETAILS = CgroupDetails(
    at=AT,
    stats=Details(
        cpu_user_ns=4_000_000_000,
        cpu_system_ns=1_500_000_000,
        periods=10,
        throttled_periods=3,
        throttled_ns=2_100_000_000,
        cache=7,
        mapped_file=6,
        kernel=51,
        peak=110,
        limit_hits=52,
        own_page_faults=11,
        own_major_page_faults=13,
        oom_kills=14,
        reservation=50,
        huge_pages=(HugePages("2MB", 15, 16),),
        io=(
            DeviceIo("254:0", "Read", 4096, 17),
            DeviceIo("254:0", "Write", 8192, 18),
            DeviceIo("254:0", "Sync", 9, 0),
        ),
    ),
    limits=Limits(memory=1000, memory_swap=2000, cpu_shares=512, cpu_quota=5000, cpu_period=10000, pids=99),
    processes=19,
    threads=20,
    descriptors=21,
    sockets=22,
    open_files_limit=1024,
    devices={"254:0": "/dev/vda"},
)
DISK = Disk(Usage(40960, 1), Filesystem("/dev/vdb", 1 << 30, 1200, 900))


def by_name(values: list[Value]) -> dict[str, dict[tuple[str, ...], int]]:
    found: dict[str, dict[tuple[str, ...], int]] = {}
    for name, labels, value in values:
        assert labels not in found.get(name, {})  # twice the same would make Prometheus refuse all of it
        found.setdefault(name, {})[labels] = value
    return found


def everything() -> dict[str, dict[tuple[str, ...], int]]:
    values = [
        *metrics.of_group(Sample(USAGE), DETAILS),
        *metrics.of_container(AT - 10**11, DETAILS, DISK),
        *metrics.of_network([Interface("eth0", 41, 42, 43, 44, 45, 46, 47, 48)]),
    ]
    return by_name(values)


# Every metric, with all that USAGE, DETAILS, DISK and the interface say: each has a figure that no other has.
EXPECTED: dict[str, dict[tuple[str, ...], int]] = {
    "container_blkio_device_usage_total": {
        ("/dev/vda", "254", "0", "Read"): 4096,
        ("/dev/vda", "254", "0", "Write"): 8192,
        ("/dev/vda", "254", "0", "Sync"): 9,
    },
    "container_cpu_cfs_periods_total": {(): 10},
    "container_cpu_cfs_throttled_periods_total": {(): 3},
    "container_cpu_cfs_throttled_seconds_total": {(): 2},
    "container_cpu_system_seconds_total": {(): 1},
    "container_cpu_usage_seconds_total": {("total",): 5},
    "container_cpu_user_seconds_total": {(): 4},
    "container_file_descriptors": {(): 21},
    "container_fs_inodes_free": {("/dev/vdb",): 900},
    "container_fs_inodes_total": {("/dev/vdb",): 1200},
    "container_fs_limit_bytes": {("/dev/vdb",): 1073741824},
    "container_fs_reads_bytes_total": {("/dev/vda",): 4096},
    "container_fs_reads_total": {("/dev/vda",): 17},
    "container_fs_usage_bytes": {("/dev/vdb",): 40960},
    "container_fs_writes_bytes_total": {("/dev/vda",): 8192},
    "container_fs_writes_total": {("/dev/vda",): 18},
    "container_hugetlb_max_usage_bytes": {("2MB",): 16},
    "container_hugetlb_usage_bytes": {("2MB",): 15},
    "container_last_seen": {(): 1700000000},
    "container_memory_cache": {(): 7},
    "container_memory_failcnt": {(): 52},
    "container_memory_failures_total": {
        ("pgfault", "container"): 11,
        ("pgfault", "hierarchy"): 12,
        ("pgmajfault", "container"): 13,
        ("pgmajfault", "hierarchy"): 53,
    },
    "container_memory_kernel_usage": {(): 51},
    "container_memory_mapped_file": {(): 6},
    "container_memory_max_usage_bytes": {(): 110},
    "container_memory_rss": {(): 80},
    "container_memory_swap": {(): 70},
    "container_memory_usage_bytes": {(): 100},
    "container_memory_working_set_bytes": {(): 90},
    "container_network_receive_bytes_total": {("eth0",): 41},
    "container_network_receive_errors_total": {("eth0",): 43},
    "container_network_receive_packets_dropped_total": {("eth0",): 44},
    "container_network_receive_packets_total": {("eth0",): 42},
    "container_network_transmit_bytes_total": {("eth0",): 45},
    "container_network_transmit_errors_total": {("eth0",): 47},
    "container_network_transmit_packets_dropped_total": {("eth0",): 48},
    "container_network_transmit_packets_total": {("eth0",): 46},
    "container_oom_events_total": {(): 14},
    "container_pressure_cpu_stalled_seconds_total": {(): 32},
    "container_pressure_cpu_waiting_seconds_total": {(): 31},
    "container_pressure_io_stalled_seconds_total": {(): 36},
    "container_pressure_io_waiting_seconds_total": {(): 35},
    "container_pressure_memory_stalled_seconds_total": {(): 34},
    "container_pressure_memory_waiting_seconds_total": {(): 33},
    "container_processes": {(): 19},
    "container_sockets": {(): 22},
    "container_spec_cpu_period": {(): 10000},
    "container_spec_cpu_quota": {(): 5000},
    "container_spec_cpu_shares": {(): 512},
    "container_spec_memory_limit_bytes": {(): 1000},
    "container_spec_memory_reservation_limit_bytes": {(): 50},
    "container_spec_memory_swap_limit_bytes": {(): 2000},
    "container_start_time_seconds": {(): 1699999900},
    "container_threads": {(): 20},
    "container_threads_max": {(): 99},
    "container_ulimits_soft": {("max_open_files",): 1024},
}


def test_every_metric_has_its_value_and_its_labels() -> None:
    assert everything() == EXPECTED
    assert EXPECTED.keys() == METRICS.keys()
    for name, values in EXPECTED.items():
        assert all(len(labels) == len(METRICS[name].labels) for labels in values)


def test_what_is_unlimited_is_zero_and_an_unlimited_quota_has_no_value() -> None:
    details = CgroupDetails(at=AT, stats=Details(), limits=Limits(), processes=1)
    found = by_name(list(metrics.of_group(Sample(USAGE), details)))
    for name in ("memory_limit_bytes", "memory_swap_limit_bytes", "memory_reservation_limit_bytes"):
        assert found[f"container_spec_{name}"] == {(): 0}
    assert found["container_threads_max"] == {(): 0}
    assert found["container_spec_cpu_period"] == {(): 100000}
    assert "container_spec_cpu_quota" not in found


def test_what_the_kernel_does_not_say_has_no_value() -> None:
    found = by_name(list(metrics.of_group(Sample(CgroupUsage(at=AT)), None)))
    assert found.keys() == {"container_last_seen"}


def test_shares_of_a_v2_weight_are_those_asked_for_where_they_fit() -> None:
    def shares(weight: int, asked: int) -> int:
        details = CgroupDetails(at=AT, stats=Details(), limits=Limits(cpu_weight=weight), processes=1)
        found = by_name(list(metrics.of_group(Sample(USAGE), details, asked)))
        return found["container_spec_cpu_shares"][()]

    assert shares(39, 1024) == 1024
    assert shares(100, 1024) == 1024
    assert shares(10000, 1024) == 262144
    assert shares(1, 0) == 2
