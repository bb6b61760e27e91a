"""What every Attachments does: the fake that sessions are tested with, and the real one under real conmon."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from sampan.host.oci.attach import ConmonAttachments
from sampan.model.errors import NotFound
from sampan.runtime.stream_ports import Attachments, Running, Sink, Source
from sampan.wire.remotecommand.channels import Wanted
from tests.fake_streams import FakeAttachments, FakeContainer
from tests.host.containers import Lab, until

ALL = Wanted(stdin=True, stdout=True, stderr=True)
LOOKS_ON = Wanted(stdout=True, stderr=True)
SPEAKS = "cat <>/say.{0} & cat <>/complain.{0} >&2 & "
LISTENS = "cat; echo over; "
LIVES = "exec sleep 100000"


@dataclass
class Container:
    """It repeats its input, says "over" at its end, and what a test has it say."""

    id: str
    say: Callable[[bytes], Awaitable[None]]
    complain: Callable[[bytes], Awaitable[None]]
    end: Callable[[], Awaitable[None]]


@dataclass
class Subject:
    """An implementation, and how to get a container; its options are `Launch`'s."""

    attachments: Attachments
    start: Callable[..., Awaitable[Container]]


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
async def subject(request: pytest.FixtureRequest, short_tmp: Path) -> AsyncIterator[Subject]:
    if request.param == "fake":
        yield faked(FakeAttachments())
        return
    lab = Lab(short_tmp)
    attachments = ConmonAttachments(lab.paths)
    try:
        yield real(lab, attachments)
    finally:
        attachments.close()
        await lab.close()


def faked(attachments: FakeAttachments) -> Subject:
    async def start(**options: bool) -> Container:
        id = f"c{len(attachments.containers)}"
        container = attachments.containers[id] = FakeContainer(**options)

        async def end() -> None:
            container.end()
            del attachments.containers[id]

        return Container(id, container.say, container.complain, end)

    return Subject(attachments, start)


def real(lab: Lab, attachments: ConmonAttachments) -> Subject:
    async def start(**options: bool) -> Container:
        number = len(lab.ids)
        fifos = [lab.root / f"{name}.{number}" for name in ("say", "complain")]
        for fifo in fifos:
            os.mkfifo(fifo)
        script = SPEAKS.format(number) + (LISTENS if options.get("stdin") else "") + LIVES
        launch, launched = await lab.run("sh", "-c", script, **options)
        log = lab.log(launch.id)

        async def write(fifo: Path, data: bytes) -> None:
            await until(lambda: read_by_somebody(fifo))
            descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            os.write(descriptor, data)
            os.close(descriptor)
            await until(lambda: data.strip() in log.read_bytes())

        async def end() -> None:
            await lab.oci.kill_all(lab.handler, launch.id)
            await lab.oci.wait(launch.id, launched)

        return Container(launch.id, partial(write, fifos[0]), partial(write, fifos[1]), end)

    return Subject(attachments, start)


def read_by_somebody(fifo: Path) -> bool:
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


@asynccontextmanager
async def attached(
    subject: Subject, container: Container, wanted: Wanted = ALL
) -> AsyncIterator[tuple[Running, Source]]:
    """A client, and its stdout; whatever waits in the block waits ten seconds at most."""
    async with asyncio.timeout(10), subject.attachments.attach(container.id, wanted) as running:
        assert running.stdout is not None
        yield running, running.stdout


async def until_said(source: Source, words: bytes) -> bytes:
    """All that is said until `words` were, which end it."""
    said = b""
    while not said.endswith(words):
        data = await source.read()
        assert data, f"it ended after {said!r}"
        said += data
    return said


async def rest(source: Source | None) -> bytes:
    said = b""
    assert source is not None
    while data := await source.read():
        said += data
    return said


def stdin_of(running: Running) -> Sink:
    assert running.stdin is not None
    return running.stdin


async def test_a_client_reads_what_is_said_from_now_on(subject: Subject) -> None:
    container = await subject.start()
    await container.say(b"early\n")
    async with attached(subject, container, LOOKS_ON) as (running, stdout):
        await container.say(b"one\n")
        await container.complain(b"two\n")
        assert running.stderr is not None
        assert await stdout.read() == b"one\n"
        assert await running.stderr.read() == b"two\n"
    await container.say(b"between\n")
    async with attached(subject, container, LOOKS_ON) as (_, stdout):
        await container.say(b"late\n")
        assert await stdout.read() == b"late\n"


async def test_what_was_not_asked_for_is_not_there(subject: Subject) -> None:
    container = await subject.start(stdin=True)
    async with attached(subject, container, Wanted(stdout=True)) as (running, stdout):
        assert running.stdin is None
        assert running.stderr is None
        await container.complain(b"no\n")
        await container.say(b"yes\n")
        assert await stdout.read() == b"yes\n"
    async with subject.attachments.attach(container.id, Wanted(stdin=True)) as running:
        assert running.stdout is None
        await stdin_of(running).write(b"x\n")


async def test_a_terminal_has_one_output(subject: Subject) -> None:
    container = await subject.start(stdin=True, terminal=True)
    tty = Wanted(stdin=True, stdout=True, stderr=True, tty=True)
    async with attached(subject, container, tty) as (running, stdout):
        assert running.stderr is None
        await running.resize(100, 40)
        await running.resize(0, 40)
        await container.complain(b"hear\n")
        assert b"hear" in await stdout.read()


async def test_input_reaches_the_container_and_its_end_ends_the_session_alone(subject: Subject) -> None:
    container = await subject.start(stdin=True)
    for words in (b"first\n", b"second\n"):
        async with attached(subject, container) as (running, stdout):
            stdin = stdin_of(running)
            await stdin.write(b"")
            await stdin.write(memoryview(words))
            assert await until_said(stdout, words) == words
            await stdin.end()
            await stdin.end()
            assert await rest(stdout) == b""
            assert await running.exited() == 0


async def test_with_stdin_once_the_end_of_input_reaches_the_container(subject: Subject) -> None:
    container = await subject.start(stdin=True, stdin_once=True)
    async with attached(subject, container) as (running, stdout):
        await stdin_of(running).write(b"words\n")
        await stdin_of(running).end()
        assert await until_said(stdout, b"over\n") == b"words\nover\n"
        await container.say(b"and on\n")
        assert await stdout.read() == b"and on\n"
        async with attached(subject, container) as (second, stdout2):
            with pytest.raises(BrokenPipeError):
                while True:
                    await stdin_of(second).write(b"too late\n")
                    await asyncio.sleep(0)
            await stdin_of(second).end()
            await container.say(b"still\n")
            assert await stdout.read() == await stdout2.read() == b"still\n"


async def test_with_stdin_once_leaving_ends_the_input_too(subject: Subject) -> None:
    container = await subject.start(stdin=True, stdin_once=True)
    async with attached(subject, container, LOOKS_ON) as (_, stdout):
        async with attached(subject, container) as (running, _):
            await stdin_of(running).write(b"words\n")
            assert await until_said(stdout, b"words\n") == b"words\n"
        assert await until_said(stdout, b"over\n") == b"over\n"


async def test_who_only_looks_on_never_ends_the_input(subject: Subject) -> None:
    container = await subject.start(stdin=True, stdin_once=True)
    async with attached(subject, container) as (running, stdout):
        for _ in range(3):
            async with attached(subject, container, LOOKS_ON) as (_, stdout2):
                await stdin_of(running).write(b"x\n")
                assert await until_said(stdout2, b"x\n") == await until_said(stdout, b"x\n")
        await stdin_of(running).write(b"y\n")
        assert await until_said(stdout, b"y\n") == b"y\n"


async def test_a_terminals_input_never_ends(subject: Subject) -> None:
    container = await subject.start(stdin=True, stdin_once=True, terminal=True)
    tty = Wanted(stdin=True, stdout=True, tty=True)
    for words in (b"first", b"second"):
        async with attached(subject, container, tty) as (running, stdout):
            await stdin_of(running).write(words + b"\n")
            assert words in await stdout.read()
    async with attached(subject, container, tty) as (running, stdout):
        await stdin_of(running).end()
        await rest(stdout)
        assert await running.exited() == 0


async def test_a_container_without_stdin_takes_none(subject: Subject) -> None:
    container = await subject.start()
    async with attached(subject, container) as (running, stdout):
        with pytest.raises(BrokenPipeError):
            while True:
                await stdin_of(running).write(b"x\n")
                await asyncio.sleep(0)
        await stdin_of(running).end()
        await container.say(b"on\n")
        assert await stdout.read() == b"on\n"


async def test_every_client_reads_everything(subject: Subject) -> None:
    container = await subject.start()
    async with AsyncExitStack() as clients:
        outputs = [
            (await clients.enter_async_context(attached(subject, container, LOOKS_ON)))[1] for _ in range(3)
        ]
        await container.say(b"all\n")
        assert [await output.read() for output in outputs] == [b"all\n"] * 3


async def test_the_containers_end_ends_the_session_after_its_last_words(subject: Subject) -> None:
    container = await subject.start(stdin=True)
    async with attached(subject, container) as (running, stdout):
        waiting = asyncio.ensure_future(running.exited())
        await container.say(b"last\n")
        assert not waiting.done()
        await container.end()
        assert await waiting == await running.exited() == 0
        assert await rest(stdout) == b"last\n"
        assert await rest(stdout) == await rest(running.stderr) == b""
        with pytest.raises(BrokenPipeError):
            while True:
                await stdin_of(running).write(b"x\n")
                await asyncio.sleep(0)
    with pytest.raises(NotFound, match=f"nothing watches container {container.id}"):
        async with subject.attachments.attach(container.id, ALL):
            pass


async def test_an_unknown_container_is_not_found(subject: Subject) -> None:
    with pytest.raises(NotFound, match="nothing watches container ffff"):
        async with subject.attachments.attach("ffff", ALL):
            pass


async def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(subject: Subject) -> None:
    container = await subject.start(stdin=True)
    before = set(asyncio.all_tasks())
    with pytest.raises(RuntimeError, match="gone"):
        async with attached(subject, container) as (_, stdout):
            await container.say(b"one\n")
            reading = asyncio.ensure_future(rest(stdout))
            raise RuntimeError("gone")
    assert await reading in (b"", b"one\n")
    assert set(asyncio.all_tasks()) == before
    async with attached(subject, container) as (_, stdout):
        await container.say(b"two\n")
        assert await stdout.read() == b"two\n"
