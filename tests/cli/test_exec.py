"""`exec`: output, exit code, time."""

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from tests.cli.conftest import Sampan
from tests.cli.fake_daemon import FakeDaemon


@pytest.fixture
def web(daemon: FakeDaemon) -> cri.Container:
    return daemon.add_container(daemon.add_pod("web"), "nginx")


def test_output_and_code_are_passed_on(sampan: Sampan, daemon: FakeDaemon, web: cri.Container) -> None:
    daemon.exec = lambda cmd: (7, b"out\x00\n", b"err")
    ran = sampan("exec", "web", "ls", "-l", "--", "/")
    assert (ran.code, ran.out, ran.err) == (7, "out\x00\n", "err")
    assert daemon.requests(cri.ExecSyncRequest) == [
        cri.ExecSyncRequest(container_id=web.id, cmd=["ls", "-l", "--", "/"])
    ]


def test_options_after_the_container_are_the_command_s(
    sampan: Sampan, daemon: FakeDaemon, web: cri.Container
) -> None:
    assert sampan("exec", web.id[:8], "sh", "-i", "-t", "--help").out == "sh -i -t --help"


def test_the_timeout_is_the_command_s(sampan: Sampan, daemon: FakeDaemon, web: cri.Container) -> None:
    daemon.fails["ExecSync"] = (grpc.StatusCode.DEADLINE_EXCEEDED, "the command took longer than 2 s")
    ran = sampan("--timeout", "1500ms", "exec", "nginx", "sleep", "9")
    assert (ran.code, ran.err) == (124, "sampan: the command took longer than 2 s\n")
    (request,) = daemon.requests(cri.ExecSyncRequest)
    assert isinstance(request, cri.ExecSyncRequest)
    assert request.timeout == 2


@pytest.mark.parametrize("flag", ["-i", "-t", "-it"])
def test_a_session_is_125_and_says_why(
    sampan: Sampan, daemon: FakeDaemon, web: cri.Container, flag: str
) -> None:
    ran = sampan("exec", flag, "nginx", "sh")
    assert ran.code == 125
    assert "not available in this version" in ran.err
    assert daemon.requests(cri.ExecSyncRequest) == []


def test_a_container_that_is_not_there_is_1(sampan: Sampan, daemon: FakeDaemon) -> None:
    ran = sampan("exec", "none", "true")
    assert (ran.code, ran.out) == (1, "")
    assert "there is no container none" in ran.err
