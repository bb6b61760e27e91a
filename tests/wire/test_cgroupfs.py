"""Texts of control group files, as kernels of v1 and v2 machines write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.wire import cgroupfs
from sampan.wire.cgroupfs import Limits, Memory

STAT_V1 = b"""\
cache 9375744
rss 14446592
inactive_file 16384
hierarchical_memory_limit 67108864
hierarchical_memsw_limit 134217728
total_cache 258756608
total_rss 15053568
total_swap 4096
total_pgfault 11253666
total_pgmajfault 1902
total_inactive_file 10485760
total_active_file 79831040
"""
STAT_V2 = b"""\
anon 1118208
file 270336
kernel 512000
shmem 0
inactive_anon 1089536
active_anon 8192
inactive_file 262144
active_file 8192
pgfault 1543
pgmajfault 7
"""
NO_LIMIT = b"9223372036854771712\n"  # on 4 KiB pages
NO_LIMIT_64K = b"9223372036854710272\n"  # on arm64 with 64 KiB pages


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"334135760742\n", 334135760742),
        (b"0\n", 0),
        (b"-1\n", -1),
        (b"max\n", None),
        (b"", None),
        (None, None),
        (b"1_000\n", None),
        ("١٢".encode(), None),
        (b"12 34\n", None),
    ],
)
def test_a_number(text: bytes | None, value: int | None) -> None:
    assert cgroupfs.number(text) == value


def test_a_table_keeps_what_is_a_number() -> None:
    assert cgroupfs.table(b"low 0\nhigh 12\noom_kill 3\nodd\nname x\n") == {
        b"low": 0,
        b"high": 12,
        b"oom_kill": 3,
    }
    assert cgroupfs.table(None) == {}


@given(st.binary(max_size=300))
def test_no_text_breaks_a_parser(text: bytes) -> None:
    cgroupfs.number(text)
    cgroupfs.table(text)
    cgroupfs.memory_v1(text, text)
    cgroupfs.memory_v2(text, text, text, text, text)
    cgroupfs.limits_v2({"cpu.max": text, "memory.max": text})


def test_cpu_time_of_v2_is_in_ns() -> None:
    assert cgroupfs.cpu_v2(b"usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\n") == 1234567000
    assert cgroupfs.cpu_v2(b"") is None


def test_memory_of_v1() -> None:
    assert cgroupfs.memory_v1(b"20971520\n", STAT_V1) == Memory(
        usage=20971520,
        working_set=10485760,
        available=67108864 - 10485760,
        rss=15053568,
        page_faults=11253666,
        major_page_faults=1902,
        swap_usage=4096,
        swap_available=134217728 - 20971520 - 4096,
    )


@pytest.mark.parametrize("limit", [NO_LIMIT, NO_LIMIT_64K])
def test_memory_of_v1_without_a_limit_has_nothing_available(limit: bytes) -> None:
    stat = b"hierarchical_memory_limit " + limit + b"hierarchical_memsw_limit " + limit + b"total_swap 0\n"
    memory = cgroupfs.memory_v1(b"4096\n", stat)
    assert (memory.usage, memory.available, memory.swap_usage, memory.swap_available) == (4096, None, 0, None)


def test_memory_of_v1_without_swap_accounting() -> None:
    memory = cgroupfs.memory_v1(b"4096\n", b"total_rss 1\nhierarchical_memory_limit 8192\n")
    assert (memory.swap_usage, memory.swap_available, memory.available) == (None, None, 4096)


def test_memory_of_v2() -> None:
    assert cgroupfs.memory_v2(b"1900544\n", b"67108864\n", STAT_V2, b"8192\n", b"16384\n") == Memory(
        usage=1900544,
        working_set=1638400,
        available=67108864 - 1638400,
        rss=1118208,
        page_faults=1543,
        major_page_faults=7,
        swap_usage=8192,
        swap_available=8192,
    )


def test_memory_of_v2_without_limits() -> None:
    memory = cgroupfs.memory_v2(b"1900544\n", b"max\n", STAT_V2, b"0\n", b"max\n")
    assert (memory.available, memory.swap_usage, memory.swap_available) == (None, 0, None)


def test_memory_of_v2_without_the_controller() -> None:
    assert cgroupfs.memory_v2(None, None, None, None, None) == Memory()


def test_a_figure_never_falls_below_zero() -> None:
    assert cgroupfs.memory_v2(b"10\n", b"5\n", b"inactive_file 99\n", b"9\n", b"3\n") == Memory(
        usage=10, working_set=0, available=5, swap_usage=9, swap_available=0
    )


def test_limits_of_v1() -> None:
    files: dict[str, bytes | None] = {
        "memory.limit_in_bytes": b"67108864\n",
        "memory.memsw.limit_in_bytes": NO_LIMIT,
        "cpu.shares": b"512\n",
        "cpu.cfs_quota_us": b"50000\n",
        "cpu.cfs_period_us": b"100000\n",
        "cpuset.cpus": b"0-1\n",
        "cpuset.mems": b"0\n",
        "pids.max": b"max\n",
    }
    assert cgroupfs.limits_v1(files) == Limits(
        memory=67108864,
        cpu_shares=512,
        cpu_quota=50000,
        cpu_period=100000,
        cpuset_cpus="0-1",
        cpuset_mems="0",
    )
    assert cgroupfs.limits_v1({"cpu.cfs_quota_us": b"-1\n"}) == Limits()


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        (
            {"memory.max": b"67108864\n", "memory.swap.max": b"0\n", "cpu.max": b"50000 100000\n"},
            Limits(memory=67108864, memory_swap=67108864, cpu_quota=50000, cpu_period=100000),
        ),
        (
            {"memory.max": b"max\n", "memory.swap.max": b"max\n", "cpu.max": b"max 100000\n"},
            Limits(cpu_period=100000),
        ),
        (
            {"cpu.weight": b"20\n", "cpuset.cpus": b"\n", "pids.max": b"100\n"},
            Limits(cpu_weight=20, cpuset_cpus="", pids=100),
        ),
        ({}, Limits()),
    ],
)
def test_limits_of_v2(files: dict[str, bytes | None], limits: Limits) -> None:
    assert cgroupfs.limits_v2(files) == limits


@pytest.mark.parametrize(
    ("shares", "weight"),
    [(2, 1), (262144, 10000), (1024, 39), (1024, 100), (512, 20), (512, 59), (2048, 79), (2048, 174)],
)
def test_shares_fit_the_weight_of_either_conversion(shares: int, weight: int) -> None:
    assert cgroupfs.shares_fit(shares, weight)


@pytest.mark.parametrize(("shares", "weight"), [(1024, 1), (1024, 10000), (2, 100), (512, 100)])
def test_shares_do_not_fit_another_weight(shares: int, weight: int) -> None:
    assert not cgroupfs.shares_fit(shares, weight)
