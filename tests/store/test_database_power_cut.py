"""A power cut, not just a kill: ext4's shutdown ioctl drops what was not synced, as losing power does."""

import asyncio
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sampan.model.errors import SampanError
from sampan.store.database import Database, Put

pytestmark = pytest.mark.root

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, fs/ext4/ext4.h
NO_LOG_FLUSH = struct.pack("I", 2)  # EXT4_GOING_FLAGS_NOLOGFLUSH


def tool(*argv: str | Path) -> None:
    subprocess.run(argv, check=True, capture_output=True)


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    tool("mount", "-o", "loop", image, at)
    try:
        yield at
    finally:
        tool("umount", at)


def cut_power(at: Path) -> None:
    descriptor = os.open(at, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, SHUTDOWN, NO_LOG_FLUSH)
    finally:
        os.close(descriptor)


@pytest.fixture
def disk(tmp_path: Path) -> tuple[Path, Path]:
    image, at = tmp_path / "disk", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    at.mkdir()
    tool("mkfs.ext4", "-q", image)
    return image, at


async def write_until_cut(path: Path, first: int, count: int) -> list[int]:
    """Commit rows four at a time until the power goes after `count`; the numbers acknowledged before."""
    acknowledged: list[int] = []
    numbers = iter(range(first, first + 10_000))
    database = await Database.open(path)

    async def lane() -> None:
        for number in numbers:
            try:
                await database.commit([Put("pod", f"{number:06}", b"%d" % number * 300)])
            except SampanError:
                return
            if len(acknowledged) == count:
                return  # the power is going: an fsync that races with the ioctl may be told that all is well
            acknowledged.append(number)
            if len(acknowledged) == count:
                await asyncio.to_thread(cut_power, path.parent)

    await asyncio.gather(*(lane() for _ in range(4)))
    await database.close()
    return acknowledged


async def test_a_power_cut_loses_nothing_that_was_acknowledged(disk: tuple[Path, Path]) -> None:
    image, at = disk
    acknowledged: list[int] = []
    for cut in range(6):
        with mounted(image, at):
            acknowledged += await write_until_cut(at / "state.db", cut * 10_000, 11 + 17 * cut)
        with mounted(image, at):
            database = await Database.open(at / "state.db")
            assert database.opened.reason == ""
            stored = {int(row.id): row.body for row in await database.load()}
            await database.close()
        assert len(acknowledged) == sum(11 + 17 * each for each in range(cut + 1))
        for number in acknowledged:
            assert stored[number] == b"%d" % number * 300
