"""Tests of wire.oci_runtime."""

from pathlib import Path

import pytest

from sampan.model.handler import Handler
from sampan.wire import oci_runtime
from sampan.wire.oci_runtime import CommandLine, State

RUNC = Handler("fast", "runc", "conmon", Path("/run/x"), args=("--debug", "--platform=kvm"))
COMMANDS = CommandLine("/usr/sbin/runc", RUNC)


@pytest.mark.parametrize(
    ("text", "state"),
    [
        (
            b'{"ociVersion": "1.0.2", "id": "c", "pid": 7, "status": "created", "bundle": "/b"}',
            State("created", 7),
        ),
        (b'{"status": "stopped", "id": "c"}', State("stopped", 0)),
        (b"", None),
        (b'{"pid": 7}', None),
        (b'{"status": 7}', None),
        (b"\xff", None),
    ],
)
def test_what_a_runtime_says_of_a_containers_state(text: bytes, state: State | None) -> None:
    assert oci_runtime.state(text) == state


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (b"", ""),
        (b'{"msg":"not found","level":"error","time":"t"}\n', "not found"),
        (b'{"msg":"a","level":"error"}\n{"msg":"b","level":"fatal"}\n', "a; b"),
        (b'{"msg":"careful","level":"warning"}\n', ""),
        (b"no json\n", ""),
    ],
)
def test_the_log_tells_what_the_runtime_itself_could_not_do(log: bytes, words: str) -> None:
    assert oci_runtime.errors(log) == words


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (COMMANDS.state("c1"), ["state", "c1"]),
        (COMMANDS.start("c1"), ["start", "c1"]),
        (COMMANDS.delete("c1"), ["delete", "--force", "c1"]),
        (COMMANDS.kill_all("c1"), ["kill", "--all", "c1", "KILL"]),
    ],
)
def test_every_command_says_whose_state_and_has_the_handlers_options(
    argv: list[str], command: list[str]
) -> None:
    assert argv == ["/usr/sbin/runc", "--root=/run/x", "--debug", "--platform=kvm", *command]


def test_an_exec_never_passes_words_of_the_command_as_options() -> None:
    argv = COMMANDS.exec_process("c1", "/proc/self/fd/3", "/proc/self/fd/4")
    assert argv[1:3] == ["--root=/run/x", "--debug"] and argv[-1] == "c1"
    assert argv.index("exec") < argv.index("--process=/proc/self/fd/3")
    assert argv.index("--log=/proc/self/fd/4") < argv.index("exec")
