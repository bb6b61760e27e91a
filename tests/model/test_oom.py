"""What is told of a kill for memory, and which end it is the cause of."""

import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.container import Container, finished, killed, limited
from sampan.model.oom import OomKill, OomScope, size, told

MIB = 1 << 20


@pytest.mark.parametrize(
    ("kill", "text"),
    [
        (
            OomKill(count=1, scope=OomScope.CONTAINER, limit=64 * MIB, victim="stress", pid=4123),
            "the kernel killed process `stress` (pid 4123): the container's memory limit of 64 MiB was reached",
        ),
        (
            OomKill(count=1, scope=OomScope.POD, limit=1536 * MIB, victim="java", pid=5),
            "the kernel killed process `java` (pid 5): the pod's memory limit of 1.5 GiB was reached",
        ),
        (
            OomKill(count=3, scope=OomScope.NODE, victim="java", pid=5),
            "the kernel killed process `java` (pid 5): the node ran out of memory; 3 of its processes were killed so",
        ),
        (
            OomKill(count=1, scope=OomScope.GROUP, limit=MIB, group="kubepods"),
            "the kernel killed a process: the memory limit of 1 MiB of the control group kubepods was reached",
        ),
        (OomKill(), "the kernel killed a process: memory ran out"),
        (
            OomKill(scope=OomScope.CONTAINER),
            "the kernel killed a process: the container's memory limit was reached",
        ),
    ],
)
def test_a_kill_is_told(kill: OomKill, text: str) -> None:
    assert told(kill) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1024, "1 KiB"), (98304, "96 KiB"), (5 << 40, "5 TiB"), (5 << 50, "5120 TiB")],
)  # fmt: skip
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert size(count) == text


def container() -> Container:
    config = cri.ContainerConfig()
    config.linux.resources.memory_limit_in_bytes = 64 * MIB
    return Container(id="c", pod_id="p", config=config, handler="crun", image_id="i", created_at=1)


KILL = OomKill(count=1, scope=OomScope.CONTAINER, victim="stress", pid=4)
FIRST = OomKill(count=1, scope=OomScope.CONTAINER, victim="stress", pid=3, first_process=True)


@pytest.mark.parametrize(
    ("code", "oom", "lost", "kill", "reason", "killed"),
    [
        (137, True, False, KILL, "OOMKilled", True),
        (137, True, False, None, "OOMKilled", True),  # conmon's note is all there is
        (137, True, False, FIRST, "OOMKilled", True),
        (137, False, False, None, "Error", False),
        (0, True, False, KILL, "Completed", False),
        (1, True, False, KILL, "Error", False),
        (255, True, True, KILL, "Unknown", False),
        (255, False, True, None, "Unknown", False),
    ],
)
def test_oom_killed_is_what_ended_for_memory(
    code: int, oom: bool, lost: bool, kill: OomKill | None, reason: str, killed: bool
) -> None:
    ended = finished(container(), at=2, code=code, oom=oom, lost=lost, kill=kill)
    assert (ended.exit_code, ended.reason, ended.oom_killed) == (code, reason, killed)
    assert ("the kernel killed" in ended.message) is oom
    assert ("64 MiB" in ended.message) is (kill is not None)  # the limit is on record, if its group is gone


@pytest.mark.parametrize(
    ("kill", "reason"),
    [
        (KILL, "Error"),  # a worker died at noon, and at night a stop ended in SIGKILL
        (OomKill(count=1), "Error"),  # the same, and the log has moved on
        (FIRST, "OOMKilled"),  # in the very moment
        (None, "Error"),
    ],
)
def test_our_own_sigkill_is_no_sign_of_want_of_memory(kill: OomKill | None, reason: str) -> None:
    ended = finished(killed(container(), 2), at=3, code=137, oom=kill is not None, kill=kill)
    assert (ended.reason, ended.oom_killed) == (reason, reason == "OOMKilled")
    assert ("the kernel killed" in ended.message) is (kill is not None)


def test_when_we_killed_it_first_is_kept() -> None:
    once = killed(container(), 5)
    assert once.killed_at == 5
    assert killed(once, 6) is once
    ended = finished(container(), at=2, code=0)
    assert killed(ended, 6) is ended


def test_the_first_end_stays() -> None:
    once = finished(container(), at=2, code=137, oom=True, kill=KILL)
    assert finished(once, at=3, code=0) is once


def test_limits_that_were_asked_for_and_those_that_were_read_back() -> None:
    first = container()
    assert first.limits.memory_limit_in_bytes == 64 * MIB
    second = limited(first, cri.LinuxContainerResources(memory_limit_in_bytes=5))
    assert second.limits_in_force.memory_limit_in_bytes == 5
    assert second.limits == first.limits  # what the kernel made of it was not asked for
    third = limited(second, first.limits, asked=cri.LinuxContainerResources(memory_limit_in_bytes=7))
    assert (third.limits.memory_limit_in_bytes, third.limits_in_force) == (7, first.limits)
    assert limited(third, second.limits_in_force).limits == third.limits
    assert third.config == first.config  # a retried create compares it
