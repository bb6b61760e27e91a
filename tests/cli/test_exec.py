"""`exec`: output, exit code, time, input, terminal."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.wire.remotecommand.channels import Channel, Input, InputEnd, Resize
from sampan.wire.upgrade import Refused
from tests.cli.conftest import Sampan
from tests.cli.fake_daemon import FakeDaemon, Served
from tests.cli.fake_sessions import Command, FakeSessions, certificate
from tests.cli.person import Person

MIB = 1 << 20


@pytest.fixture
def web(daemon: FakeDaemon) -> cri.Container:
    return daemon.add_container(daemon.add_pod("web"), "nginx")


@pytest.fixture
def person(served: Served, sessions: FakeSessions, web: cri.Container) -> Iterator[Callable[..., Person]]:
    """Start `sampan ARGS...` at a terminal."""
    people: list[Person] = []

    def start(*argv: str) -> Person:
        people.append(Person(served.endpoint, *argv))
        return people[-1]

    yield start
    for each in people:
        each.close()


def piped(endpoint: str, *argv: str, stdin: int = subprocess.PIPE) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "sampan", "--endpoint", endpoint, *argv]
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


# --- what sessions are played to do -------------------------------------------------------------------------


def cat(command: Command) -> None:
    for event in command.events():
        if isinstance(event, Input):
            command.say(bytes(event.data))
        elif isinstance(event, InputEnd):
            command.end(0)


def shell(command: Command) -> None:
    """Tells what it hears: sizes, keys; `exit N` ends it."""
    for event in command.events():
        if isinstance(event, Resize):
            command.say(b"<%dx%d>" % (event.width, event.height))
        elif isinstance(event, Input):
            keys = bytes(event.data)
            command.say(b"[%s]" % keys.hex().encode())
            if keys.startswith(b"exit "):
                command.end(int(keys[5:]))
        elif isinstance(event, InputEnd):
            command.say(b"<end>")


def forever(command: Command) -> None:
    command.say(b"on\r\n")
    for _ in command.events():
        pass


# --- without input ------------------------------------------------------------------------------------------


def test_output_comes_apart_and_the_code_is_passed_on(
    sampan: Sampan, daemon: FakeDaemon, web: cri.Container, sessions: FakeSessions
) -> None:
    def play(command: Command) -> None:
        command.say(b"out\x00\n")
        command.say(b"err", Channel.STDERR)
        command.end(7)

    sessions.play = play
    ran = sampan("exec", "web", "ls", "-l", "--", "/")
    assert (ran.code, ran.out, ran.err) == (7, "out\x00\n", "err")
    assert daemon.requests(cri.ExecRequest) == [
        cri.ExecRequest(container_id=web.id, cmd=["ls", "-l", "--", "/"], stdout=True, stderr=True)
    ]
    assert (sessions.heads[0].path, sessions.heads[0].query) == ("/exec/token", "x=1")


def test_output_is_shown_as_it_comes(served: Served, sessions: FakeSessions, web: cri.Container) -> None:
    def play(command: Command) -> None:
        command.say(b"first\n")
        for event in command.events():
            if isinstance(event, InputEnd):
                command.end()

    sessions.play = play
    with piped(served.endpoint, "exec", "-i", "web", "slow") as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"first\n"  # and the command has not ended
        process.stdin.close()
        assert process.wait(20) == 0


def test_a_daemon_without_sessions_is_asked_for_the_output_at_the_end(
    sampan: Sampan, daemon: FakeDaemon, web: cri.Container
) -> None:
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


def test_without_sessions_the_timeout_is_the_daemon_s_to_keep(
    sampan: Sampan, daemon: FakeDaemon, web: cri.Container
) -> None:
    daemon.fails["ExecSync"] = (grpc.StatusCode.DEADLINE_EXCEEDED, "the command took longer than 2 s")
    ran = sampan("--timeout", "1500ms", "exec", "nginx", "sleep", "9")
    assert (ran.code, ran.err) == (124, "sampan: the command took longer than 2 s\n")
    (request,) = daemon.requests(cri.ExecSyncRequest)
    assert isinstance(request, cri.ExecSyncRequest)
    assert request.timeout == 2


def test_the_end_of_its_time_ends_the_session_and_is_124(
    sampan: Sampan, sessions: FakeSessions, web: cri.Container
) -> None:
    left: list[str] = []

    def play(command: Command) -> None:
        forever(command)
        left.append(command.left)

    sessions.play = play
    ran = sampan("--timeout", "300ms", "exec", "web", "sleep", "9")
    assert (ran.code, ran.out, ran.err) == (124, "on\r\n", "sampan: the command was ended after 0.3 s\n")
    assert left == ["the client closed the session (code 1000)"]  # it waited until the daemon had ended it


def test_the_end_of_its_time_does_not_wait_for_a_reader_of_the_output(
    served: Served, sessions: FakeSessions, web: cri.Container
) -> None:
    def play(command: Command) -> None:
        while True:
            command.say(b"y" * MIB)

    sessions.play = play
    with piped(served.endpoint, "--timeout", "1s", "exec", "web", "yes") as process:
        assert process.wait(20) == 124


@pytest.mark.parametrize("flag", ["-i", "-t", "-it"])
def test_a_session_that_no_daemon_serves_is_125_and_says_why(
    sampan: Sampan, daemon: FakeDaemon, web: cri.Container, flag: str
) -> None:
    ran = sampan("exec", flag, "nginx", "sh")
    assert ran.code == 125
    assert "no session" in ran.err
    assert daemon.requests(cri.ExecSyncRequest) == []


def test_a_container_that_is_not_there_is_1(sampan: Sampan, daemon: FakeDaemon) -> None:
    ran = sampan("exec", "none", "true")
    assert (ran.code, ran.out) == (1, "")
    assert "there is no container none" in ran.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            "crun failed (exit code 1): executable file `x` not found in $PATH; command: crun exec",
            127,
            "in $PATH",
        ),
        (
            "crun failed (exit code 1): open executable: Permission denied; command: crun exec",
            126,
            "Permission",
        ),
        ("the container has ended", 1, "the container has ended"),
    ],
)
def test_a_command_that_never_ran_is_told_as_shells_do(
    sampan: Sampan, sessions: FakeSessions, web: cri.Container, words: str, code: int, said: str
) -> None:
    sessions.play = lambda command: command.end(failure=words)
    ran = sampan("exec", "web", "x")
    assert ran.code == code
    assert ran.err.startswith("sampan: ") and said in ran.err
    assert "command: crun" not in ran.err and "Internal error" not in ran.err


def test_a_session_that_breaks_off_is_1(sampan: Sampan, sessions: FakeSessions, web: cri.Container) -> None:
    def play(command: Command) -> None:
        command.say(b"half")
        command.break_off()

    sessions.play = play
    ran = sampan("exec", "web", "x")
    assert (ran.code, ran.out) == (1, "half")
    assert "broke off" in ran.err


def test_a_refusal_is_told_in_the_daemon_s_words(
    sampan: Sampan, sessions: FakeSessions, web: cri.Container
) -> None:
    sessions.refuse = Refused(404, "there is no such session, or it has begun already")
    ran = sampan("exec", "web", "x")
    assert (ran.code, "there is no such session" in ran.err) == (1, True)


def test_a_port_where_nobody_listens_is_told(
    sampan: Sampan,
    daemon: FakeDaemon,
    sessions: FakeSessions,
    web: cri.Container,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "url", lambda kind: "http://127.0.0.1:1/exec/x")
    ran = sampan("exec", "web", "x")
    assert (ran.code, "cannot connect to http://127.0.0.1:1" in ran.err) == (1, True)


# --- with input ---------------------------------------------------------------------------------------------


def test_input_goes_in_and_its_end_ends_it(
    served: Served, sessions: FakeSessions, web: cri.Container
) -> None:
    sessions.play = cat
    with piped(served.endpoint, "exec", "-i", "web", "cat") as process:
        out, err = process.communicate(b"a\x10\x11\x00b", 20)
    assert (process.returncode, out, err) == (0, b"a\x10\x11\x00b", b"")


def test_without_i_nothing_is_read(served: Served, sessions: FakeSessions, web: cri.Container) -> None:
    with piped(served.endpoint, "exec", "web", "true") as process:
        assert process.wait(20) == 0
    assert not sessions.wanted.stdin


def test_much_goes_through_both_ways_unchanged(
    served: Served, sessions: FakeSessions, web: cri.Container, tmp_path: Path
) -> None:
    sessions.play = cat
    given = tmp_path / "given"
    given.write_bytes(os.urandom(32 * MIB))
    with (
        given.open("rb") as source,
        piped(served.endpoint, "exec", "-i", "web", "cat", stdin=source.fileno()) as process,
    ):
        assert process.stdout is not None
        got = hashlib.sha256()
        while chunk := process.stdout.read(MIB):
            got.update(chunk)
        assert process.wait(20) == 0
    assert got.hexdigest() == hashlib.sha256(given.read_bytes()).hexdigest()


def test_a_reader_that_sleeps_makes_nothing_pile_up(
    served: Served, sessions: FakeSessions, web: cri.Container
) -> None:
    def play(command: Command) -> None:
        while True:
            command.say(b"y" * MIB)

    sessions.play = play
    with piped(served.endpoint, "exec", "web", "yes") as process:
        assert process.stdout is not None
        process.stdout.read(MIB)
        before = resident(process.pid)
        for _ in range(20):
            process.stdout.read(MIB)
        assert resident(process.pid) - before < 8 * MIB
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_a_reader_that_leaves_ends_the_command_without_a_word(
    served: Served, sessions: FakeSessions, web: cri.Container
) -> None:
    def play(command: Command) -> None:
        while True:
            command.say(b"y\n" * MIB)

    sessions.play = play
    with piped(served.endpoint, "exec", "web", "yes") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(20) == 1
        assert process.stderr.read() == b""


def test_a_daemon_that_cannot_half_close_is_said_to_be_one(
    served: Served, sessions: FakeSessions, web: cri.Container
) -> None:
    said = threading.Event()

    def play(command: Command) -> None:
        assert said.wait(20)
        command.end(3)

    sessions.protocols = ("v4.channel.k8s.io",)
    sessions.play = play
    with piped(served.endpoint, "exec", "-i", "web", "cat") as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.close()
        assert b"cannot be told that the input has ended" in process.stderr.readline()
        said.set()
        assert process.wait(20) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_session(
    served: Served, sessions: FakeSessions, web: cri.Container, number: signal.Signals
) -> None:
    left: list[str] = []

    def play(command: Command) -> None:
        forever(command)
        left.append(command.left)

    sessions.play = play
    with piped(served.endpoint, "exec", "-i", "web", "sleep") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"on\r\n"
        process.send_signal(number)
        assert process.wait(20) == 128 + number
        assert process.stderr.read() == b""
    assert left == ["the client closed the session (code 1000)"]


# --- with a terminal ----------------------------------------------------------------------------------------


def test_a_terminal_is_raw_and_has_its_size_over_there(
    person: Callable[..., Person], sessions: FakeSessions, daemon: FakeDaemon
) -> None:
    sessions.play = shell
    somebody = person("exec", "-it", "web", "sh")
    somebody.until(b"<91x17>")
    assert somebody.raw
    (request,) = daemon.requests(cri.ExecRequest)
    assert isinstance(request, cri.ExecRequest)
    assert (request.stdin, request.stdout, request.stderr, request.tty) == (True, True, False, True)
    somebody.type(b"\x03")  # ^C goes there
    somebody.until(b"[03]")
    somebody.type(b"\x1a\n\r\x04")  # and so do ^Z, both ends of a line, and ^D
    somebody.until(b"[1a0a0d04]")
    somebody.type(b"exit 5")
    assert somebody.ended() == 5
    assert somebody.modes() == somebody.before


def test_a_resized_window_is_told(person: Callable[..., Person], sessions: FakeSessions) -> None:
    sessions.play = shell
    somebody = person("exec", "-it", "web", "sh")
    somebody.until(b"<91x17>")
    somebody.resize(120, 40)
    somebody.signal(
        signal.SIGWINCH
    )  # the kernel tells only the foreground group of the pty, which is this one
    somebody.until(b"<120x40>")
    somebody.type(b"exit 0")
    assert somebody.ended() == 0


@pytest.mark.parametrize("pieces", [[b"\x10\x11"], [b"\x10", b"\x11"]])
def test_ctrl_p_ctrl_q_leaves(
    person: Callable[..., Person], sessions: FakeSessions, pieces: list[bytes]
) -> None:
    sessions.play = shell
    somebody = person("exec", "-it", "web", "sh")
    somebody.until(b"<91x17>")
    for piece in pieces:
        somebody.type(piece)
    assert somebody.ended() == 0
    assert b"left the session" in somebody.screen
    assert somebody.modes() == somebody.before


def test_ctrl_p_alone_comes_through_after_a_moment(
    person: Callable[..., Person], sessions: FakeSessions
) -> None:
    sessions.play = shell
    somebody = person("exec", "-it", "web", "sh")
    somebody.until(b"<91x17>")
    somebody.type(b"\x10")
    somebody.until(b"[10]")
    somebody.type(b"exit 0")
    assert somebody.ended() == 0


def test_the_keys_to_leave_can_be_others_or_none(
    person: Callable[..., Person], sessions: FakeSessions
) -> None:
    sessions.play = shell
    somebody = person("exec", "-it", "--detach-keys", "", "web", "sh")
    somebody.until(b"<91x17>")
    somebody.type(b"\x10\x11")
    somebody.until(b"[1011]")
    other = person("exec", "-it", "--detach-keys", "ctrl-], q", "web", "sh")
    assert other.ended() == 2
    other = person("exec", "-it", "--detach-keys", "ctrl-],q", "web", "sh")
    other.until(b"<91x17>")
    other.type(b"\x1dq")
    assert other.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_whatever_ends_it_gives_the_terminal_back(
    person: Callable[..., Person], sessions: FakeSessions, number: signal.Signals
) -> None:
    sessions.play = shell
    somebody = person("exec", "-it", "web", "sh")
    somebody.until(b"<91x17>")
    assert somebody.raw
    somebody.signal(number)
    assert somebody.ended() == 128 + number
    assert somebody.modes() == somebody.before


def test_a_session_that_breaks_off_gives_the_terminal_back(
    person: Callable[..., Person], sessions: FakeSessions
) -> None:
    sessions.play = shell
    somebody = person("exec", "-it", "web", "sh")
    somebody.until(b"<91x17>")
    sessions.cut()
    assert somebody.ended() == 1
    assert b"broke off" in somebody.screen
    assert somebody.modes() == somebody.before


def test_a_command_that_cannot_run_gives_the_terminal_back(
    person: Callable[..., Person], sessions: FakeSessions
) -> None:
    sessions.play = lambda command: command.end(failure="executable file `x` not found in $PATH")
    somebody = person("exec", "-it", "web", "x")
    assert somebody.ended() == 127
    assert somebody.modes() == somebody.before


def test_a_stopped_session_is_raw_again_when_it_goes_on(
    person: Callable[..., Person], sessions: FakeSessions
) -> None:
    sessions.play = shell
    somebody = person("exec", "-it", "web", "sh")
    somebody.until(b"<91x17>")
    somebody.signal(signal.SIGSTOP)
    somebody.set_modes(somebody.before)  # as a shell does
    somebody.signal(signal.SIGCONT)
    somebody.until(b"<91x17><91x17>")
    assert somebody.raw


def test_input_without_a_terminal_is_the_container_s_terminal_s(
    served: Served, sessions: FakeSessions, web: cri.Container
) -> None:
    sessions.play = shell
    with piped(served.endpoint, "exec", "-it", "web", "sh") as process:
        out, err = process.communicate(b"exit 4", 20)
    assert (process.returncode, out) == (4, b"[657869742034]")
    assert b"standard input is no terminal" in err


def test_i_without_t_leaves_the_terminal_as_it_is(
    person: Callable[..., Person], sessions: FakeSessions
) -> None:
    sessions.play = shell
    somebody = person("exec", "-i", "web", "sh")
    somebody.type(b"hello\n")
    somebody.until(b"[68656c6c6f0a]")
    assert somebody.modes() == somebody.before
    somebody.type(b"\x03")  # the terminal makes a signal of it
    assert somebody.ended() == 130


def test_t_without_i_is_to_look_at(person: Callable[..., Person], sessions: FakeSessions) -> None:
    sessions.play = shell
    somebody = person("exec", "-t", "web", "top")
    somebody.until(b"<91x17>")
    assert (sessions.wanted.tty, sessions.wanted.stdin) == (True, False)
    assert somebody.modes() == somebody.before
    somebody.type(b"\x03")
    assert somebody.ended() == 130


def test_a_closed_standard_input_is_an_empty_one(
    served: Served, sessions: FakeSessions, web: cri.Container
) -> None:
    sessions.play = cat
    command = f'"{sys.executable}" -m sampan --endpoint {served.endpoint} exec -i web cat <&-'
    ran = subprocess.run(["/bin/sh", "-c", command], capture_output=True, timeout=20, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")


def shell_line(served: Served, line: str) -> "subprocess.CompletedProcess[bytes]":
    """What becomes of `sampan LINE` in a shell."""
    command = f'"{sys.executable}" -m sampan --endpoint {served.endpoint} {line}'
    return subprocess.run(["/bin/sh", "-c", command], capture_output=True, timeout=20, check=False)


def test_a_closed_standard_output_is_written_to_nothing_else(
    served: Served, sessions: FakeSessions, web: cri.Container
) -> None:
    def play(command: Command) -> None:
        command.say(b"out")
        command.say(b"err", Channel.STDERR)
        command.end(3)

    sessions.play = play
    ran = shell_line(served, "exec web x >&-")
    assert (ran.returncode, ran.stderr) == (3, b"err")


def test_a_full_disk_is_told(served: Served, sessions: FakeSessions, web: cri.Container) -> None:
    def play(command: Command) -> None:
        command.say(b"out")
        forever(command)

    sessions.play = play
    ran = shell_line(served, "exec web x >/dev/full")
    words = b"sampan: standard output cannot be written: No space left on device\n"
    assert (ran.returncode, ran.stderr) == (1, words)


def test_a_word_that_is_not_text_is_2(served: Served, sessions: FakeSessions, web: cri.Container) -> None:
    ran = shell_line(served, r"exec web echo $(printf '\377')")
    assert ran.returncode == 2
    assert b"'\\udcff' is not UTF-8" in ran.stderr
    assert sessions.heads == []


# --- TLS ----------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path, sessions: FakeSessions) -> Path:
    """Sessions have TLS, by a certificate that no machine trusts by itself; its file."""
    made, key = certificate(tmp_path)
    sessions.use_tls(made, key)
    return made


def test_tls_is_used_when_the_daemon_says_so(
    sampan: Sampan,
    sessions: FakeSessions,
    web: cri.Container,
    authority: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def play(command: Command) -> None:
        command.say(b"y" * MIB)
        command.end(3)

    sessions.play = play
    monkeypatch.setenv("SAMPAN_STREAM_CA", str(authority))
    ran = sampan("exec", "web", "x")
    assert (ran.code, len(ran.out), ran.err) == (3, MIB, "")


def test_a_certificate_that_nobody_vouches_for_is_refused(
    sampan: Sampan, sessions: FakeSessions, web: cri.Container, authority: Path
) -> None:
    ran = sampan("exec", "web", "x")
    assert ran.code == 1
    assert "CERTIFICATE_VERIFY_FAILED" in ran.err and "SAMPAN_STREAM_CA" in ran.err
    assert sessions.heads == []
