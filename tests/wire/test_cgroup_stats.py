"""Details of control groups: texts as kernels of v1 and v2 machines write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.wire import cgroup_stats
from sampan.wire.cgroup_stats import Details, DeviceIo, HugePages

V1: dict[str, bytes | None] = {
    "cpuacct.usage_user": b"7289030858795\n",
    "cpuacct.usage_sys": b"2356365256958\n",
    "cpu.stat": b"nr_periods 12\nnr_throttled 3\nthrottled_time 4500000000\nnr_bursts 0\nburst_time 0\n",
    "memory.stat": (
        b"cache 11878400\nmapped_file 7520256\npgfault 191972\npgmajfault 5\n"
        b"total_cache 2092687360\ntotal_mapped_file 11034624\ntotal_pgfault 144621048\ntotal_pgmajfault 15173\n"
    ),
    "memory.failcnt": b"9\n",
    "memory.max_usage_in_bytes": b"4194304\n",
    "memory.kmem.usage_in_bytes": b"12288\n",
    "memory.oom_control": b"oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    "memory.soft_limit_in_bytes": b"1048576\n",
    "blkio.throttle.io_service_bytes_recursive": (
        b"254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 12288\n254:0 Async 0\n254:0 Discard 0\n"
        b"254:0 Total 12288\nTotal 12288\n"
    ),
    "blkio.throttle.io_serviced_recursive": b"254:0 Read 1\n254:0 Write 2\n254:0 Total 3\nTotal 3\n",
    "hugetlb.2MB.usage_in_bytes": b"2097152\n",
    "hugetlb.2MB.max_usage_in_bytes": b"4194304\n",
}
V2: dict[str, bytes | None] = {
    "cpu.stat": (
        b"usage_usec 30\nuser_usec 20\nsystem_usec 10\nnice_usec 0\n"
        b"nr_periods 12\nnr_throttled 3\nthrottled_usec 4500000\n"
    ),
    "memory.stat": b"anon 1\nfile 270336\nkernel 512000\nslab 1\nfile_mapped 8192\npgfault 1543\npgmajfault 7\n",
    "memory.events": b"low 0\nhigh 0\nmax 9\noom 2\noom_kill 2\noom_group_kill 0\n",
    "memory.peak": b"4194304\n",
    "memory.low": b"1048576\n",
    "io.stat": b"254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n253:0 \n",
    "hugetlb.2MB.current": b"2097152\n",
}


def test_details_of_v1() -> None:
    assert cgroup_stats.details_v1(V1, ["1GB", "2MB"]) == Details(
        cpu_user_ns=7289030858795,
        cpu_system_ns=2356365256958,
        periods=12,
        throttled_periods=3,
        throttled_ns=4500000000,
        cache=2092687360,
        mapped_file=11034624,
        kernel=12288,
        peak=4194304,
        limit_hits=9,
        own_page_faults=191972,
        own_major_page_faults=5,
        oom_kills=2,
        reservation=1048576,
        huge_pages=(HugePages("2MB", 2097152, 4194304),),
        io=(
            DeviceIo("254:0", "Read", 4096, 1),
            DeviceIo("254:0", "Write", 8192, 2),
            DeviceIo("254:0", "Sync", 12288, 0),
            DeviceIo("254:0", "Async", 0, 0),
            DeviceIo("254:0", "Discard", 0, 0),
        ),
    )


def test_details_of_v2() -> None:
    assert cgroup_stats.details_v2(V2, ["1GB", "2MB"]) == Details(
        cpu_user_ns=20000,
        cpu_system_ns=10000,
        periods=12,
        throttled_periods=3,
        throttled_ns=4500000000,
        cache=270336,
        mapped_file=8192,
        kernel=512000,
        peak=4194304,
        limit_hits=9,
        own_page_faults=1543,
        own_major_page_faults=7,
        oom_kills=2,
        reservation=1048576,
        huge_pages=(HugePages("2MB", 2097152),),
        io=(
            DeviceIo("254:0", "Read", 4096, 1),
            DeviceIo("254:0", "Write", 8192, 2),
            DeviceIo("254:0", "Discard", 0, 0),
        ),
    )


def test_what_is_not_there_is_not_known() -> None:
    assert cgroup_stats.details_v1({}, ["2MB"]) == Details()
    assert cgroup_stats.details_v2({}, ["2MB"]) == Details()
    assert cgroup_stats.details_v1({"memory.soft_limit_in_bytes": b"9223372036854771712\n"}) == Details()


def test_kernel_memory_before_there_was_a_sum() -> None:
    stat = b"slab 1000\nkernel_stack 200\npagetables 30\npercpu 4\n"
    assert cgroup_stats.details_v2({"memory.stat": stat}).kernel == 1234


def test_the_most_huge_pages_seen_are_remembered_where_the_kernel_does_not() -> None:
    def reading(usage: int, peak: int | None = None) -> Details:
        return Details(huge_pages=(HugePages("2MB", usage, peak),))

    first = cgroup_stats.with_peaks(reading(5), None)
    second = cgroup_stats.with_peaks(reading(9), first)
    third = cgroup_stats.with_peaks(reading(2), second)
    assert [one.huge_pages[0].peak for one in (first, second, third)] == [5, 9, 9]
    assert cgroup_stats.with_peaks(reading(2, 3), second) == reading(2, 3)


@pytest.mark.parametrize(
    ("kilobytes", "name"), [(64, "64KB"), (2048, "2MB"), (32768, "32MB"), (524288, "512MB"), (1048576, "1GB")]
)
def test_sizes_of_huge_pages(kilobytes: int, name: str) -> None:
    assert cgroup_stats.page_size(kilobytes) == name


@pytest.mark.parametrize(("weight", "shares"), [(1, 2), (39, 998), (10000, 262144)])
def test_shares_of_a_weight(weight: int, shares: int) -> None:
    assert cgroup_stats.shares_of(weight) == shares


@given(st.binary(max_size=300))
def test_no_text_breaks_a_parser(text: bytes) -> None:
    names = [name for group in cgroup_stats.FILES_V1.values() for name in group]
    cgroup_stats.details_v1(dict.fromkeys([*names, *cgroup_stats.huge_files_v1("2MB")], text), ["2MB"])
    cgroup_stats.details_v2(dict.fromkeys([*cgroup_stats.FILES_V2, "hugetlb.2MB.current"], text), ["2MB"])
