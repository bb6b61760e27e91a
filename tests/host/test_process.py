"""Tests of host.process: real children."""

import asyncio
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from sampan.host import process, syscalls
from sampan.host.process import read_until, run, spawn
from sampan.host.processes import find
from sampan.host.threads import in_thread
from sampan.model.errors import ToolFailed
from tests.host.containers import until


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> set[str]:
    """Children of ours, zombies included; a registry or a daemon of other tests may be among them."""
    return {
        pid for tasks in Path("/proc/self/task").iterdir() for pid in (tasks / "children").read_text().split()
    }


@pytest.fixture(autouse=True)
def leaves_nothing() -> object:
    """No test here may leave a descriptor or a child."""
    process._dev_null()
    before, others = descriptors(), children()
    yield None
    assert descriptors() == before
    assert children() == others


async def test_no_two_children_share_a_session_keyring() -> None:
    keyring = syscalls._KEYCTL, 0, -3, 0  # KEYCTL_GET_KEYRING_ID of the caller's session
    source = f"import ctypes; print(ctypes.CDLL(None).syscall(*{keyring}))"
    said = [int((await run([sys.executable, "-c", source])).stdout) for _ in range(2)]
    if -1 in said:
        pytest.skip("this kernel has no keyrings, or refuses them here")
    assert len({*said, ctypes.CDLL(None).syscall(*keyring)}) == 3


async def test_output_and_code_come_back() -> None:
    finished = await run(["sh", "-c", "echo out; echo err >&2; exit 7"], check=False)
    assert finished == process.Finished(("sh", "-c", "echo out; echo err >&2; exit 7"), 7, b"out\n", b"err\n")


async def test_a_signal_is_a_negative_code() -> None:
    assert (await run(["sh", "-c", "kill -9 $$"], check=False)).code == -9


async def test_a_failure_carries_the_last_words() -> None:
    with pytest.raises(ToolFailed, match=r"exit code 3.*what went wrong") as raised:
        await run(["sh", "-c", "echo what went wrong >&2; exit 3"])
    assert raised.value.code == 3


async def test_a_missing_program_says_so() -> None:
    with pytest.raises(ToolFailed, match="is no-such-program installed") as raised:
        await run(["no-such-program"])
    assert raised.value.code == 127


async def test_input_is_passed_however_long() -> None:
    data = os.urandom(1 << 20)
    assert (await run(["cat"], stdin=data)).stdout == data


async def test_a_child_that_does_not_read_its_input_is_no_failure() -> None:
    assert (await run(["true"], stdin=bytes(1 << 20))).code == 0


async def test_without_input_stdin_is_empty() -> None:
    assert (await run(["cat"])).stdout == b""


async def test_output_beyond_the_limit_is_drained_and_dropped() -> None:
    finished = await run(["sh", "-c", "head -c 3000000 /dev/zero; echo done >&2"], limit=1000)
    assert finished.stdout == bytes(1000)
    assert finished.stderr == b"done\n"


async def test_the_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("NOTIFY_SOCKET", "x")
    names = {line.partition(b"=")[0] for line in (await run(["env"])).stdout.splitlines()}
    assert names == {b"PATH"}
    assert (await run(["env"], env={"A": "1"})).stdout == b"A=1\n"


async def test_a_child_has_no_descriptor_but_those_named(tmp_path: Path) -> None:
    leaked = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(leaked, True)
    first, second = os.open("/dev/full", os.O_RDONLY), os.open("/dev/zero", os.O_RDONLY)
    try:
        # 3 and 4 are handed over crossed: neither may be overwritten before it is copied
        async with spawn(["ls", "-l", "/proc/self/fd"], fds=[second, first]) as child:
            listing = (await child.finished()).stdout.decode()
    finally:
        for fd in (leaked, first, second):
            os.close(fd)
    links = {line.split()[-3]: line.split()[-1] for line in listing.splitlines() if "->" in line}
    assert links["0"] == "/dev/null"
    assert (links["3"], links["4"]) == ("/dev/zero", "/dev/full")
    assert set(links) == {"0", "1", "2", "3", "4", "5"}  # 5 is the directory being listed


async def test_a_child_starts_with_default_signals_in_a_session_of_its_own() -> None:
    ignored = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        async with spawn(["cat", "/proc/self/status", "/proc/self/stat"]) as child:
            text = (await child.finished()).stdout.decode()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        signal.signal(signal.SIGTERM, ignored)
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert int(status["SigBlk"], 16) == 0
    assert int(status["SigIgn"], 16) & (1 << signal.SIGTERM - 1 | 1 << signal.SIGPIPE - 1) == 0
    assert text.splitlines()[-1].split(") ")[1].split()[3] == str(child.pid)


async def test_the_working_directory_is_as_asked(tmp_path: Path) -> None:
    async with spawn(["pwd"], directory=str(tmp_path)) as child:
        assert (await child.finished()).stdout.decode() == f"{tmp_path}\n"


async def test_cancelling_kills_the_whole_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 1000 & echo $! > {pids}.new; mv {pids}.new {pids}; wait"
    task = asyncio.ensure_future(run(["sh", "-c", script]))
    await until(pids.exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    orphan = int((await in_thread(pids.read_text)).strip())
    await until(lambda: find(orphan) is None)


async def test_a_timeout_kills() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await run(["sleep", "1000"])
    assert time.monotonic() - began < 2


async def test_leaving_the_block_kills() -> None:
    async with spawn(["sleep", "1000"]) as child:
        assert child.running
    assert not child.running
    with pytest.raises(ZeroDivisionError):
        async with spawn(["sleep", "1000"]) as child:
            raise ZeroDivisionError
    assert not child.running


async def test_an_orphan_that_holds_the_pipes_is_waited_for_only_so_long() -> None:
    began = time.monotonic()
    async with spawn(["sh", "-c", "echo before; sleep 1000 & echo $!"]) as child:
        finished = await child.finished(drain=0.1)
    assert time.monotonic() - began < 1
    before, orphan = finished.stdout.split()
    assert before == b"before"
    os.kill(int(orphan), signal.SIGKILL)


async def test_writing_waits_while_the_child_does_not_read() -> None:
    async with spawn(["sh", "-c", "read line; cat > /dev/null; echo $line"], stdin=True) as child:
        await child.write(b"go\n")
        await child.write(bytes(1 << 20))
        await child.close_stdin()
        assert (await child.finished()).stdout == b"go\n"


async def test_writing_to_a_child_that_has_gone_is_a_broken_pipe() -> None:
    async with spawn(["true"], stdin=True) as child:
        await child.exited()
        with pytest.raises(BrokenPipeError):
            await child.write(bytes(1 << 20))
        await child.close_stdin()
        with pytest.raises(BrokenPipeError):
            await child.write(b"x")


async def test_a_stuck_writer_is_woken_when_it_is_cancelled() -> None:
    with pytest.raises(TimeoutError):
        async with spawn(["sleep", "1000"], stdin=True) as child, asyncio.timeout(0.05):
            await child.write(bytes(1 << 20))


async def test_many_at_once_do_not_mix() -> None:
    results = await asyncio.gather(
        *(run(["sh", "-c", f"echo {n}; exit {n}"], check=False) for n in range(30))
    )
    assert [(r.code, r.stdout) for r in results] == [(n, b"%d\n" % n) for n in range(30)]


async def test_without_pipes_output_goes_nowhere() -> None:
    async with spawn(["sh", "-c", "echo x; echo y >&2"], limit=None) as child:
        finished = await child.finished()
    assert (finished.stdout, finished.stderr) == (b"", b"")


@pytest.mark.parametrize(
    ("written", "expected"),
    [(b"a\nb", b"a\nb"), (b"no mark", b"no mark"), (b"", b""), (b"x" * 99, b"x" * 10)],
)
async def test_a_pipe_is_read_until_a_mark_its_end_or_the_limit(written: bytes, expected: bytes) -> None:
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, written)
        if b"\n" not in written and len(written) < 10:
            os.close(write_end)
            write_end = -1
        assert await read_until(read_end, b"\n", 10) == expected
    finally:
        os.close(read_end)
        if write_end >= 0:
            os.close(write_end)
