"""What every Commands does: the fake that sessions are tested with, and real runtimes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sampan.config import Handler
from sampan.host.oci.commands import OciCommands
from sampan.model.errors import ToolFailed
from sampan.runtime.stream_ports import Commands, Running, Source
from sampan.wire.remotecommand.channels import Wanted
from tests import oci_runtimes
from tests.fake_streams import FakeCommands
from tests.host.containers import Lab

ALL = Wanted(stdin=True, stdout=True, stderr=True)
TERMINAL = Wanted(stdin=True, stdout=True, tty=True)
SCRIPTS = {  # what the fake's programs do, as far as busybox does not
    "false": "echo no >&2; exit ${1:-1}",
    "size": "trap 'set -- $(stty size); echo $2 $1; exit' WINCH; while :; do sleep 0.01; done",
}


@dataclass
class Subject:
    """An implementation and a container with the programs cat, echo, false, size, sleep and yes."""

    commands: Commands
    handler: Handler
    id: str
    process: dict[str, Any]

    def run(
        self, *args: str, wanted: Wanted = ALL, outlive: bool = False
    ) -> AbstractAsyncContextManager[Running]:
        process = {**self.process, "args": list(args), "terminal": wanted.tty}
        return self.commands.run(self.handler, self.id, process, wanted, outlive=outlive)


@pytest.fixture(
    params=["fake", *(pytest.param(one, marks=pytest.mark.root) for one in oci_runtimes.RUNTIMES)]
)
async def subject(request: pytest.FixtureRequest, short_tmp: Path) -> AsyncIterator[Subject]:
    if request.param == "fake":
        handler = Handler("crun", "crun", "conmon", Path("/state"))
        yield Subject(FakeCommands(), handler, "c1", {})
        return
    oci_runtimes.require(request.param)
    lab = Lab(short_tmp, runtime=request.param)
    (lab.root / "bin/stty").symlink_to("busybox")
    for name, script in SCRIPTS.items():
        (lab.root / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (lab.root / "bin" / name).chmod(0o755)
    commands = OciCommands(lab.paths)
    try:
        launch, _ = await lab.run("sleep", "100000")
        yield Subject(commands, lab.handler, launch.id, lab.process())
    finally:
        await commands.close()
        await lab.close()


async def everything(source: Source | None) -> bytes:
    said = b""
    async with asyncio.timeout(10):
        while source is not None and (data := await source.read()):
            said += data
    return said


async def test_what_it_says_and_its_code_come_back(subject: Subject) -> None:
    async with subject.run("false", "42") as command:
        assert await everything(command.stdout) == b""
        assert await everything(command.stderr) == b"no\n"
        assert await command.exited() == 42
        assert await command.exited() == 42


async def test_input_comes_out_again_and_ends(subject: Subject) -> None:
    async with subject.run("cat") as command:
        assert command.stdin is not None
        await command.stdin.write(b"first ")
        await command.stdin.write(memoryview(b"second"))
        await command.stdin.end()
        await command.stdin.end()
        assert await everything(command.stdout) == b"first second"
        assert await command.exited() == 0


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(stdout=True), Wanted(stderr=True)])
async def test_what_is_not_wanted_is_none(subject: Subject, wanted: Wanted) -> None:
    async with subject.run("false", "3", wanted=wanted) as command:
        assert command.stdin is None
        assert (command.stdout is not None, command.stderr is not None) == (wanted.stdout, wanted.stderr)
        assert await everything(command.stderr) == (b"no\n" if wanted.stderr else b"")
        assert await command.exited() == 3


async def test_input_that_is_not_wanted_is_empty(subject: Subject) -> None:
    async with subject.run("cat", wanted=Wanted(stdout=True)) as command:
        assert await everything(command.stdout) == b""
        assert await command.exited() == 0


async def test_with_a_terminal_there_is_one_output(subject: Subject) -> None:
    async with subject.run("false", "3", wanted=TERMINAL) as command:
        assert command.stderr is None
        assert (await everything(command.stdout)).split() == [b"no"]
        assert await command.exited() == 3


async def test_a_terminal_has_the_clients_size(subject: Subject) -> None:
    async with subject.run("size", wanted=TERMINAL) as command:
        await command.resize(0, 0)
        reading = asyncio.ensure_future(everything(command.stdout))
        for asked in range(100, 300):  # a command sees a size only once it looks for one
            await command.resize(asked, 40)
            await asyncio.wait([reading], timeout=0.05)
            if reading.done():
                break
        width, height = (await reading).split()
        assert 100 <= int(width) < 300
        assert int(height) == 40


async def test_a_command_that_cannot_be_run_is_an_error(subject: Subject) -> None:
    with pytest.raises(ToolFailed, match="no-such-command"):
        async with subject.run("no-such-command") as command:
            await command.exited()


async def test_who_does_not_read_holds_it_up(subject: Subject) -> None:
    async with subject.run("yes") as command:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await command.exited()
        assert command.stdout is not None
        assert (await command.stdout.read()).startswith(b"y\ny\n")


async def test_who_does_not_take_input_holds_up_who_writes(subject: Subject) -> None:
    async with subject.run("sleep", "1000") as command:
        assert command.stdin is not None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await command.stdin.write(bytes(1 << 20))


async def test_input_for_one_that_has_ended_is_a_broken_pipe(subject: Subject) -> None:
    async with subject.run("echo", "words") as command:
        assert command.stdin is not None
        assert await command.exited() == 0
        with pytest.raises(BrokenPipeError):
            await command.stdin.write(bytes(1 << 20))
        assert await everything(command.stdout) == b"words\n"


async def test_leaving_ends_it(subject: Subject) -> None:
    async with subject.run("sleep", "1000") as command:
        pass
    async with asyncio.timeout(5):
        assert await _ending(command) != 0


async def _ending(command: Running) -> int:
    """Its code; one that was killed may have been seen to end by nobody."""
    try:
        return await command.exited()
    except asyncio.CancelledError:
        return 137


async def test_one_that_outlives_its_client_has_no_more_input(subject: Subject) -> None:
    async with subject.run("cat", outlive=True) as command:
        pass
    async with asyncio.timeout(5):
        assert await command.exited() == 0
