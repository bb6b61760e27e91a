"""Tests of host.oci: real crun and runc, real conmon, busybox."""

import asyncio
import dataclasses
import hashlib
import os
import shutil
import signal
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sampan.config import Handler
from sampan.host import processes
from sampan.host.cgroup import cgroups
from sampan.host.oci import monitor, runtime
from sampan.host.processes import alive, find
from sampan.host.threads import in_slow_thread
from sampan.model.errors import Invalid, NotFound, ToolFailed, Unavailable
from sampan.model.process import ProcessRef
from sampan.runtime.ports import Exit, Launched
from sampan.wire import crilog
from tests import cgroup_drivers, oci_runtimes
from tests.host.containers import Lab, until

pytestmark = pytest.mark.root


REAL = [(runtime, driver) for runtime in oci_runtimes.RUNTIMES for driver in cgroup_drivers.DRIVERS]


@pytest.fixture(params=REAL, ids="-".join)
async def lab(short_tmp: Path, request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """A runtime of this test's own; whatever a test does, deleting its containers must leave nothing."""
    runtime, driver = request.param
    oci_runtimes.require(runtime)
    lab = Lab(short_tmp, driver, runtime)
    try:
        yield lab
    finally:
        await lab.close()
    assert lab.leftovers() == []


async def end(lab: Lab, id: str, launched: Launched) -> Exit:
    async with asyncio.timeout(20):
        return await lab.oci.wait(id, launched)


def log(lab: Lab, id: str) -> dict[str, bytes]:
    """The container's log by stream, partial lines joined."""
    joiner = crilog.Joiner()
    text = lab.log(id).read_bytes()
    streams: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    for record in [*joiner.feed(text), *joiner.end()]:
        streams[record.stream] += record.content + (b"" if record.partial else b"\n")
    return streams


def proc(process: ProcessRef, file: str) -> bytes:
    """A file of a process in procfs."""
    return Path(f"/proc/{process.pid}/{file}").read_bytes()


def checksums(tools: list[str]) -> list[bytes]:
    """What these programs are."""
    return [hashlib.sha256(Path(shutil.which(tool) or tool).read_bytes()).digest() for tool in tools]


async def test_a_container_lives_and_ends(lab: Lab) -> None:
    launch = lab.launch("sh", "-c", "echo out; echo err >&2; exit 7")
    launched = await lab.oci.create(launch)
    assert await alive(launched.init) and await alive(launched.monitor)
    assert not await lab.oci.running(lab.handler, launch.id)
    assert log(lab, launch.id)["stdout"] == b""
    before = time.time_ns()
    await lab.oci.start(lab.handler, launch.id)
    assert await lab.oci.running(lab.handler, launch.id)
    ending = await end(lab, launch.id, launched)
    assert (ending.code, ending.oom, ending.lost) == (7, False, False)
    assert before - 10**8 < ending.at < time.time_ns() + 10**8
    assert log(lab, launch.id) == {"stdout": b"out\n", "stderr": b"err\n"}
    await lab.oci.delete(lab.handler, launch.id)
    assert lab.leftovers() == []


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$; sleep 9", 143)],
)
async def test_exit_codes(lab: Lab, script: str, code: int) -> None:
    # a shell below the container's init: a process 1 ignores what it has no handler for
    launch, launched = await lab.run("sh", "-c", f"sh -c '{script}'; exit $?")
    assert (await end(lab, launch.id, launched)).code == code


async def test_a_container_that_is_killed_exits_with_137(lab: Lab) -> None:
    launch, launched = await lab.run("sleep", "1000")
    assert await lab.oci.signal(launched.init, signal.SIGKILL)
    ending = await end(lab, launch.id, launched)
    assert (ending.code, ending.oom, ending.lost) == (137, False, False)
    assert not await lab.oci.signal(launched.init, signal.SIGTERM)


async def test_an_end_is_known_long_after(lab: Lab) -> None:
    launch, launched = await lab.run("sh", "-c", "exit 9")
    first = await end(lab, launch.id, launched)
    assert not await alive(launched.monitor)
    assert await end(lab, launch.id, launched) == first


async def test_nothing_known_is_255_and_lost_never_0(lab: Lab) -> None:
    launch, launched = await lab.run("true")
    await end(lab, launch.id, launched)
    await lab.oci.delete(lab.handler, launch.id)
    ending = await end(lab, launch.id, launched)
    assert (ending.code, ending.lost) == (255, True)


@pytest.mark.parametrize("text", ["", "-1", "nonsense", "256"])
async def test_an_exit_file_that_cannot_be_believed_is_lost(lab: Lab, text: str) -> None:
    launch, launched = await lab.run("true")
    await end(lab, launch.id, launched)
    (lab.paths.exits / launch.id).write_text(text)
    ending = await end(lab, launch.id, launched)
    assert (ending.code, ending.lost) == (255, True)


async def test_a_killed_monitor_loses_the_code_but_not_the_container(lab: Lab) -> None:
    launch, launched = await lab.run("sleep", "1000")
    waiting = asyncio.ensure_future(end(lab, launch.id, launched))
    await processes.send(launched.monitor, signal.SIGKILL)
    await processes.gone(launched.monitor)
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert await alive(launched.init)
    await lab.oci.signal(launched.init, signal.SIGKILL)
    ending = await waiting
    assert (ending.code, ending.lost) == (255, True)


async def test_a_container_out_of_memory_says_so(lab: Lab) -> None:
    limit = {"linux": {"resources": {"memory": {"limit": 16 << 20, "swap": 16 << 20}}}}
    launch, launched = await lab.run("sh", "-c", "head -c 200000000 /dev/zero | tail; exit 1", config=limit)
    ending = await end(lab, launch.id, launched)
    assert ending.oom
    assert ending.code != 0
    launch, launched = await lab.run("tail", "/dev/zero", config=limit)
    ending = await end(lab, launch.id, launched)
    assert (ending.code, ending.oom) == (137, True)
    assert "oom" not in os.listdir()  # noqa: PTH208 - an old conmon notes it in its working directory


async def test_limits_are_those_asked_for(lab: Lab) -> None:
    asked = {"memory": {"limit": 64 << 20, "swap": 64 << 20}, "cpu": {"quota": 50000, "period": 100000}}
    launch, _ = await lab.run(
        "sleep", "1000", config={"linux": {"resources": {**asked, "pids": {"limit": 50}}}}
    )
    limits = await (await cgroups.detect(lab.driver)).read_back(lab.parent, launch.id)
    assert (limits.memory, limits.cpu_quota, limits.cpu_period, limits.pids) == (64 << 20, 50000, 100000, 50)
    assert limits.memory_swap in (64 << 20, None)  # None: the kernel does not account swap


async def test_long_lines_and_bytes_of_any_kind_are_logged_whole(lab: Lab) -> None:
    script = "head -c 100000 /dev/zero | tr '\\0' x; echo; echo -ne 'no end \\0377'"
    launch, launched = await lab.run("sh", "-c", script)
    await end(lab, launch.id, launched)
    assert log(lab, launch.id)["stdout"] == b"x" * 100000 + b"\nno end \xff"


async def test_a_container_without_a_log_runs(lab: Lab) -> None:
    launch, launched = await lab.run("sh", "-c", "echo x; exit 3", log=None)
    assert (await end(lab, launch.id, launched)).code == 3


async def test_stdin_is_empty_unless_asked_for(lab: Lab) -> None:
    launch, launched = await lab.run("sh", "-c", "cat; ls -l /proc/self/fd/0")
    assert (await end(lab, launch.id, launched)).code == 0
    assert b"/dev/null" in log(lab, launch.id)["stdout"]
    launch, launched = await lab.run("cat", stdin=True)
    assert await alive(launched.init)
    assert (lab.paths.attach / launch.id / "attach").is_socket()


async def test_a_terminal_is_made_and_leaves_no_socket(lab: Lab) -> None:
    launch, launched = await lab.run(
        "sh", "-c", "[ -t 0 ] && [ -t 1 ] && echo terminal", terminal=True, stdin=True
    )
    assert (await end(lab, launch.id, launched)).code == 0
    assert log(lab, launch.id)["stdout"] == b"terminal\r\n"


async def test_a_container_sees_nothing_of_ours(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPAN_TOKEN", "secret")
    monkeypatch.setenv("LISTEN_FDS", "1")
    script = "ls /proc/self/fd; cat /proc/self/environ | tr '\\0' '\\n'"
    launch, launched = await lab.run("sh", "-c", script)
    await end(lab, launch.id, launched)
    words = log(lab, launch.id)["stdout"].split()
    assert words[:4] == [b"0", b"1", b"2", b"3"]  # 3 is the directory that ls reads
    assert {word.partition(b"=")[0] for word in words[4:]} <= {b"PATH", b"HOME", b"SHLVL", b"PWD"}


async def test_the_monitor_is_not_in_the_containers_cgroup_nor_in_its_environment(lab: Lab) -> None:
    launch, launched = await lab.run("sleep", "1000")
    assert launch.id.encode() in proc(launched.init, "cgroup")
    assert launch.id.encode() not in proc(launched.monitor, "cgroup")
    names = {pair.partition(b"=")[0] for pair in proc(launched.monitor, "environ").split(b"\0") if pair}
    assert names == {b"PATH", b"TMPDIR", b"_OCI_SYNCPIPE"}
    us = find(os.getpid())
    assert us is not None
    assert int(proc(launched.monitor, "oom_score_adj")) <= int(proc(us, "oom_score_adj"))


async def test_a_container_that_cannot_be_created_says_why_and_leaves_nothing(lab: Lab) -> None:
    launch = lab.launch("no-such-program")
    with pytest.raises(ToolFailed, match=r"no-such-program.*not found"):
        await lab.oci.create(launch)
    assert lab.leftovers() == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"root": {"path": "/no/such/root"}}, "no/such/root|No such file"),
        ({"linux": {"namespaces": [{"type": "network", "path": "/no/such/ns"}]}}, "no/such/ns"),
    ],
)
async def test_what_the_runtime_refuses_leaves_nothing(
    lab: Lab, config: dict[str, object], words: str
) -> None:
    launch = lab.launch("true", config=config)
    with pytest.raises(ToolFailed, match=words):
        await lab.oci.create(launch)
    assert lab.leftovers() == []


async def test_a_broken_config_is_the_runtimes_to_explain(lab: Lab) -> None:
    launch = lab.launch("true")
    (launch.bundle / "config.json").write_text("{")
    with pytest.raises(ToolFailed):
        await lab.oci.create(launch)
    assert lab.leftovers() == []


async def test_a_second_container_of_the_same_id_fails(lab: Lab) -> None:
    launch = lab.launch("true")
    with pytest.raises(Invalid, match="log path"):
        await lab.oci.create(type(launch)(launch.id, launch.bundle, launch.handler, log=Path("/a:b")))
    missing = type(lab.handler)("x", "no-such-runtime", "conmon", lab.handler.root)
    with pytest.raises(ToolFailed, match="no-such-runtime"):
        await lab.oci.create(type(launch)(launch.id, launch.bundle, missing))
    missing = type(lab.handler)("x", "crun", "no-such-monitor", lab.handler.root)
    with pytest.raises(ToolFailed, match="no-such-monitor"):
        await lab.oci.create(type(launch)(launch.id, launch.bundle, missing))
    assert lab.leftovers() == []


async def test_creation_that_is_cancelled_leaves_nothing(lab: Lab) -> None:
    """At any moment: conmon not yet forked, crun half way, container there."""
    for milliseconds in range(0, 24, 2):
        launch = lab.launch("sleep", "1000")
        creating = asyncio.ensure_future(lab.oci.create(launch))
        await asyncio.sleep(milliseconds / 1000)
        creating.cancel()
        try:
            await creating
        except asyncio.CancelledError:
            assert lab.leftovers() == []
        else:
            await lab.oci.delete(lab.handler, launch.id)


def hanging(lab: Lab, verb: str, directory: Path) -> Handler:
    """A runtime that does all but `verb`, at which it hangs for ever, and a child of it too."""
    program = directory / "hangs"
    program.write_text(
        f'#!/bin/sh\ncase " $* " in *" {verb} "*) sleep 1004 & sleep 1005;; esac\nexec crun "$@"\n'
    )
    program.chmod(0o755)
    return dataclasses.replace(lab.handler, path=str(program))


async def test_creation_that_hangs_has_an_end_and_leaves_nothing(
    lab: Lab, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "LAUNCH_SECONDS", 0.4)
    handler = hanging(lab, "create", short_tmp)
    launch = dataclasses.replace(lab.launch("true"), handler=handler)
    with pytest.raises(Unavailable, match=rf"{launch.id}: .*hangs create .*within 0.4 s"):
        await lab.oci.create(launch)
    assert lab.leftovers() == []


async def test_a_start_that_hangs_has_an_end(
    lab: Lab, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "TOOL_SECONDS", 0.4)
    hook = {"path": "/bin/true", "args": ["true"]}  # with one, starting is the runtime's
    launch = lab.launch("sleep", "1000", config={"hooks": {"poststart": [hook]}})
    await lab.oci.create(launch)
    with pytest.raises(Unavailable, match=rf"{launch.id}: .*hangs start .*within 0.4 s"):
        await lab.oci.start(hanging(lab, "start", short_tmp), launch.id)
    assert not [words for _, words in lab.processes() if "hangs" in words]
    await lab.oci.start(lab.handler, launch.id)
    assert await lab.oci.running(lab.handler, launch.id)


async def test_a_deletion_that_hangs_has_an_end_and_can_be_repeated(
    lab: Lab, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "TOOL_SECONDS", 0.4)
    hook = {"path": "/bin/true", "args": ["true"]}
    launch, _ = await lab.run("sleep", "1000", config={"hooks": {"poststop": [hook]}})
    with pytest.raises(Unavailable, match=rf"{launch.id}: .*hangs delete .*within 0.4 s"):
        await lab.oci.delete(hanging(lab, "delete", short_tmp), launch.id)
    await lab.oci.delete(lab.handler, launch.id)
    assert lab.leftovers() == []


async def test_starting_twice_or_after_the_end_is_an_error(lab: Lab) -> None:
    launch, launched = await lab.run("true")
    await end(lab, launch.id, launched)
    with pytest.raises(ToolFailed, match=r"not running|has stopped"):
        await lab.oci.start(lab.handler, launch.id)
    with pytest.raises(ToolFailed):
        await lab.oci.start(lab.handler, "f" * 64)
    launch = lab.launch("true")
    launched = await lab.oci.create(launch)
    await lab.oci.signal(launched.init, signal.SIGKILL)
    await end(lab, launch.id, launched)
    with pytest.raises(ToolFailed, match=r"not running|has stopped"):
        await lab.oci.start(lab.handler, launch.id)


@pytest.mark.parametrize("kind", ["poststart", "poststop"])
async def test_hooks_run_although_we_know_shorter_ways(lab: Lab, short_tmp: Path, kind: str) -> None:
    trace = short_tmp / "trace"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"cat > {trace}"]}
    launch, _ = await lab.run("sleep", "1000", config={"hooks": {kind: [hook]}})
    if kind == "poststop":
        assert not trace.exists()
        await lab.oci.delete(lab.handler, launch.id)
    assert launch.id in trace.read_text()
    assert await lab.oci.running(lab.handler, launch.id) == (kind == "poststart")


async def test_deleting_kills_what_runs_and_can_be_repeated(lab: Lab) -> None:
    launch, launched = await lab.run("sh", "-c", "setsid sleep 1000 & sleep 1001")
    await lab.oci.delete(lab.handler, launch.id)
    assert not await alive(launched.init)
    assert not await alive(launched.monitor)
    assert lab.leftovers() == []
    await lab.oci.delete(lab.handler, launch.id)
    await lab.oci.delete(lab.handler, "0" * 64)


async def test_a_created_container_is_deleted(lab: Lab) -> None:
    launch = lab.launch("true")
    launched = await lab.oci.create(launch)
    await lab.oci.delete(lab.handler, launch.id)
    assert not await alive(launched.init)
    assert lab.leftovers() == []


async def test_deleting_works_after_a_reboot(lab: Lab) -> None:
    """State directory and cgroups are empty then; processes are gone."""
    launch, launched = await lab.run("true")
    await end(lab, launch.id, launched)
    await lab.oci.delete(lab.handler, launch.id)
    shutil.rmtree(lab.paths.state)
    await lab.oci.delete(lab.handler, launch.id)
    lab.paths.bundle(launch.id).mkdir(parents=True)


def reconfigured(lab: Lab, directory: Path) -> Handler:
    """The handler as it is in a configuration that was changed while containers of it lived."""
    return dataclasses.replace(lab.handler, root=directory / "elsewhere")


async def test_a_container_is_found_where_it_was_created_whatever_root_is_configured_now(
    lab: Lab, short_tmp: Path
) -> None:
    launch = lab.launch("sh", "-c", "sleep 1000; true")
    launched = await lab.oci.create(launch)
    handler = reconfigured(lab, short_tmp)
    assert not await lab.oci.running(handler, launch.id)
    await lab.oci.start(handler, launch.id)
    assert await lab.oci.running(handler, launch.id)
    done = await lab.oci.exec_sync(handler, launch.id, lab.process("echo", "there"), 5)
    assert (done.code, done.stdout) == (0, b"there\n")
    await lab.oci.update(handler, launch.id, {"pids": {"limit": 40}})
    assert (await (await cgroups.detect(lab.driver)).read_back(lab.parent, launch.id)).pids == 40
    await lab.oci.kill_all(handler, launch.id)
    assert (await end(lab, launch.id, launched)).code == 137
    await lab.oci.delete(handler, launch.id)
    assert lab.leftovers() == [] and not handler.root.exists()


async def test_the_runtime_itself_is_sent_to_where_a_container_was_created(lab: Lab, short_tmp: Path) -> None:
    """With hooks, which only it runs."""
    hook = {"path": "/bin/true", "args": ["true"]}
    launch = lab.launch("sleep", "1000", config={"hooks": {"poststart": [hook], "poststop": [hook]}})
    launched = await lab.oci.create(launch)
    handler = reconfigured(lab, short_tmp)
    await lab.oci.start(handler, launch.id)
    assert await lab.oci.running(lab.handler, launch.id)
    await lab.oci.delete(handler, launch.id)
    assert not await alive(launched.init)
    assert lab.leftovers() == []


async def test_deleting_does_not_wait_for_long_work(lab: Lab) -> None:
    launch, launched = await lab.run("sleep", "1000")
    release = threading.Event()
    work = [asyncio.ensure_future(in_slow_thread(release.wait)) for _ in range(8)]
    try:
        async with asyncio.timeout(20):
            await lab.oci.delete(lab.handler, launch.id)
    finally:
        release.set()
        await asyncio.gather(*work)
    assert not await alive(launched.init)


async def test_deleting_finds_the_cgroup_when_the_runtimes_state_is_lost(lab: Lab) -> None:
    launch, launched = await lab.run("sleep", "1000")
    (lab.handler.root / launch.id / {"crun": "status", "runc": "state.json"}[lab.handler.name]).unlink()
    await lab.oci.delete(lab.handler, launch.id)
    assert not await alive(launched.init)
    assert lab.leftovers() == []


async def test_processes_in_groups_below_are_killed_too(lab: Lab) -> None:
    """Without a PID namespace nothing but the cgroup holds them together."""
    own = [{"type": kind} for kind in ("mount", "ipc", "uts")]
    launch, launched = await lab.run(
        "sh",
        "-c",
        "setsid sleep 1000 & setsid sleep 1001 & sleep 1002",
        config={"linux": {"namespaces": own}},
    )
    await until(lambda: len(lab.processes()) >= 4)  # three sleeps and conmon
    await lab.oci.kill_all(lab.handler, launch.id)
    assert (await end(lab, launch.id, launched)).code == 137
    await lab.oci.kill_all(lab.handler, launch.id)
    await lab.oci.delete(lab.handler, launch.id)
    assert lab.leftovers() == []


async def test_killing_what_is_not_there_is_fine(lab: Lab) -> None:
    await lab.oci.kill_all(lab.handler, "0" * 64)


async def test_a_process_of_the_same_number_is_not_signalled(lab: Lab) -> None:
    _, launched = await lab.run("sleep", "1000")
    other = ProcessRef(launched.init.pid, launched.init.start + 1)
    assert not await lab.oci.signal(other, signal.SIGKILL)
    assert await alive(launched.init)


async def test_the_log_is_opened_anew_without_losing_a_line(lab: Lab) -> None:
    launch, launched = await lab.run("sh", "-c", "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done")
    path, texts = lab.log(launch.id), []
    for number in range(5):
        rotated = path.with_suffix(f".{number}")
        path.rename(rotated)
        texts.append(rotated)
        if not await alive(launched.monitor):
            break
        try:
            await lab.oci.reopen_log(launch.id, path)
        except NotFound:
            break
        assert path.stat().st_mode & 0o777 == 0o640
    await end(lab, launch.id, launched)
    joiner = crilog.Joiner()  # one for all: the pieces of a line may lie on both sides of a rotation
    files = [file.read_bytes() for file in [*texts, path] if file.exists()]
    lines = [record.content for text in files for record in joiner.feed(text)]
    assert [int(line) for line in lines] == list(range(3000))


async def test_a_log_that_nobody_writes_cannot_be_opened_anew(lab: Lab) -> None:
    launch, launched = await lab.run("true")
    await end(lab, launch.id, launched)
    with pytest.raises(NotFound, match=launch.id):
        await lab.oci.reopen_log(launch.id, lab.log(launch.id))


async def test_a_monitor_is_known_by_more_than_its_number(lab: Lab) -> None:
    launch, launched = await lab.run("sleep", "1000")
    assert monitor.watching(launch.bundle, launch.id) == launched.monitor
    assert monitor.watching(launch.bundle, "0" * 64) is None
    (launch.bundle / "conmon.pid").write_text(str(os.getpid()))
    assert monitor.watching(launch.bundle, launch.id) is None
    (launch.bundle / "conmon.pid").write_text(str(launched.monitor.pid))


async def test_several_at_once_do_not_mix(lab: Lab) -> None:
    async def one(number: int) -> int:
        launch, launched = await lab.run("sh", "-c", f"echo {number}; exit {number}")
        code = (await end(lab, launch.id, launched)).code
        assert log(lab, launch.id)["stdout"] == b"%d\n" % number
        await lab.oci.delete(lab.handler, launch.id)
        return code

    assert await asyncio.gather(*map(one, range(4))) == list(range(4))
    assert lab.leftovers() == []


async def test_the_tools_on_the_host_stay_what_they_are(lab: Lab) -> None:
    """A container that runs /proc/self/exe must not reach the runtime's binary (CVE-2019-5736)."""
    before = checksums(["crun", "conmon"])
    launch, _ = await lab.run("sh", "-c", "for p in /proc/[0-9]*/exe; do echo x > $p; done; sleep 1000")
    for _ in range(10):
        await lab.oci.exec_sync(lab.handler, launch.id, lab.process("sh", "-c", "echo x > /proc/self/exe"), 5)
    assert checksums(["crun", "conmon"]) == before


@pytest.mark.parametrize("number", [3, 4, 5, 8, 12])
async def test_a_working_directory_in_our_descriptors_is_refused(lab: Lab, number: int) -> None:
    """CVE-2024-21626: none of ours may be open in the process that becomes the container."""
    launch = lab.launch("ls", config={"process": {"cwd": f"/proc/self/fd/{number}", "args": ["ls", "/"]}})
    try:
        launched = await lab.oci.create(launch)
        await lab.oci.start(lab.handler, launch.id)
    except ToolFailed:
        return
    ending = await end(lab, launch.id, launched)
    assert ending.code != 0 or b"busybox" not in log(lab, launch.id)["stdout"]


async def test_the_census_of_these_tests_sees_a_container(lab: Lab) -> None:
    launch, launched = await lab.run("sleep", "1000")
    found = "\n".join(lab.leftovers())
    assert f"process {launched.init.pid}:" in found and f"process {launched.monitor.pid}:" in found
    for top in (lab.handler.root, lab.paths.attach, lab.paths.bundle(launch.id), lab.parent):
        assert str(top) in found
