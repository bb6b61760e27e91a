"""Counting what processes hold open."""

import os
import socket
import threading
from pathlib import Path

import pytest

from sampan.host.cgroup import process_counts

NOBODY = 2**22 + 1  # above the largest pid there can be


def test_processes_of_a_group_and_of_those_in_it(tmp_path: Path) -> None:
    inner = tmp_path / "a/b"
    inner.mkdir(parents=True)
    (tmp_path / "cgroup.procs").write_text("1\n2\n")
    (tmp_path / "a/cgroup.procs").write_text("")
    (inner / "cgroup.procs").write_text("3\n")
    assert process_counts.pids(str(tmp_path)) == [1, 2, 3]
    assert process_counts.pids(str(tmp_path / "gone")) == []


def test_descriptors_and_sockets_of_a_process() -> None:
    before = process_counts.descriptors([os.getpid()])
    with socket.socket(), Path("/dev/null").open():
        after = process_counts.descriptors([os.getpid()])
    assert before[0] is not None and before[1] is not None
    assert after == (before[0] + 2, before[1] + 1)


def test_a_process_that_is_gone_holds_nothing() -> None:
    assert process_counts.descriptors([NOBODY]) == (0, 0)
    assert process_counts.open_files_limit(NOBODY) is None


def test_too_much_to_count_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_counts, "MAX_LINKS", 2)
    known, sockets = process_counts.descriptors([os.getpid()])
    assert known is not None and known > 2
    assert sockets is None
    monkeypatch.setattr(process_counts, "MAX_PROCESSES", 1)
    assert process_counts.descriptors([os.getpid(), os.getpid()]) == (None, None)


def test_counting_is_for_any_thread() -> None:
    found: list[int | None] = []
    thread = threading.Thread(target=lambda: found.append(process_counts.descriptors([os.getpid()])[0]))
    thread.start()
    thread.join()
    assert found[0]
