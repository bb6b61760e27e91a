"""Tests of wire.conmon."""

from pathlib import Path

import pytest

from sampan.model.errors import Invalid
from sampan.wire import conmon
from sampan.wire.conmon import Command, argv, created, exit_code, input_of, log_path, window

COMMAND = Command(
    conmon="conmon",
    runtime="/usr/bin/crun",
    options=("--root=/s/runtime/crun",),
    id="c1",
    bundle=Path("/s/containers/c1"),
    exits=Path("/s/exits"),
    sockets=Path("/s/attach"),
)


def options(**changes: object) -> list[str]:
    fields = {name: getattr(COMMAND, name) for name in Command.__slots__}
    return argv(Command(**{**fields, **changes}))


def test_the_command_line_names_every_place() -> None:
    words = options(log=Path("/var/log/pods/p/c/0.log"))
    pairs = dict(zip(words[1::2], words[2::2], strict=False))
    assert words[0] == "conmon"
    assert pairs["--runtime"] == "/usr/bin/crun"
    assert pairs["--runtime-arg"] == "--root=/s/runtime/crun"
    assert pairs["--cid"] == pairs["--cuuid"] == "c1"
    assert pairs["--bundle"] == pairs["--persist-dir"] == "/s/containers/c1"
    assert pairs["--conmon-pidfile"] == "/s/containers/c1/conmon.pid"
    assert pairs["--log-path"] == "k8s-file:/var/log/pods/p/c/0.log"
    assert "--no-sync-log" in words
    assert not {"--terminal", "--stdin", "--leave-stdin-open", "--systemd-cgroup", "--syslog"} & set(words)


@pytest.mark.parametrize(
    ("changes", "present", "absent"),
    [
        ({"terminal": True}, {"--terminal"}, {"--stdin"}),
        ({"stdin": True}, {"--stdin", "--leave-stdin-open"}, set()),
        ({"stdin": True, "stdin_once": True}, {"--stdin"}, {"--leave-stdin-open"}),
        ({"stdin_once": True}, set(), {"--stdin", "--leave-stdin-open"}),
        ({"systemd_cgroup": True}, {"--systemd-cgroup"}, set()),
        ({"own_users": True}, {"/bin/sh", "/usr/bin/crun"}, {"--systemd-cgroup"}),
        ({"own_users": True, "stdin": True}, {"/usr/bin/crun"}, {"/bin/sh"}),
        ({"own_users": True, "stdin": True, "terminal": True}, {"/bin/sh"}, set()),
    ],
)
def test_options_follow_the_request(changes: dict[str, object], present: set[str], absent: set[str]) -> None:
    words = set(options(**changes))
    assert present <= words
    assert not absent & words


def test_a_container_without_a_log_logs_nowhere() -> None:
    assert log_path(None) == "none"


@pytest.mark.parametrize("path", ["/d/a:b.log", "/k8s-file:x", "relative.log"])
def test_a_log_path_that_conmon_would_misread_is_refused(path: str) -> None:
    with pytest.raises(Invalid, match="log path"):
        log_path(Path(path))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"pid": 4711}\n', (4711, "")),
        (b'{"data": 4711}\n', (4711, "")),
        (
            b'{"pid": -1, "message": "executable file `x` not found\\n"}\n',
            (0, "executable file `x` not found"),
        ),
        (b'{"data": -1, "message": "no \\/x"}\n', (0, "no /x")),
        (b'{"pid": -1, "message": "cut \xff here\\n"}\n', (0, "cut \N{REPLACEMENT CHARACTER} here")),
        (b'{"pid": -1, "message": "torn', (0, "torn")),
        (b"", (0, "")),
        (b"nonsense\n", (0, "")),
        (b'{"pid": 0}\n', (0, "")),
    ],
)
def test_the_sync_line_tells_the_pid_or_the_reason(line: bytes, expected: tuple[int, str]) -> None:
    assert created(line) == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"0", 0),
        (b"7", 7),
        (b"137", 137),
        (b"255", 255),
        (b"0\n", 0),
        (b"-1", None),
        (b"", None),
        (b"256", None),
        (b" 0", None),
        (b"1_0", None),
        (b"0\n\n", None),
        ("٣".encode(), None),
    ],
)
def test_only_a_believable_exit_code_is_one(text: bytes, code: int | None) -> None:
    assert exit_code(text) == code


def test_control_lines() -> None:
    assert window(80, 24) == b"24 80\n"
    assert window(65535, 70000) == b"1000 1000\n"
    assert conmon.REOPEN == b"2 0 0\n"


@pytest.mark.parametrize(
    ("changes", "taken", "once"),
    [
        ({}, False, False),
        ({"stdin_once": True}, False, False),
        ({"terminal": True}, False, False),
        ({"stdin": True}, True, False),
        ({"stdin": True, "stdin_once": True}, True, True),
        ({"stdin": True, "stdin_once": True, "terminal": True}, True, False),
    ],
)
def test_what_becomes_of_input_is_known_by_the_command_line(
    changes: dict[str, object], taken: bool, once: bool
) -> None:
    words = [word.encode() for word in options(**changes)]
    assert input_of(words) == conmon.Input(taken=taken, once=once)
