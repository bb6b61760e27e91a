"""`attach`: output from now on, input, the container's end."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from sampan.api import cri_pb2 as cri
from sampan.wire.remotecommand.channels import Channel, Input, InputEnd, Resize
from tests.cli.conftest import Sampan
from tests.cli.fake_daemon import FakeDaemon, Served
from tests.cli.fake_sessions import Command, FakeSessions
from tests.cli.person import Person


@pytest.fixture
def web(daemon: FakeDaemon, sessions: FakeSessions) -> cri.Container:
    return daemon.add_container(daemon.add_pod("web"), "nginx")


@pytest.fixture
def person(served: Served, web: cri.Container) -> Iterator[Callable[..., Person]]:
    people: list[Person] = []

    def start(*argv: str) -> Person:
        people.append(Person(served.endpoint, *argv))
        return people[-1]

    yield start
    for each in people:
        each.close()


def test_it_ends_with_the_container_and_with_its_code(
    sampan: Sampan, daemon: FakeDaemon, sessions: FakeSessions, web: cri.Container
) -> None:
    def play(command: Command) -> None:
        command.say(b"out")
        command.say(b"err", Channel.STDERR)
        daemon.end(web.id, 9, "Error")
        command.end()

    sessions.play = play
    ran = sampan("attach", "web")
    assert (ran.code, ran.out, ran.err) == (9, "out", "err")
    assert daemon.requests(cri.AttachRequest) == [
        cri.AttachRequest(container_id=web.id, stdin=True, stdout=True, stderr=True)
    ]


def test_a_session_that_ends_before_the_container_is_0(
    sampan: Sampan, sessions: FakeSessions, web: cri.Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sampan.cli.attach._ENDING_SECONDS", 0.1)
    assert sampan("attach", "web").code == 0


@pytest.mark.parametrize(
    ("channels", "options", "tty", "stdin"),
    [
        ({}, (), False, False),
        ({"stdin": True}, (), False, True),
        ({"stdin": True}, ("--no-stdin",), False, False),
        ({"tty": True, "stdin": True}, ("--no-stdin",), True, False),
        ({"tty": True}, (), True, False),
    ],
)
def test_it_asks_for_what_the_container_has(
    sampan: Sampan,
    daemon: FakeDaemon,
    sessions: FakeSessions,
    web: cri.Container,
    channels: dict[str, bool],
    options: tuple[str, ...],
    tty: bool,
    stdin: bool,
) -> None:
    daemon.channels[web.id] = channels
    daemon.end(web.id, 0)
    assert sampan("attach", *options, "web").code == 0
    (request,) = daemon.requests(cri.AttachRequest)
    assert request == cri.AttachRequest(
        container_id=web.id, stdin=stdin, stdout=True, stderr=not tty, tty=tty
    )


@pytest.mark.parametrize("once", [False, True])
def test_the_end_of_input_is_told_only_where_it_is_the_container_s(
    served: Served, daemon: FakeDaemon, sessions: FakeSessions, web: cri.Container, once: bool
) -> None:
    daemon.channels[web.id] = {"stdin": True, "stdin_once": once}
    ends: list[bool] = []

    def play(command: Command) -> None:
        for event in command.events():
            if isinstance(event, InputEnd):
                ends.append(True)
            if isinstance(event, Input if not once else InputEnd):
                time.sleep(0.2)  # a container that takes its time, and no end comes meanwhile
                command.say(b"answer")
                daemon.end(web.id, 4)
                command.end()

    sessions.play = play
    argv = [sys.executable, "-m", "sampan", "--endpoint", served.endpoint, "attach", "web"]
    ran = subprocess.run(argv, input=b"x\n", capture_output=True, timeout=20, check=False)
    assert (ran.returncode, ran.stdout) == (4, b"answer"), ran.stderr
    assert ends == [True] * once


def test_what_the_daemon_refuses_is_1(
    sampan: Sampan, daemon: FakeDaemon, sessions: FakeSessions, web: cri.Container
) -> None:
    sessions.play = lambda command: command.end(failure="nothing watches the container any more")
    ran = sampan("attach", "web")
    assert (ran.code, ran.err) == (1, "sampan: nothing watches the container any more\n")


def test_a_daemon_without_sessions_is_1(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.add_container(daemon.add_pod("web"), "nginx")
    ran = sampan("attach", "web")
    assert (ran.code, "cannot do that" in ran.err) == (1, True)


def game(command: Command) -> None:
    for event in command.events():
        if isinstance(event, Resize):
            command.say(b"<%dx%d>" % (event.width, event.height))
        elif isinstance(event, Input):
            command.say(b"[%s]" % bytes(event.data).hex().encode())


def test_a_terminal_is_drawn_anew_and_left_with_the_keys(
    person: Callable[..., Person], daemon: FakeDaemon, sessions: FakeSessions, web: cri.Container
) -> None:
    daemon.channels[web.id] = {"tty": True, "stdin": True}
    sessions.play = game
    somebody = person("attach", "web")
    somebody.until(b"<91x18><91x17>")
    assert somebody.raw
    somebody.type(b"\x03")
    somebody.until(b"[03]")
    somebody.type(b"\x10\x11")
    assert somebody.ended() == 0
    assert b"the container runs on" in somebody.screen
    assert somebody.modes() == somebody.before


def test_without_input_the_terminal_stays_and_ctrl_c_leaves(
    person: Callable[..., Person], daemon: FakeDaemon, sessions: FakeSessions, web: cri.Container
) -> None:
    daemon.channels[web.id] = {"tty": True, "stdin": True}
    sessions.play = game
    somebody = person("attach", "--no-stdin", "web")
    somebody.until(b"<91x17>")
    assert somebody.modes() == somebody.before
    somebody.type(b"\x03")
    assert somebody.ended() == 130
