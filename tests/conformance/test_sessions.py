"""Sessions as crictl holds them, over both transports, with the daemon. SAMPAN_CONFORMANCE=record keeps what crictl
says in `recordings/`, which `test_recordings.py` replays."""

import os
import pty
import re
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from fcntl import ioctl
from pathlib import Path

import pytest

from sampan.api import cri_pb2 as pb
from scripts.private_daemon import Daemon
from tests.conformance.conftest import BUSYBOX, tool
from tests.conformance.recorder import Recorder, recorder

pytestmark = [pytest.mark.root, pytest.mark.limit(900)]  # the first to need it builds the suite's images

RECORDINGS = Path(__file__).with_name("recordings")
TRANSPORTS = ["spdy", "websocket"]
SCRIPT = """
nc -ll -p 8080 -e cat &
while read line; do echo "said $line"; echo "complained of $line" >&2; done
sleep 1000
"""


@pytest.fixture(scope="module")
def pod(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(pod, container) that says what it reads, and that echoes at port 8080."""
    runtime, image = daemon.cri.runtime, pb.ImageSpec(image=BUSYBOX)
    daemon.cri.images.PullImage(pb.PullImageRequest(image=image))
    logs = tmp_path_factory.mktemp("logs")
    config = pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name="sessions", namespace="conformance", uid="sessions"),
        log_directory=str(logs),
        linux=pb.LinuxPodSandboxConfig(),
    )
    sandbox = runtime.RunPodSandbox(pb.RunPodSandboxRequest(config=config)).pod_sandbox_id
    try:
        container = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name="c"),
            image=image,
            command=["sh", "-c", SCRIPT],
            stdin=True,
            log_path="c.log",
            linux=pb.LinuxContainerConfig(),
        )
        made = runtime.CreateContainer(
            pb.CreateContainerRequest(pod_sandbox_id=sandbox, config=container, sandbox_config=config)
        ).container_id
        runtime.StartContainer(pb.StartContainerRequest(container_id=made))
        yield sandbox, made
    finally:
        runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox))


@pytest.fixture
def between(daemon: Daemon, short_tmp: Path) -> Iterator[Recorder]:
    with recorder(daemon.endpoint, short_tmp) as running:
        yield running


def crictl(between: Recorder, *words: str) -> list[str]:
    return [str(tool("crictl")), "--runtime-endpoint", between.endpoint, *words]


def keep(between: Recorder, name: str) -> None:
    if os.environ.get("SAMPAN_CONFORMANCE") == "record":
        RECORDINGS.mkdir(exist_ok=True)
        (RECORDINGS / f"{name}.bin").write_bytes(between.recording())


def until(true: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_exec_with_input(between: Recorder, pod: tuple[str, str], transport: str) -> None:
    argv = crictl(between, "exec", "-i", "--transport", transport, pod[1], "sh", "-c", "cat; echo bad >&2")
    done = subprocess.run(argv, input=b"one\ntwo\n", capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, b"one\ntwo\n"), done.stderr
    assert b"bad" in done.stderr
    keep(between, f"exec-{transport}")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_exec_tells_the_exit_code(between: Recorder, pod: tuple[str, str], transport: str) -> None:
    argv = crictl(between, "exec", "-i", "--transport", transport, pod[1], "sh", "-c", "exit 42")
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    assert done.returncode != 0
    assert b"exit code 42" in done.stderr or b"exit status 42" in done.stderr or done.returncode == 42


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_exec_without_input_takes_none(between: Recorder, pod: tuple[str, str], transport: str) -> None:
    argv = crictl(between, "exec", "--transport", transport, pod[1], "sh", "-c", "cat; echo only")
    done = subprocess.run(argv, input=b"nothing of this\n", capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, b"only\n"), done.stderr


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("number", "code"), [(9, 137), (15, 143)])
def test_a_signal_is_told_as_a_shell_would(
    between: Recorder, pod: tuple[str, str], transport: str, number: int, code: int
) -> None:
    argv = crictl(between, "exec", "--transport", transport, pod[1], "sh", "-c", f"kill -{number} $$")
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    assert f"exit code {code}".encode() in done.stderr


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_cannot_be_run_is_named(between: Recorder, pod: tuple[str, str], transport: str) -> None:
    argv = crictl(between, "exec", "--transport", transport, pod[1], "/no/such")
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    assert done.returncode != 0
    assert b"/no/such" in done.stderr


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_exec_with_a_terminal(between: Recorder, pod: tuple[str, str], transport: str) -> None:
    main, side = pty.openpty()
    ioctl(main, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    argv = crictl(between, "exec", "-it", "--transport", transport, pod[1], "sh")
    client = subprocess.Popen(argv, stdin=side, stdout=side, stderr=side, start_new_session=True)
    os.close(side)
    try:
        said = typed(main, b"", b"# ")
        said += typed(main, b"stty size\r", b"33 101")
        assert b"stty size" in said
        ioctl(main, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 60, 0, 0))
        client.send_signal(signal.SIGWINCH)
        typed(main, b"while ! stty size | grep 50; do sleep 0.1; done\r", b"\r\n50 60")
        os.write(main, b"exit 3\r")
        assert client.wait(30) != 0
    finally:
        client.kill()
        client.wait()
        os.close(main)
    keep(between, f"exec-terminal-{transport}")


def typed(main: int, keys: bytes, wanted: bytes) -> bytes:
    """Type, and read until `wanted` has come."""
    os.write(main, keys)
    got = b""
    while wanted not in got:
        got += os.read(main, 4096)
    return got


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_attach(between: Recorder, pod: tuple[str, str], transport: str) -> None:
    argv = crictl(between, "attach", "-i", "--transport", transport, pod[1])
    client = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    assert client.stdin and client.stdout and client.stderr
    try:
        until(lambda: between.sessions)
        client.stdin.write(b"hello\n")
        assert client.stdout.readline() == b"said hello\n"
        assert any(b"complained of hello" in line for line in client.stderr)
    finally:
        client.kill()
        client.communicate()
    keep(between, f"attach-{transport}")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_port_forward(between: Recorder, pod: tuple[str, str], transport: str) -> None:
    argv = crictl(between, "port-forward", "--transport", transport, pod[0], ":8080")
    client = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
    assert client.stdout
    try:
        port = next(
            int(found[1]) for line in client.stdout if (found := re.search(rb"127.0.0.1:(\d+) ->", line))
        )
        assert echoed(port, b"first") == b"first"
        assert echoed(port, b"second" * 1000) == b"second" * 1000
    finally:
        client.terminate()
        client.communicate(timeout=30)
    keep(between, f"port-forward-{transport}")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_refused_port_is_named(between: Recorder, pod: tuple[str, str], transport: str) -> None:
    argv = crictl(between, "port-forward", "--transport", transport, pod[0], ":9")
    client = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
    assert client.stdout
    try:
        port = next(
            int(found[1]) for line in client.stdout if (found := re.search(rb"127.0.0.1:(\d+) ->", line))
        )
        assert echoed(port, b"anybody there?") == b""
        assert any(b"cannot connect to port 9 in the pod" in line for line in client.stdout)
    finally:
        client.terminate()
        client.communicate(timeout=30)


def echoed(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        got = b""
        while more := connection.recv(65536):
            got += more
        return got
