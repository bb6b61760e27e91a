"""The promise of `commit`: durable when it returns, all or nothing, in order, one fsync for many."""

import asyncio
import json
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sampan import tasks
from sampan.model.errors import Exhausted, Unavailable
from sampan.store.database import CHECKPOINT_AFTER, Database, Delete, Put, Row


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "root" / "state.db")
    yield opened
    await opened.close()


async def contents(path: Path) -> list[Row]:
    database = await Database.open(path)
    try:
        assert database.opened.reason == ""
        return await database.load()
    finally:
        await database.close()


def size_of(path: Path) -> int:
    return path.stat().st_size


def modes(directory: Path) -> dict[str, int]:
    return {each.name: stat.S_IMODE(each.stat().st_mode) for each in directory.iterdir()}


def count_transactions(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of changes of each transaction from now on."""
    sizes: list[int] = []
    apply = database._apply

    def counting(changes: list[Put | Delete]) -> None:
        sizes.append(len(changes))
        apply(changes)

    monkeypatch.setattr(database, "_apply", counting)
    return sizes


async def test_what_was_committed_is_there_when_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    database = await Database.open(path)
    await database.commit([Put("pod", "a", b"1"), Put("container", "b", b"\x00\xff"), Put("pod", "c", b"3")])
    await database.commit([Put("pod", "a", b"new"), Delete("pod", "c"), Delete("pod", "never")])
    await database.close()
    assert await contents(path) == [Row("container", "b", b"\x00\xff"), Row("pod", "a", b"new")]


async def test_changes_of_one_commit_apply_in_order(database: Database) -> None:
    await database.commit([Put("pod", "a", b"1"), Delete("pod", "a"), Put("pod", "a", b"2")])
    await database.commit([Put("pod", "b", b"1"), Delete("pod", "b")])
    assert await database.load() == [Row("pod", "a", b"2")]


async def test_concurrent_commits_keep_their_order(database: Database) -> None:
    await asyncio.gather(*(database.commit([Put("pod", "a", b"%d" % number)]) for number in range(100)))
    assert await database.load() == [Row("pod", "a", b"99")]


async def test_the_log_is_on_and_every_commit_is_synced(database: Database) -> None:
    def setting(name: str) -> object:
        return database._connection.execute(f"PRAGMA {name}").fetchone()[0]

    assert await database._run(lambda: setting("journal_mode")) == b"wal"
    assert await database._run(lambda: setting("synchronous")) == 2  # FULL
    assert await database._run(lambda: setting("locking_mode")) == b"exclusive"


async def test_64_concurrent_commits_share_few_transactions(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = count_transactions(database, monkeypatch)
    await asyncio.gather(*(database.commit([Put("pod", f"{number}", b"x")]) for number in range(64)))
    assert sum(sizes) == 64
    assert len(sizes) <= 3
    assert len(await database.load()) == 64


async def test_one_commit_that_fails_leaves_its_neighbours_alone(database: Database) -> None:
    bad: list[Put | Delete] = [Put("pod", "half", b"x"), Put("pod", "bad", 1j)]  # type: ignore[arg-type]
    outcomes = await asyncio.gather(
        *(database.commit([Put("pod", f"{number}", b"x")]) for number in range(3)),
        database.commit(bad),
        *(database.commit([Put("pod", f"{number}", b"x")]) for number in range(3, 6)),
        return_exceptions=True,
    )
    assert [type(each) for each in outcomes] == [type(None)] * 3 + [TypeError] + [type(None)] * 3
    assert [row.id for row in await database.load()] == ["0", "1", "2", "3", "4", "5"]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """A file system that takes no more, as far as this process is concerned."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


async def test_a_write_error_fails_the_commit_and_the_next_one_works(database: Database) -> None:
    await database.commit([Put("pod", "before", b"x")])
    log = database.path.with_name("state.db-wal")
    refused = pytest.raises(Unavailable, match=rf"cannot write to {database.path}: disk I/O error")
    with file_size_limit(size_of(log) + 4096), refused:
        await database.commit([Put("pod", "small", b"x"), Put("pod", "large", bytes(100_000))])
    await database.commit([Put("pod", "after", b"x")])
    assert [row.id for row in await database.load()] == ["after", "before"]


async def test_a_full_disk_is_exhausted_and_names_the_file(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = tmp_path / "faults"
    faults.write_text(json.dumps([{"step": "store.write", "action": "enospc", "subject": "b"}]))
    monkeypatch.setattr(tasks, "_faults", str(faults))
    with pytest.raises(Exhausted, match=rf"cannot write to {database.path}: no space left"):
        await database.commit([Put("pod", "a", b"x"), Put("pod", "b", b"x")])
    assert await database.load() == []
    await database.commit([Put("pod", "b", b"x")])
    assert await database.load() == [Row("pod", "b", b"x")]


async def test_sqlite_saying_full_is_exhausted(database: Database) -> None:
    await database._run(lambda: database._connection.execute("PRAGMA max_page_count = 8").fetchone())
    with pytest.raises(Exhausted, match="no space left"):
        await database.commit([Put("pod", "large", bytes(100_000))])
    await database.commit([Put("pod", "small", b"x")])
    assert [row.id for row in await database.load()] == ["small"]


async def test_a_second_daemon_is_turned_away(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **given: connect(path, **{**given, "timeout": 0.0}))
    with pytest.raises(Unavailable, match=r"another process has it open; is a second sampand running\?"):
        await Database.open(database.path)


async def test_a_cancelled_caller_does_not_hold_up_the_others(database: Database) -> None:
    cancelled = asyncio.ensure_future(database.commit([Put("pod", "cancelled", b"x")]))
    other = asyncio.ensure_future(database.commit([Put("pod", "other", b"x")]))
    await asyncio.sleep(0)
    cancelled.cancel()
    await other
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert [row.id for row in await database.load()] == ["cancelled", "other"]


async def test_closing_waits_for_what_is_under_way_and_takes_no_more(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    database = await Database.open(path)
    under_way = [
        asyncio.ensure_future(database.commit([Put("pod", f"{number}", b"x")])) for number in range(5)
    ]
    await asyncio.sleep(0)
    await database.close()
    assert all(each.done() and each.exception() is None for each in under_way)
    with pytest.raises(Unavailable, match="is closed"):
        await database.commit([Put("pod", "late", b"x")])
    await database.close()
    assert list(modes(tmp_path)) == ["state.db"]
    assert len(await contents(path)) == 5


async def test_files_are_for_the_daemon_alone(database: Database) -> None:
    await database.commit([Put("pod", "a", b"x")])
    assert modes(database.path.parent) == {"state.db": 0o600, "state.db-wal": 0o600}
    assert modes(database.path.parent.parent)["root"] == 0o700


async def test_the_log_is_folded_in_once_nobody_waits(database: Database) -> None:
    before = size_of(database.path)
    for _ in range(CHECKPOINT_AFTER // 64):
        await asyncio.gather(*(database.commit([Put("pod", f"{n}", bytes(3000))]) for n in range(64)))
    await database.load()  # goes through the same thread, after the checkpoint
    assert size_of(database.path) > before + 32 * 4096


async def test_quarantine_moves_the_row_with_the_reason(database: Database) -> None:
    await database.commit([Put("pod", "a", b"bad"), Put("pod", "b", b"good")])
    await database.quarantine("pod", "a", "makes no sense")
    assert [row.id for row in await database.load()] == ["b"]
    kept = await database._run(
        lambda: database._connection.execute("SELECT kind, id, body, reason FROM quarantine").fetchall()
    )
    assert kept == [(b"pod", b"a", b"bad", b"makes no sense")]


WRITER = """
import asyncio, sys
from pathlib import Path
from sampan.store.database import Database, Put

async def write(database, lane):
    for number in range(1_000_000):
        rows = [Put("pod", f"{lane}-{number:09}", bytes(500)), Put("last", lane, b"%d" % number)]
        await database.commit(rows)
        print(lane, number, flush=True)

async def main():
    database = await Database.open(Path(sys.argv[1]))
    await asyncio.gather(*(write(database, lane) for lane in "abcd"))

asyncio.run(main())
"""


def written_until_killed(path: Path) -> dict[str, int]:
    """Let a process write in four lanes, kill -9 it; the last number of each lane that it reported."""
    last: dict[str, int] = {}
    argv = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:  # goes on to what was reported before the kill arrived
            lane, number = line.split()
            last[lane] = int(number)
            if sum(last.values()) > 100:
                writer.kill()
    assert writer.returncode == -signal.SIGKILL
    return last


async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    for round in range(5):
        path = tmp_path / f"{round % 2}" / "state.db"  # fresh, and with what an earlier kill left
        acknowledged = await asyncio.to_thread(written_until_killed, path)
        stored = {row.id: row.body for row in await contents(path)}
        assert sorted(acknowledged) == ["a", "b", "c", "d"]
        for lane, number in acknowledged.items():
            assert int(stored[lane]) >= number
            assert all(f"{lane}-{each:09}" in stored for each in range(number + 1))


async def test_an_idle_database_uses_no_time(database: Database) -> None:
    await database.commit([Put("pod", "a", b"x")])
    before = time.process_time()
    await asyncio.sleep(0.2)
    assert time.process_time() - before < 0.02
