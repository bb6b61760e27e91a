"""Things that are thrown away."""

import asyncio
from pathlib import Path

import pytest

from sampan.host import syscalls as mounts
from sampan.host.storage.trash import Trash
from tests.host.stores import eventually, is_empty


async def test_what_is_taken_is_out_of_sight_at_once_and_deleted_soon(tmp_path: Path) -> None:
    trash = Trash(tmp_path / "trash")
    for _ in range(3):
        (tmp_path / "thing/deep").mkdir(parents=True)
        trash.take(tmp_path / "thing")
        assert not (tmp_path / "thing").exists()
    trash.take(tmp_path / "absent")
    trash.empty()
    await eventually(lambda: is_empty(tmp_path / "trash"))
    await trash.close()


async def test_what_an_earlier_life_left_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "trash/left/behind").mkdir(parents=True)
    trash = Trash(tmp_path / "trash")
    trash.empty()
    trash.empty()
    await eventually(lambda: is_empty(tmp_path / "trash"))
    await trash.close()


@pytest.mark.root
async def test_what_cannot_be_deleted_yet_is_deleted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sampan.host.storage.trash.AGAIN_SECONDS", 0.05)
    (tmp_path / "thing").mkdir()
    trash = Trash(tmp_path / "trash")
    trash.take(tmp_path / "thing")
    (place,) = (tmp_path / "trash").iterdir()
    mounts.mount("tmpfs", str(place), "tmpfs", 0, "")
    try:
        trash.empty()
        await asyncio.sleep(0.2)
        assert not is_empty(tmp_path / "trash")
    finally:
        mounts.umount(str(place), 0)
    await eventually(lambda: is_empty(tmp_path / "trash"))
    await trash.close()


async def test_there_may_be_nothing_at_all(tmp_path: Path) -> None:
    trash = Trash(tmp_path / "never/made")
    trash.empty()
    await trash.close()
