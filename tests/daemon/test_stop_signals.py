"""The signal that a container is stopped by, and what else stopping promises, on the real machine."""

import json
import time
from typing import Any

import pytest

from sampan.api import cri_pb2 as cri
from tests.daemon.conftest import SECONDS, Live

pytestmark = pytest.mark.root
LOOP = "echo ready; while :; do sleep 0.05; done"


def stop(daemon: Live, id: str, seconds: int) -> None:
    daemon.runtime.StopContainer(
        cri.StopContainerRequest(container_id=id, timeout=seconds), timeout=SECONDS + seconds
    )


def ready(daemon: Live, script: str, **more: Any) -> str:
    """A container that has set its traps."""
    id = daemon.started(daemon.pod(), "sh", "-c", f"{script}; {LOOP}", **more)
    deadline = time.monotonic() + SECONDS
    while "ready" not in daemon.logged(id):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return id


@pytest.mark.parametrize(
    ("signal", "number"),
    [(cri.SIGNAL_SIGRTMINPLUS3, 37), (cri.SIGNAL_SIGRTMAX, 64), (cri.SIGNAL_SIGUSR1, 10), (0, 15)],
)
def test_the_stop_signal_of_the_request_arrives_by_number(
    daemon: Live, signal: "cri.Signal.ValueType", number: int
) -> None:
    id = ready(daemon, f"trap 'exit 5' {number}", stop_signal=signal)
    assert daemon.status(id).stop_signal == (signal or cri.SIGNAL_SIGTERM)
    begin = time.monotonic()
    stop(daemon, id, 25)
    assert time.monotonic() - begin < 20
    assert (daemon.status(id).exit_code, daemon.status(id).reason) == (5, "Error")


def test_the_signal_comes_once_and_a_second_stop_shortens_the_wait(daemon: Live) -> None:
    id = ready(daemon, "trap 'echo asked' 15")
    first = daemon.runtime.StopContainer.future(
        cri.StopContainerRequest(container_id=id, timeout=3600), timeout=3600
    )
    while "asked" not in daemon.logged(id):
        time.sleep(0.02)
    begin = time.monotonic()
    stop(daemon, id, 1)
    assert time.monotonic() - begin < 20
    first.result(timeout=SECONDS)
    assert daemon.status(id).exit_code == 137
    assert daemon.logged(id).count("asked") == 1


def test_the_kill_comes_also_when_the_caller_has_left(daemon: Live) -> None:
    id = ready(daemon, "trap '' 15")
    call = daemon.runtime.StopContainer.future(
        cri.StopContainerRequest(container_id=id, timeout=1), timeout=3600
    )
    time.sleep(0.3)
    call.cancel()
    assert daemon.until_exited(id).exit_code == 137


def test_an_end_while_the_daemon_is_away_that_nobody_noted_is_not_success(daemon: Live) -> None:
    id = daemon.started(daemon.pod(), "sleep", "1.5")
    info = daemon.runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=id, verbose=True)).info
    assert json.loads(info["info"])["pid"]
    daemon.kill()
    time.sleep(2.5)
    for note in (daemon.own.directory / "state").rglob("exits/*"):
        note.unlink()
    daemon.start()
    status = daemon.until_exited(id)
    assert (status.exit_code, status.reason) == (255, "Unknown")
