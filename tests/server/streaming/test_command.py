"""Exec and attach sessions over real sockets, in SPDY and in WebSocket alike; the commands are fakes."""

import asyncio
import hashlib
import os
import resource
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from sampan.model.errors import ToolFailed
from sampan.server.streaming import command as module
from sampan.server.streaming.connection import BUFFERED
from sampan.wire.remotecommand.channels import Channel, Wanted
from sampan.wire.remotecommand.status import Status
from tests.fake_streams import PIPE, FakeCommand
from tests.runtime.system import until
from tests.sessions import ALL, TERMINAL, Lab, descriptors, lab
from tests.stream_clients import CARRIERS, Client

both = pytest.mark.parametrize("carrier", CARRIERS)


@pytest.fixture
async def it() -> AsyncIterator[Lab]:
    async with lab() as made:
        yield made


@both
async def test_a_command_says_something_and_ends(it: Lab, carrier: str) -> None:
    client = await it.exec(carrier, "echo", "hello")
    assert await client.finished() == Status(code=0)
    assert (client.stdout, client.stderr) == (b"hello\n", b"")


@both
@pytest.mark.parametrize("code", [1, 2, 126, 137, 255])
async def test_the_exit_code_comes_after_all_output(it: Lab, carrier: str, code: int) -> None:
    client = await it.exec(carrier, "false", str(code))
    assert await client.finished() == Status(code=code)
    assert (client.stdout, client.stderr) == (b"", b"no\n")


@both
async def test_a_command_that_cannot_be_run_is_told_in_the_runtimes_words(it: Lab, carrier: str) -> None:
    client = await it.exec(carrier, "nonesuch")
    status = await client.finished()
    assert "nonesuch not found" in status.failure


@both
async def test_what_a_runtime_that_fails_has_said_is_not_lost(it: Lab, carrier: str) -> None:
    async def later(command: FakeCommand) -> None:
        await asyncio.sleep(0.1)
        await command.complain(b"on its way")
        await command.said.end()
        await command.complained.end()

    async def fails(command: FakeCommand) -> int:
        command.left_behind = True
        on_its_way.append(asyncio.create_task(later(command)))
        raise ToolFailed(command.argv, 1, "no such directory")

    on_its_way: list[asyncio.Task[None]] = []
    it.commands.programs["fails"] = fails
    client = await it.exec(carrier, "fails")
    assert "no such directory" in (await client.finished()).failure
    assert client.stderr == b"on its way"


@both
async def test_input_goes_in_and_its_end_too_while_output_goes_on(it: Lab, carrier: str) -> None:
    client = await it.exec(carrier, "cat")
    await client.say(b"one ")
    await client.until(lambda: client.stdout == b"one ")
    await client.say(b"two")
    await client.end()
    assert await client.finished() == Status(code=0)
    assert client.stdout == b"one two"


@both
async def test_large_binary_data_comes_back_as_it_went(it: Lab, carrier: str) -> None:
    data = os.urandom(1 << 20) * 8
    client = await it.exec(carrier, "cat")

    async def speak() -> None:
        for start in range(0, len(data), 100_000):
            await client.say(data[start : start + 100_000])
        await client.end()

    speaking = asyncio.create_task(speak())
    assert await client.finished() == Status(code=0)
    await speaking
    assert hashlib.sha256(client.stdout).digest() == hashlib.sha256(data).digest()


@both
async def test_sizes_reach_the_terminal(it: Lab, carrier: str) -> None:
    client = await it.exec(carrier, "size", wanted=TERMINAL)
    await client.resize(132, 43)
    await client.finished()
    assert client.stdout == b"132 43\n"


@both
async def test_a_terminal_has_one_output(it: Lab, carrier: str) -> None:
    client = await it.exec(carrier, "false", wanted=TERMINAL)
    assert (await client.finished()).code == 1
    assert (client.stdout, client.stderr) == (b"no\n", b"")


@both
async def test_a_client_that_goes_away_ends_its_command(it: Lab, carrier: str) -> None:
    client = await it.exec(carrier, "sleep")
    await until(lambda: it.commands.ran)
    client.leave()
    await until(lambda: it.commands.ran[0].killed)
    await until(lambda: it.sessions.open()["exec"] == 0)


@both
async def test_a_client_that_goes_away_while_its_input_is_stuck_ends_its_command(
    it: Lab, carrier: str
) -> None:
    client = await it.exec(carrier, "sleep")
    await until(lambda: it.commands.ran)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            while True:
                await client.say(bytes(1 << 20))
    client.leave()
    await until(lambda: it.commands.ran[0].killed)


@both
async def test_resizes_and_the_end_pass_input_that_is_stuck(it: Lab, carrier: str) -> None:
    client = await it.exec(carrier, "size", wanted=TERMINAL)
    await client.say(bytes(4 * PIPE))
    await client.resize(80, 25)
    await client.finished()
    assert client.stdout == b"80 25\n"


@both
async def test_a_command_that_reads_nothing_holds_its_client_up(it: Lab, carrier: str) -> None:
    client = await it.exec(carrier, "sleep")
    sent = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            while sent < 256 << 20:
                await client.say(bytes(1 << 20))
                sent += 1 << 20
    assert sent < 64 << 20  # what sockets hold
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 96 << 10
    client.leave()


@both
async def test_a_client_that_reads_nothing_holds_its_command_up(it: Lab, carrier: str) -> None:
    client = await it.exec(carrier, "yes")
    await until(lambda: it.commands.ran)
    await asyncio.sleep(0.5)
    command = it.commands.ran[0]
    before = command.said.passed
    await asyncio.sleep(0.3)
    assert command.said.passed == before < 64 << 20
    client.leave()
    await until(lambda: command.killed)


@both
async def test_a_slow_client_still_gets_everything_and_then_the_code(it: Lab, carrier: str) -> None:
    async def much(command: FakeCommand) -> int:
        await command.say(b"x" * (40 * PIPE))
        return 3

    it.commands.programs["much"] = much
    client = await it.exec(carrier, "much")
    await asyncio.sleep(0.3)
    assert await client.finished() == Status(code=3)
    assert len(client.stdout) == 40 * PIPE > BUFFERED


@both
async def test_what_a_command_leaves_behind_does_not_keep_its_client(
    it: Lab, carrier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def daemonize(command: FakeCommand) -> int:
        await command.say(b"started\n")
        command.left_behind = True
        return 0

    monkeypatch.setattr(module, "ORPHAN_SECONDS", 0.1)
    it.commands.programs["daemonize"] = daemonize
    client = await it.exec(carrier, "daemonize")
    assert (await client.finished()).code == 0
    assert client.stdout == b"started\n"


@both
async def test_input_that_is_not_read_does_not_end_a_session(it: Lab, carrier: str) -> None:
    async def deaf(command: FakeCommand) -> int:
        command.given.break_off()
        await command.resized.wait()
        await command.say(b"done")
        return 0

    it.commands.programs["deaf"] = deaf
    client = await it.exec(carrier, "deaf", wanted=TERMINAL)
    for _ in range(30):
        await client.say(bytes(PIPE))
    await client.resize(1, 1)
    assert await client.finished() == Status(code=0)
    assert client.stdout == b"done"


async def test_a_client_that_never_opens_its_streams_is_given_up(
    it: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READY_SECONDS", 0.1)
    url = await it.url("echo", wanted=ALL)
    client = await Client.connect("spdy", url, Wanted(stdin=True))  # and none of the outputs
    await client.until(lambda: client.heard.left)
    client.leave()
    assert not it.commands.ran


@both
async def test_a_session_in_which_nothing_happens_ends(carrier: str) -> None:
    async with lab(idle_timeout=0.3) as it:
        client = await it.exec(carrier, "sleep")
        assert "nothing was said for 0.3 s" in (await client.finished()).failure
        assert it.commands.ran[0].killed


@both
async def test_traffic_keeps_a_session_open(carrier: str) -> None:
    async with lab(idle_timeout=0.3) as it:
        client = await it.exec(carrier, "cat")
        for number in range(6):
            await asyncio.sleep(0.1)
            await client.say(b"x")
            await client.until(partial(client.has_said, number + 1))
        await client.end()
        assert (await client.finished()) == Status(code=0)


@both
async def test_a_command_may_outlive_its_client(carrier: str) -> None:
    async with lab(end_exec_with_client=False) as it:
        client = await it.exec(carrier, "sleep")
        await until(lambda: it.commands.ran)
        client.leave()
        await until(lambda: it.commands.ran[0].outlives)
        assert not it.commands.ran[0].killed


@both
async def test_a_daemon_that_ends_tells_its_clients(carrier: str) -> None:
    async with lab() as it:
        client = await it.exec(carrier, "sleep")
        await until(lambda: it.commands.ran)
        closing = asyncio.create_task(it.listener.close())
        assert "is ending" in (await client.finished()).failure
        await closing
        assert it.commands.ran[0].killed


@both
async def test_an_attached_client_is_told_that_the_container_has_ended(it: Lab, carrier: str) -> None:
    async def first_process(command: FakeCommand) -> int:
        await command.say(b"tick\n")
        await command.complain(b"tock\n")
        return 0

    it.attachments.programs[it.container] = first_process
    client = await it.attach(carrier)
    assert await client.finished() == Status(code=0)
    assert (client.stdout, client.stderr) == (b"tick\n", b"tock\n")


@both
async def test_what_an_attached_client_said_last_is_heard(it: Lab, carrier: str) -> None:
    heard = bytearray()

    async def slow(command: FakeCommand) -> int:
        while data := await command.given.read():
            heard.extend(data)
            await asyncio.sleep(0.01)
        return 0

    it.attachments.programs[it.container] = slow
    client = await it.attach(carrier)
    await client.say(b"a" * (8 * PIPE))
    client.writer.write_eof()
    await until(lambda: len(heard) == 8 * PIPE)
    client.writer.close()


@both
async def test_a_container_that_ends_between_the_request_and_the_session_is_told(
    it: Lab, carrier: str
) -> None:
    url = await it.url("echo")
    await it.system.containers.stop(it.container, 0)
    client = await Client.connect(carrier, url, ALL)
    assert "it is exited, not running" in (await client.finished()).failure
    assert not it.commands.ran


@both
async def test_sessions_leave_no_task_and_no_descriptor(it: Lab, carrier: str) -> None:
    for _ in range(2):
        await (await it.exec(carrier, "echo")).finished()
    await until(lambda: it.sessions.open()["exec"] == 0)
    await asyncio.sleep(0.05)
    tasks, before = len(asyncio.all_tasks()), descriptors()
    for number in range(40):
        client = await it.exec(carrier, "echo" if number % 2 else "sleep")
        client.leave()
    await until(lambda: it.sessions.open()["exec"] == 0)
    await asyncio.sleep(0.05)
    assert len(asyncio.all_tasks()) == tasks
    assert descriptors() == before


async def test_bytes_are_counted_for_the_log(it: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    client = await it.exec("websocket", "cat", wanted=replace(ALL, stderr=False))
    await client.say(b"secret words")
    await client.end()
    await client.finished()
    await until(lambda: any("has ended" in record.message for record in caplog.records))
    (record,) = [record for record in caplog.records if "has ended" in record.message]
    told = vars(record)
    assert (told["kind"], told["subject"], told["end"]) == ("exec", it.container, "exit code 0")
    assert told["received"] > 12 and told["sent"] > 12
    assert "cat" not in str(told) and "secret" not in caplog.text
    assert client.heard.output[Channel.STDOUT] == b"secret words"


class _Windows:
    """A client that lets us send so much, each time it is asked."""

    def __init__(self, *backlogs: int) -> None:
        self._backlogs = list(backlogs)

    def backlog(self) -> int:
        return self._backlogs.pop(0) if len(self._backlogs) > 1 else self._backlogs[0]


async def test_a_client_that_allows_no_last_bytes_does_not_keep_its_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.05)
    session = module.CommandSession(Any, _Windows(9, 9, 5, 5, 5), Any)  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        await session._until_allowed_all()
