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
PRESSURE = Pressure(some=Stall(3_900_000_000), full=Stall(1_000_000_000))
USAGE = CgroupUsage(
    at=AT,
    cpu_ns=5_999_999_999,
    memory_usage=100,
    memory_working_set=90,
    memory_rss=80,
    page_faults=12,
    major_page_faults=2,
    swap_usage=1,
    cpu_pressure=PRESSURE,
    memory_pressure=PRESSURE,
    io_pressure=PRESSURE,
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
        kernel=5,
        peak=110,
        limit_hits=4,
        own_page_faults=11,
        own_major_page_faults=1,
        oom_kills=1,
        reservation=50,
        huge_pages=(HugePages("2MB", 2, 4),),
        io=(
            DeviceIo("254:0", "Read", 4096, 1),
            DeviceIo("254:0", "Write", 8192, 2),
            DeviceIo("254:0", "Sync", 9, 0),
        ),
    ),
    limits=Limits(memory=1000, memory_swap=2000, cpu_shares=512, cpu_quota=5000, cpu_period=10000, pids=99),
    processes=2,
    threads=3,
    descriptors=8,
    sockets=1,
    open_files_limit=1024,
    devices={"254:0": "/dev/vda"},
)
DISK = Disk(Usage(4096, 1), Filesystem("/dev/vda", 1 << 30, 1000, 900))


def by_name(values: list[Value]) -> dict[str, dict[tuple[str, ...], int]]:
    found: dict[str, dict[tuple[str, ...], int]] = {}
    for name, labels, value in values:
        assert labels not in found.get(name, {})  # twice the same would make Prometheus refuse all of it
        found.setdefault(name, {})[labels] = value
    return found


def everything() -> dict[str, dict[tuple[str, ...], int]]:
    values = [
        *metrics.of_group(Sample(USAGE), DETAILS),
        *metrics.of_container(AT, DETAILS, DISK),
        *metrics.of_network([Interface("eth0", 1, 2, 3, 4, 5, 6, 7, 8)]),
    ]
    return by_name(values)


def test_every_metric_has_a_value_with_its_labels() -> None:
    found = everything()
    assert found.keys() == METRICS.keys()
    for name, values in found.items():
        assert all(len(labels) == len(METRICS[name].labels) for labels in values)


def test_seconds_are_cut_off() -> None:
    found = everything()
    assert found["container_cpu_usage_seconds_total"] == {("total",): 5}
    assert found["container_cpu_user_seconds_total"] == {(): 4}
    assert found["container_cpu_system_seconds_total"] == {(): 1}
    assert found["container_cpu_cfs_throttled_seconds_total"] == {(): 2}
    assert found["container_pressure_cpu_waiting_seconds_total"] == {(): 3}
    assert found["container_pressure_io_stalled_seconds_total"] == {(): 1}
    assert found["container_last_seen"] == found["container_start_time_seconds"] == {(): 1_700_000_000}


def test_values_that_have_labels_of_their_own() -> None:
    found = everything()
    assert found["container_memory_failures_total"] == {
        ("pgfault", "container"): 11,
        ("pgfault", "hierarchy"): 12,
        ("pgmajfault", "container"): 1,
        ("pgmajfault", "hierarchy"): 2,
    }
    assert found["container_blkio_device_usage_total"] == {
        ("/dev/vda", "254", "0", "Read"): 4096,
        ("/dev/vda", "254", "0", "Write"): 8192,
        ("/dev/vda", "254", "0", "Sync"): 9,
    }
    assert found["container_fs_reads_total"] == {("/dev/vda",): 1}
    assert found["container_fs_writes_bytes_total"] == {("/dev/vda",): 8192}
    assert found["container_network_transmit_packets_dropped_total"] == {("eth0",): 8}
    assert found["container_hugetlb_max_usage_bytes"] == {("2MB",): 4}
    assert found["container_ulimits_soft"] == {("max_open_files",): 1024}


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
