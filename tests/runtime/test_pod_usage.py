"""What a pod as a whole uses."""

import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.pod import Pod
from sampan.runtime.pod_usage import PodSample, Sample, has_group, rate, whole
from sampan.runtime.ports import CgroupUsage

UID = "0f3c-11"


def pod(parent: str, uid: str = UID) -> Pod:
    config = cri.PodSandboxConfig(metadata=cri.PodSandboxMetadata(name="web", uid=uid))
    return Pod(id="p", config=config, handler="crun", created_at=1, hostname="web", cgroup_parent=parent)


@pytest.mark.parametrize(
    ("parent", "its_own"),
    [
        (f"/kubepods/burstable/pod{UID}", True),
        (f"/kubepods/pod{UID}/", True),
        ("kubepods-besteffort-pod0f3c_11.slice", True),
        ("/kubepods.slice/kubepods-pod0f3c_11.slice", True),
        ("/kubepods/burstable", False),
        ("/sampan", False),
        ("sampan.slice", False),
        (f"/kubepods/pod{UID}0", False),
        ("kubepods-xpod0f3c_11.slice", False),
        ("", False),
    ],
)
def test_a_parent_named_after_the_pod_is_its_own(parent: str, its_own: bool) -> None:
    assert has_group(pod(parent)) is its_own


def test_a_pod_without_a_uid_has_no_parent_of_its_own() -> None:
    assert not has_group(pod("/kubepods/pod", uid=""))


def test_the_pods_own_group_counts_where_there_is_one() -> None:
    group = Sample(CgroupUsage(at=9, cpu_ns=100, memory_usage=50), 7)
    assert whole(PodSample(8, group), [Sample(CgroupUsage(at=9, cpu_ns=1))]) is group


def test_else_the_containers_are_summed() -> None:
    total = whole(
        PodSample(8),
        [
            Sample(CgroupUsage(at=9, cpu_ns=1, memory_usage=10, memory_working_set=5, processes=2), 100),
            Sample(CgroupUsage(at=7, cpu_ns=2, memory_usage=20, memory_available=9, swap_usage=1), 50),
        ],
    )
    assert total.nano_cores == 150
    assert total.usage == CgroupUsage(
        at=9,
        cpu_ns=3,
        memory_usage=30,
        memory_working_set=5,
        memory_rss=0,
        page_faults=0,
        major_page_faults=0,
        swap_usage=1,
        processes=2,
    )


def test_an_empty_pod_uses_nothing() -> None:
    total = whole(PodSample(8), [])
    assert (total.usage.at, total.usage.cpu_ns, total.usage.memory_usage, total.nano_cores) == (8, 0, 0, 0)


def test_the_rate_of_a_sum_is_unknown_until_every_part_has_one() -> None:
    known, fresh = Sample(CgroupUsage(at=9, cpu_ns=1), 5), Sample(CgroupUsage(at=9, cpu_ns=1))
    assert whole(PodSample(8), [known, fresh]).nano_cores is None


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((1_000_000_000, 500), (2_000_000_000, 250_000_500), 250_000_000),
        ((1_000_000_000, 500), (1_000_000_000, 600), None),
        ((2_000_000_000, 500), (1_000_000_000, 600), None),
        ((1_000_000_000, 600), (2_000_000_000, 500), 0),
        ((1_000_000_000, None), (2_000_000_000, 500), None),
        ((1_000_000_000, 500), (2_000_000_000, None), None),
    ],
)
def test_the_rate_between_two_readings(
    before: tuple[int, int | None], after: tuple[int, int | None], expected: int | None
) -> None:
    first = Sample(CgroupUsage(at=before[0], cpu_ns=before[1]))
    assert rate(first, CgroupUsage(at=after[0], cpu_ns=after[1])) == expected
    assert rate(None, CgroupUsage(at=after[0], cpu_ns=after[1])) is None
