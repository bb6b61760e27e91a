"""`stop` and `rm`."""

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from tests.cli.conftest import Sampan
from tests.cli.fake_daemon import FakeDaemon


def test_a_container_is_stopped_with_its_grace(sampan: Sampan, daemon: FakeDaemon) -> None:
    web = daemon.add_container(daemon.add_pod("pod"), "web")
    assert sampan("stop", "-t", "3", "web").out == "web\n"
    assert daemon.requests(cri.StopContainerRequest) == [
        cri.StopContainerRequest(container_id=web.id, timeout=3)
    ]
    assert daemon.requests(cri.StopPodSandboxRequest) == []


def test_a_pod_is_stopped_after_its_containers(sampan: Sampan, daemon: FakeDaemon) -> None:
    pod = daemon.add_pod("pod")
    first, second = daemon.add_container(pod, "a"), daemon.add_container(pod, "b")
    daemon.add_container(pod, "over", cri.CONTAINER_EXITED)
    assert sampan("stop", "pod").code == 0
    asked = [
        each
        for each in daemon.asked
        if isinstance(each, cri.StopContainerRequest | cri.StopPodSandboxRequest)
    ]
    assert asked == [
        cri.StopContainerRequest(container_id=first.id, timeout=10),
        cri.StopContainerRequest(container_id=second.id, timeout=10),
        cri.StopPodSandboxRequest(pod_sandbox_id=pod.id),
    ]


def test_those_that_fail_do_not_keep_the_others_from_being_stopped(
    sampan: Sampan, daemon: FakeDaemon
) -> None:
    web = daemon.add_container(daemon.add_pod("pod"), "web")
    ran = sampan("stop", "nobody", "web")
    assert (ran.code, ran.out) == (1, "web\n")
    assert ran.err.startswith("sampan: there is no container or pod nobody")
    assert daemon.containers[web.id].state == cri.CONTAINER_EXITED


def test_what_runs_is_not_removed_without_force(sampan: Sampan, daemon: FakeDaemon) -> None:
    web = daemon.add_container(daemon.add_pod("pod"), "web")
    for word in ("web", "pod"):
        ran = sampan("rm", word)
        assert (ran.code, ran.out) == (1, "")
        assert f"{word} is running; stop it first with `sampan stop {word}`, or use -f" in ran.err
    assert sampan("rm", "-f", "web").out == "web\n"
    assert web.id not in daemon.containers
    assert len(daemon.pods) == 1


def test_a_pod_goes_with_its_containers(sampan: Sampan, daemon: FakeDaemon) -> None:
    pod = daemon.add_pod("pod")
    daemon.add_container(pod, "over", cri.CONTAINER_EXITED)
    assert sampan("rm", pod.id[:9]).code == 0
    assert (daemon.pods, daemon.containers) == ({}, {})


@pytest.fixture
def ran(daemon: FakeDaemon) -> cri.Container:
    """What `sampan run --name tool` leaves."""
    pod = daemon.add_pod("tool", uid="0-1", run=True)
    container = daemon.add_container(pod, "tool", cri.CONTAINER_EXITED)
    container.labels.update(pod.labels)
    logs = daemon.root / "logs" / "tool-0-1"
    logs.mkdir(parents=True)
    (logs / "tool.log").touch()
    return container


@pytest.mark.parametrize("by_id", [True, False])
def test_what_run_made_is_removed_whole(
    sampan: Sampan, daemon: FakeDaemon, ran: cri.Container, by_id: bool
) -> None:
    assert sampan("rm", ran.id[:9] if by_id else "tool").code == 0
    assert (daemon.pods, daemon.containers) == ({}, {})
    assert list((daemon.root / "logs").iterdir()) == []


@pytest.mark.parametrize(("name", "uid"), [("..", "0"), ("a/b", "0"), ("tool", "../../x"), ("", "0-1")])
def test_a_pod_that_only_claims_to_be_run_s_has_no_log_removed(
    sampan: Sampan, daemon: FakeDaemon, ran: cri.Container, name: str, uid: str
) -> None:
    impostor = daemon.add_pod(name, uid=uid, run=True)
    assert sampan("rm", impostor.id).code == 0
    assert (daemon.root / "logs" / "tool-0-1" / "tool.log").exists()
    assert daemon.requests(cri.StatusRequest) == []


def test_a_removal_that_fails_keeps_the_log(sampan: Sampan, daemon: FakeDaemon, ran: cri.Container) -> None:
    daemon.fails["RemovePodSandbox"] = (grpc.StatusCode.INTERNAL, "umount failed")
    assert sampan("rm", "tool").code == 1
    assert (daemon.root / "logs" / "tool-0-1" / "tool.log").exists()
