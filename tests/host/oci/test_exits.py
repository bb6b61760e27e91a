"""Tests of host.exits: what is said of an end when the machine is short of something."""

import errno
import os
from pathlib import Path

import pytest

from sampan.host import processes
from sampan.host.oci import exits
from sampan.host.oci.runtime_state import RuntimeState
from sampan.host.process import spawn
from sampan.host.processes import find
from sampan.model.process import ProcessRef

GONE = ProcessRef(2**22 - 1, 1)


def none_left(*_: object) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_a_live_container_is_not_lost_for_want_of_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with spawn(["sleep", "1000"]) as child:
        init = find(child.pid)
        assert init is not None
        monkeypatch.setattr(os, "pidfd_open", none_left)
        with pytest.raises(OSError, match="Too many open files"):
            await exits.ended(init, init, tmp_path / "exit", RuntimeState(tmp_path, tmp_path))
        monkeypatch.undo()


async def test_an_exit_code_that_cannot_be_read_now_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exit_file, state = tmp_path / "exit", RuntimeState(tmp_path, tmp_path)
    exit_file.write_text("7")
    with monkeypatch.context() as patch:
        patch.setattr(exits, "read_small", none_left)
        with pytest.raises(OSError, match="Too many open files"):
            await exits.ended(GONE, GONE, exit_file, state)
    ending = await exits.ended(GONE, GONE, exit_file, state)
    assert (ending.code, ending.lost) == (7, False)


async def test_an_end_that_nobody_saw_is_lost(tmp_path: Path) -> None:
    assert processes.find(GONE.pid) is None
    ending = await exits.ended(GONE, GONE, tmp_path / "exit", RuntimeState(tmp_path, tmp_path))
    assert (ending.code, ending.lost) == (exits.UNKNOWN, True)
