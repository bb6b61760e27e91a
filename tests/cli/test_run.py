"""`run`: from an image's name to the exit code of what it runs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.api import sampan_pb2 as own
from sampan.cli.naming import RUN_LABEL
from tests.cli.conftest import Sampan
from tests.cli.fake_daemon import IMAGE_ID, FakeDaemon, Served, said

VERBS = (cri.RunPodSandboxRequest, cri.CreateContainerRequest, cri.StartContainerRequest,
         cri.StopContainerRequest, cri.StopPodSandboxRequest, cri.RemovePodSandboxRequest)  # fmt: skip


@pytest.fixture(autouse=True)
def image(daemon: FakeDaemon) -> None:
    daemon.add_image("app:1")


def verbs(daemon: FakeDaemon) -> list[str]:
    return [type(each).__name__.removesuffix("Request") for each in daemon.asked if isinstance(each, VERBS)]


def test_output_and_code_are_the_container_s(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.output = said(b"out") + said(b"err", stream="stderr") + said(b"no newline", partial=True)
    daemon.exit_code = 42
    ran = sampan("run", "--name", "web", "app:1", "serve", "--port", "80")
    assert (ran.code, ran.out, ran.err) == (42, "out\nno newline", "err\n")
    (config,) = daemon.container_configs.values()
    assert list(config.args) == ["serve", "--port", "80"]
    assert config.image.image == IMAGE_ID
    assert verbs(daemon) == ["RunPodSandbox", "CreateContainer", "StartContainer", "StopPodSandbox"]


def test_what_has_ended_stays_for_logs_and_rm(sampan: Sampan, daemon: FakeDaemon) -> None:
    sampan("run", "--name", "web", "app:1")
    assert sampan("logs", "web").out == "hello\n"
    assert sampan("rm", "web").code == 0
    assert (daemon.pods, daemon.containers) == ({}, {})
    assert list((daemon.root / "logs").iterdir()) == []


def test_rm_leaves_nothing(sampan: Sampan, daemon: FakeDaemon) -> None:
    assert sampan("run", "--rm", "app:1").code == 0
    assert (daemon.pods, daemon.containers) == ({}, {})
    assert list((daemon.root / "logs").iterdir()) == []


def test_detached_prints_the_id_and_leaves_it_running(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.hold = True
    ran = sampan("run", "-d", "app:1")
    (container,) = daemon.containers.values()
    assert (ran.code, ran.out) == (0, f"{container.id}\n")
    assert container.state == cri.CONTAINER_RUNNING
    assert container.labels[RUN_LABEL] == container.metadata.name
    assert container.metadata.name.startswith("app-")


def test_options_arrive(sampan: Sampan, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "x")
    published = ["-p", "127.0.0.1:8080:80", "-p", "53:53/udp"]
    given = ["-e", "A=b", "-e", "FROM_HERE", "-v", "data:/data:ro", "-w", "/srv"]
    limits = ["--memory", "64m", "--cpus", "1.5", "--user", "7", "--handler", "crun"]
    ran = sampan("run", *published, *given, *limits, "app:1")
    assert ran.code == 0
    (pod,), (config,) = daemon.pod_configs.values(), daemon.container_configs.values()
    assert [(each.host_ip, each.host_port, each.protocol) for each in pod.port_mappings] == [
        ("127.0.0.1", 8080, cri.TCP), ("", 53, cri.UDP)
    ]  # fmt: skip
    assert [(each.key, each.value) for each in config.envs] == [("A", b"b"), ("FROM_HERE", b"x")]
    assert config.mounts[0].host_path == str(Path.cwd() / "data")
    assert config.linux.resources.memory_limit_in_bytes == 64 << 20
    assert config.linux.resources.cpu_quota == 150_000
    assert config.linux.security_context.run_as_user.value == 7
    (request,) = daemon.requests(cri.RunPodSandboxRequest)
    assert isinstance(request, cri.RunPodSandboxRequest)
    assert request.runtime_handler == "crun"


@pytest.mark.parametrize(
    ("argv", "said_"),
    [
        (["-d", "--rm", "app:1"], "--rm cannot be used with -d"),
        (["--net", "host", "-p", "1:1", "app:1"], "-p cannot be used with --net host"),
        (["-p", "80", "app:1"], "'80' must be [IP:]HOST_PORT:CONTAINER_PORT"),
        (["--memory", "lots", "app:1"], "'lots' must be a size"),
        (["--name", "A b", "app:1"], "'A b' must be up to 63 lower case letters"),
        (["--user", "4294967295", "app:1"], "--user '4294967295' ids are at most"),
        ([], "Missing argument 'IMAGE'"),
    ],
)
def test_usage_is_2_and_makes_nothing(
    sampan: Sampan, daemon: FakeDaemon, argv: list[str], said_: str
) -> None:
    ran = sampan("run", *argv)
    assert ran.code == 2
    assert said_ in ran.err
    assert verbs(daemon) == []


@pytest.mark.parametrize(("policy", "pulls"), [("missing", ["app:2"]), ("always", ["app:2", "app:1"])])
def test_an_image_is_pulled_when_it_is_to_be(
    sampan: Sampan, daemon: FakeDaemon, policy: str, pulls: list[str]
) -> None:
    for image in ("app:2", "app:1"):
        assert sampan("run", "--pull", policy, image).code == 0
    asked = [each.image for each in daemon.requests(own.PullRequest) if isinstance(each, own.PullRequest)]
    assert asked == pulls


def test_never_pulling_what_is_not_there_fails(sampan: Sampan, daemon: FakeDaemon) -> None:
    ran = sampan("run", "--pull", "never", "app:2")
    assert (ran.code, verbs(daemon)) == (1, [])
    assert "image app:2 is not here" in ran.err


@pytest.mark.parametrize("step", ["RunPodSandbox", "CreateContainer", "StartContainer"])
def test_what_cannot_start_leaves_nothing(sampan: Sampan, daemon: FakeDaemon, step: str) -> None:
    daemon.fails[step] = (grpc.StatusCode.UNKNOWN, "exec: no such file")
    ran = sampan("run", "app:1", "nonsense")
    assert (ran.code, ran.out, ran.err) == (1, "", "sampan: exec: no such file\n")
    assert (daemon.pods, daemon.containers) == ({}, {})
    assert list((daemon.root / "logs").iterdir()) == []


CREATE = "command: /usr/bin/crun create 0123"


@pytest.mark.parametrize(
    ("details", "said", "code"),
    [
        (
            f"/usr/bin/crun failed (exit code 1): executable file `no` not found in $PATH: No such file or directory; "
            f"{CREATE}",
            "executable file `no` not found in $PATH: No such file or directory",
            127,
        ),
        (f"crun failed (exit code 1): open executable: Permission denied; {CREATE}",
         "open executable: Permission denied", 126),
        (f"crun failed (exit code 1): chdir `/x`: Not a directory; {CREATE}",
         f"crun failed (exit code 1): chdir `/x`: Not a directory; {CREATE}", 1),
        ('exec: "no": executable file not found in $PATH: unknown',
         'exec: "no": executable file not found in $PATH: unknown', 127),
        ('exec: "/x": stat /x: no such file or directory', 'exec: "/x": stat /x: no such file or directory', 127),
        ('exec: "/x": permission denied', 'exec: "/x": permission denied', 126),
        ("ImageVolumeMountFailed: image x is not here", "image x is not here", 1),
        ("", "the daemon answered UNKNOWN and nothing else", 1),
    ],
)  # fmt: skip
def test_a_program_that_cannot_be_run_is_said_as_a_shell_would(
    sampan: Sampan, daemon: FakeDaemon, details: str, said: str, code: int
) -> None:
    daemon.fails["CreateContainer"] = (grpc.StatusCode.UNKNOWN, details)
    ran = sampan("run", "app:1", "no")
    assert (ran.code, ran.out, ran.err) == (code, "", f"sampan: {said}\n")


def test_the_first_failure_is_told_even_if_undoing_fails_too(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.fails["StartContainer"] = (grpc.StatusCode.UNKNOWN, "exec: no such file")
    daemon.fails["StopPodSandbox"] = (grpc.StatusCode.INTERNAL, "umount failed")
    assert sampan("run", "app:1").err == "sampan: exec: no such file\n"


def test_a_name_that_is_taken_is_said_before_anything_is_made(sampan: Sampan, daemon: FakeDaemon) -> None:
    sampan("run", "--name", "web", "app:1")
    before = verbs(daemon)
    ran = sampan("run", "--name", "web", "app:1")
    assert ran.code == 1
    assert "has the name web; remove it with `sampan rm web`" in ran.err
    assert verbs(daemon) == before


def test_an_end_by_the_kernel_is_told(
    sampan: Sampan, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = daemon.end
    monkeypatch.setattr(daemon, "end", lambda id, *_: end(id, 137, "OOMKilled", "its limit was reached"))
    ran = sampan("run", "app:1")
    assert (ran.code, ran.err) == (137, "sampan: OOMKilled: its limit was reached\n")


def wait_for(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_container_and_its_code_is_passed_on(
    served: Served, daemon: FakeDaemon, number: signal.Signals
) -> None:
    daemon.hold = True
    argv = [sys.executable, "-m", "sampan", "--endpoint", served.endpoint, "run", "--rm", "app:1"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "hello\n"
        os.kill(process.pid, number)
        assert process.wait() == 143
        assert process.stderr.read() == ""
    stops = daemon.requests(cri.StopContainerRequest)
    assert [each.timeout for each in stops if isinstance(each, cri.StopContainerRequest)] == [10]
    assert (daemon.pods, daemon.containers) == ({}, {})


def test_a_run_whose_output_nobody_reads_is_stopped(served: Served, daemon: FakeDaemon) -> None:
    daemon.hold = True
    daemon.output = said(b"hello" * 20_000) * 2
    argv = [sys.executable, "-m", "sampan", "--endpoint", served.endpoint, "run", "--rm", "app:1"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(5) == "hello"
        process.stdout.close()
        assert (process.wait(20), process.stderr.read()) == (1, "")
    stops = daemon.requests(cri.StopContainerRequest)
    assert [each.timeout for each in stops if isinstance(each, cri.StopContainerRequest)] == [10]
    assert (daemon.pods, daemon.containers) == ({}, {})


def test_a_second_interrupt_kills(served: Served, daemon: FakeDaemon) -> None:
    daemon.hold = daemon.stubborn = True
    argv = [sys.executable, "-m", "sampan", "--endpoint", served.endpoint, "run", "app:1"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "hello\n"
        os.kill(process.pid, signal.SIGINT)
        wait_for(lambda: daemon.requests(cri.StopContainerRequest))
        os.kill(process.pid, signal.SIGINT)
        assert process.wait() == 143
    stops = daemon.requests(cri.StopContainerRequest)
    assert [each.timeout for each in stops if isinstance(each, cri.StopContainerRequest)] == [10, 0]
