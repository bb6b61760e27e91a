"""GetContainerEvents of the whole daemon: what the kubelet's Evented PLEG would see."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from typing import Any, cast

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from tests.daemon.conftest import SECONDS, Live

pytestmark = pytest.mark.root
CREATED, STARTED, STOPPED, DELETED = (
    cri.CONTAINER_CREATED_EVENT,
    cri.CONTAINER_STARTED_EVENT,
    cri.CONTAINER_STOPPED_EVENT,
    cri.CONTAINER_DELETED_EVENT,
)


class Subscriber:
    """Reads the stream in a thread of its own, from the moment it is made."""

    def __init__(self, daemon: Live) -> None:
        self._events: queue.Queue[cri.ContainerEventResponse | grpc.RpcError | None] = queue.Queue()
        self._call = cast(Any, daemon.runtime.GetContainerEvents(cri.GetEventsRequest()))
        self._call.initial_metadata()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for event in self._call:
                self._events.put(event)
            self._events.put(None)
        except grpc.RpcError as error:
            self._events.put(error)

    def next(self) -> cri.ContainerEventResponse:
        event = self._events.get(timeout=SECONDS)
        assert isinstance(event, cri.ContainerEventResponse), event
        return event

    def until(self, kind: int, id: str) -> list[cri.ContainerEventResponse]:
        """All up to this one."""
        found = [self.next()]
        while (found[-1].container_event_type, found[-1].container_id) != (kind, id):
            found.append(self.next())
        return found

    def end(self) -> object:
        """What the stream ends with: None for an orderly end."""
        return self._events.get(timeout=SECONDS)


def kinds(found: list[cri.ContainerEventResponse]) -> list[tuple[int, str]]:
    return [(each.container_event_type, each.container_id) for each in found]


def test_a_life_is_told_whole_and_in_order(daemon: Live) -> None:
    subscribers = [Subscriber(daemon) for _ in range(3)]
    pod = daemon.pod()
    short = daemon.started(pod, "sh", "-c", "sleep 0.2; exit 3", name="short")
    subscribers[0].until(STOPPED, short)
    long = daemon.started(pod, name="long")
    runtime = daemon.runtime
    runtime.StopContainer(cri.StopContainerRequest(container_id=long, timeout=0), timeout=SECONDS)
    never = daemon.container(pod, name="never")
    runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=short), timeout=SECONDS)
    runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=pod), timeout=SECONDS)
    runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod), timeout=SECONDS)
    found = subscribers[1].until(DELETED, pod)
    assert kinds(found[:-3]) == [
        (CREATED, pod), (STARTED, pod),
        (CREATED, short), (STARTED, short), (STOPPED, short),
        (CREATED, long), (STARTED, long), (STOPPED, long),
        (CREATED, never), (DELETED, short), (STOPPED, pod), (STOPPED, never),
    ]  # fmt: skip
    assert sorted(kinds(found[-3:-1])) == sorted([(DELETED, long), (DELETED, never)])
    assert kinds(subscribers[2].until(DELETED, pod)) == kinds(found)
    times = [each.created_at for each in found]
    assert times == sorted(set(times))
    ended = found[4].containers_statuses[0]
    assert (ended.state, ended.exit_code, ended.reason) == (cri.CONTAINER_EXITED, 3, "Error")
    assert found[4].pod_sandbox_status.state == cri.SANDBOX_READY and found[4].pod_sandbox_status.network.ip
    assert {each.pod_sandbox_status.metadata.name for each in found} == {"web"}
    assert [one.id for one in found[9].containers_statuses] == [long, never]


def test_a_kill_from_outside_is_told_with_its_code(daemon: Live) -> None:
    id = daemon.started(daemon.pod())
    subscriber = Subscriber(daemon)
    info = daemon.runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=id, verbose=True)).info[
        "info"
    ]
    os.kill(int(info.split('"pid": ')[1].split(",")[0].split("}")[0]), signal.SIGKILL)
    event = subscriber.next()
    assert kinds([event]) == [(STOPPED, id)] and event.containers_statuses[0].exit_code == 137


def test_an_end_while_the_daemon_was_away_is_a_status_and_no_lie(daemon: Live) -> None:
    pod = daemon.pod()
    id = daemon.started(pod, "sh", "-c", "sleep 1; exit 5")
    subscriber = Subscriber(daemon)
    daemon.kill()
    assert isinstance(subscriber.end(), grpc.RpcError)
    time.sleep(1.5)
    daemon.start()
    subscriber = Subscriber(daemon)
    status = daemon.until_exited(id)
    assert (status.exit_code, status.reason) == (5, "Error")
    daemon.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=id), timeout=SECONDS)
    found = subscriber.until(DELETED, id)
    assert kinds(found) in (
        [(DELETED, id)],
        [(STOPPED, id), (DELETED, id)],
    )  # recorded before or after we came
    for event in found[:-1]:
        assert event.containers_statuses[0] == status
        assert event.created_at > status.finished_at
    answer = daemon.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=pod))
    assert answer.timestamp > found[-1].created_at and not answer.containers_statuses


def test_the_end_of_the_daemon_ends_the_streams_at_once(daemon: Live) -> None:
    subscriber = Subscriber(daemon)
    assert daemon.own.process is not None
    began = time.monotonic()
    daemon.own.process.send_signal(signal.SIGTERM)
    assert subscriber.end() is None
    daemon.ended()
    assert time.monotonic() - began < 5


def test_a_stream_that_nobody_reads_does_not_keep_the_daemon(daemon: Live) -> None:
    unread = cast(Any, daemon.runtime.GetContainerEvents(cri.GetEventsRequest()))
    unread.initial_metadata()
    for number in range(30):
        daemon.pod(f"big-{number}", annotations={"big": "x" * 200_000})
    assert daemon.own.process is not None
    began = time.monotonic()
    daemon.own.process.send_signal(signal.SIGTERM)
    daemon.own.process.wait(20)
    assert time.monotonic() - began < 5
    unread.cancel()


def test_the_command_shows_them(daemon: Live) -> None:
    argv = [sys.executable, "-m", "sampan", "--endpoint", daemon.own.endpoint, "events"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        maker = threading.Thread(target=pods_until, args=(daemon, command), daemon=True)
        maker.start()
        line = command.stdout.readline().split()
        command.send_signal(signal.SIGINT)
        assert command.wait(SECONDS) == 130
        maker.join(SECONDS)
    assert line[1:3] == ["pod", "created"] and line[4].startswith("tests/try-")


def pods_until(daemon: Live, command: "subprocess.Popen[str]") -> None:
    """Make pods until the command, which is still starting, has seen one."""
    for number in range(50):
        if command.poll() is None:
            daemon.pod(f"try-{number}")
            time.sleep(0.2)
