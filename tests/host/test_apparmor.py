"""AppArmor: the profile's text, what is loaded, and what happens where it is not there."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.host import apparmor
from sampan.host.process import run
from sampan.model.errors import ToolFailed

LISTING = (
    "sampan-default (enforce)\n/usr/bin/man (enforce)\nMongoDB Compass (unconfined)\nodd (name) (complain)\n"
)
has_apparmor = pytest.mark.skipif(
    not Path("/sys/kernel/security/apparmor/profiles").exists(), reason="this kernel runs without AppArmor"
)


def test_names_may_hold_spaces_and_parentheses() -> None:
    assert apparmor.names(LISTING) == {"sampan-default", "/usr/bin/man", "MongoDB Compass", "odd (name)"}
    assert apparmor.names("") == frozenset()


def test_the_profile_names_its_abi_only_where_that_is_known() -> None:
    with_abi, without = apparmor.default_profile(True), apparmor.default_profile(False)
    assert with_abi == "abi <abi/3.0>,\n" + without
    assert without.startswith("profile sampan-default ") and "{{" not in without and "{name}" not in without
    for rule in (
        "deny mount,",
        "deny network alg,",
        'signal (send) peer="sampan-default",',
        "deny /proc/sys{,vipc}/** wl,",
    ):
        assert rule in without


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A host with AppArmor and no parser."""
    (tmp_path / "enabled").write_text("Y\n")
    (tmp_path / "profiles").write_text("/usr/bin/man (enforce)\n")
    (tmp_path / "bin").mkdir()
    for name, path in (("ENABLED", "enabled"), ("LOADED", "profiles"), ("POLICY", "apparmor.d")):
        monkeypatch.setattr(apparmor, name, tmp_path / path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    yield tmp_path


def parser(host: Path, script: str) -> None:
    """A program in the parser's place: what it reads is kept in `given`."""
    program = host / "bin" / "apparmor_parser"
    program.write_text(f'#!/bin/sh\necho "$@" >{host}/arguments\n/bin/cat >{host}/given\n{script}\n')
    program.chmod(0o755)


async def test_the_profile_is_given_to_the_parser(host: Path) -> None:
    parser(host, f"echo 'sampan-default (enforce)' >>{host}/profiles")
    (host / "apparmor.d" / "abi").mkdir(parents=True)
    (host / "apparmor.d" / "abi" / "3.0").touch()
    assert await apparmor.load_default()
    assert (host / "arguments").read_text() == "--replace --skip-cache\n"
    assert (host / "given").read_text() == apparmor.default_profile(True)
    assert await apparmor.loaded() == {"/usr/bin/man", "sampan-default"}


async def test_a_missing_parser_is_said_with_its_package(
    host: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert not await apparmor.load_default()
    assert "apt install apparmor" in caplog.text and "RuntimeDefault are refused" in caplog.text


async def test_the_parsers_words_are_passed_on(host: Path, caplog: pytest.LogCaptureFixture) -> None:
    parser(host, "echo 'syntax error in line 3' >&2; exit 1")
    with caplog.at_level(logging.WARNING):
        assert not await apparmor.load_default()
    assert "syntax error in line 3" in caplog.text


async def test_a_parser_that_hangs_keeps_the_daemon_from_nothing(
    host: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apparmor, "ANSWER_SECONDS", 0.1)
    parser(host, "exec /bin/sleep 60")
    with caplog.at_level(logging.WARNING):
        assert not await asyncio.wait_for(apparmor.load_default(), 10)
    assert "apparmor_parser --replace did not end within 0.1 s" in caplog.text


async def test_the_operators_profile_is_left_alone(host: Path) -> None:
    parser(host, "exit 1")
    (host / "apparmor.d").mkdir()
    (host / "apparmor.d" / "sampan-default").touch()
    (host / "profiles").write_text("sampan-default (complain)\n")
    assert await apparmor.load_default()
    assert not (host / "given").exists()


async def test_nothing_is_loaded_where_apparmor_is_off(host: Path) -> None:
    parser(host, "exit 1")
    (host / "enabled").write_text("N\n")
    assert not await apparmor.load_default()
    assert not (host / "given").exists()


@pytest.mark.root
@has_apparmor
async def test_the_kernel_takes_the_profile_and_keeps_to_it(tmp_path: Path) -> None:
    was_there = "sampan-default" in await apparmor.loaded()
    assert await apparmor.load_default()
    confined = ["aa-exec", "-p", "sampan-default", "--", "sh", "-c"]
    try:
        fine = "echo x >/dev/null && cat /proc/self/status >/dev/null && echo 0 >/proc/self/oom_score_adj"
        await run([*confined, fine])
        await run([*confined, f"echo data >{tmp_path}/file && kill -0 $$"])
        with pytest.raises(ToolFailed):  # mount(8) has its own words for it
            await run([*confined, f"mount -t tmpfs none {tmp_path}"])
        assert not tmp_path.is_mount()
        refused = (
            "echo 1 >/proc/sys/kernel/panic",
            "echo h >/proc/sysrq-trigger",
            "head -c 1 /proc/kcore",
            "echo 0 >/sys/kernel/mm/ksm/run",
            "ls /sys/kernel/security/apparmor",
            "echo mem >/sys/power/state",
            "kill -0 1",
            "python3 -c 'import socket; socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)'",
        )
        for command in refused:
            with pytest.raises(ToolFailed, match=r"(?i)denied|not permitted"):
                await run([*confined, command])
        await run([*confined, "python3 -c 'import socket; socket.socket(); socket.socket(socket.AF_UNIX)'"])
    finally:
        if not was_there:
            await run(["apparmor_parser", "--remove"], stdin=apparmor.default_profile(True).encode())
