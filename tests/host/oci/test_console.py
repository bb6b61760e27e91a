"""Tests of host.oci.console: what the OCI runtime brings as a terminal."""

import os
import socket
from pathlib import Path

import pytest

from sampan.host.oci import console
from sampan.host.process import spawn


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def brought(path: str, *fds: int) -> int | None:
    """What we take it for, when a runtime brings these."""
    async with spawn(["sleep", "1000"]) as runtime:
        with console.listening(path) as listener, socket.socket(socket.AF_UNIX) as sender:
            sender.connect(path)
            socket.send_fds(sender, [b"/dev/pts/0"], fds)
            return await console.master(listener, runtime)


async def test_a_master_is_taken_and_nothing_that_comes_with_it(short_tmp: Path) -> None:
    assert await brought(f"{short_tmp}/first") is None
    before = descriptors()
    master, slave = os.openpty()
    taken = await brought(f"{short_tmp}/console", master, slave, master)
    assert taken is not None
    os.write(slave, b"words")
    assert os.read(taken, 100) == b"words"
    for fd in (master, slave, taken):
        os.close(fd)
    assert descriptors() == before


@pytest.mark.parametrize("kind", ["slave", "file", "nothing"])
async def test_what_is_no_master_is_closed(short_tmp: Path, kind: str) -> None:
    """The container says what its /dev/ptmx is."""
    assert await brought(f"{short_tmp}/first") is None
    before = descriptors()
    master, slave = os.openpty()
    file = os.open("/dev/null", os.O_RDWR)
    fds = {"slave": [slave], "file": [file], "nothing": []}[kind]
    assert await brought(f"{short_tmp}/console", *fds) is None
    for fd in (master, slave, file):
        os.close(fd)
    assert descriptors() == before


async def test_a_runtime_that_ends_without_one_is_told_from_one_that_takes_its_time(short_tmp: Path) -> None:
    path = f"{short_tmp}/console"
    async with spawn(["sleep", "0.05"]) as runtime:
        with console.listening(path) as listener:
            assert await console.master(listener, runtime) is None
