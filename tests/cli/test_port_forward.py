"""`port-forward`: its ports, its words, many connections and what becomes of them."""

import hashlib
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.cli import port_forward
from sampan.cli.invocation import Failed
from tests.cli.conftest import Sampan
from tests.cli.fake_daemon import FakeDaemon, Served
from tests.cli.fake_sessions import CLOSING, COUNTING, ECHO, GREETING, NOBODY, FakeSessions
from tests.conftest import free_port

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "local", "remote"),
    [("80", 80, 80), ("8080:80", 8080, 80), (":80", 0, 80), ("0:80", 0, 80), ("65535:1", 65535, 1)],
)
def test_ports_are_said_as_for_kubectl(text: str, local: int, remote: int) -> None:
    assert port_forward.ports(text) == (local, remote)


@pytest.mark.parametrize(
    "text", ["", "x", "80:", "0", "80:0", "65536", "65536:80", "1:2:3", "-1", "http", "8 0"]
)
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"8080|65535"):
        port_forward.ports(text)


def test_both_loopbacks_get_the_same_free_port() -> None:
    made = port_forward.listen((), 0)
    try:
        names = [each.getsockname() for each in made]
        assert [name[0] for name in names] in (["127.0.0.1", "::1"], ["127.0.0.1"])
        assert len({name[1] for name in names}) == 1
    finally:
        for each in made:
            each.close()


def test_a_port_that_is_taken_is_refused_and_nothing_listens_on() -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Failed, match=f"port {port} of 127.0.0.2"):
            port_forward.listen(("127.0.0.3", "127.0.0.2"), port)
        socket.create_server(("127.0.0.3", port)).close()


# --- as a whole ---------------------------------------------------------------------------------------------


class Forwarding:
    """A `sampan port-forward` that runs; `ports` are the local ones, in the order of the arguments."""

    def __init__(self, endpoint: str, *argv: str) -> None:
        command = [sys.executable, "-m", "sampan", "--endpoint", endpoint, "port-forward", *argv]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.ports: dict[int, int] = {}
        self.lines: list[str] = []

    def until_ready(self, count: int) -> None:
        assert self.process.stdout is not None
        while len(self.ports) < count:
            line = self.process.stdout.readline().decode()
            found = re.fullmatch(r"Forwarding from (\S+):(\d+) -> (\d+)\n", line)
            assert found, (line, self.process.poll())
            self.ports[int(found[3])] = int(found[2])
            self.lines.append(line)

    def dial(self, port: int) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.ports[port]), 20)
        sock.settimeout(20)
        return sock

    def said(self) -> str:
        """The next line on standard error."""
        assert self.process.stderr is not None
        assert select.select((self.process.stderr,), (), (), 20)[0]
        return self.process.stderr.readline().decode()

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)


@pytest.fixture
def pod(daemon: FakeDaemon, sessions: FakeSessions) -> cri.PodSandbox:
    return daemon.add_pod("web")


@pytest.fixture
def forward(served: Served, pod: cri.PodSandbox) -> Iterator[Callable[..., Forwarding]]:
    """Start `sampan port-forward web` for these ports of the pod, each at a free local one."""
    running: list[Forwarding] = []

    def start(*ports: int) -> Forwarding:
        running.append(Forwarding(served.endpoint, "web", *(f":{port}" for port in ports)))
        running[-1].until_ready(len(ports))
        return running[-1]

    yield start
    for each in running:
        each.process.kill()
        each.process.communicate()


def everything(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(MIB), b""))


def test_bytes_go_both_ways_and_both_ends_are_told(
    forward: Callable[..., Forwarding], daemon: FakeDaemon, pod: cri.PodSandbox
) -> None:
    it = forward(ECHO, COUNTING, GREETING)
    (request,) = daemon.requests(cri.PortForwardRequest)
    assert request == cri.PortForwardRequest(pod_sandbox_id=pod.id, port=[ECHO, COUNTING, GREETING])
    with it.dial(ECHO) as sock:
        sock.sendall(b"ping")
        assert sock.recv(10) == b"ping"
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(10) == b""
    with it.dial(COUNTING) as sock:  # answers only after our half has ended
        sock.sendall(b"x" * MIB)
        sock.shutdown(socket.SHUT_WR)
        assert everything(sock) == b"%d" % MIB
    with it.dial(GREETING) as sock:  # ends its half first
        assert everything(sock) == b"hello\n"
        sock.sendall(b"still heard")
    assert it.end() == 130


def test_it_says_where_it_listens(served: Served, pod: cri.PodSandbox) -> None:
    local = free_port()
    it = Forwarding(served.endpoint, "web", f"{local}:80", "--address", "127.0.0.1", "--address", "127.0.0.9")
    try:
        assert it.process.stdout is not None
        lines = [it.process.stdout.readline().decode() for _ in range(2)]
        assert lines == [
            f"Forwarding from 127.0.0.1:{local} -> 80\n",
            f"Forwarding from 127.0.0.9:{local} -> 80\n",
        ]
    finally:
        it.process.send_signal(signal.SIGTERM)
        assert it.process.wait(20) == 143
        it.process.communicate()


def test_fifty_at_once_and_one_that_is_refused(
    forward: Callable[..., Forwarding], sessions: FakeSessions
) -> None:
    it = forward(ECHO, NOBODY)
    socks = [it.dial(ECHO) for _ in range(50)]
    with it.dial(NOBODY) as refused:
        assert everything(refused) == b""
    assert "-> 9: nobody listens on port 9 of the pod\n" in it.said()
    for number, sock in enumerate(socks):
        sock.sendall(b"number %d" % number)
    for number, sock in enumerate(socks):
        assert sock.recv(100) == b"number %d" % number
        sock.close()
    assert len(sessions.heads) == 1
    assert it.end() == 130


def test_much_goes_through_unchanged(forward: Callable[..., Forwarding]) -> None:
    it = forward(ECHO)
    given = os.urandom(16 * MIB)
    with it.dial(ECHO) as sock:

        def send() -> None:
            sock.sendall(given)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        got = everything(sock)
        sender.join()
    assert hashlib.sha256(got).digest() == hashlib.sha256(given).digest()


def test_a_reader_that_sleeps_holds_up_nobody_else(forward: Callable[..., Forwarding]) -> None:
    it = forward(ECHO, COUNTING)
    with it.dial(ECHO) as sleeper:
        sleeper.setblocking(False)
        with pytest.raises(BlockingIOError):
            for _ in range(1000):
                sleeper.send(b"y" * (MIB // 4))
        with it.dial(COUNTING) as sock:
            sock.sendall(b"x" * MIB)
            sock.shutdown(socket.SHUT_WR)
            assert everything(sock) == b"%d" % MIB


def test_a_connection_that_the_pod_resets_ends_alone(forward: Callable[..., Forwarding]) -> None:
    it = forward(CLOSING, ECHO)
    with it.dial(ECHO) as other, it.dial(CLOSING) as sock:
        sock.sendall(b"x")
        assert everything(sock) == b""
        other.sendall(b"on")
        assert other.recv(10) == b"on"


def test_a_client_that_resets_ends_alone(forward: Callable[..., Forwarding]) -> None:
    it = forward(ECHO)
    with it.dial(ECHO) as other:
        rude = it.dial(ECHO)
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        rude.sendall(b"x")
        rude.close()
        other.sendall(b"on")
        assert other.recv(10) == b"on"
    assert it.end() == 130


def test_after_the_session_has_broken_off_the_next_connection_opens_one(
    forward: Callable[..., Forwarding], sessions: FakeSessions, daemon: FakeDaemon
) -> None:
    it = forward(ECHO)
    with it.dial(ECHO) as sock:
        sock.sendall(b"one")
        assert sock.recv(10) == b"one"
        sessions.cut()
        assert everything(sock) == b""
    assert "the daemon has ended the session" in it.said()
    daemon.fails["PortForward"] = (grpc.StatusCode.UNAVAILABLE, "not just now")
    with it.dial(ECHO) as sock:
        assert everything(sock) == b""
    assert "not just now" in it.said()
    del daemon.fails["PortForward"]
    with it.dial(ECHO) as sock:
        sock.sendall(b"two")
        assert sock.recv(10) == b"two"
    assert len(sessions.heads) == 2
    assert it.end() == 130


def test_a_pod_that_is_not_there_is_1(sampan: Sampan, sessions: FakeSessions) -> None:
    ran = sampan("port-forward", "none", "80")
    assert (ran.code, "there is no pod none" in ran.err) == (1, True)


def test_what_the_daemon_refuses_is_1_before_anything_is_promised(
    sampan: Sampan, daemon: FakeDaemon, pod: cri.PodSandbox
) -> None:
    daemon.fails["PortForward"] = (grpc.StatusCode.FAILED_PRECONDITION, "the pod is not ready")
    ran = sampan("port-forward", "web", ":80")
    assert (ran.code, ran.out, ran.err) == (1, "", "sampan: the pod is not ready\n")


@pytest.mark.parametrize("argv", [("web",), ("web", "x"), ("web", "80", "--address", "everywhere")])
def test_usage_is_2(sampan: Sampan, pod: cri.PodSandbox, argv: tuple[str, ...]) -> None:
    assert sampan("port-forward", *argv).code == 2


def test_many_readers_that_sleep_hold_up_nobody_else(forward: Callable[..., Forwarding]) -> None:
    it = forward(ECHO, COUNTING)
    with ExitStack() as stack:
        for _ in range(45):
            sleeper = stack.enter_context(socket.socket())
            sleeper.settimeout(20)
            sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sleeper.connect(("127.0.0.1", it.ports[ECHO]))
            sleeper.sendall(bytes(6 * MIB))  # more comes back than buffers and a window take
        sock = stack.enter_context(it.dial(COUNTING))
        sock.sendall(b"x" * MIB)
        sock.shutdown(socket.SHUT_WR)
        assert everything(sock) == b"%d" % MIB


def test_no_descriptors_left_is_said_once_and_passes(forward: Callable[..., Forwarding]) -> None:
    it = forward(ECHO)
    pid = it.process.pid
    used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    with it.dial(ECHO) as first:
        first.sendall(b"1")
        assert first.recv(10) == b"1"
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 1, used + 1))
        with it.dial(ECHO) as second:
            assert "Too many open files" in it.said()
            before = cpu_seconds(pid)
            time.sleep(0.5)
            assert cpu_seconds(pid) - before < 0.2
            assert it.process.stderr is not None
            assert not select.select((it.process.stderr,), (), (), 0)[0]
            first.close()
            second.sendall(b"2")
            assert second.recv(10) == b"2"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
