"""Damage is never fatal: what can be proven intact is kept, the rest is set aside and named."""

import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.store import opening
from sampan.store.database import Database, Put, Row
from sampan.store.opening import Opened, Refused

ROWS = [Row("pod", f"{number:04}", f"body of {number} ".encode() * 60) for number in range(200)]


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A database with 200 rows, closed in good order."""
    database = await Database.open(tmp_path / "state.db")
    await database.commit([Put(row.kind, row.id, row.body) for row in ROWS])
    await database.close()
    return tmp_path / "state.db"


async def reopened(path: Path) -> tuple[Opened, list[Row]]:
    database = await Database.open(path)
    try:
        rows = await database.load()
        await database.commit([Put("pod", "probe", b"it takes writes")])
        return database.opened, rows
    finally:
        await database.close()


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


async def test_an_intact_file_is_left_alone(path: Path) -> None:
    opened, rows = await reopened(path)
    assert opened == Opened()
    assert rows == ROWS
    assert [each.name for each in path.parent.iterdir()] == ["state.db"]


async def test_a_changed_body_costs_that_row_alone(path: Path) -> None:
    content = path.read_bytes()
    at = content.index(b"body of 77 body of 77")
    overwrite(path, at + 5, b"O")
    opened, rows = await reopened(path)
    assert opened.set_aside == path.with_name("state.db.corrupt-1")
    assert opened.reason == "the checksum of pod 0077 is wrong"
    assert opened.refused == (Refused("pod", "0077", "its checksum is wrong"),)
    assert opened.kept == 199
    assert rows == [row for row in ROWS if row.id != "0077"]
    assert b"body Of 77" in opened.set_aside.read_bytes()


async def test_a_destroyed_page_costs_only_the_rows_on_it(path: Path) -> None:
    content = path.read_bytes()
    page = content.index(b"body of 100 body") // 4096
    overwrite(path, page * 4096, b"\xa5" * 4096)
    opened, rows = await reopened(path)
    assert opened.set_aside is not None
    assert opened.kept == len(rows) >= 190
    assert all(row in ROWS for row in rows)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"not a database at all, but long enough to be looked at" * 40),
        lambda path: os.truncate(path, 5000),
        lambda path: overwrite(path, 0, bytes(16)),
        lambda path: overwrite(path, 60, b"\x00\x00\x00\x63"),  # user_version 99
        lambda path: (path.unlink(), path.mkdir(), (path / "file").touch()),
        lambda path: (path.rename(path.with_name("elsewhere")), path.symlink_to("elsewhere")),
        lambda path: path.with_name("state.db-wal").mkdir(),
        lambda path: path.with_name("state.db-wal").symlink_to("/dev/zero"),
    ],
    ids=["garbage", "truncated", "no header", "newer schema", "directory", "symlink", "log dir", "log link"],
)
async def test_no_damage_keeps_it_from_opening(path: Path, damage: Callable[[Path], object]) -> None:
    damage(path)
    opened, rows = await reopened(path)
    assert opened.set_aside is not None
    assert opened.reason
    assert opened.kept == len(rows)
    assert all(row in ROWS for row in rows)
    assert (await reopened(path))[0] == Opened()


async def test_a_newer_schema_keeps_its_rows_and_the_file(path: Path) -> None:
    overwrite(path, 60, b"\x00\x00\x00\x63")
    opened, rows = await reopened(path)
    assert "schema version is 99" in opened.reason
    assert rows == ROWS


async def test_a_symlink_is_not_followed(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    before = elsewhere.read_bytes()
    path.symlink_to(elsewhere)
    await reopened(path)
    assert elsewhere.read_bytes() == before


async def test_files_are_set_aside_beside_each_other(path: Path) -> None:
    for number in (1, 2, 3):
        path.write_bytes(b"garbage" * 1000)
        opened, _ = await reopened(path)
        assert opened.set_aside == path.with_name(f"state.db.corrupt-{number}")


async def test_rows_of_the_log_are_kept_when_the_file_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "live" / "state.db"
    database = await Database.open(path)
    await database.commit([Put(row.kind, row.id, row.body) for row in ROWS[:100]])
    await database._run(database._checkpoint)
    await database.commit([Put(row.kind, row.id, row.body) for row in ROWS[100:]])
    copy = tmp_path / "copy" / "state.db"  # what a power cut leaves
    copy.parent.mkdir()
    for suffix in ("", "-wal"):
        copy.with_name(f"state.db{suffix}").write_bytes(path.with_name(f"state.db{suffix}").read_bytes())
    await database.close()
    at = copy.read_bytes().index(b"body of 7 body")
    overwrite(copy, at, b"B")
    opened, rows = await reopened(copy)
    assert opened.refused == (Refused("pod", "0007", "its checksum is wrong"),)
    assert rows == [row for row in ROWS if row.id != "0007"]


@pytest.mark.parametrize("moved", [False, True])
async def test_a_crash_while_replacing_is_finished_or_begun_again(path: Path, moved: bool) -> None:
    """A half made file beside the old one goes; once the old one has moved, the new one takes its place."""
    intact = path.read_bytes()
    new = path.with_name("state.db.new")
    if moved:
        path.rename(path.with_name("state.db.corrupt-1"))
        path.with_name("state.db-wal").write_bytes(b"the old log")
        new.write_bytes(intact)
    else:
        new.write_bytes(intact[:6000])
        path.with_name("state.db.new-wal").write_bytes(b"its log")
    opened, rows = await reopened(path)
    assert opened == Opened()
    assert rows == ROWS
    assert not list(path.parent.glob("*.new*"))


async def test_mutations_anywhere_keep_it_opening_and_never_change_a_row(path: Path, tmp_path: Path) -> None:
    """60 seeded mutations of every kind; whatever is still there afterwards is what was written."""
    intact, chance = path.read_bytes(), random.Random(19)
    known = {row.id: row for row in ROWS}
    for number in range(60):
        target = tmp_path / f"{number}" / "state.db"
        target.parent.mkdir()
        content = bytearray(intact)
        at = chance.randrange(len(content))
        match number % 4:
            case 0:
                content[at] ^= 1 << chance.randrange(8)
            case 1:
                content[at : at + 512] = bytes(len(content[at : at + 512]))
            case 2:
                del content[at:]
            case _:
                content[at : at + 64] = chance.randbytes(len(content[at : at + 64]))
        target.write_bytes(content)
        opened, rows = await reopened(target)
        assert all(known[row.id] == row for row in rows)
        assert opened.set_aside is not None or len(rows) in (0, len(ROWS))


async def test_an_old_schema_is_migrated_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.db"
    await (await Database.open(path)).close()
    monkeypatch.setattr(opening, "SCHEMA", 2)
    monkeypatch.setitem(opening._MIGRATIONS, 1, "CREATE TABLE owed (id TEXT);")
    await (await Database.open(path)).close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    assert connection.execute("SELECT count(*) FROM owed").fetchone() == (0,)
    connection.close()


async def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "SCHEMA", 2)
    monkeypatch.setitem(opening._MIGRATIONS, 1, "CREATE TABLE owed (id TEXT); SELECT no_such_function();")
    with pytest.raises(Exception, match="no_such_function"):
        await Database.open(path)
    monkeypatch.undo()
    opened, rows = await reopened(path)
    assert opened == Opened()
    assert rows == ROWS
