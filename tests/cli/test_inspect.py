"""`inspect`: JSON of one thing."""

import json
from typing import Any

import pytest

from tests.cli.conftest import Sampan
from tests.cli.fake_daemon import IMAGE_ID, FakeDaemon


@pytest.fixture
def node(daemon: FakeDaemon) -> FakeDaemon:
    pod = daemon.add_pod("web")
    daemon.add_container(pod, "nginx")
    daemon.add_image("app:1")
    return daemon


def shown(sampan: Sampan, *argv: str) -> Any:
    ran = sampan("inspect", *argv)
    assert (ran.code, ran.err) == (0, "")
    return json.loads(ran.out)


def test_a_container(sampan: Sampan, node: FakeDaemon) -> None:
    found = shown(sampan, "nginx")
    assert found["status"]["metadata"]["name"] == "nginx"
    assert found["info"] == {"pid": 42, "runtimeSpec": {"ociVersion": "1.0.2"}}


def test_a_pod_with_its_containers(sampan: Sampan, node: FakeDaemon) -> None:
    found = shown(sampan, "web")
    assert found["status"]["state"] == "SANDBOX_READY"
    assert [each["metadata"]["name"] for each in found["containers"]] == ["nginx"]
    assert found["info"] == {"info": {"cniResult": {}}, "note": "not JSON"}


@pytest.mark.parametrize("word", ["app:1", "ababab", IMAGE_ID])
def test_an_image(sampan: Sampan, node: FakeDaemon, word: str) -> None:
    found = shown(sampan, word)
    assert found["image"]["id"] == IMAGE_ID
    assert found["info"] == {"imageSpec": {"os": "linux"}}


def test_the_type_can_be_said(sampan: Sampan, node: FakeDaemon) -> None:
    pod = node.add_pod("nginx")
    assert shown(sampan, "--type", "pod", "nginx")["status"]["id"] == pod.id
    assert shown(sampan, "--type", "container", "web/nginx")["status"]["metadata"]["name"] == "nginx"
    for kind in ("container", "pod", "image"):
        ran = sampan("inspect", "--type", kind, "none")
        assert (ran.code, ran.out) == (1, "")
        assert f"there is no {kind} none" in ran.err


def test_several_are_refused(sampan: Sampan, node: FakeDaemon) -> None:
    node.add_pod("nginx")
    ran = sampan("inspect", "nginx")
    assert ran.code == 1
    assert "nginx is ambiguous" in ran.err


def test_a_pod_and_its_container_of_one_name_are_told_apart(sampan: Sampan, node: FakeDaemon) -> None:
    pod = node.add_pod("box", run=True)
    container = node.add_container(pod, "box")
    ran = sampan("inspect", "box")
    assert (ran.code, ran.out) == (1, "")
    assert f":\n  pod {pod.id[:13]} default/box\n  container {container.id[:13]} box/box\n" in ran.err
    assert shown(sampan, "--type", "pod", "box")["status"]["id"] == pod.id
    assert shown(sampan, "box/box")["status"]["id"] == container.id


def test_what_is_not_there_is_1(sampan: Sampan, node: FakeDaemon) -> None:
    assert sampan("inspect", "none").err == "sampan: there is no container, pod or image none\n"
