"""kill -9 of the daemon: nothing acknowledged is lost, nothing unacknowledged stays, nothing leaks."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from tests import census
from tests.daemon.conftest import Live

pytestmark = pytest.mark.root

COUNTER = "i=0; while :; do echo $i; i=$((i+1)); usleep 2000; done"


def test_ten_pods_live_through_a_kill(daemon: Live) -> None:
    daemon.life()
    before = without_daemon(daemon.census())
    with ThreadPoolExecutor(4) as pool:
        pods = list(pool.map(lambda n: daemon.pod(f"pod{n}"), range(10)))
        containers = list(pool.map(lambda pod: daemon.started(pod, "sh", "-c", COUNTER), pods))
    pids = [pid(daemon, one) for one in containers]
    ips = [address(daemon, pod) for pod in pods]
    time.sleep(0.2)
    daemon.kill()
    time.sleep(0.3)  # they write on while nobody serves
    daemon.start()
    listed = daemon.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items
    assert {pod.id for pod in listed} == set(pods) and all(pod.state == cri.SANDBOX_READY for pod in listed)
    assert [pid(daemon, one) for one in containers] == pids and [address(daemon, pod) for pod in pods] == ips
    assert all(daemon.status(one).state == cri.CONTAINER_RUNNING for one in containers)
    assert daemon.exec(containers[0], "echo", "hi").stdout == b"hi\n"
    for one in containers:
        daemon.runtime.StopContainer(cri.StopContainerRequest(container_id=one, timeout=0))
        lines = daemon.logged(one)
        assert lines == [str(i) for i in range(len(lines))] and len(lines) > 100
    for pod in pods:
        daemon.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod))
    assert census.diff(before, daemon.census()) == ""


def pid(daemon: Live, container: str) -> int:
    request = cri.ContainerStatusRequest(container_id=container, verbose=True)
    info = json.loads(daemon.runtime.ContainerStatus(request).info["info"])
    return int(info["pid"])


def address(daemon: Live, pod: str) -> str:
    return daemon.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=pod)).status.network.ip


def test_an_exit_while_the_daemon_is_away_is_known_afterwards(daemon: Live) -> None:
    container = daemon.started(daemon.pod(), "sh", "-c", "sleep 0.5; exit 9")
    daemon.kill()
    time.sleep(1)
    daemon.start()
    status = daemon.until_exited(container)
    assert (status.exit_code, status.reason) == (9, "Error")


def steps_of_a_life(daemon: Live) -> list[str]:
    """Every step that a whole life takes, by name."""
    seen = daemon.faults.with_suffix(".seen")
    seen.unlink(missing_ok=True)
    daemon.life()
    names = list(dict.fromkeys(seen.read_text().split()))
    assert len(names) > 30
    return names


def meet(daemon: Live, step: str, action: str) -> str:
    """Live a whole life in which `step` meets a fault, once; what the call that met it said, if one did."""
    daemon.faults.write_text(json.dumps([{"step": step, "action": action}]))
    try:
        daemon.life()
    except grpc.RpcError as error:
        return str(error.code())
    finally:
        daemon.faults.unlink(missing_ok=True)
    return ""


def settled(daemon: Live, before: census.Census) -> str:
    """The census once background clean-up has ended (bounded)."""
    for _ in range(100):
        left = census.diff(before, without_daemon(daemon.census()))
        if not left:
            return ""
        time.sleep(0.05)
    return left


def remove_all(daemon: Live) -> None:
    for pod in daemon.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items:
        daemon.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod.id))


def without_daemon(found: census.Census) -> census.Census:
    return {kind: items for kind, items in found.items() if kind not in ("descriptors", "threads")}


def test_a_kill_at_any_step_leaves_nothing_that_a_restart_does_not_find(daemon: Live) -> None:
    daemon.life()
    before = without_daemon(daemon.census())
    for step in steps_of_a_life(daemon):
        if meet(daemon, step, "kill"):
            daemon.ended()
            daemon.start()
        remove_all(daemon)
        left = settled(daemon, before)
        assert not left, f"after a kill at {step}:\n{left}"


def test_a_failure_at_any_step_leaves_nothing_and_the_retry_works(daemon: Live) -> None:
    daemon.life()
    before = without_daemon(daemon.census())
    for step in steps_of_a_life(daemon):
        said = meet(daemon, step, "fail")
        assert "UNAVAILABLE" not in said, f"the daemon died at {step}"
        remove_all(daemon)
        left = settled(daemon, before)
        assert not left, f"after a failure at {step}:\n{left}"


def test_the_end_of_the_daemon_is_not_the_end_of_containers(daemon: Live) -> None:
    container = daemon.started(daemon.pod())
    process = pid(daemon, container)
    assert daemon.own.process is not None
    daemon.own.process.terminate()
    assert daemon.ended() == 0
    assert Path(f"/proc/{process}").exists() and not daemon.own.socket.exists()
    daemon.start()
    assert daemon.status(container).state == cri.CONTAINER_RUNNING
