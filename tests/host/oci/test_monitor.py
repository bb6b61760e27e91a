"""Tests of host.monitor: programs that stand in for a conmon that misbehaves; the real one is in test_oci."""

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sampan.host.oci import monitor
from sampan.host.process import spawn
from sampan.host.processes import find
from sampan.model.errors import Lost, NotFound, Unavailable
from sampan.wire import conmon
from tests.host.containers import until

ID = "c" * 64


@asynccontextmanager
async def watcher(bundle: Path, script: str) -> AsyncIterator[Path]:
    """A process that passes for the conmon of ID and does `script` once it is told something; the log's path."""
    os.mkfifo(bundle / conmon.CONTROL)
    log = bundle / "logs" / "0.log"
    log.parent.mkdir()
    log.touch()
    said = f"exec 3<>{bundle / conmon.CONTROL}; read line <&3; cd {log.parent}; {script}; exec sleep 1000"
    async with spawn(["sh", "-c", said, "conmon", "--cid", ID]) as child:
        (bundle / conmon.PID_FILE).write_text(str(child.pid))
        await until(lambda: listens(bundle / conmon.CONTROL))
        yield log


def listens(fifo: Path) -> bool:
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


async def test_a_log_opened_anew_gets_its_mode(tmp_path: Path) -> None:
    async with watcher(tmp_path, "mv 0.log old; umask 77; echo x > 0.log") as log:
        await monitor.reopen_log(tmp_path, ID, log)
        assert log.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("plant", ["ln -s ../victim 0.log", "mkfifo 0.log", "mkdir 0.log", "ln -s . 0.log"])
async def test_what_is_planted_for_the_log_keeps_its_mode(tmp_path: Path, plant: str) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    victim.chmod(0o600)
    async with watcher(tmp_path, f"mv 0.log old; umask 77; {plant}") as log:
        with pytest.raises(Lost, match=rf"{log} of container {ID} is no regular file"):
            await monitor.reopen_log(tmp_path, ID, log)
        assert log.lstat().st_mode & 0o777 != 0o640
    assert victim.stat().st_mode & 0o777 == 0o600


async def test_waiting_for_a_log_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_REOPEN_SECONDS", 0.3)
    async with watcher(tmp_path, ":") as log:
        with pytest.raises(Lost, match=rf"{ID} did not open {log} anew within 0.3 s"):
            await monitor.reopen_log(tmp_path, ID, log)


async def test_a_wait_for_a_log_can_be_cancelled(tmp_path: Path) -> None:
    async with watcher(tmp_path, ":") as log:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await monitor.reopen_log(tmp_path, ID, log)
        assert time.monotonic() - began < 3


async def test_a_conmon_that_goes_without_a_new_log_is_noticed(tmp_path: Path) -> None:
    async with watcher(tmp_path, "exit") as log:
        with pytest.raises(NotFound, match=f"{ID} has just ended"):
            await monitor.reopen_log(tmp_path, ID, log)


async def test_a_conmon_is_not_gone_for_want_of_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watcher(tmp_path, ":"):
        assert monitor.watching(tmp_path, ID) is not None
        with monkeypatch.context() as patch:
            patch.setattr(monitor, "read_small", none_left)
            with pytest.raises(OSError, match="Too many open files"):
                monitor.watching(tmp_path, ID)
    assert monitor.watching(tmp_path, ID) is None


def none_left(*_: object) -> bytes:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def command(bundle: Path, script: str) -> conmon.Command:
    program = bundle / "a-conmon"
    program.write_text(f"#!/bin/sh\ncd {bundle}\n{script}\n")
    program.chmod(0o755)
    return conmon.Command(
        conmon=str(program),
        runtime="/bin/crun",
        options=(f"--root={bundle}",),
        id=ID,
        bundle=bundle,
        exits=bundle,
        sockets=bundle,
    )


async def test_a_conmon_that_never_goes_into_the_background_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "FORK_SECONDS", 0.3)
    script = "setsid sh -c 'echo $$ > child; exec sleep 1000' & sleep 1001"
    with pytest.raises(Unavailable, match=rf"container {ID}: .*a-conmon going into .* within 0.3 s"):
        await monitor.launch(command(tmp_path, script))
    assert find(int((tmp_path / "child").read_text())) is None


async def test_a_runtime_that_never_answers_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "LAUNCH_SECONDS", 0.3)
    script = f'setsid sh -c "sleep 1002; :" x --cid {ID} & echo $! > {conmon.PID_FILE}'
    with pytest.raises(Unavailable, match=rf"container {ID}: /bin/crun create .* within 0.3 s"):
        await monitor.launch(command(tmp_path, script))
    process = monitor.watching(tmp_path, ID)
    assert process is not None  # the caller's to remove
    await monitor.abort(tmp_path, ID)
    assert find(process.pid) is None


async def test_sizes_are_told_one_at_a_time(tmp_path: Path) -> None:
    fifo = tmp_path / conmon.WINDOW
    assert monitor.resize(tmp_path, 80, 24)  # no conmon: nobody is to be told
    os.mkfifo(fifo)
    assert monitor.resize(tmp_path, 80, 24)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert monitor.resize(tmp_path, 80, 24)
        assert not monitor.resize(tmp_path, 100, 40)
        assert os.read(reader, 100) == b"24 80\n"
        assert monitor.resize(tmp_path, 65535, 40)
        assert os.read(reader, 100) == b"40 1000\n"
    finally:
        os.close(reader)


@pytest.mark.parametrize("link", [True, False])
async def test_sizes_are_told_to_a_fifo_alone(tmp_path: Path, link: bool) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    place = tmp_path / conmon.WINDOW
    if link:
        place.symlink_to(victim)
    else:
        victim.rename(place)
    assert monitor.resize(tmp_path, 80, 24)
    assert place.read_bytes() == b""


async def test_the_pipe_to_stdin_is_the_only_one_written_to(tmp_path: Path) -> None:
    async with watcher(tmp_path, ":"):
        process = monitor.watching(tmp_path, ID)
        assert process is not None
        assert monitor.input_pipe(process) is None  # its outputs are pipes, and its own
    assert monitor.input_pipe(process) is None
