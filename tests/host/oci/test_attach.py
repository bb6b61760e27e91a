"""Tests of host.oci.attach on real containers: what clients do to a container and its conmon, and what they leave."""

import asyncio
import gc
import hashlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sampan.host.oci import attach_connections, attach_session
from sampan.host.oci.attach import ConmonAttachments
from sampan.host.threads import in_thread
from sampan.model.errors import Exhausted, NotFound, Unavailable
from sampan.runtime.ports import Launch, Launched
from sampan.runtime.stream_ports import Running, Source
from sampan.wire.remotecommand.channels import Wanted
from tests.host.containers import Lab, until

pytestmark = pytest.mark.root

ALL = Wanted(stdin=True, stdout=True, stderr=True)
LOOKS_ON = Wanted(stdout=True)
TTY = Wanted(stdin=True, stdout=True, tty=True)
FLOOD = 64 << 20  # bytes
FLOODS = f"read x; head -c {FLOOD} /dev/zero; echo over >/tmp/over; exec sleep 100000"


@pytest.fixture
async def lab(short_tmp: Path) -> AsyncIterator[Lab]:
    lab = Lab(short_tmp)
    for name in ("sha256sum", "stty", "seq"):
        (lab.root / "bin" / name).symlink_to("busybox")
    try:
        yield lab
    finally:
        await lab.close()


@pytest.fixture
async def attachments(lab: Lab) -> AsyncIterator[ConmonAttachments]:
    attachments = ConmonAttachments(lab.paths)
    yield attachments
    attachments.close()


async def say(running: Running, words: bytes) -> None:
    assert running.stdin is not None
    await running.stdin.write(words)


async def rest(source: Source | None) -> bytes:
    assert source is not None
    said = bytearray()
    while data := await source.read():
        said += data
    return bytes(said)


async def until_said(running: Running, words: bytes) -> bytes:
    assert running.stdout is not None
    said = b""
    async with asyncio.timeout(10):
        while words not in said:
            data = await running.stdout.read()
            assert data, f"it ended after {said!r}"
            said += data
    return said


def descriptors(pid: int | str = "self") -> int:
    gc.collect()  # what earlier tests have left to it must not go meanwhile
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def memory() -> int:
    """Bytes of ours that are resident."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def there(launched: Launched, path: str) -> bool:
    return Path(f"/proc/{launched.init.pid}/root{path}").exists()


# --- clients that are slow ------------------------------------------------------------------------------------


async def test_a_client_that_never_reads_holds_the_container_up_for_a_moment(
    lab: Lab, attachments: ConmonAttachments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach_session, "PATIENCE", 0.5)
    launch, launched = await lab.run("sh", "-c", FLOODS, stdin=True)
    before, began = memory(), time.monotonic()
    async with attachments.attach(launch.id, ALL) as running:
        await say(running, b"\n")
        with pytest.raises(
            Exhausted, match=rf"{launch.id} took nothing of [0-9]+ bytes .* 0.5 s: .* its log has all"
        ):
            await running.exited()
        assert 0.5 <= time.monotonic() - began < 5
        await until(
            lambda: there(launched, "/tmp/over")
        )  # in the block still: the session has let go by itself
        assert memory() - before < 8 << 20
        assert await rest(running.stdout) == b""
        with pytest.raises(BrokenPipeError):
            await say(running, b"x")


async def test_a_slow_client_reads_everything(lab: Lab, attachments: ConmonAttachments) -> None:
    launch, launched = await lab.run("sh", "-c", "read x; seq 1000000 1400000", stdin=True)
    async with attachments.attach(launch.id, ALL) as running:
        assert running.stdout is not None
        await say(running, b"\n")
        said = bytearray()
        while data := await running.stdout.read():
            said += data
            if len(said) < 2 << 20:
                await asyncio.sleep(0.05)  # what a slow link does
        assert said == b"".join(b"%d\n" % number for number in range(1000000, 1400001))
        assert await running.exited() == 0
    assert (await lab.oci.wait(launch.id, launched)).code == 0


async def until_held_up(log: Path) -> None:
    size = 0
    while size < attach_session.HELD or size != log.stat().st_size:
        size = log.stat().st_size
        await asyncio.sleep(0.2)


async def test_the_end_of_a_container_does_not_wait_for_a_client(
    lab: Lab, attachments: ConmonAttachments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach_session, "PATIENCE", 30.0)
    launch, launched = await lab.run("sh", "-c", "read x; exec yes", stdin=True)
    async with attachments.attach(launch.id, ALL) as running:
        await say(running, b"\n")
        await until_held_up(lab.log(launch.id))
        began = time.monotonic()
        await lab.oci.signal(launched.init, signal.SIGKILL)
        assert (await lab.oci.wait(launch.id, launched)).code == 137
        assert time.monotonic() - began < 5
        assert await running.exited() == 0
        said = await rest(running.stdout)
        assert len(said) >= attach_session.HELD
        assert said.strip(b"y\n") == b""


# --- many clients ---------------------------------------------------------------------------------------------


async def test_ten_clients_at_once_read_the_same(lab: Lab, attachments: ConmonAttachments) -> None:
    launch, _ = await lab.run("sh", "-c", "read x; seq 1000000 1500000", stdin=True)
    ready = asyncio.Barrier(11)

    async def client() -> str:
        async with attachments.attach(launch.id, LOOKS_ON) as running:
            await ready.wait()
            return hashlib.sha256(await rest(running.stdout)).hexdigest()

    clients = [asyncio.ensure_future(client()) for _ in range(10)]
    await ready.wait()
    async with attachments.attach(launch.id, ALL) as running:
        await say(running, b"\n")
        said = hashlib.sha256(await rest(running.stdout)).hexdigest()
    expected = hashlib.sha256(b"".join(b"%d\n" % number for number in range(1000000, 1500001))).hexdigest()
    assert {said, *await asyncio.gather(*clients)} == {expected}


@pytest.mark.parametrize("script", ["exec sleep 100000", "while :; do echo x; sleep 0.01; done"])
@pytest.mark.parametrize("once", [False, True])
async def test_a_hundred_clients_leave_nothing_behind(
    lab: Lab, attachments: ConmonAttachments, script: str, once: bool
) -> None:
    launch, launched = await lab.run("sh", "-c", script, stdin=True, stdin_once=once)
    async with attachments.attach(launch.id, ALL):
        pass  # the first connection stays
    ours, tasks = descriptors(), len(asyncio.all_tasks())
    conmons = descriptors(launched.monitor.pid)
    for _ in range(100):
        async with attachments.attach(launch.id, ALL) as running:
            await running.resize(80, 24)
    assert descriptors() <= ours
    assert descriptors(launched.monitor.pid) <= conmons + 2
    assert len(asyncio.all_tasks()) == tasks
    await lab.oci.kill_all(lab.handler, launch.id)
    await lab.oci.wait(launch.id, launched)
    await until_async(lambda: not attachments._containers)
    assert descriptors() < ours


async def until_async(condition: object) -> None:
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_busy_conmon_makes_clients_wait_and_not_for_ever(
    lab: Lab, attachments: ConmonAttachments, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, launched = await lab.run("cat", stdin=True)
    os.kill(launched.monitor.pid, signal.SIGSTOP)
    try:
        clients = [attachments.attach(launch.id, ALL) for _ in range(11)]
        runnings = [await client.__aenter__() for client in clients]  # as many as can queue
        monkeypatch.setattr(attach_connections, "CONNECT_SECONDS", 0.3)
        with pytest.raises(Unavailable, match=rf"attaching to container {launch.id}, whose conmon is busy"):
            async with attachments.attach(launch.id, ALL):
                pass
        monkeypatch.setattr(attach_connections, "CONNECT_SECONDS", 10.0)
        waiting = asyncio.ensure_future(attachments.attach(launch.id, ALL).__aenter__())
        await asyncio.sleep(0.05)
        assert not waiting.done()
    finally:
        os.kill(launched.monitor.pid, signal.SIGCONT)
    await say(await waiting, b"hello\n")
    for running in runnings:
        assert await until_said(running, b"hello\n") == b"hello\n"
    for client in clients:
        await client.__aexit__(None, None, None)
    await lab.oci.kill_all(lab.handler, launch.id)
    assert await (await waiting).exited() == 0


# --- input ----------------------------------------------------------------------------------------------------


async def test_binary_input_arrives_whole(lab: Lab, attachments: ConmonAttachments) -> None:
    launch, _ = await lab.run("sha256sum", stdin=True, stdin_once=True)
    content = os.urandom(16 << 20)
    async with asyncio.timeout(30), attachments.attach(launch.id, ALL) as running:
        assert running.stdin is not None
        for start in range(0, len(content), 100_000):
            await running.stdin.write(memoryview(content)[start : start + 100_000])
        await running.stdin.end()
        assert (await rest(running.stdout))[:64].decode() == hashlib.sha256(content).hexdigest()


async def test_input_that_nobody_reads_waits_and_can_be_given_up(
    lab: Lab, attachments: ConmonAttachments
) -> None:
    launch, _ = await lab.run("sleep", "100000", stdin=True)
    async with attachments.attach(launch.id, ALL) as running:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await say(running, bytes(4 << 20))
        writing = asyncio.ensure_future(say(running, bytes(1 << 20)))
        await asyncio.sleep(0)
    with pytest.raises(BrokenPipeError):
        await writing


async def test_the_last_words_are_read_where_input_was_not(lab: Lab, attachments: ConmonAttachments) -> None:
    launch, _ = await lab.run(
        "sh", "-c", "read x; head -c 500000 /dev/zero; echo over", stdin=True, stdin_once=True
    )

    async def feed(running: Running) -> None:
        while True:
            await say(running, b"y\n" * 16000)

    async with asyncio.timeout(10), attachments.attach(launch.id, ALL) as running:
        feeding = asyncio.ensure_future(feed(running))
        said = await rest(running.stdout)
        assert (len(said), said[-5:]) == (500005, b"over\n")
        with pytest.raises(BrokenPipeError):
            await feeding


def seconds_of_cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("when", ["before", "meanwhile", "after"])
async def test_a_container_that_closes_its_stdin_does_not_cost_a_core(
    lab: Lab, attachments: ConmonAttachments, when: str, once: bool
) -> None:
    """conmon would try to pass input on without a pause, until the container ends."""
    gate = lab.root / "gate"
    os.mkfifo(gate)
    script = "read x </gate; exec 0</dev/null; echo closed; exec sleep 100000"
    launch, launched = await lab.run("sh", "-c", script, stdin=True, stdin_once=once)
    async with attachments.attach(launch.id, LOOKS_ON) as onlooker:
        if when == "before":
            await in_thread(gate.write_text, "\n")
            await until_said(onlooker, b"closed\n")
        async with attachments.attach(launch.id, ALL) as running:
            writing = asyncio.ensure_future(say(running, bytes(1 << 20)))  # more than fits anywhere
            await asyncio.sleep(0.1)
            if when == "meanwhile":
                await in_thread(gate.write_text, "\n")
            if when != "after":
                with pytest.raises(BrokenPipeError):
                    await writing
        if when == "after":
            with pytest.raises(BrokenPipeError):
                await writing
            await in_thread(gate.write_text, "\n")
        if when != "before":
            await until_said(onlooker, b"closed\n")
        before = seconds_of_cpu(launched.monitor.pid)
        await asyncio.sleep(0.3)
        assert seconds_of_cpu(launched.monitor.pid) - before < 0.1
    async with attachments.attach(launch.id, ALL) as running:
        with pytest.raises(BrokenPipeError):
            await say(running, b"x")


# --- a terminal -----------------------------------------------------------------------------------------------


async def test_a_terminal_has_the_size_that_was_said_last(lab: Lab, attachments: ConmonAttachments) -> None:
    script = "trap 'stty size' WINCH; while :; do read x && echo got && stty size; done"
    launch, _ = await lab.run("sh", "-c", script, stdin=True, terminal=True)
    async with attachments.attach(launch.id, TTY) as running:
        await say(running, b"\n")
        await until_said(running, b"got\r\n")
        for number in range(1, 401):  # more than conmon reads at once
            await running.resize(100 + number, 40 + number)
        await until_said(running, b"440 500\r\n")
        for size in ((0, 0), (0, 40), (-1, -1)):
            await running.resize(*size)
        await say(running, b"\n")
        assert b"440 500\r\n" in await until_said(running, b"440 500\r\n")
        await running.resize(65535, 65535)
        await until_said(running, b"1000 1000\r\n")
        log = lab.log(launch.id)
        log.rename(log.with_suffix(".old"))
        await running.resize(80, 24)
        await lab.oci.reopen_log(launch.id, log)  # and a size does not disturb that
        await say(running, b"\n")
        await until_said(running, b"24 80\r\n")


# --- the end --------------------------------------------------------------------------------------------------


async def test_a_killed_conmon_ends_the_session(lab: Lab, attachments: ConmonAttachments) -> None:
    launch, launched = await lab.run("cat", stdin=True)
    async with asyncio.timeout(10), attachments.attach(launch.id, ALL) as running:
        await say(running, b"hello\n")
        await until_said(running, b"hello\n")
        os.kill(launched.monitor.pid, signal.SIGKILL)
        assert await running.exited() == 0
        assert await rest(running.stdout) == await rest(running.stderr) == b""
    with pytest.raises(NotFound, match=rf"nothing watches container {launch.id}"):
        async with attachments.attach(launch.id, ALL):
            pass
    assert not attachments._containers


async def test_a_conmon_that_takes_no_clients_has_just_ended(
    lab: Lab, attachments: ConmonAttachments
) -> None:
    launch, _ = await lab.run("cat", stdin=True)
    (launch.bundle / "attach").unlink()
    with pytest.raises(NotFound, match=rf"{launch.id} has just ended"):
        async with attachments.attach(launch.id, ALL):
            pass
    assert not attachments._containers


async def test_another_daemon_attaches_to_what_one_has_left(lab: Lab, attachments: ConmonAttachments) -> None:
    launch, _ = await lab.run("cat", stdin=True)
    async with attachments.attach(launch.id, ALL) as running:
        await say(running, b"one\n")
        await until_said(running, b"one\n")
    attachments.close()
    later = ConmonAttachments(lab.paths)
    try:
        async with later.attach(launch.id, ALL) as running:
            await say(running, b"two\n")
            assert await until_said(running, b"two\n") == b"two\n"
    finally:
        later.close()


async def test_paths_may_be_longer_than_a_sockets(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 20)
    directory.mkdir()
    lab = Lab(directory)
    attachments = ConmonAttachments(lab.paths)
    try:
        launch: Launch = (await lab.run("cat", stdin=True))[0]
        assert len(str(launch.bundle)) > 108
        async with attachments.attach(launch.id, ALL) as running:
            await say(running, b"hello\n")
            assert await until_said(running, b"hello\n") == b"hello\n"
    finally:
        attachments.close()
        await lab.close()


async def test_closing_lets_go_of_everything(lab: Lab) -> None:
    launch, _ = await lab.run("cat", stdin=True)
    before = descriptors()
    attachments = ConmonAttachments(lab.paths)
    async with attachments.attach(launch.id, ALL):
        pass
    assert descriptors() == before + 2  # its connection, its stdin
    attachments.close()
    assert descriptors() == before


@pytest.mark.parametrize("terminal", [False, True])
async def test_who_comes_before_the_start_misses_nothing_and_may_speak_already(
    lab: Lab, attachments: ConmonAttachments, terminal: bool
) -> None:
    script = "echo first; read words; echo =$words=; exec cat"
    launch = lab.launch("sh", "-c", script, terminal=terminal, stdin=True, stdin_once=not terminal)
    launched = await lab.oci.create(launch)
    async with asyncio.timeout(20), attachments.attach(launch.id, TTY if terminal else ALL) as running:
        await running.resize(91, 17)
        await say(running, b"hello\n")
        if not terminal:
            assert running.stdin is not None
            await running.stdin.end()
        await lab.oci.start(lab.handler, launch.id)
        if terminal:
            await say(running, b"\x04\x04")
        said = await rest(running.stdout)
        assert await running.exited() == 0
    words = said.replace(b"\r", b"").split(b"\n")
    if terminal:
        words.remove(b"hello")  # as it was typed
    assert words == [b"first", b"=hello=", b""]
    await lab.oci.wait(launch.id, launched)
