"""Counting what processes hold open."""

import os
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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


def test_groups_that_a_container_makes_in_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deeper than Python recurses, and more than are worth a look."""
    groups = [tmp_path]
    try:
        for _ in range(1100):
            groups.append(groups[-1] / "x")
            groups[-1].mkdir()
        (groups[-1] / "cgroup.procs").write_text("7\n")
        monkeypatch.setattr(process_counts, "MAX_GROUPS", 1101)
        assert process_counts.pids(str(tmp_path)) == [7]
        monkeypatch.setattr(process_counts, "MAX_GROUPS", 1100)
        assert process_counts.pids(str(tmp_path)) is None
    finally:  # what removes temporary directories recurses too
        (groups[-1] / "cgroup.procs").unlink(missing_ok=True)
        for group in reversed(groups[1:]):
            group.rmdir()


def test_of_many_groups_side_by_side_no_more_are_listed_than_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        (tmp_path / str(number)).mkdir()
    monkeypatch.setattr(process_counts, "MAX_GROUPS", 6)
    assert process_counts.pids(str(tmp_path)) == []
    monkeypatch.setattr(process_counts, "MAX_GROUPS", 5)
    assert process_counts.pids(str(tmp_path)) is None


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every entry that was taken from a listing of a directory."""
    taken: list[str] = []
    scandir = os.scandir

    def each(entries: Iterable[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
        for entry in entries:
            taken.append(entry.name)
            yield entry

    @contextmanager
    def listing(path: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        with scandir(path) as entries:
            yield each(entries)

    monkeypatch.setattr(os, "scandir", listing)
    return taken


def told(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """By the kernel, of each process; 0 before Linux 6.2."""
    monkeypatch.setattr(process_counts, "_told", lambda _: count)


def test_the_kernel_tells_how_many_there_are_or_nothing() -> None:
    known = process_counts._told(f"/proc/{os.getpid()}/fd")
    with Path("/dev/null").open():
        assert process_counts._told(f"/proc/{os.getpid()}/fd") == (known and known + 1)
    assert known == 0 or known + 1 == len(list(Path("/proc/self/fd").iterdir()))  # it sees itself
    assert process_counts._told(f"/proc/{NOBODY}/fd") == 0


def test_more_than_may_be_looked_at_are_counted_where_the_kernel_tells(
    listed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, 19_000)
    assert process_counts.descriptors([os.getpid()] * 60) == (60 * 19_000, None)
    assert not listed


def test_the_bound_is_for_all_processes_together(listed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (count, sockets) = process_counts.descriptors([os.getpid()])
    assert count is not None and sockets is not None
    told(monkeypatch, count)
    monkeypatch.setattr(process_counts, "MAX_LINKS", 2 * count)
    assert process_counts.descriptors([os.getpid()] * 2) == (2 * count, 2 * sockets)
    listed.clear()
    assert process_counts.descriptors([os.getpid()] * 5) == (5 * count, None)
    assert len(listed) == 2 * count


def test_where_the_kernel_does_not_tell_too_much_to_look_at_is_not_known(
    listed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, 0)
    (count, sockets) = process_counts.descriptors([os.getpid()])
    assert count is not None and sockets is not None
    monkeypatch.setattr(process_counts, "MAX_LINKS", 2 * count)
    assert process_counts.descriptors([os.getpid()] * 2) == (2 * count, 2 * sockets)
    listed.clear()
    assert process_counts.descriptors([os.getpid()] * 60) == (None, None)
    assert len(listed) == 2 * count + 1


def test_too_many_processes_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_counts, "MAX_PROCESSES", 1)
    assert process_counts.descriptors([os.getpid(), os.getpid()]) == (None, None)


def test_counting_is_for_any_thread() -> None:
    found: list[int | None] = []
    thread = threading.Thread(target=lambda: found.append(process_counts.descriptors([os.getpid()])[0]))
    thread.start()
    thread.join()
    assert found[0]
