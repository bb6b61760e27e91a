"""`logs`: the file as it is, its tail, and what comes, whatever happens to the file meanwhile."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.api import cri_pb2 as cri
from sampan.cli import logs
from sampan.cli.invocation import Failed
from sampan.wire.crilog import Joiner, Record
from tests.cli.conftest import Sampan
from tests.cli.fake_daemon import FakeDaemon, said

AT = 1_700_000_000_000_000_000


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "0.log"


def contents(records: "list[Record]") -> list[bytes]:
    return [each.content for each in records]


def test_streams_go_where_they_came_from(sampan: Sampan, daemon: FakeDaemon, log: Path) -> None:
    log.write_bytes(said(b"out 1") + said(b"err", stream="stderr") + said(b"out \xff\x00 2"))
    daemon.add_container(daemon.add_pod("pod"), "web", log=log)
    ran = sampan("logs", "web")
    assert (ran.code, ran.out, ran.err) == (0, "out 1\nout \udcff\x00 2\n", "err\n")
    assert sampan("logs", "--tail", "1", "web").out == "out \udcff\x00 2\n"


def test_partial_lines_are_joined_each_stream_for_itself(
    sampan: Sampan, daemon: FakeDaemon, log: Path
) -> None:
    log.write_bytes(
        said(b"be", partial=True)
        + said(b"x", stream="stderr", partial=True)
        + said(b"gun")
        + said(b"left", partial=True)
    )
    daemon.add_container(daemon.add_pod("pod"), "web", log=log)
    ran = sampan("logs", "web")
    assert (ran.out, ran.err) == ("begun\nleft", "x")


def test_timestamps(sampan: Sampan, daemon: FakeDaemon, log: Path) -> None:
    log.write_bytes(said(b"hello", at=AT + 5))
    daemon.add_container(daemon.add_pod("pod"), "web", log=log)
    assert sampan("logs", "-t", "web").out == "2023-11-14T22:13:20.000000005Z hello\n"


def test_a_container_without_a_log_and_a_log_that_is_gone_are_said(
    sampan: Sampan, daemon: FakeDaemon, log: Path
) -> None:
    pod = daemon.add_pod("pod")
    daemon.add_container(pod, "silent")
    daemon.add_container(pod, "gone", log=log)
    assert "has no log" in sampan("logs", "silent").err
    ran = sampan("logs", "gone")
    assert (ran.code, ran.err) == (1, f"sampan: the log {log} is gone\n")


def test_following_ends_with_the_container(sampan: Sampan, daemon: FakeDaemon, log: Path) -> None:
    log.write_bytes(said(b"one") + said(b"two"))
    daemon.add_container(daemon.add_pod("pod"), "web", cri.CONTAINER_EXITED, log=log)
    assert sampan("logs", "-f", "--tail", "1", "web").out == "two\n"


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6, 7, 1000])
def test_the_tail_is_counted_in_joined_lines(log: Path, count: int) -> None:
    lines = [b"a", b"b" * 70_000, b"c", b"", b"e", b"f"]
    with log.open("wb") as file:
        for line in lines:
            for start in range(0, max(len(line), 1), 16_000):
                rest = line[start + 16_000 :]
                file.write(said(line[start : start + 16_000], partial=bool(rest)))
    expected = lines[-count:] if count else []
    assert contents(list(logs.read_log(log, count))) == expected


def test_the_tail_of_a_large_log_reads_little_of_it(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = said(b"x" * 1000)
    with log.open("wb") as file:
        for _ in range(20):
            file.write(line * 1000)
    fed: list[int] = []
    feed = Joiner.feed

    def counting(self: Joiner, chunk: bytes) -> Iterator[Record]:
        fed.append(len(chunk))
        return feed(self, chunk)

    monkeypatch.setattr(Joiner, "feed", counting)
    assert len(list(logs.read_log(log, 10))) == 10
    assert sum(fed) < 1 << 20


def test_the_tail_of_any_log_is_the_end_of_the_whole(log: Path) -> None:
    chance = random.Random(7)
    pieces = [
        said(b"%d " % number * chance.randrange(3000), partial=chance.random() < 0.5) for number in range(300)
    ]
    log.write_bytes(b"".join(pieces) + b"torn")
    whole = contents(list(logs.read_log(log)))
    for count in (1, 3, 10, 50):
        tail = contents(list(logs.read_log(log, count)))
        complete = whole[:-1] if pieces[-1].split(b" ")[2] == b"P" else whole
        assert tail[:count] == complete[-count:]


class Script:
    """What happens to the log each time the follower has read all of it and asks whether that was all."""

    def __init__(self, *acts: Callable[[], object]) -> None:
        self.acts = list(acts)

    def __call__(self) -> bool:
        if self.acts:
            self.acts.pop(0)()
            return False
        return True


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_PAUSES", (0.0,))


def append(log: Path, content: bytes) -> None:
    with log.open("ab") as file:
        file.write(content)


def test_following_shows_what_comes(log: Path) -> None:
    log.write_bytes(said(b"old"))
    ended = Script(
        lambda: append(log, said(b"new")[:20]),
        lambda: append(log, said(b"new")[20:] + said(b"par", partial=True)),
        lambda: append(log, said(b"tial")),
    )
    assert contents(list(logs.follow_log(log, ended))) == [b"old", b"new", b"partial"]


def test_what_is_written_just_before_the_end_is_not_lost(log: Path) -> None:
    log.touch()

    def ended() -> bool:
        append(log, said(b"last words"))
        return True

    assert contents(list(logs.follow_log(log, ended))) == [b"last words"]


def test_following_goes_on_in_the_new_file_after_a_rotation(log: Path) -> None:
    log.write_bytes(said(b"1") + said(b"2a", partial=True))
    ended = Script(
        lambda: log.rename(log.with_suffix(".log.old")),
        lambda: append(log.with_suffix(".log.old"), said(b"2b")),  # conmon writes on until it is told
        lambda: log.write_bytes(said(b"3")),
        lambda: (log.rename(log.with_suffix(".log.older")), log.write_bytes(said(b"4"))),
    )
    assert contents(list(logs.follow_log(log, ended))) == [b"1", b"2a2b", b"3", b"4"]


def test_what_the_old_file_got_after_the_rotation_is_read_first(log: Path) -> None:
    log.write_bytes(said(b"1"))

    def rotate() -> None:
        old = log.rename(log.with_suffix(".log.old"))
        append(old, said(b"2"))
        log.write_bytes(said(b"3"))

    assert contents(list(logs.follow_log(log, Script(rotate)))) == [b"1", b"2", b"3"]


def test_following_starts_over_in_a_truncated_file(log: Path) -> None:
    log.write_bytes(said(b"a long line of an old log") * 3)
    ended = Script(lambda: log.write_bytes(b""), lambda: append(log, said(b"new")))
    assert contents(list(logs.follow_log(log, ended, tail=0))) == [b"new"]


def test_a_log_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"cannot read the log .*: Is a directory"):
        list(logs.read_log(tmp_path))
