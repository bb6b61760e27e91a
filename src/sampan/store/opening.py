"""Opening `state.db`, whatever state it is in: schema, durability settings, and the way out of damage.

A damaged file is never fatal and never thrown away. Its readable rows, each proven by its checksum, go into a
new file beside it; then the old one is renamed to `state.db.corrupt-<n>` and the new one takes its place. A
crash at any point leaves either the old file or a complete new one. All of this blocks: `database` runs it in
its thread.
"""

import os
import sqlite3
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from sampan.tasks import step_now

SCHEMA = 1
LOG_PAGES = (
    4000  # of 4 KiB: where a commit folds the log in by itself; usually that is done when nobody waits
)

_TABLES = """
CREATE TABLE IF NOT EXISTS records (
    kind TEXT NOT NULL, id TEXT NOT NULL, sum INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS quarantine (
    kind TEXT, id TEXT, body BLOB, reason TEXT NOT NULL, at INTEGER NOT NULL
);
"""
# From schema N to N + 1: SQL, run in one transaction with the new user_version.
_MIGRATIONS: dict[int, str] = {0: _TABLES}

# What the machine does to us, as opposed to what is wrong with the file.
_CIRCUMSTANCES = {"BUSY", "LOCKED", "FULL", "IOERR", "CANTOPEN", "PERM", "READONLY", "NOMEM", "AUTH"}

_PUT = "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)"
_SET_APART = "INSERT INTO quarantine VALUES (CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that was moved to the table `quarantine`, and why."""

    kind: str
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Opened:
    """What opening had to do: nothing; or which file it set aside, why, and which rows it refused."""

    set_aside: Path | None = None
    reason: str = ""
    kept: int = 0
    refused: tuple[Refused, ...] = ()


class _Damaged(Exception):
    """The file cannot be used as it is."""


def open_or_replace(path: Path) -> tuple[sqlite3.Connection, Opened]:
    """A connection to an intact database, and what was needed for it. Raises sqlite3.Error or OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _finish_replacing(path)
    try:
        return _open_intact(path), Opened()
    except _Damaged as damage:
        opened = _replace(path, str(damage))
    return _open_intact(path), opened


def put(connection: sqlite3.Connection, kind: str, id: str, body: bytes) -> None:
    """Insert the row or replace its body, with its checksum."""
    connection.execute(_PUT, (kind, id, _sum(kind.encode(), id.encode(), body), body))


def set_apart(connection: sqlite3.Connection, kind: str, id: str, reason: str) -> None:
    """Move a row to the table `quarantine`."""
    for (body,) in connection.execute(
        "SELECT body FROM records WHERE kind = ? AND id = ?", (kind, id)
    ).fetchall():
        connection.execute(_SET_APART, (kind, id, body, reason, time.time_ns()))
    connection.execute("DELETE FROM records WHERE kind = ? AND id = ?", (kind, id))


def rows(connection: sqlite3.Connection, order: str = "ASC") -> Iterator[tuple[bytes, bytes, object, bytes]]:
    """(kind, id, sum, body) of every row; of a damaged file, as bytes whatever is there."""
    found = connection.execute(f"SELECT kind, id, sum, body FROM records ORDER BY kind {order}, id {order}")
    for kind, id, checksum, body in found:
        yield _bytes(kind), _bytes(id), checksum, _bytes(body)


def _open_intact(path: Path) -> sqlite3.Connection:
    """Raises _Damaged where the file, and not the machine, is the problem."""
    if reason := _not_plain(path):
        raise _Damaged(reason)
    _make(path)
    connection = sqlite3.connect(path, isolation_level=None, timeout=2.0)
    try:
        _prepare(connection)
        _verify(connection)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error) and not _is_circumstance(error):
            raise _Damaged(str(error)) from error
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    connection.text_factory = bytes  # text that damage has made invalid must not fail the whole read
    # Exclusive: a second daemon on the same root is told so, and there is no -shm file to be damaged.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != b"wal":
        raise _Damaged(f"its journal mode is {mode!r} and cannot be made WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
    connection.execute("PRAGMA cache_size = -512")  # KiB; nothing is read after the start
    connection.execute("PRAGMA temp_store = MEMORY")
    _migrate(connection)


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if not 0 <= version <= SCHEMA:
        raise _Damaged(f"its schema version is {version}; this version of sampan knows up to {SCHEMA}")
    while version < SCHEMA:
        step_now("store.migrate", str(version))
        script = f"BEGIN IMMEDIATE; {_MIGRATIONS[version]} PRAGMA user_version = {version + 1}; COMMIT;"
        connection.executescript(script)
        version += 1


def _verify(connection: sqlite3.Connection) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != b"ok":
        raise _Damaged(_text(verdict))
    for kind, id, checksum, body in rows(connection):
        if checksum != _sum(kind, id, body):
            raise _Damaged(f"the checksum of {_text(kind)} {_text(id)} is wrong")


def _not_plain(path: Path) -> str:
    """Why these are not the plain files that we made; "" if they are, or are absent."""
    for each in _files(path):
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(each.lstat().st_mode):
                return f"{each.name} is not a regular file"
    return ""


def _make(path: Path) -> None:
    """The file with mode 0600; SQLite gives its log the same mode."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _sync_directory(path.parent)


# --- the way out of damage ----------------------------------------------------------------------------------


def _replace(path: Path, reason: str) -> Opened:
    step_now("store.replace", reason)
    new = _new(path)
    with closing(_open_intact(new)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        kept, refused = _salvage(path, connection)
        connection.execute("COMMIT")
    return Opened(_swap(path), reason, kept, tuple(refused))


def _salvage(path: Path, into: sqlite3.Connection) -> tuple[int, list[Refused]]:
    """Copy what can be read; the first read goes forward up to the damage, the second backward down to it."""
    kept: set[tuple[bytes, bytes]] = set()
    refused: dict[tuple[bytes, bytes], Refused] = {}
    for order in ("ASC", "DESC"):
        with suppress(sqlite3.Error, OSError), closing(_read_only(path)) as damaged:
            for kind, id, checksum, body in rows(damaged, order):
                key = (kind, id)
                if key in kept or key in refused:
                    continue
                if checksum == _sum(kind, id, body):
                    put(into, kind.decode(), id.decode(), body)
                    kept.add(key)
                else:
                    refused[key] = Refused(_text(kind), _text(id), "its checksum is wrong")
                    into.execute(_SET_APART, (kind, id, body, refused[key].reason, time.time_ns()))
    return len(kept), list(refused.values())


def _read_only(path: Path) -> sqlite3.Connection:
    """The damaged database as evidence: nothing of it is changed, its log is read if it is a file."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError("not a regular file")
    alone = "" if not _not_plain(path) else "&immutable=1"
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{alone}", uri=True, isolation_level=None)
    connection.text_factory = bytes
    return connection


def _finish_replacing(path: Path) -> None:
    """After a crash: a new file beside the old is half made, a new file alone only has to be renamed."""
    new = _new(path)
    if not os.path.lexists(new):
        return
    if os.path.lexists(path):
        for each in _files(new):
            each.unlink(missing_ok=True)
    else:
        _swap(path)


def _swap(path: Path) -> Path:
    """Set the old files aside and put the new one in their place."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.corrupt-{number}")):
        number += 1
    for old, kept in zip(_files(path), _files(aside), strict=True):
        with suppress(FileNotFoundError):
            old.rename(kept)
    _new(path).rename(path)
    _sync_directory(path.parent)
    return aside


def _new(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _files(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")]


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_circumstance(error: sqlite3.Error) -> bool:
    name = str(getattr(error, "sqlite_errorname", "")).removeprefix("SQLITE_")
    return any(name == each or name.startswith(each + "_") for each in _CIRCUMSTANCES)


def _sum(kind: bytes, id: bytes, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(kind + b"\0" + id + b"\0"))


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
