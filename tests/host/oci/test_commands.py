"""Tests of host.oci.commands: commands in real containers, with pipes and with a terminal, under each OCI runtime."""

import asyncio
import errno
import hashlib
import os
import resource
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from sampan.host import process as processes_of_ours
from sampan.host.cgroup.exec_cgroup import ExecGroup
from sampan.host.oci import running_command
from sampan.host.oci.commands import OciCommands
from sampan.host.processes import send
from sampan.model.errors import ToolFailed
from sampan.runtime.stream_ports import Running, Sink, Source
from sampan.wire.remotecommand.channels import Wanted
from tests import oci_runtimes
from tests.host.containers import Lab, until

pytestmark = pytest.mark.root
MIB = 1 << 20
ALL = Wanted(stdin=True, stdout=True, stderr=True)
OUTPUT = Wanted(stdout=True, stderr=True)
TERMINAL = Wanted(stdin=True, stdout=True, tty=True)
PROGRAMS = ("seq", "stty", "sha256sum", "id")


class Box:
    """A container that runs, and commands in it."""

    def __init__(self, lab: Lab, id: str, commands: OciCommands) -> None:
        self.lab = lab
        self.id = id
        self.commands = commands

    def run(
        self, *args: str, wanted: Wanted = OUTPUT, outlive: bool = False, **process: Any
    ) -> AbstractAsyncContextManager[Running]:
        content = {**self.lab.process(*args), "terminal": wanted.tty, **process}
        return self.commands.run(self.lab.handler, self.id, content, wanted, outlive=outlive)

    async def said(self, *args: str, wanted: Wanted = OUTPUT, **process: Any) -> tuple[int, bytes, bytes]:
        async with asyncio.timeout(20), self.run(*args, wanted=wanted, **process) as command:
            stdout, stderr = await asyncio.gather(everything(command.stdout), everything(command.stderr))
            return await command.exited(), stdout, stderr

    def inside(self) -> list[str]:
        """What runs in the container but its init, and what runs it."""
        found = [words for _, words in self.lab.processes()]
        return [words for words in found if "100000" not in words and "conmon" not in words]

    async def empty(self) -> None:
        await until(lambda: not self.inside())


@pytest.fixture(params=oci_runtimes.RUNTIMES)
async def box(request: pytest.FixtureRequest, short_tmp: Path) -> AsyncIterator[Box]:
    oci_runtimes.require(request.param)
    lab = Lab(short_tmp, runtime=request.param)
    for name in PROGRAMS:
        (lab.root / "bin" / name).symlink_to("busybox")
    commands = OciCommands(lab.paths)
    try:
        launch, _ = await lab.run("sleep", "100000")
        yield Box(lab, launch.id, commands)
    finally:
        await commands.close()
        await lab.close()
    assert lab.leftovers() == []
    assert list((lab.paths.state / "exec").glob("*")) == []


async def everything(source: Source | None) -> bytes:
    said = b""
    while source is not None and (data := await source.read()):
        said += data
    return said


async def heard(source: Source | None, words: bytes) -> bytes:
    """Read until the command has said this."""
    assert source is not None
    said = b""
    async with asyncio.timeout(10):
        while words not in said:
            data = await source.read()
            assert data, f"only {said!r} was said"
            said += data
    return said


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("code", [0, 1, 42, 126, 127, 137, 255])
async def test_a_commands_code_is_its_own(box: Box, code: int) -> None:
    assert await box.said("sh", "-c", f"echo out; echo err >&2; exit {code}") == (code, b"out\n", b"err\n")


async def test_a_signals_code_is_a_shells(box: Box) -> None:
    assert (await box.said("sh", "-c", "kill -9 $$"))[0] == 137


@pytest.mark.parametrize("wanted", [OUTPUT, TERMINAL])
@pytest.mark.parametrize("command", ["no-such-command", "/bin/plain", "/tmp"])
async def test_a_command_that_cannot_be_run_is_an_error_not_a_code(
    box: Box, command: str, wanted: Wanted
) -> None:
    with pytest.raises(ToolFailed) as raised:
        await box.said(command, wanted=wanted)
    assert raised.value.argv[0] == box.lab.handler.path


async def test_a_command_in_a_container_that_has_ended_is_an_error(box: Box) -> None:
    launch, launched = await box.lab.run("sleep", "100000")
    await send(launched.init, 9)
    await box.lab.oci.wait(launch.id, launched)
    for wanted in (OUTPUT, TERMINAL):
        with pytest.raises(ToolFailed):
            await Box(box.lab, launch.id, box.commands).said("true", wanted=wanted)


async def test_binary_data_passes_both_ways(box: Box) -> None:
    piece = os.urandom(MIB)
    digests = [hashlib.sha256(), hashlib.sha256()]

    async def feed(stdin: Sink | None) -> None:
        assert stdin is not None
        for _ in range(64):
            digests[0].update(piece)
            await stdin.write(piece)
        await stdin.end()
        await stdin.end()

    async with asyncio.timeout(60), box.run("cat", wanted=ALL) as command:
        feeding = asyncio.ensure_future(feed(command.stdin))
        assert command.stdout is not None
        while data := await command.stdout.read():
            digests[1].update(data)
        await feeding
        assert await command.exited() == 0
    assert digests[0].digest() == digests[1].digest()


async def test_the_end_of_the_input_leaves_the_output(box: Box) -> None:
    async with asyncio.timeout(20), box.run("sha256sum", wanted=ALL) as command:
        assert command.stdin is not None
        await command.stdin.write(b"words")
        await command.stdin.end()
        assert (await everything(command.stdout)).split()[0] == hashlib.sha256(b"words").hexdigest().encode()


async def test_what_is_not_wanted_is_not_there_and_holds_nobody_up(box: Box) -> None:
    async with (
        asyncio.timeout(20),
        box.run("sh", "-c", "cat; seq 1 200000; exit 3", wanted=Wanted()) as command,
    ):
        assert (command.stdin, command.stdout, command.stderr) == (None, None, None)
        assert await command.exited() == 3


async def test_what_is_not_read_holds_up_the_command_and_takes_no_memory(box: Box) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with box.run("sh", "-c", "head -c 300000000 /dev/zero; echo done >&2") as command:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await command.exited()
        assert command.stderr is not None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await command.stderr.read()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10


async def test_input_that_is_not_read_waits(box: Box) -> None:
    async with box.run("sleep", "1000", wanted=ALL) as command:
        assert command.stdin is not None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await command.stdin.write(bytes(MIB))


async def test_input_for_a_command_that_has_gone_is_a_broken_pipe(box: Box) -> None:
    async with box.run("true", wanted=ALL) as command:
        assert command.stdin is not None
        await command.exited()
        with pytest.raises(BrokenPipeError):
            await command.stdin.write(bytes(MIB))


LEAVERS = {
    "a child": "sleep 1001 & echo ready; sleep 1002",
    "a daemon": "(setsid sleep 1003 &); (setsid sh -c 'setsid sleep 1004 & sleep 1005' &); echo ready; sleep 1006",
    "one that ignores us": "trap '' HUP TERM INT PIPE; sleep 1007 & echo ready; while :; do sleep 1; done",
}


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("script", LEAVERS.values(), ids=LEAVERS)
async def test_leaving_ends_the_command_and_all_that_it_started(box: Box, script: str, tty: bool) -> None:
    async with box.run("sh", "-c", script, wanted=Wanted(stdin=True, stdout=True, tty=tty)) as command:
        await heard(command.stdout, b"ready")
        await until(lambda: len(box.inside()) >= 2)
        began = time.monotonic()
    assert time.monotonic() - began < 3
    assert box.inside() == []


async def test_a_client_that_fails_takes_its_command_along(box: Box) -> None:
    with pytest.raises(ZeroDivisionError):
        async with box.run("sleep", "1000") as command:
            assert command.stdin is None
            raise ZeroDivisionError
    await box.empty()


async def test_one_that_is_cancelled_at_any_time_leaves_nothing(box: Box) -> None:
    await box.said("true")
    before = descriptors()
    for wanted in (ALL, TERMINAL):
        for milliseconds in (0, 1, 2, 3, 5, 8, 13, 21, 34, 55):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(milliseconds / 1000), box.run("sleep", "1000", wanted=wanted):
                    await asyncio.Event().wait()
    await box.empty()
    assert descriptors() == before


async def test_what_a_command_left_behind_lives_on(box: Box) -> None:
    script = "sleep 1008 >/dev/null 2>&1 & echo said"
    assert await box.said("sh", "-c", script) == (0, b"said\n", b"")
    await asyncio.sleep(0.2)
    assert any("sleep 1008" in words for words in box.inside())


async def test_an_orphan_that_holds_the_outputs_does_not_hold_the_client(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert processes_of_ours.DRAIN_SECONDS == 2.0
    monkeypatch.setattr(running_command, "DRAIN_SECONDS", 0.3)
    began = time.monotonic()
    async with box.run("sh", "-c", "yes & sleep 0.1; exit 4") as command:
        assert await command.exited() == 4
        assert await everything(command.stdout)
        assert await everything(command.stderr) == b""
    assert time.monotonic() - began < 5


async def test_what_was_said_before_the_end_is_read_after_it(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_command, "DRAIN_SECONDS", 0.1)
    async with box.run("sh", "-c", "head -c 60000 /dev/zero; sleep 1009 & exit 0") as command:
        assert await command.exited() == 0
        await asyncio.sleep(0.3)
        assert await everything(command.stdout) == bytes(60000)


async def test_a_container_that_ends_ends_its_commands(box: Box) -> None:
    launch, launched = await box.lab.run("sleep", "100000")
    for wanted in (OUTPUT, TERMINAL):
        if wanted is TERMINAL:
            launch, launched = await box.lab.run("sleep", "100000")
        async with Box(box.lab, launch.id, box.commands).run(
            "sh", "-c", "echo ready; sleep 1000", wanted=wanted
        ) as command:
            await heard(command.stdout, b"ready")
            await send(launched.init, 9)
            async with asyncio.timeout(10):
                assert await command.exited() == 137
                assert await everything(command.stdout) == b""


async def test_one_that_outlives_its_client_loses_its_input_and_runs_on(box: Box) -> None:
    script = "cat; echo more; seq 1 200000; echo $? > /tmp/done; sleep 1010"
    async with box.run("sh", "-c", script, wanted=ALL, outlive=True) as command:
        assert command.stdin is not None
        await command.stdin.write(b"x")
        await heard(command.stdout, b"x")

    await until(lambda: any(words.startswith("sleep 1010") for words in box.inside()))
    assert await box.said("cat", "/tmp/done") == (0, b"0\n", b"")


async def test_one_that_has_outlived_its_client_leaves_nothing_when_it_ends(box: Box) -> None:
    await box.said("true")
    before = descriptors()
    async with box.run("cat", wanted=ALL, outlive=True):
        pass
    await until(lambda: descriptors() == before)
    await box.empty()


async def test_a_terminal_is_the_containers_own(box: Box) -> None:
    # crun sets the size while the command may run already
    script = "until stty size 2>/dev/null; do sleep 0.01; done; tty; stty -a; exit 42"
    size = {"consoleSize": {"width": 101, "height": 33}}
    code, said, _ = await box.said("sh", "-c", script, wanted=TERMINAL, **size)
    assert code == 42
    assert said.startswith(b"33 101\r\n/dev/pts/")
    assert b" onlcr" in said


async def test_a_terminals_size_follows_the_clients(box: Box) -> None:
    script = "trap 'stty size; exit 7' WINCH; echo ready; while :; do sleep 0.05; done"
    async with box.run("sh", "-c", script, wanted=TERMINAL) as command:
        await heard(command.stdout, b"ready")
        for width, height in ((0, 0), (0, 5), (70000, 5), (-1, -1)):
            await command.resize(width, height)
        await command.resize(120, 40)
        assert await heard(command.stdout, b"40 120\r\n")
        assert await command.exited() == 7
        await command.resize(121, 41)


async def test_a_size_means_nothing_without_a_terminal(box: Box) -> None:
    async with box.run("true") as command:
        await command.resize(80, 24)
        assert await command.exited() == 0


async def test_control_c_interrupts(box: Box) -> None:
    async with asyncio.timeout(10), box.run("sh", "-c", "echo ready; sleep 1000", wanted=TERMINAL) as command:
        assert command.stdin is not None
        await heard(command.stdout, b"ready")
        await command.stdin.write(b"\x03")
        assert await command.exited() == 130


async def test_the_end_of_a_terminals_input_is_what_a_person_types(box: Box) -> None:
    async with asyncio.timeout(10), box.run("sh", "-c", "cat; echo ended", wanted=TERMINAL) as command:
        assert command.stdin is not None
        await command.stdin.write(b"words\n")
        await heard(command.stdout, b"words\r\nwords\r\n")
        await command.stdin.end()
        assert await everything(command.stdout) == b"ended\r\n"
        with pytest.raises(BrokenPipeError):
            await command.stdin.write(b"x")


async def test_a_raw_terminal_changes_no_byte(box: Box) -> None:
    every = bytes(range(256)) * 8
    script = "stty raw -echo; echo ready; head -c 2048"
    async with asyncio.timeout(10), box.run("sh", "-c", script, wanted=TERMINAL) as command:
        assert command.stdin is not None
        await heard(command.stdout, b"ready\n")
        await command.stdin.write(every)
        assert await everything(command.stdout) == every


async def test_a_terminal_that_is_left_is_hung_up(box: Box) -> None:
    script = "trap 'echo hung up > /tmp/hup; exit' HUP; echo ready; while :; do sleep 0.05; done"
    async with box.run("sh", "-c", script, wanted=TERMINAL) as command:
        await heard(command.stdout, b"ready")
    assert await box.said("cat", "/tmp/hup") == (0, b"hung up\n", b"")


async def test_the_last_words_on_a_terminal_are_never_lost(box: Box) -> None:
    for _ in range(40):
        assert await box.said("sh", "-c", "echo end; exit 3", wanted=TERMINAL) == (3, b"end\r\n", b"")
    numbers = b"".join(b"%d\r\n" % number for number in range(1, 20001))
    for _ in range(3):
        assert await box.said("seq", "1", "20000", wanted=TERMINAL) == (0, numbers, b"")


async def test_a_command_has_the_containers_oom_score_and_not_ours(box: Box) -> None:
    for wanted in (OUTPUT, TERMINAL):
        code, said, _ = await box.said("cat", "/proc/self/oom_score_adj", wanted=wanted, oomScoreAdj=678)
        assert (code, said.strip()) == (0, b"678")


@pytest.mark.parametrize("wanted", [OUTPUT, TERMINAL])
async def test_a_command_sees_none_of_our_descriptors_and_environment(box: Box, wanted: Wanted) -> None:
    script = "ls /proc/self/fd; cat /proc/self/environ | tr '\\0' '\\n'"
    words = (await box.said("sh", "-c", script, wanted=wanted))[1].split()
    assert words[:4] == [b"0", b"1", b"2", b"3"]  # 3 is the directory that ls reads
    assert {word.partition(b"=")[0] for word in words[4:]} <= {b"PATH", b"HOME", b"SHLVL", b"PWD", b"TERM"}


async def test_another_user_may_open_what_it_was_given(box: Box) -> None:
    null = Path("/dev/null").stat()
    for wanted in (Wanted(stdin=True, stdout=True), Wanted(stdout=True), TERMINAL):
        script = "id -u > /dev/fd/1" if not wanted.tty else "id -u > /dev/tty"
        user = {"uid": 1000, "gid": 1000}
        code, said, _ = await box.said(
            "sh", "-c", script.replace("/dev/fd", "/proc/self/fd"), wanted=wanted, user=user
        )
        assert (code, said.strip()) == (0, b"1000")
    now = Path("/dev/null").stat()
    assert (now.st_uid, now.st_mode) == (null.st_uid, null.st_mode)


async def test_a_command_that_cannot_be_killed_costs_no_descriptor(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: ExecGroup) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    await box.said("true")
    before = descriptors()
    for wanted in (ALL, TERMINAL):
        with monkeypatch.context() as patch:
            patch.setattr(ExecGroup, "kill", refuse)
            with pytest.raises(OSError, match="Too many open files"):
                async with box.run("sh", "-c", "trap '' HUP; sleep 1000", wanted=wanted):
                    pass
    assert descriptors() == before


async def test_what_a_daemon_that_died_left_of_its_sessions_is_removed(short_tmp: Path) -> None:
    lab = Lab(short_tmp)
    left = lab.paths.state / "exec/0123456789abcdef"
    left.mkdir(parents=True)
    (left / "pid").write_text("1")
    await OciCommands(lab.paths).open()
    assert not left.exists()
    await OciCommands(lab.paths).open()
    await lab.close()


async def test_many_commands_leave_nothing(box: Box) -> None:
    async def one(number: int) -> None:
        wanted = (OUTPUT, ALL, TERMINAL, Wanted(stdout=True))[number % 4]
        if number % 5 == 4:
            async with box.run("sleep", "1000", wanted=wanted):
                return
        code, said, _ = await box.said("sh", "-c", f"echo {number}; exit {number % 7}", wanted=wanted)
        assert (code, said.strip()) == (number % 7, b"%d" % number)

    await one(0)
    before, tasks = descriptors(), len(asyncio.all_tasks())
    for start in range(0, 200, 8):
        await asyncio.gather(*(one(number) for number in range(start, start + 8)))
    await box.empty()
    assert (descriptors(), len(asyncio.all_tasks())) == (before, tasks)
