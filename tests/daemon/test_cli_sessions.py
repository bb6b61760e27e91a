"""`sampan exec -it`, `attach`, `run -it` and `port-forward` against a daemon, as people use them."""

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

from sampan.api import cri_pb2 as cri
from tests.cli.person import Person
from tests.daemon.conftest import IMAGE, Live

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
    somebody.type(b"sh -c 'echo sleep''ing; sleep 1000'\r")
    somebody.until(b"sleeping\r\n")
    somebody.type(b"\x03")  # ends sleep, not the shell, which tells the new size
    somebody.until(b"^C")
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


def nothing_left(daemon: Live) -> bool:
    return not daemon.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items


def test_run_gives_a_shell_that_ends_with_its_code(daemon: Live, person: Callable[..., Person]) -> None:
    somebody = person("run", "-it", "--rm", IMAGE, "sh", "-c", "stty size; exec sh")
    somebody.until(b"17 91\r\n")  # its first words, and it knows the size by then
    somebody.type(b"tty; echo $TERM $((6*7))\r")
    screen = somebody.until(b"xterm 42\r\n")
    assert b"/dev/" in screen and somebody.raw
    somebody.type(b"sh -c 'echo sleep''ing; sleep 1000'\r")
    somebody.until(b"sleeping\r\n")
    somebody.type(b"\x03")  # ends the sleep, not the shell
    somebody.until(b"^C")
    somebody.type(b"exit 7\r")
    assert somebody.ended() == 7
    assert somebody.modes() == somebody.before
    assert nothing_left(daemon) and not list((daemon.own.root / "logs").iterdir())


def test_run_with_a_terminal_is_left_with_the_keys_and_joined_again(
    daemon: Live, person: Callable[..., Person]
) -> None:
    first = person("run", "-it", "--name", "box", IMAGE, "sh")
    first.type(b"x=$((6*7)); echo =$x=\r")
    first.until(b"=42=\r\n")
    first.type(b"\x10\x11")
    assert first.ended() == 0
    assert b"the container runs on: `sampan attach box`" in first.screen
    second = person("attach", "box")
    second.type(b"echo +$x+; exit 9\r")
    assert second.ended() == 9
    assert b"+42+\r\n" in second.screen
    with sampan(daemon, "logs", "box") as process:
        out, _ = process.communicate(timeout=20)
    assert b"=42=" in out and b"+42+" in out


def test_what_ends_at_once_in_a_terminal_ends_run(daemon: Live, person: Callable[..., Person]) -> None:
    for argv, code, words in (
        (("true",), 0, b""),
        (("sh", "-c", "echo short; exit 3"), 3, b"short\r\n"),
        (("/no/such",), 127, b"/no/such"),
    ):
        somebody = person("run", "-it", "--rm", IMAGE, *argv)
        assert somebody.ended() == code, somebody.screen
        assert words in somebody.screen and somebody.modes() == somebody.before
    assert nothing_left(daemon)


def test_a_pipe_goes_through_run_to_its_end(daemon: Live, tmp_path: Path) -> None:
    given = tmp_path / "given"
    for content in (b"hi\n", b"", os.urandom(8 * MIB)):
        given.write_bytes(content)
        with given.open("rb") as source:
            process = sampan(daemon, "run", "-i", "--rm", IMAGE, "cat", stdin=source.fileno())
        with process:
            assert (*process.communicate(timeout=60), process.returncode) == (content, b"", 0)
    assert nothing_left(daemon)


def test_the_first_words_of_a_run_are_never_missed(daemon: Live) -> None:
    for turn in range(50):
        with sampan(daemon, "run", "-i", "--rm", IMAGE, "echo", f"first {turn}") as process:
            assert process.communicate(timeout=30) == (b"first %d\n" % turn, b"")
            assert process.returncode == 0


def test_an_interrupt_stops_a_container_that_runs_with_input(daemon: Live) -> None:
    script = "trap 'echo stopping; exit 5' TERM; echo on; while :; do sleep 0.1; done"
    with sampan(daemon, "run", "-i", "--rm", IMAGE, "sh", "-c", script, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"stopping\n"
        assert process.wait(20) == 5
    assert nothing_left(daemon)


@pytest.mark.parametrize("options", [(), ("-i",)])
def test_a_run_whose_output_nobody_reads_ends(daemon: Live, options: tuple[str, ...]) -> None:
    script = "trap 'exit 5' TERM; while echo y; do sleep 0.01; done"
    words = ("run", "--rm", *options, IMAGE, "sh", "-c", script)
    with sampan(daemon, *words, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(20) == 1
    assert nothing_left(daemon)
