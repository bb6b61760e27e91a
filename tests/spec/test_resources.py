"""Limits that change while the container runs."""

from typing import Any

import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.spec import resources
from sampan.spec.facts import Host


def test_an_update_changes_what_it_names() -> None:
    current = cri.LinuxContainerResources(
        cpu_shares=512,
        memory_limit_in_bytes=1000,
        unified={"memory.high": "900", "memory.min": "1"},
        hugepage_limits=[cri.HugepageLimit(page_size="2MB", limit=1)],
    )
    before = current.SerializeToString(deterministic=True)
    change = cri.LinuxContainerResources(
        cpu_quota=-1,
        memory_limit_in_bytes=2000,
        unified={"memory.high": "1800"},
        hugepage_limits=[cri.HugepageLimit(page_size="2MB", limit=2)],
    )
    merged = resources.merged(current, change)
    assert (merged.cpu_shares, merged.cpu_quota, merged.memory_limit_in_bytes) == (512, -1, 2000)
    assert dict(merged.unified) == {"memory.high": "1800", "memory.min": "1"}
    assert [limit.limit for limit in merged.hugepage_limits] == [2]
    assert current.SerializeToString(deterministic=True) == before
    assert resources.merged(current, cri.LinuxContainerResources()) == current


@pytest.mark.parametrize(
    ("current", "change", "swap"),
    [
        ((100, 0), 200, 0),  # nothing was said of swap
        ((100, 100), 200, 200),  # none stays none
        ((100, 150), 200, 250),  # 50 of it stay
        ((100, 150), 60, 110),
        ((100, -1), 200, -1),
        ((100, 150), -1, -1),
    ],
)
def test_the_amount_of_swap_stays_when_only_the_memory_limit_changes(
    current: tuple[int, int], change: int, swap: int
) -> None:
    before = cri.LinuxContainerResources(
        memory_limit_in_bytes=current[0], memory_swap_limit_in_bytes=current[1]
    )
    merged = resources.merged(before, cri.LinuxContainerResources(memory_limit_in_bytes=change))
    assert (merged.memory_limit_in_bytes, merged.memory_swap_limit_in_bytes) == (change, swap)


@pytest.mark.parametrize(
    ("fields", "created", "updated"),
    [
        ({}, None, None),
        ({"cpu_quota": -1}, None, {"quota": -1, "period": 100_000}),
        ({"cpu_quota": 5000}, {"quota": 5000}, {"quota": 5000, "period": 100_000}),
        ({"cpu_quota": 5000, "cpu_period": 9000}, {"quota": 5000, "period": 9000}, {"quota": 5000, "period": 9000}),
        ({"cpu_shares": 1}, {"shares": 2}, {"shares": 2}),
    ],
)  # fmt: skip
def test_no_quota_is_said_only_where_there_may_be_one(
    fields: dict[str, Any], created: dict[str, int] | None, updated: dict[str, int] | None
) -> None:
    asked = cri.LinuxContainerResources(**fields)
    assert resources.build(asked, Host()).get("cpu") == created
    assert resources.update(asked, Host()).get("cpu") == updated


@pytest.mark.parametrize("cpus", ["4", "0-4", "4,0", "0-1,3,4000"])
def test_a_processor_that_the_host_cannot_have_is_refused(cpus: str) -> None:
    asked, host = cri.LinuxContainerResources(cpuset_cpus=cpus), Host(last_cpu=3)
    for judge in (resources.build, resources.update):
        with pytest.raises(Invalid, match=rf"cpuset_cpus .*{cpus}.* is more than this host has: CPUs 0 to 3"):
            judge(asked, host)


def test_all_processors_of_the_host_can_be_asked_for() -> None:
    asked = cri.LinuxContainerResources(cpuset_cpus="0-2,3")
    assert resources.build(asked, Host(last_cpu=3))["cpu"] == {"cpus": "0-2,3"}


def test_without_a_memory_limit_swap_has_none_either() -> None:
    """v1 refuses a sum below the part, and v2 counts them apart."""
    asked = cri.LinuxContainerResources(memory_limit_in_bytes=-1)
    assert resources.update(asked, Host())["memory"] == {"limit": -1, "swap": -1}
    assert resources.update(asked, Host(swap=False))["memory"] == {"limit": -1}
