"""The command line as a whole: every command has help, is documented, and starts fast."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from sampan.cli.main import COMMANDS, cli
from tests.cli.conftest import Sampan
from tests.cli.fake_daemon import FakeDaemon, Served, said

MANUAL = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def options(of: click.Command) -> list[str]:
    return [each.opts[-1] for each in of.params if isinstance(each, click.Option)]


def section(name: str) -> str:
    found = re.search(rf"^## `sampan {name}[ `].*?(?=^## |\Z)", MANUAL, re.MULTILINE | re.DOTALL)
    assert found, f"docs/cli.md has no section on {name}"
    return found[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, sampan: Sampan) -> None:
    ran = sampan(name, "--help", endpoint=None)
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: sampan {name} ")
    assert all(each.help for each in command(name).params if isinstance(each, click.Option))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_their_help_says(name: str) -> None:
    first = (command(name).help or "").split("\n\n")[0].split("\n")[0]
    promised = COMMANDS[name][1]
    assert re.split(r"[.:;,]", first)[0] == re.split(r"[.:;,]", promised)[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name: str) -> None:
    text = section(name)
    missing = [each for each in options(command(name)) if each != "--json" and f"`{each}" not in text]
    assert not missing


def test_every_global_option_and_exit_code_is_documented() -> None:
    head = MANUAL.split("\n## `sampan ")[0]
    assert all(f"`{each}" in head for each in options(cli))
    assert all(f"| {code} |" in head for code in (0, 1, 2, 3, 124, 125, 130))


def test_the_manual_documents_nothing_that_is_not_there() -> None:
    assert set(re.findall(r"^## `sampan ([a-z-]+)", MANUAL, re.MULTILINE)) == set(COMMANDS)


def test_help_lists_every_command(sampan: Sampan) -> None:
    ran = sampan("--help", endpoint=None)
    assert ran.code == 0
    assert re.findall(r"^  ([a-z][a-z-]*)  ", ran.out, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize(
    "argv", [["nonsense"], ["ps", "--nonsense"], ["stop"], ["--timeout", "soon", "ps"], []]
)
def test_usage_is_2(sampan: Sampan, argv: list[str]) -> None:
    ran = sampan(*argv)
    assert (ran.code, ran.out) == (2, "")
    assert "Usage: sampan" in ran.err


def sampan_process(*argv: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "sampan", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_commands_that_ask_no_daemon_import_no_grpc() -> None:
    for argv in (["version", "--client"], ["--help"], ["config", "default"]):
        run = f"import sys; from sampan.cli.main import _run; _run({argv!r})"
        script = f"{run}; print(*sys.modules, file=sys.stderr)"
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        loaded = set(ran.stderr.split())
        assert loaded & {"grpc", "google.protobuf", "rich", "asyncio"} == set()


def test_the_client_s_version_takes_a_moment() -> None:
    times = []
    for _ in range(3):
        before = time.monotonic()
        with sampan_process("version", "--client") as process:
            assert process.wait() == 0
        times.append(time.monotonic() - before)
    assert min(times) < 0.5  # 0.1 s alone; other tests share the machine


def test_an_interrupt_is_130_without_a_traceback(served: Served, daemon: FakeDaemon) -> None:
    pod = daemon.add_pod("web")
    daemon.add_container(pod, "app")
    with sampan_process("--endpoint", served.endpoint, "stats", "--watch") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert "Traceback" not in process.stderr.read()


def test_a_reader_that_leaves_early_ends_it_without_a_word(
    served: Served, daemon: FakeDaemon, tmp_path: Path
) -> None:
    log = tmp_path / "0.log"
    log.write_bytes(said(b"x" * 1000) * 5000)
    daemon.add_container(daemon.add_pod("web"), "app", log=log)
    with sampan_process("--endpoint", served.endpoint, "logs", "web") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        os.read(process.stdout.fileno(), 10)
        process.stdout.close()
        assert process.wait() == 1
        assert process.stderr.read() == ""
