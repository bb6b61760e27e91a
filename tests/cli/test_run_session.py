"""`run -i` and `run -t`: the session begins first, then the container."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.api import sampan_pb2 as own
from sampan.wire.remotecommand.channels import Channel, Input, InputEnd, Resize
from sampan.wire.upgrade import Refused
from tests.cli.conftest import Sampan
from tests.cli.fake_daemon import FakeDaemon, Served
from tests.cli.fake_sessions import Command, FakeSessions
from tests.cli.person import Person


@pytest.fixture(autouse=True)
def image(daemon: FakeDaemon) -> None:
    daemon.add_image("app:1")
    daemon.hold = True


@pytest.fixture
def person(served: Served, sessions: FakeSessions) -> Iterator[Callable[..., Person]]:
    people: list[Person] = []

    def start(*argv: str) -> Person:
        people.append(Person(served.endpoint, *argv))
        return people[-1]

    yield start
    for each in people:
        each.close()


def state(daemon: FakeDaemon) -> int:
    (container,) = daemon.containers.values()
    return container.state


def end(daemon: FakeDaemon, command: Command, code: int = 0) -> None:
    (id,) = daemon.containers
    daemon.end(id, code, "Error" if code else "Completed")
    command.end()


def cat(daemon: FakeDaemon) -> Callable[[Command], None]:
    def play(command: Command) -> None:
        for event in command.events():
            if isinstance(event, Input):
                command.say(bytes(event.data))
            elif isinstance(event, InputEnd):
                end(daemon, command, 4)
                return

    return play


def piped(served: Served, *words: str, given: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    argv = [sys.executable, "-m", "sampan", "--endpoint", served.endpoint, "run", *words]
    return subprocess.run(argv, input=given, capture_output=True, timeout=30, check=False)


def test_a_pipe_goes_in_and_its_end_ends_the_container_s_input(
    served: Served, daemon: FakeDaemon, sessions: FakeSessions
) -> None:
    sessions.play = cat(daemon)
    ran = piped(served, "-i", "app:1", given=b"hi\n")
    assert (ran.returncode, ran.stdout, ran.stderr) == (4, b"hi\n", b"")
    (config,) = daemon.container_configs.values()
    assert (config.stdin, config.stdin_once, config.tty) == (True, True, False)
    (request,) = daemon.requests(cri.AttachRequest)
    assert isinstance(request, cri.AttachRequest)
    assert (request.stdin, request.stdout, request.stderr, request.tty) == (True, True, True, False)


def test_the_session_begins_before_the_container(
    sampan: Sampan, daemon: FakeDaemon, sessions: FakeSessions
) -> None:
    seen = []

    def play(command: Command) -> None:
        for event in command.events():
            assert isinstance(event, (Input, InputEnd, Resize))
            break

    sessions.play = play
    url = sessions.url

    def asked(kind: str) -> str:
        seen.append(state(daemon))
        return url(kind)

    sessions.url = asked  # type: ignore[method-assign]
    sessions.refuse = Refused(409, "it has just ended")
    ran = sampan("run", "-i", "app:1")
    assert (ran.code, ran.err) == (1, "sampan: the daemon refuses the session: it has just ended\n")
    assert seen == [cri.CONTAINER_CREATED]
    assert daemon.requests(cri.StartContainerRequest) == []
    assert (daemon.pods, daemon.containers) == ({}, {})
    assert list((daemon.root / "logs").iterdir()) == []


def test_what_cannot_start_leaves_nothing(sampan: Sampan, daemon: FakeDaemon, sessions: FakeSessions) -> None:
    sessions.play = lambda command: [*command.events()].clear()
    daemon.fails["StartContainer"] = (grpc.StatusCode.UNKNOWN, "exec: no such file")
    ran = sampan("run", "-i", "app:1")
    assert (ran.code, ran.err) == (1, "sampan: exec: no such file\n")
    assert (daemon.pods, daemon.containers) == ({}, {})


def test_a_daemon_without_sessions_is_125_and_nothing_is_left(sampan: Sampan, daemon: FakeDaemon) -> None:
    ran = sampan("run", "-i", "app:1")
    assert (ran.code, "no session (-i, -t) is to be had" in ran.err) == (125, True)
    assert (daemon.pods, daemon.containers) == ({}, {})


def test_a_terminal_needs_one_here_only_with_input(
    served: Served, daemon: FakeDaemon, sessions: FakeSessions
) -> None:
    ran = piped(served, "-it", "app:1")
    assert (ran.returncode, b"standard input is no terminal" in ran.stderr) == (2, True)
    assert not daemon.asked

    def play(command: Command) -> None:
        command.say(b"shown\r\n")
        end(daemon, command)

    daemon.hold = False
    sessions.play = play
    ran = piped(served, "-t", "app:1")
    assert (ran.returncode, ran.stdout) == (0, b"shown\r\n")
    (config,) = daemon.container_configs.values()
    assert (config.stdin, config.stdin_once, config.tty) == (False, False, True)


def test_detached_keeps_its_input_for_an_attach(
    sampan: Sampan, daemon: FakeDaemon, sessions: FakeSessions
) -> None:
    assert sampan("run", "-dit", "--name", "a", "app:1").code == 0
    assert sampan("run", "-di", "--name", "b", "app:1").code == 0
    for config, tty in zip(daemon.container_configs.values(), (True, False), strict=True):
        assert (config.stdin, config.stdin_once, config.tty) == (True, False, tty)
    assert daemon.requests(cri.AttachRequest) == []


def game(daemon: FakeDaemon) -> Callable[[Command], None]:
    def play(command: Command) -> None:
        for event in command.events():
            if isinstance(event, Resize):
                command.say(b"<%dx%d>" % (event.width, event.height))
            elif isinstance(event, Input):
                command.say(b"[%s]" % bytes(event.data).hex().encode())
                if b"q" in bytes(event.data):
                    end(daemon, command, 7)
                    return

    return play


def test_a_shell_has_every_key_and_its_code_is_passed_on(
    person: Callable[..., Person], daemon: FakeDaemon, sessions: FakeSessions
) -> None:
    sessions.play = game(daemon)
    somebody = person("run", "-it", "--rm", "app:1")
    assert b"18" not in somebody.until(b"<91x17>")  # nothing to draw anew
    somebody.type(b"\x03")
    somebody.until(b"[03]")
    assert somebody.raw
    somebody.type(b"q")
    assert somebody.ended() == 7
    assert somebody.modes() == somebody.before
    assert (daemon.pods, daemon.containers) == ({}, {})
    assert daemon.requests(cri.StopContainerRequest) == []


def test_what_must_be_pulled_is_pulled_before_the_terminal_changes(
    person: Callable[..., Person], daemon: FakeDaemon, sessions: FakeSessions
) -> None:
    sessions.play = game(daemon)
    somebody = person("run", "-it", "app:2")
    somebody.until(b"<91x17>")
    somebody.type(b"q")
    assert somebody.ended() == 7
    assert len(daemon.requests(own.PullRequest)) == 1
    assert somebody.modes() == somebody.before


@pytest.mark.parametrize(
    ("options", "more"), [((), b""), (("--rm",), b"; it is removed with `sampan rm box`")]
)
def test_left_with_the_keys_the_container_runs_on(
    person: Callable[..., Person],
    daemon: FakeDaemon,
    sessions: FakeSessions,
    options: tuple[str, ...],
    more: bytes,
) -> None:
    sessions.play = game(daemon)
    somebody = person("run", "-it", "--detach-keys", "ctrl-x", "--name", "box", *options, "app:1")
    somebody.until(b"<91x17>")
    somebody.type(b"\x18")
    assert somebody.ended() == 0
    assert b"left; the container runs on: `sampan attach box`" + more in somebody.screen
    assert state(daemon) == cri.CONTAINER_RUNNING
    assert daemon.requests(cri.StopPodSandboxRequest) == []


def test_a_hangup_leaves_the_container_running(
    person: Callable[..., Person], daemon: FakeDaemon, sessions: FakeSessions
) -> None:
    sessions.play = game(daemon)
    somebody = person("run", "-it", "--name", "box", "app:1")
    somebody.until(b"<91x17>")
    somebody.signal(signal.SIGHUP)
    assert somebody.ended() == 129
    assert b"the container runs on: `sampan attach box`" in somebody.screen
    assert somebody.modes() == somebody.before
    assert state(daemon) == cri.CONTAINER_RUNNING


def test_a_session_that_breaks_off_says_how_to_return(
    sampan: Sampan, daemon: FakeDaemon, sessions: FakeSessions
) -> None:
    def play(command: Command) -> None:
        command.say(b"out")
        command.say(b"err", Channel.STDERR)
        while state(daemon) != cri.CONTAINER_RUNNING:
            pass
        command.end(failure="the container runtime is ending")

    sessions.play = play
    ran = sampan("run", "-i", "--name", "box", "app:1")
    assert (ran.code, ran.out) == (1, "out")
    assert ran.err == (
        "errsampan: the container runtime is ending; the container runs on: `sampan attach box`\n"
    )


@pytest.mark.parametrize("options", [("-i",), ("-t",)])
def test_an_interrupt_stops_the_container_and_the_second_kills_it(
    served: Served, daemon: FakeDaemon, sessions: FakeSessions, options: tuple[str, ...]
) -> None:
    daemon.stubborn = True

    def play(command: Command) -> None:
        command.say(b"on\n")
        while state(daemon) != cri.CONTAINER_EXITED:
            signal.sigtimedwait((), 0.01)
        command.say(b"off\n")
        command.end()

    sessions.play = play
    argv = [sys.executable, "-m", "sampan", "--endpoint", served.endpoint, "run", *options, "app:1"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        os.kill(process.pid, signal.SIGINT)
        while not daemon.requests(cri.StopContainerRequest):
            signal.sigtimedwait((), 0.01)
        os.kill(process.pid, signal.SIGINT)
        assert process.stdout.read() == b"off\n"
        assert process.wait(20) == 143
    stops = daemon.requests(cri.StopContainerRequest)
    assert [each.timeout for each in stops if isinstance(each, cri.StopContainerRequest)] == [10, 0]
