"""`events`: lines for people, lines of JSON for scripts."""

import json

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.cli.events import line
from tests.cli.conftest import Sampan
from tests.cli.fake_daemon import FakeDaemon

POD = cri.PodSandboxStatus(id="ab" * 32, metadata=cri.PodSandboxMetadata(name="web", namespace="shop"))
APP = cri.ContainerStatus(
    id="cd" * 32, metadata=cri.ContainerMetadata(name="app"), exit_code=137, reason="OOMKilled"
)
OTHER = cri.PodSandboxStatus(id="ef" * 32, metadata=cri.PodSandboxMetadata(name="db", namespace="shop"))


def event(
    kind: "cri.ContainerEventType.ValueType",
    id: str,
    *containers: cri.ContainerStatus,
    pod: cri.PodSandboxStatus = POD,
) -> cri.ContainerEventResponse:
    return cri.ContainerEventResponse(
        container_id=id, container_event_type=kind, created_at=1_700_000_000_000_000_000,
        pod_sandbox_status=pod, containers_statuses=containers,
    )  # fmt: skip


LIFE = [
    event(cri.CONTAINER_CREATED_EVENT, POD.id),
    event(cri.CONTAINER_STARTED_EVENT, APP.id, APP),
    event(cri.CONTAINER_STOPPED_EVENT, APP.id, APP),
    event(cri.CONTAINER_DELETED_EVENT, APP.id),
    event(cri.CONTAINER_DELETED_EVENT, OTHER.id, pod=OTHER),
]


@pytest.fixture(autouse=True)
def life(daemon: FakeDaemon) -> None:
    daemon.events = LIFE


def test_a_line_for_each_event_with_the_names_of_what_it_is_about(sampan: Sampan) -> None:
    ran = sampan("events")
    at = "2023-11-14T22:13:20.000000000Z"
    assert ran.out.splitlines() == [
        f"{at} pod       created ababababababa shop/web",
        f"{at} container started cdcdcdcdcdcdc shop/web/app",
        f"{at} container stopped cdcdcdcdcdcdc shop/web/app (OOMKilled, 137)",
        f"{at} container deleted cdcdcdcdcdcdc shop/web/app",
        f"{at} pod       deleted efefefefefefe shop/db",
    ]


def test_the_end_of_the_daemon_is_a_failure(sampan: Sampan) -> None:
    ran = sampan("events")
    assert (ran.code, ran.err) == (1, "sampan: the daemon has ended, and its events with it\n")


def test_json_is_a_line_for_each_event(sampan: Sampan) -> None:
    found = [json.loads(each) for each in sampan("events", "--json").out.splitlines()]
    assert [each["containerId"] for each in found] == [each.container_id for each in LIFE]
    assert found[2]["containerEventType"] == "CONTAINER_STOPPED_EVENT"
    assert found[0]["containerEventType"] == "CONTAINER_CREATED_EVENT"  # the first of an enum is said, too
    assert found[2]["containersStatuses"][0]["exitCode"] == 137


def test_only_those_of_one_pod(sampan: Sampan, daemon: FakeDaemon) -> None:
    pod = daemon.add_pod("db")
    daemon.events = [*LIFE, event(cri.CONTAINER_STOPPED_EVENT, pod.id, pod=cri.PodSandboxStatus(id=pod.id))]
    ran = sampan("events", "--pod", "db")
    assert [each.split()[1:3] for each in ran.out.splitlines()] == [["pod", "stopped"]]


def test_a_name_cannot_steer_the_terminal() -> None:
    pod = cri.PodSandboxStatus(id="aa", metadata=cri.PodSandboxMetadata(name="\x1b[2J"))
    assert "\x1b" not in line(event(cri.CONTAINER_CREATED_EVENT, "aa", pod=pod), "")


def test_a_runtime_without_events_says_so(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.fails["GetEvents"] = (grpc.StatusCode.UNIMPLEMENTED, "no events here")
    ran = sampan("events")
    assert (ran.code, ran.err) == (1, "sampan: this daemon cannot do that: no events here\n")


def test_a_name_is_forgotten_with_its_container(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.events = [*LIFE, event(cri.CONTAINER_DELETED_EVENT, APP.id)]
    assert [each.split()[-1] for each in sampan("events").out.splitlines()[-3:]] == [
        "shop/web/app",
        "shop/db",
        "shop/web",
    ]


def test_json_cannot_steer_the_terminal_either(sampan: Sampan, daemon: FakeDaemon) -> None:
    pod = cri.PodSandboxStatus(id="aa", metadata=cri.PodSandboxMetadata(name="\x9b2J"))
    daemon.events = [event(cri.CONTAINER_CREATED_EVENT, "aa", pod=pod)]
    ran = sampan("events", "--json")
    assert json.loads(ran.out)["podSandboxStatus"]["metadata"]["name"] == "\x9b2J" and "\x9b" not in ran.out
