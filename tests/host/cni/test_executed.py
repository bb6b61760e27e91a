"""Plugins that are executed, and all that they may do wrong."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from sampan.host.cni.executed import SECONDS, Executed
from sampan.host.cni.network import CniNetwork
from sampan.model.errors import SampanError, ToolFailed, Unavailable
from sampan.runtime.ports import Attachment
from sampan.wire.cni_request import Target
from tests.host.cni.lab import Lab

GOOD = (
    '{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}],'
    ' "ips": [{"interface": 0, "address": "10.1.2.3/24"}]}'
)
TARGET = Target("c1", "/run/netns/c1", "eth0", "IgnoreUnknown=1")


def plugin(directory: Path, name: str, script: str, mode: int = 0o755) -> Path:
    """A plugin in sh; what it is asked lands in files beside it, one for each command."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    log = f'cat > "{path}.$CNI_COMMAND.stdin"; env > "{path}.$CNI_COMMAND.env"\n'
    path.write_text(f"#!/bin/sh\n{log}{script}\n")
    path.chmod(mode)
    return path


@pytest.fixture
def bin_dir(short_tmp: Path) -> Path:
    return short_tmp / "bin"


@pytest.fixture
def executed(bin_dir: Path) -> Executed:
    return Executed([Path("/nonexistent"), bin_dir], {**SECONDS, "ADD": 0.3})


async def test_a_plugin_gets_its_configuration_and_only_the_protocols_environment(
    bin_dir: Path, executed: Executed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_CANARY", "1")
    plugin(bin_dir, "good", f"echo '{GOOD}'")
    assert json.loads(await executed.call("ADD", "good", {"type": "good"}, TARGET)) == json.loads(GOOD)
    assert json.loads((bin_dir / "good.ADD.stdin").read_bytes()) == {"type": "good"}
    env = dict(line.split("=", 1) for line in (bin_dir / "good.ADD.env").read_text().splitlines())
    assert env["CNI_COMMAND"] == "ADD"
    assert env["CNI_PATH"] == f"/nonexistent:{bin_dir}"
    assert env["CNI_ARGS"] == "IgnoreUnknown=1"
    assert {key for key in env if not key.startswith("CNI_")} <= {"PATH", "PWD", "SHLVL", "_"}


async def test_the_directories_are_searched_in_order(tmp_path: Path) -> None:
    plugin(tmp_path / "b", "p", "echo b")
    both = Executed([tmp_path / "a", tmp_path / "b"])
    assert await both.find("p") == str(tmp_path / "b/p")
    plugin(tmp_path / "a", "p", "echo a", mode=0o644)
    assert await both.find("p") == str(tmp_path / "b/p")
    (tmp_path / "a/p").chmod(0o755)
    assert await both.find("p") == str(tmp_path / "a/p")


async def test_a_missing_plugin_is_named_with_the_directories_and_the_reason(executed: Executed) -> None:
    with pytest.raises(Unavailable, match=r"calico was not found in /nonexistent, /.*/bin \(.*because\)"):
        await executed.call("ADD", "calico", {}, TARGET, why="because")


@pytest.mark.parametrize("what", ["the program", "its directory"])
async def test_what_everybody_can_replace_is_not_run_as_root(
    bin_dir: Path, executed: Executed, what: str
) -> None:
    path = plugin(bin_dir, "open", "echo")
    (path if what == "the program" else bin_dir).chmod(0o777)
    with pytest.raises(Unavailable, match="0777"):
        await executed.call("ADD", "open", {}, TARGET)
    assert not (bin_dir / "open.ADD.env").exists()


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        (
            'echo \'{"code": 7, "msg": "bad", "details": "very"}\'; exit 1',
            ToolFailed,
            "CNI error 7: bad; very",
        ),
        ('echo \'{"code": 11, "msg": "busy"}\'; exit 1', Unavailable, "CNI error 11: busy"),
        ('echo \'{"code": 50, "msg": "down"}\'; exit 1', Unavailable, "CNI error 50: down"),
        ('echo \'{"code": 7, "msg": "err"}\' >&2; exit 3', ToolFailed, "CNI error 7: err"),
        ("echo panic >&2; exit 2", ToolFailed, "panic"),
        ("exit 1", ToolFailed, "it said nothing"),
        ("kill -SEGV $$", ToolFailed, "signal 11"),
        ("sleep 60", Unavailable, "0.3 s and was killed"),
        ("sleep 60 & sleep 60", Unavailable, "was killed"),
        ("trap '' TERM INT; while :; do sleep 60; done", Unavailable, "was killed"),
        (f"echo '{GOOD}'; sleep 60", Unavailable, "was killed"),
        ("while :; do echo flood; done", Unavailable, "was killed"),
        ("exec >&- 2>&-; exit 4", ToolFailed, "exit code 4"),
    ],
)
async def test_a_plugin_that_fails_is_reported_in_its_own_words(
    bin_dir: Path, executed: Executed, script: str, error: type[SampanError], words: str
) -> None:
    plugin(bin_dir, "bad", script)
    with pytest.raises(error, match=words):
        await executed.call("ADD", "bad", {}, TARGET)


@pytest.mark.parametrize("how", ["at its deadline", "when the caller goes"])
async def test_a_killed_plugin_takes_its_children_along(bin_dir: Path, executed: Executed, how: str) -> None:
    path = plugin(bin_dir, "slow", f'sleep 61 & echo $! > "{bin_dir}/pid"; wait')
    call = asyncio.ensure_future(executed.call("ADD", "slow", {}, TARGET))
    if how == "when the caller goes":
        while not (bin_dir / "pid").exists() or not (bin_dir / "pid").read_text().strip():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        call.cancel()
    await asyncio.wait([call])
    child = int((bin_dir / "pid").read_text())
    assert gone(child), path


def gone(pid: int) -> bool:
    """Whether a process has ended; nobody of ours reaps an orphan, so it may be a zombie for a moment."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


@pytest_asyncio.fixture
async def lab(short_tmp: Path) -> AsyncIterator[Lab]:
    lab = Lab(short_tmp)
    try:
        yield lab
    finally:
        await lab.close()


BAD_ANSWERS = {
    "empty output": "true",
    "spaces": "echo",
    "words": "echo done",
    "half a result": 'echo \'{"cniVersion": "1.0.0", "ips": [\'',
    "two results": f"echo '{GOOD}{GOOD}'",
    "a list": "echo '[]'",
    "null": "echo null",
    "binary": "head -c 4096 /dev/urandom",
    "10 MiB": "head -c 10485760 /dev/zero | tr '\\0' ' '",
    "10 MiB, then a result": f"head -c 10485760 /dev/zero | tr '\\0' ' '; echo '{GOOD}'",
    "an old version": f"echo '{GOOD}' | sed s/1.0.0/0.2.0/",
    "a future version": f"echo '{GOOD}' | sed s/1.0.0/9.0.0/",
    "no address": f"echo '{GOOD}' | sed 's/.ips.*/\"ips\": []}}/'",
    "an address with a line feed": f"echo '{GOOD}' | sed 's/10.1.2.3/10.1.2.3\\\\n/'",
    "an address that is none": f"echo '{GOOD}' | sed 's/10.1.2.3/10.1.2.333/'",
    "an address without a prefix that fits": f"echo '{GOOD}' | sed 's/.24/\\/99/'",
    "an interface that is not listed": f"echo '{GOOD}' | sed 's/interface\": 0/interface\": 7/'",
    "10,000 addresses": """printf '{"ips": ['; yes '{"address": "10.0.0.1/8"},' | head -10000; echo '{}]}'""",
    "an error with success": 'echo \'{"code": 7, "msg": "bad"}\'',
    "an error": 'echo \'{"code": 7, "msg": "bad"}\'; exit 1',
    "silence and failure": "exit 1",
    "a signal": "kill -KILL $$",
    "a flood on stderr and failure": "head -c 3000000 /dev/zero >&2; exit 1",
}


@pytest.mark.root
@pytest.mark.parametrize("behaviour", BAD_ANSWERS)
async def test_no_bad_answer_attaches_a_pod_and_one_detach_leaves_nothing(
    lab: Lab, bin_dir: Path, behaviour: str
) -> None:
    """The built-in bridge has done its part by the time that the plugin after it answers."""
    plugin(bin_dir, "bad", f'[ "$CNI_COMMAND" = DEL ] && exit 0\n{BAD_ANSWERS[behaviour]}')
    conf = lab.conf()
    conf["plugins"][1] = {"type": "bad"}
    pod = lab.pod(lab.write(conf))
    network = lab.network(bin_dirs=[bin_dir])
    with pytest.raises((Unavailable, ToolFailed)) as caught:
        await network.attach(pod)
    assert "bad" in str(caught.value) or "no address" in str(caught.value)
    assert len(str(caught.value)) < 8000
    assert lab.leftovers(pod) != []
    await network.detach(pod)
    assert lab.leftovers(pod) == []
    assert (bin_dir / "bad.DEL.env").exists()


async def test_a_stderr_flood_does_not_hurt_a_good_answer(bin_dir: Path, executed: Executed) -> None:
    plugin(bin_dir, "loud", f"head -c 2000000 /dev/zero >&2; echo '{GOOD}'")
    assert b"10.1.2.3" in await executed.call("DEL", "loud", {}, TARGET)


async def test_a_plugin_need_not_read_its_input(tmp_path: Path) -> None:
    (tmp_path / "deaf").write_text(f"#!/bin/sh\nexec 0<&-\necho '{GOOD}'\n")
    (tmp_path / "deaf").chmod(0o755)
    big = {"type": "deaf", "padding": "x" * (1 << 20)}
    assert b"10.1.2.3" in await Executed([tmp_path]).call("ADD", "deaf", big, TARGET)


def pod(conflist: bytes) -> Attachment:
    return Attachment("c1", "", "web-0", "default", "u-1", conflist)


async def test_del_runs_in_reverse_with_the_last_result_and_an_empty_namespace(
    bin_dir: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        plugin(bin_dir, name, f'echo {name} >> "{tmp_path}/order"')
    conf = {
        "cniVersion": "0.4.0",
        "name": "n",
        "plugins": [{"type": "one"}, {"type": "two", "capabilities": {}}],
    }
    network = CniNetwork(tmp_path, [bin_dir])
    attachment = pod(json.dumps(conf).encode())
    await network.detach(attachment)
    assert (tmp_path / "order").read_text().split() == ["two", "one"]
    assert "prevResult" not in json.loads((bin_dir / "one.DEL.stdin").read_bytes())
    assert "\nCNI_NETNS=\n" in "\n" + (bin_dir / "one.DEL.env").read_text()
    await network.detach(replace(attachment, result=GOOD.encode(), netns=str(tmp_path)))
    previous = json.loads((bin_dir / "one.DEL.stdin").read_bytes())["prevResult"]
    assert previous["ips"] == [{"version": "4", "interface": 0, "address": "10.1.2.3/24"}]
    assert "\nCNI_NETNS=\n" in "\n" + (bin_dir / "one.DEL.env").read_text()  # a directory is no namespace
    await network.close()


async def test_only_so_many_plugins_run_at_once(bin_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sampan.host.cni.executed.AT_ONCE", 2)
    script = f"""ls "{bin_dir}" | grep -c running. >> "{bin_dir}/seen"
: > "{bin_dir}/running.$$"; sleep 0.05; rm "{bin_dir}/running.$$" """
    plugin(bin_dir, "count", script)
    few = Executed([bin_dir])
    await asyncio.gather(*(few.call("DEL", "count", {}, TARGET) for _ in range(6)))
    others = [int(line) for line in (bin_dir / "seen").read_text().split()]
    assert len(others) == 6
    assert max(others) <= 1
