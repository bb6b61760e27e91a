"""Tests of host.processes: real processes."""

import asyncio
import errno
import os
import signal
import subprocess
from pathlib import Path

import pytest

from sampan.host import processes
from sampan.host.process import spawn
from sampan.host.processes import alive, find, gone, kill_family, process_ref, send
from sampan.host.threads import in_own_thread, in_thread
from sampan.model.process import ProcessRef


async def test_a_process_is_known_by_number_and_start() -> None:
    async with spawn(["sleep", "1000"]) as child:
        process = await process_ref(child.pid)
        assert process is not None and process.pid == child.pid
        assert await alive(process)
        assert not await alive(ProcessRef(process.pid, process.start - 1))
    assert not await alive(process)
    assert await process_ref(child.pid) is None


async def test_a_signal_reaches_exactly_the_process_meant() -> None:
    async with spawn(["sleep", "1000"]) as child:
        process = await process_ref(child.pid)
        assert process is not None
        assert not await send(ProcessRef(process.pid, process.start + 1), signal.SIGKILL)
        assert child.running
        assert await send(process, signal.SIGTERM)
        assert await child.exited() == -signal.SIGTERM
    assert not await send(process, signal.SIGTERM)


async def test_waiting_for_a_process_that_is_not_there_returns_at_once() -> None:
    async with spawn(["sleep", "1000"]) as child:
        process = await process_ref(child.pid)
        assert process is not None
        async with asyncio.timeout(1):
            await gone(ProcessRef(process.pid, process.start + 1))


async def test_the_end_of_a_process_is_noticed() -> None:
    async with spawn(["sleep", "1000"]) as child:
        process = await process_ref(child.pid)
        assert process is not None
        waiters = [asyncio.ensure_future(gone(process)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(waiter.done() for waiter in waiters)
        waiters[0].cancel()
        await send(process, signal.SIGKILL)
        async with asyncio.timeout(5):
            await asyncio.gather(*waiters[1:])


def test_a_zombie_is_not_alive() -> None:
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert find(child.pid) is None


async def test_a_thread_is_no_process() -> None:
    thread = await in_own_thread(lambda: int(Path("/proc/thread-self").readlink().name))
    assert thread != os.getpid()
    assert not await send(ProcessRef(thread, 1), 0)


def broken(error: int) -> object:
    def fail(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    return fail


WANTS = [errno.EMFILE, errno.ENFILE, errno.ENOMEM]


@pytest.mark.parametrize("error", WANTS)
@pytest.mark.parametrize("call", ["pidfd_open", "open"])
async def test_a_want_of_descriptors_is_not_the_end_of_a_process(
    monkeypatch: pytest.MonkeyPatch, error: int, call: str
) -> None:
    async with spawn(["sleep", "1000"]) as child:
        process = find(child.pid)
        assert process is not None
        before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
        with monkeypatch.context() as patch:
            patch.setattr(os, call, broken(error))
            for ask in (gone(process), send(process, 0), *([alive(process)] if call == "open" else [])):
                with pytest.raises(OSError, match=os.strerror(error)):
                    await ask
        assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
        assert await alive(process)


@pytest.mark.parametrize("error", [errno.ENOENT, errno.ESRCH, errno.EINVAL])
async def test_only_no_such_process_is_the_end_of_one(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", broken(error))
        assert not await send(ProcessRef(1, 1), 0)
        await gone(ProcessRef(1, 1))


async def test_a_family_is_killed_although_descriptors_were_out_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with spawn(["sh", "-c", "sleep 1003; :"]) as child:
        root = find(child.pid)
        assert root is not None
        members = await _members(root, 2)
        whole, failures = os.pidfd_open, [errno.EMFILE] * 3

        def scarce(pid: int) -> int:
            if failures:
                raise OSError(failures.pop(), "none left")
            return whole(pid)

        monkeypatch.setattr(os, "pidfd_open", scarce)
        await kill_family(root)
        assert not failures
        assert not any([await alive(member) for member in members])


async def test_a_family_is_killed_with_its_orphans() -> None:
    # a child in a session of its own, and within it a grandchild whose parent has gone
    script = "setsid sh -c '(sleep 1000 &); sleep 1001; :' & sleep 1002; :"
    async with spawn(["sh", "-c", script]) as child:
        root = await process_ref(child.pid)
        assert root is not None
        members = await _members(root, 5)
        await kill_family(root)
        assert await child.exited() == 0  # the root ends by itself, having reaped its children
        assert not any([await alive(member) for member in members])


async def _members(root: ProcessRef, count: int) -> list[ProcessRef]:
    async with asyncio.timeout(10):
        while len(found := await in_thread(processes._family, root, ())) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return [ProcessRef(member.pid, member.start) for member in found]


async def test_a_number_used_again_is_not_the_family() -> None:
    async with spawn(["sleep", "1000"]) as child:
        process = find(child.pid)
        assert process is not None
        await kill_family(ProcessRef(process.pid, process.start + 1))
        await asyncio.sleep(0)
        assert find(child.pid) == process


async def test_a_small_file_is_read_to_its_end_or_the_limit_whatever_one_read_gives(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert (processes.read_small(path), processes.read_small(path, 4)) == (b"0123456789", b"0123")
    symbols = processes.read_small("/proc/kallsyms")  # a list of records, of which one read gives a page
    assert len(symbols) == 1 << 16
    assert symbols == Path("/proc/kallsyms").read_bytes()[: 1 << 16]
