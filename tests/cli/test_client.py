"""Failures, in words a person can use, and the exit codes scripts rely on."""

import os
import socket
import threading
from pathlib import Path

import grpc
import pytest

from tests.cli.conftest import Sampan
from tests.cli.fake_daemon import FakeDaemon, Served


def test_no_socket_is_3_and_says_how_to_start_it(sampan: Sampan, short_tmp: Path) -> None:
    ran = sampan("ps", endpoint=f"unix://{short_tmp}/none.sock")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.startswith(
        f"sampan: sampand is not running: there is no socket {short_tmp}/none.sock; start it"
    )
    assert "systemctl start sampan" in ran.err


def test_a_socket_nobody_serves_is_3(sampan: Sampan, short_tmp: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(short_tmp / "old.sock"))
    ran = sampan("ps", endpoint=f"unix://{short_tmp}/old.sock")
    assert ran.code == 3
    assert f"nobody listens on {short_tmp}/old.sock" in ran.err


def test_a_path_that_is_no_socket_is_3(sampan: Sampan, short_tmp: Path) -> None:
    (short_tmp / "file").touch()
    assert sampan("ps", endpoint=f"unix://{short_tmp}/file").code == 3


@pytest.mark.root
def test_no_permission_is_3_and_says_sudo(sampan: Sampan, served: Served, short_tmp: Path) -> None:
    short_tmp.chmod(0o755)
    (short_tmp / "d.sock").chmod(0o600)
    os.seteuid(65534)
    try:
        ran = sampan("ps")
    finally:
        os.seteuid(0)
    assert ran.code == 3
    assert "belongs to root; try sudo" in ran.err


@pytest.mark.parametrize("endpoint", ["tcp://1.2.3.4:5", "/run/x.sock", "unix://relative", ""])
def test_an_endpoint_that_is_none_is_2(sampan: Sampan, endpoint: str) -> None:
    ran = sampan("--endpoint", endpoint, "ps")
    assert ran.code == 2
    assert "unix:///ABSOLUTE/PATH" in ran.err


def test_the_endpoint_may_come_from_the_environment(
    sampan: Sampan, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMPAN_ENDPOINT", served.endpoint)
    assert sampan("version", endpoint=None).code == 0


def test_the_daemon_s_words_are_shown_alone(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.fails["ListPodSandbox"] = (grpc.StatusCode.INTERNAL, "state.db is full; free some space")
    ran = sampan("ps")
    assert (ran.code, ran.out, ran.err) == (1, "", "sampan: state.db is full; free some space\n")


def test_a_daemon_that_is_not_ready_is_1_not_3(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.fails["ListPodSandbox"] = (grpc.StatusCode.UNAVAILABLE, "the pod network is not ready")
    ran = sampan("pods")
    assert (ran.code, ran.err) == (1, "sampan: the pod network is not ready\n")


def test_a_daemon_that_says_nothing_still_gives_a_message(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.fails["ListPodSandbox"] = (grpc.StatusCode.ABORTED, "")
    assert sampan("pods").err == "sampan: the daemon answered ABORTED and nothing else\n"


def test_out_of_time_is_124(sampan: Sampan, daemon: FakeDaemon) -> None:
    release = daemon.sleeps["ListPodSandbox"] = threading.Event()
    ran = sampan("--timeout", "100ms", "pods")
    release.set()
    assert (ran.code, ran.err) == (124, "sampan: no answer within 0.1 s\n")


def test_the_daemon_s_own_deadline_is_124_too(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.fails["ListPodSandbox"] = (grpc.StatusCode.DEADLINE_EXCEEDED, "the plugin took too long")
    ran = sampan("pods")
    assert (ran.code, ran.err) == (124, "sampan: the plugin took too long\n")


def test_what_another_runtime_lacks_is_said(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.fails["ListContainerStats"] = (grpc.StatusCode.UNIMPLEMENTED, "")
    ran = sampan("stats")
    assert (ran.code, ran.err) == (1, "sampan: this daemon cannot do that: not implemented\n")
