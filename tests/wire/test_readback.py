"""Limits as asked against limits as the kernel has them: what is lost, what is rounding."""

from typing import Any

import pytest

from sampan.api import cri_pb2 as cri
from sampan.wire.cgroupfs import Limits
from sampan.wire.readback import differences, files, numbers, restoring, shown

MIB = 1 << 20
V1, V2 = False, True


def pages(size: str, limit: int) -> dict[str, Any]:
    return {"hugepageLimits": [{"pageSize": size, "limit": limit}]}


@pytest.mark.parametrize(
    ("asked", "got", "v2"),
    [
        ({}, Limits(), V2),
        ({}, Limits(memory=5, cpu_quota=7), V2),  # nobody asked
        ({"memory": {"limit": 100_000_001}}, Limits(memory=99_999_744), V2),  # pages of 4 KiB
        ({"memory": {"limit": 100_000_001}}, Limits(memory=99_942_400), V1),  # of 64 KiB
        ({"memory": {"limit": -1, "swap": -1}}, Limits(), V1),
        ({"memory": {"limit": 1 << 62}}, Limits(), V1),  # more than any limit
        ({"memory": {"limit": MIB, "swap": MIB}}, Limits(memory=MIB, memory_swap=MIB), V2),
        ({"cpu": {"shares": 512}}, Limits(cpu_shares=512), V1),
        ({"cpu": {"shares": 1024}}, Limits(cpu_weight=39), V2),
        ({"cpu": {"shares": 1024}}, Limits(cpu_weight=100), V2),
        ({"cpu": {"quota": 50_000}}, Limits(cpu_quota=50_000, cpu_period=100_000), V2),
        ({"cpu": {"quota": 50_000, "period": 100_000}}, Limits(cpu_quota=25_000, cpu_period=50_000), V2),
        ({"cpu": {"quota": -1}}, Limits(cpu_period=100_000), V1),
        ({"cpu": {"cpus": "0,1,2", "mems": "0"}}, Limits(cpuset_cpus="0-2", cpuset_mems="0"), V2),
        (pages("2MB", 5 * MIB), Limits(files={"hugetlb.2MB.max": f"{4 * MIB}\n"}), V2),
        (pages("1GB", 0), Limits(files={"hugetlb.1GB.limit_in_bytes": "0\n"}), V1),
        ({"unified": {"memory.high": "100000"}}, Limits(files={"memory.high": "98304\n"}), V2),
        ({"unified": {"pids.max": "max"}}, Limits(files={"pids.max": "max\n"}), V2),
        ({"unified": {"io.max": "8:0 rbps=1"}}, Limits(files={"io.max": "8:0 rbps=1 wbps=max\n"}), V2),
    ],
)  # fmt: skip
def test_what_is_as_asked(asked: dict[str, Any], got: Limits, v2: bool) -> None:
    assert differences(asked, got, v2=v2) == ()


@pytest.mark.parametrize(
    ("asked", "got", "lost", "words"),
    [
        ({"memory": {"limit": MIB, "swap": MIB}}, Limits(), True, "the memory limit is absent, not 1048576"),
        ({"memory": {"limit": MIB}}, Limits(memory=2 * MIB), True, "is 2097152, not 1048576"),
        ({"memory": {"limit": 2 * MIB}}, Limits(memory=MIB), False, "is 1048576"),
        ({"memory": {"limit": -1}}, Limits(memory=MIB), False, "is 1048576, not none"),
        ({"memory": {"limit": MIB, "swap": MIB}}, Limits(memory=MIB), True, "memory and swap is absent"),
        ({"memory": {"limit": MIB, "swap": MIB}}, Limits(memory=MIB, memory_swap=3 * MIB), True, "swap is 3"),
        ({"cpu": {"shares": 512}}, Limits(cpu_shares=1024), False, "cpu.shares is 1024, not 512"),
        ({"cpu": {"shares": 512}}, Limits(cpu_weight=7), False, "a weight of 7"),
        ({"cpu": {"shares": 512}}, Limits(), False, "absent"),
        ({"cpu": {"quota": 50_000}}, Limits(cpu_period=100_000), True, "the CPU quota is absent"),
        ({"cpu": {"quota": 50_000}}, Limits(cpu_quota=60_000, cpu_period=100_000), True, "60000 of 100000"),
        ({"cpu": {"quota": 50_000}}, Limits(cpu_quota=50_000, cpu_period=50_000), True, "of 50000"),
        ({"cpu": {"quota": 50_000}}, Limits(cpu_quota=40_000, cpu_period=100_000), False, "40000"),
        ({"cpu": {"quota": -1}}, Limits(cpu_quota=4, cpu_period=5), False, "is 4, not none"),
        ({"cpu": {"cpus": "0-1"}}, Limits(cpuset_cpus="0-3"), True, "cpuset.cpus is 0-3, not 0-1"),
        ({"cpu": {"cpus": "0-1"}}, Limits(cpuset_cpus=""), True, "absent"),
        ({"cpu": {"cpus": "0-1"}}, Limits(cpuset_cpus="1"), False, "is 1"),
        ({"cpu": {"mems": "1"}}, Limits(cpuset_mems="0"), True, "cpuset.mems"),
        (pages("2MB", 0), Limits(), True, "absent, not 0"),
        (pages("2MB", 2 * MIB), Limits(files={"hugetlb.2MB.max": "max"}), True, "2097152"),
        ({"unified": {"pids.max": "5"}}, Limits(), True, "pids.max is absent"),
        ({"unified": {"pids.max": "5"}}, Limits(files={"pids.max": "max\n"}), True, "pids.max is max, not 5"),
        ({"unified": {"memory.min": "1000000"}}, Limits(files={"memory.min": "0\n"}), False, "is 0"),
        ({"unified": {"cpu.idle": "1"}}, Limits(), False, "cpu.idle"),
    ],
)  # fmt: skip
def test_what_is_not(asked: dict[str, Any], got: Limits, lost: bool, words: str) -> None:
    [difference] = differences(asked, got, v2=V2)
    assert difference.lost is lost
    assert words in str(difference)


def test_the_files_to_read_are_those_of_huge_pages_and_those_named() -> None:
    asked = {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}], "unified": {"memory.high": "1"}}
    assert files(asked, v2=True) == ("hugetlb.2MB.max", "memory.high")
    assert files({**asked, "unified": {}}, v2=False) == ("hugetlb.2MB.limit_in_bytes",)


def test_lists_of_processors() -> None:
    assert numbers("0-2,5") == {0, 1, 2, 5}
    assert numbers("") == frozenset()


def test_the_status_has_the_kernels_values_for_what_was_asked() -> None:
    asked = cri.LinuxContainerResources(
        memory_limit_in_bytes=100_000_001, memory_swap_limit_in_bytes=-1, cpu_shares=512, cpu_quota=5000,
        cpuset_cpus="0,1", hugepage_limits=[cri.HugepageLimit(page_size="2MB", limit=5 * MIB)],
        unified={"memory.high": "100000"}, oom_score_adj=7,
    )  # fmt: skip
    got = Limits(
        memory=50_000_000, memory_swap=None, cpu_weight=20, cpu_quota=4000, cpu_period=100_000, cpuset_cpus="0-1",
        cpuset_mems="0", files={"hugetlb.2MB.max": f"{2 * MIB}\n", "memory.high": "98304\n"},
    )  # fmt: skip
    expected = cri.LinuxContainerResources(
        memory_limit_in_bytes=50_000_000, memory_swap_limit_in_bytes=-1, cpu_shares=512, cpu_quota=4000,
        cpuset_cpus="0-1", hugepage_limits=[cri.HugepageLimit(page_size="2MB", limit=2 * MIB)],
        unified={"memory.high": "100000"}, oom_score_adj=7,
    )  # fmt: skip
    assert shown(asked, got, v2=True) == expected


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ({"memory_limit_in_bytes": 100_000_000}, Limits(memory=99_999_744)),
        (
            {"memory_limit_in_bytes": 100_000_001, "memory_swap_limit_in_bytes": 200_000_001},
            Limits(memory=99_999_744, memory_swap=199_999_488),
        ),
        ({"memory_limit_in_bytes": -1, "memory_swap_limit_in_bytes": -1}, Limits()),
        ({"cpu_quota": 12_345, "cpu_period": 100_000}, Limits(cpu_quota=12_346, cpu_period=100_000)),
        ({"cpu_quota": 50_000, "cpu_period": 50_000}, Limits(cpu_quota=100_000, cpu_period=100_000)),
        ({"cpu_quota": 50_000}, Limits(cpu_quota=50_000, cpu_period=100_000)),
        ({"cpu_quota": -1, "cpu_period": 50_000}, Limits(cpu_period=100_000)),
        (
            {"hugepage_limits": [cri.HugepageLimit(page_size="2MB", limit=5 * MIB)]},
            Limits(files={"hugetlb.2MB.max": f"{4 * MIB}\n"}),
        ),
        ({"unified": {"io.max": "253:0 rbps=max"}}, Limits(files={"io.max": ""})),
        (
            {"unified": {"cpuset.cpus.partition": "isolated"}},
            Limits(files={"cpuset.cpus.partition": "isolated invalid (Cpu list in cpuset.cpus not exclusive)\n"}),
        ),
    ],
)  # fmt: skip
def test_what_the_kernel_rounds_is_shown_as_asked_or_the_kubelet_would_ask_for_ever(
    asked: dict[str, Any], got: Limits
) -> None:
    wanted = cri.LinuxContainerResources(**asked)
    assert shown(wanted, got, v2=V2) == wanted


@pytest.mark.parametrize(
    ("got", "shares"),
    [(Limits(cpu_shares=700), 700), (Limits(cpu_weight=10_000), 262144), (Limits(cpu_weight=1), 2), (Limits(), 512)],
)  # fmt: skip
def test_shares_that_are_not_those_asked_for(got: Limits, shares: int) -> None:
    assert shown(cri.LinuxContainerResources(cpu_shares=512), got, v2=V2).cpu_shares == shares


def test_what_was_changed_is_taken_back_and_nothing_else() -> None:
    changed = {
        "memory": {"limit": 5, "swap": 5},
        "cpu": {"shares": 2, "quota": 5000, "period": 100_000},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
        "unified": {"memory.high": "5"},
    }
    before = Limits(
        memory=None, memory_swap=None, cpu_weight=20, cpu_quota=None, cpu_period=100_000, cpuset_cpus="0-1",
        files={"hugetlb.2MB.max": f"{4 * MIB}\n", "memory.high": "max\n"},
    )  # fmt: skip
    assert restoring(changed, before, v2=True) == {
        "memory": {"limit": -1, "swap": -1},
        "cpu": {"quota": -1, "period": 100_000},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}],
        "unified": {"memory.high": "max", "cpu.weight": "20"},
    }
    names = ("io.max", "cpuset.cpus.partition", "cpu.max", "memory.high", "memory.low")
    texts = ("8:0 rbps=1 wbps=max\n", "isolated invalid (no parent)\n", "max 100000\n", "77\n", "")
    others = Limits(files=dict(zip(names, texts, strict=True)))
    changed = {"unified": dict.fromkeys(names, "1")}
    plain = {"cpu.max": "max 100000", "memory.high": "77"}
    assert restoring(changed, others, v2=True) == {"unified": plain}
    asked = {"io.max": "8:0 rbps=1", "memory.high": "78", "pids.max": "5"}
    assert restoring(changed, others, asked, v2=True) == {
        "unified": {**plain, "io.max": "8:0 rbps=1", "memory.high": "78"}
    }
    assert restoring({"cpu": {"cpus": "0"}}, before, v2=True) == {"cpu": {"cpus": "0-1"}}
    assert restoring({"memory": {"limit": 5}}, Limits(memory=9, memory_swap=9), v2=False) == {
        "memory": {"limit": 9}
    }
