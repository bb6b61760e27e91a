"""The node's credentials: real files, and real programs that the test writes."""

import asyncio
import base64
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sampan.host.registry.node_credentials import Found, NodeCredentials
from sampan.wire.credentials import Credentials

Helper = Callable[[str, str], None]
Config = Callable[..., Path]


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Helper:
    """Writes docker-credential-NAME, a shell script, where PATH finds it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def write(name: str, script: str) -> None:
        program = programs / f"docker-credential-{name}"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return write


@pytest.fixture
def config(tmp_path: Path) -> Config:
    def write(name: str = "config.json", mode: int = 0o600, **keys: Any) -> Path:
        file = tmp_path / name
        file.write_text(json.dumps(keys))
        file.chmod(mode)
        return file

    return write


async def find(*files: Path, domain: str = "a.test", path: str = "team/app", seconds: float = 10.0) -> Found:
    return await NodeCredentials(files, seconds).find((domain, path))


# --- files --------------------------------------------------------------------------------------------------


async def test_the_first_file_that_has_credentials_wins(config: Config, tmp_path: Path) -> None:
    one = config("one", auths={"b.test": {"auth": b64("one:p")}})
    two = config("two", auths={"a.test": {"auth": b64("two:p")}})
    three = config("three", auths={"a.test/team": {"auth": b64("three:p")}})
    files = (tmp_path / "missing", one / "below-a-file", one, two, three)
    assert await find(*files) == Found(Credentials("two", "p", server="a.test"), str(two))
    assert (await find(*files, domain="b.test")).source == str(one)
    assert await find(*files, domain="c.test") == Found()


async def test_a_file_is_read_anew_each_time(config: Config, tmp_path: Path) -> None:
    node = NodeCredentials([tmp_path / "config.json"])
    assert await node.find(("a.test", "app")) == Found()
    for user in ("one", "two"):
        config(auths={"a.test": {"auth": b64(f"{user}:p")}})
        assert (await node.find(("a.test", "app"))).credentials == Credentials(user, "p", server="a.test")
    (tmp_path / "config.json").unlink()
    assert await node.find(("a.test", "app")) == Found()


async def test_the_first_place_that_is_known_wins(config: Config) -> None:
    file = config(auths={"mirror.test": {"auth": b64("m:p")}, "a.test": {"auth": b64("a:p")}})
    for places, user in (
        ((("a.test", "x"), ("mirror.test", "x")), "a"),
        ((("unknown.test", "x"), ("mirror.test", "x")), "m"),
    ):
        found = await NodeCredentials([file]).find(*places)
        assert found.credentials and found.credentials.username == user


def broken_json(file: Path) -> None:
    file.write_text('{"auths": s3cret}')
    file.chmod(0o600)


def a_loop(file: Path) -> None:
    file.symlink_to(file)


def writable(file: Path) -> None:
    file.write_text("{}")
    file.chmod(0o602)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (broken_json, "not valid JSON"),
        (Path.mkdir, "not a regular file"),
        (os.mkfifo, "not a regular file"),
        (a_loop, "cannot be read"),
        (writable, "others than root may write it"),
    ],
)
async def test_a_file_that_cannot_be_used_is_said_once_and_hides_no_other(
    config: Config,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Path], None],
    why: str,
) -> None:
    bad = tmp_path / "bad"
    make(bad)
    good = config(auths={"a.test": {"auth": b64("u:p")}})
    node = NodeCredentials([bad, good])
    for _ in range(2):
        found = await node.find(("a.test", "app"))
        assert found.credentials == Credentials("u", "p", server="a.test")
        (trouble,) = found.troubles
        assert str(bad) in trouble and why in trouble and "s3cret" not in trouble
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("sampan.registry", "WARNING")
    assert trouble in record.getMessage()


@pytest.mark.root
async def test_a_file_of_another_user_is_not_used(config: Config) -> None:
    file = config(auths={"a.test": {"auth": b64("u:p")}})
    os.chown(file, 12345, 0)
    found = await find(file)
    assert found.credentials is None
    assert "belongs to user 12345" in found.troubles[0]
    os.chown(file, 0, 12345)
    file.chmod(0o620)
    assert "others than root may write it" in (await find(file)).troubles[0]
    os.chown(file, 0, 0)
    assert (await find(file)).credentials is not None


async def test_a_file_that_others_can_read_is_used_and_said_once(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    node = NodeCredentials([config(mode=0o644, auths={"a.test": {"auth": b64("u:p")}})])
    for _ in range(2):
        found = await node.find(("a.test", "app"))
        assert found.credentials and not found.troubles
    assert len(caplog.records) == 1
    assert "may be read by others (mode 644): chmod 600" in caplog.text


async def test_descriptors_are_not_left_open(config: Config, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    node = NodeCredentials([tmp_path / "directory", config(auths={})])
    await node.find(("a.test", "app"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        await node.find(("a.test", "app"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- helpers ------------------------------------------------------------------------------------------------


async def test_a_helper_is_asked_for_the_registry_by_stdin(
    helper: Helper, config: Config, tmp_path: Path
) -> None:
    helper(
        "one",
        f'echo "$@" > {tmp_path}/args; cat > {tmp_path}/stdin; echo \'{{"Username":"u","Secret":"p"}}\'',
    )
    file = config(credHelpers={"docker.io": "one"})
    found = await find(file, domain="docker.io")
    assert found == Found(Credentials("u", "p", server="docker.io"), f"docker-credential-one ({file})")
    assert (tmp_path / "args").read_text() == "get\n"
    assert (tmp_path / "stdin").read_text() == "https://index.docker.io/v1/"


async def test_a_helper_gives_an_identity_token(helper: Helper, config: Config) -> None:
    helper("one", 'echo \'{"ServerURL":"","Username":"<token>","Secret":"1dentity"}\'')
    found = await find(config(credsStore="one"))
    assert found.credentials == Credentials(identity_token="1dentity", server="a.test")


async def test_a_helper_goes_before_the_file_which_helps_where_it_has_none(
    helper: Helper, config: Config
) -> None:
    helper("has", 'echo \'{"Username":"helper","Secret":"p"}\'')
    helper("none", "echo credentials not found in native keychain; exit 1")
    auths = {"a.test": {"auth": b64("file:p")}}
    for name, user in (("has", "helper"), ("none", "file")):
        found = await find(config(auths=auths, credsStore=name))
        assert found.credentials and found.credentials.username == user
        assert not found.troubles
    assert await find(config(credsStore="none")) == Found()


async def test_a_helper_is_asked_once_for_all_names_of_a_registry(
    helper: Helper, config: Config, tmp_path: Path
) -> None:
    helper("none", f"echo >> {tmp_path}/asked; echo credentials not found in native keychain; exit 1")
    node = NodeCredentials([config(credsStore="none")])
    await node.find(("docker.io", "app"), ("registry-1.docker.io", "app"))
    assert (tmp_path / "asked").read_text() == "\n"


async def test_a_helper_has_a_clean_environment(
    helper: Helper, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home-of-the-test")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test")
    monkeypatch.setenv("S3CRET", "s3cret")
    helper("one", f"cat /proc/$$/environ > {tmp_path}/environment; echo '{{}}'")
    await find(config(credsStore="one"))
    variables = dict(
        each.split("=", 1) for each in (tmp_path / "environment").read_text().split("\0") if each
    )
    assert set(variables) <= {
        "PATH",
        "HOME",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "NO_PROXY",
        "https_proxy",
        "http_proxy",
        "no_proxy",
    }
    assert variables["HOME"] == "/home-of-the-test"
    assert variables["HTTPS_PROXY"] == "http://proxy.test"
    assert variables["PATH"] == os.environ["PATH"]


async def test_without_a_home_it_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    assert Path(NodeCredentials([])._environment["HOME"]).is_absolute()


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo s3cret; echo s3cret >&2; exit 3", r"fails \(exit code 3\)"),
        ("kill -KILL $$", r"fails \(signal 9\)"),
        ("echo s3cret", "not valid JSON"),
        ("head -c 1000000 /dev/zero | tr '\\0' ' '", "larger than 65536 bytes"),
    ],
)
async def test_a_helper_that_fails_is_said_without_its_words(
    helper: Helper, config: Config, caplog: pytest.LogCaptureFixture, script: str, why: str
) -> None:
    helper("bad", script)
    file = config(credsStore="bad")
    node = NodeCredentials([file])
    for _ in range(2):
        found = await node.find(("a.test", "app"))
        assert found.credentials is None
        assert "docker-credential-bad" in found.troubles[0] and str(file) in found.troubles[0]
        assert re.search(why, found.troubles[0])
    assert len(caplog.records) == 1
    assert "s3cret" not in caplog.text + repr(found)


async def test_a_helper_that_is_not_there_is_said(config: Config) -> None:
    found = await find(config(credsStore="missing", auths={"a.test": {"auth": b64("file:p")}}))
    assert found.credentials == Credentials("file", "p", server="a.test")
    assert "docker-credential-missing" in found.troubles[0] and "is it installed" in found.troubles[0]


async def test_a_helper_that_hangs_is_killed(helper: Helper, config: Config, tmp_path: Path) -> None:
    helper("slow", f"echo $$ > {tmp_path}/pid; sleep 60")
    found = await find(config(credsStore="slow"), seconds=0.3)
    assert "did not end within 0.3 s" in found.troubles[0]
    assert not alive(tmp_path / "pid")


async def test_a_pull_that_is_cancelled_takes_its_helper_along(
    helper: Helper, config: Config, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "started")
    helper("slow", f"echo $$ > {tmp_path}/pid; echo > {tmp_path}/started; sleep 60")
    task = asyncio.create_task(find(config(credsStore="slow")))
    await asyncio.to_thread((tmp_path / "started").read_text)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(tmp_path / "pid")


def alive(pid_file: Path) -> bool:
    state = Path(f"/proc/{pid_file.read_text().strip()}/stat")
    try:
        return state.read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
