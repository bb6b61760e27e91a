"""What a pod as a whole uses."""

import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.pod import Pod
from sampan.runtime.pod_usage import Ended, PodSample, Sample, following, has_group, rate, whole
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


def test_else_the_containers_are_summed_and_what_none_tells_is_unknown() -> None:
    total = whole(
        PodSample(8),
        [
            Sample(CgroupUsage(at=9, cpu_ns=1, memory_usage=10, memory_working_set=5, processes=2), 100),
            Sample(CgroupUsage(at=7, cpu_ns=2, memory_usage=20, memory_available=9, swap_usage=0), 50),
        ],
    )
    assert total.nano_cores == 150
    assert total.usage == CgroupUsage(
        at=9, cpu_ns=3, memory_usage=30, memory_working_set=5, swap_usage=0, processes=2
    )


def test_what_counts_up_does_not_fall_when_a_container_ends() -> None:
    running = [Sample(CgroupUsage(at=9, cpu_ns=1, memory_usage=10, page_faults=5))]
    ended = Ended().plus(CgroupUsage(at=7, cpu_ns=2, memory_usage=20, page_faults=3, major_page_faults=4))
    ended = ended.plus(CgroupUsage(at=8, cpu_ns=30))
    assert whole(PodSample(8), running, ended).usage == CgroupUsage(
        at=9, cpu_ns=33, memory_usage=10, page_faults=8, major_page_faults=4
    )
    assert whole(PodSample(8), [], ended).usage.cpu_ns == 32
    group = Sample(CgroupUsage(at=9, cpu_ns=100))
    assert whole(PodSample(8, group), running, ended) is group


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
        ((1_000_000_000, 500), (1_500_000_000, 250_000_500), 500_000_000),
        ((1_000_000_000, 600), (2_000_000_000, 500), 0),
        ((1_000_000_000, None), (2_000_000_000, 500), None),
        ((1_000_000_000, 500), (2_000_000_000, None), None),
    ],
)
def test_the_rate_between_two_readings(
    before: tuple[int, int | None], after: tuple[int, int | None], expected: int | None
) -> None:
    first, second = (CgroupUsage(at=at, cpu_ns=cpu) for at, cpu in (before, after))
    assert rate(first, second) == expected


def reading(milliseconds: int, cpu_milliseconds: int) -> CgroupUsage:
    return CgroupUsage(at=1_000_000_000 + milliseconds * 1_000_000, cpu_ns=cpu_milliseconds * 1_000_000)


def rates(*readings: CgroupUsage) -> list[int | None]:
    """After each of them, in thousandths of a core."""
    sample, found = None, []
    for usage in readings:
        sample = following(sample, usage)
        found.append(None if sample.nano_cores is None else sample.nano_cores // 1_000_000)
    return found


def test_readings_close_to_each_other_make_no_rate_of_their_own() -> None:
    # a busy core, whose time the kernel adds up every 4 ms
    assert rates(reading(0, 0), reading(1, 4)) == [None, None]
    assert rates(reading(0, 0), reading(1000, 1000), reading(1001, 1004), reading(1002, 1004)) == [
        None, 1000, 1000, 1000,
    ]  # fmt: skip
    assert rates(reading(0, 0), reading(1, 4), reading(2, 4), reading(1000, 500)) == [None, None, None, 500]


def test_however_often_somebody_reads_there_is_a_new_rate_in_time() -> None:
    often = [reading(100 * number, 50 * number) for number in range(12)]
    assert rates(*often) == [None] * 5 + [500] * 7
    busy = [reading(1100 + 100 * number, 550 + 100 * number) for number in range(1, 6)]
    assert (
        rates(*often, *busy)[-1] == 900
    )  # over 500 ms since the reading at 1000, in all but 100 of them busy
    assert following(following(None, reading(0, 0)), reading(1, 4)).usage == reading(
        1, 4
    )  # but the usage is new


def test_of_two_under_way_the_later_one_stays() -> None:
    sample = following(following(None, reading(0, 0)), reading(1000, 10))
    assert following(sample, reading(999, 9)) is sample
    assert following(sample, reading(1000, 11)) is sample


def test_after_the_clock_was_set_back_counting_starts_anew() -> None:
    sample = following(following(None, reading(5000, 0)), reading(6000, 10))
    assert following(sample, reading(0, 20)) == Sample(reading(0, 20))
