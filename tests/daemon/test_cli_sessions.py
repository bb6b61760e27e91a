"""`sampan exec -it`, `attach` and `port-forward` against a daemon, as people use them."""

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.person import Person
from tests.daemon.conftest import Live

pytestmark = pytest.mark.root

MIB = 1 << 20


@pytest.fixture
def person(daemon: Live) -> Iterator[Callable[..., Person]]:
    people: list[Person] = []

    def start(*argv: str) -> Person:
        people.append(Person(daemon.own.endpoint, *argv))
        return people[-1]

    yield start
    for each in people:
        each.close()


def sampan(daemon: Live, *words: str, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
    argv = [sys.executable, "-m", "sampan", "--endpoint", daemon.own.endpoint, *words]
    return subprocess.Popen(argv, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def running(daemon: Live, container: str) -> str:
    return daemon.exec(container, "ps", "-o", "args").stdout.decode()


def test_a_shell_in_a_terminal(daemon: Live, person: Callable[..., Person]) -> None:
    container = daemon.started(daemon.pod())
    somebody = person("exec", "-it", container, "sh")
    somebody.type(b"stty size; tty; echo $((6*7))\r")
    screen = somebody.until(b"42\r\n")
    assert b"17 91" in screen and b"/dev/pts/" in screen
    somebody.resize(100, 30)
    somebody.type(b"sleep 1000\r")
    somebody.until(b"sleep 1000\r\n")
    somebody.type(b"\x03")  # ends sleep, not the shell, which tells the new size
    somebody.type(b"stty size\r")
    somebody.until(b"30 100")
    somebody.type(b"exit 43\r")
    assert somebody.ended() == 43
    assert somebody.modes() == somebody.before


def test_much_goes_through_a_command_both_ways(daemon: Live, tmp_path: Path) -> None:
    container = daemon.started(daemon.pod())
    given = tmp_path / "given"
    given.write_bytes(os.urandom(64 * MIB))
    with given.open("rb") as source:
        process = sampan(daemon, "exec", "-i", container, "cat", stdin=source.fileno())
    with process:
        assert process.stdout is not None
        got = hashlib.sha256()
        while chunk := process.stdout.read(MIB):
            got.update(chunk)
        assert process.wait(20) == 0
    assert got.hexdigest() == hashlib.sha256(given.read_bytes()).hexdigest()
    with sampan(daemon, "exec", container, "sh", "-c", "echo out; echo err >&2; exit 9") as process:
        assert (*process.communicate(timeout=20), process.returncode) == (b"out\n", b"err\n", 9)


@pytest.mark.parametrize("how", ["timeout", "signal", "reader"])
def test_a_command_ends_with_its_session(daemon: Live, how: str) -> None:
    container = daemon.started(daemon.pod())
    words = ["exec", container, "sh", "-c", "sleep 4321 & echo on; while :; do echo y; sleep 0.1; done"]
    with sampan(daemon, *(["--timeout", "2s"] if how == "timeout" else []), *words) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        assert "sleep 4321" in running(daemon, container)
        if how == "signal":
            process.send_signal(signal.SIGTERM)
        elif how == "reader":
            process.stdout.close()
        assert process.wait(20) == {"timeout": 124, "signal": 143, "reader": 1}[how]
    deadline = time.monotonic() + (10 if how == "reader" else 0)  # else it is gone when the command has ended
    while "sleep 4321" in (left := running(daemon, container)):
        assert time.monotonic() < deadline, left


def test_attach_lasts_until_the_container_ends_or_the_keys_come(
    daemon: Live, person: Callable[..., Person]
) -> None:
    container = daemon.started(daemon.pod(), "sh", tty=True, stdin=True)
    first = person("attach", container)
    first.type(b"echo $((6*7))\r")
    first.until(b"42\r\n")
    first.type(b"\x10\x11")
    assert first.ended() == 0
    second = person("attach", container)
    second.type(b"stty size; exit 44\r")
    assert second.ended() == 44
    assert b"17 91" in second.screen
    assert first.modes() == first.before and second.modes() == second.before


def test_ports_are_forwarded(daemon: Live) -> None:
    pod = daemon.pod()
    script = (
        "head -c 3000000 /dev/urandom >/tmp/x; sha256sum </tmp/x; cd /tmp; exec httpd -f -p 127.0.0.1:8080"
    )
    container = daemon.started(pod, "sh", "-c", script)
    digest = daemon.until_logged(container)[0].split()[0]
    with sampan(daemon, "port-forward", pod, ":8080", ":9999") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        ports: dict[str, int] = {}
        while len(ports) < 2:
            found = re.fullmatch(r"Forwarding from \S+:(\d+) -> (\d+)\n", process.stdout.readline().decode())
            assert found
            ports[found[2]] = int(found[1])
        for _ in range(10):
            assert hashlib.sha256(fetched(ports["8080"])).hexdigest() == digest
        with socket.create_connection(("127.0.0.1", ports["9999"]), 20) as refused:
            refused.settimeout(20)
            assert refused.recv(1) == b""
        assert b"9999" in process.stderr.readline()
        assert hashlib.sha256(fetched(ports["8080"])).hexdigest() == digest
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def fetched(port: int) -> bytes:
    """The file /x of the web server at this port."""
    with socket.create_connection(("127.0.0.1", port), 20) as sock:
        sock.settimeout(20)
        sock.sendall(b"GET /x HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(MIB), b""))
    return answer.partition(b"\r\n\r\n")[2]
