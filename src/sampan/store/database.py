"""`state.db`: rows of (kind, id, body) in SQLite, durable before `commit` returns.

WAL with synchronous=FULL: with NORMAL every simulated power cut lost acknowledged rows. One writer thread
takes whatever commits are waiting as one transaction, so concurrent commits share one fsync. Nothing is read
after `load`: memory is what reads see. What a body means is for `records`. See sqlite.org/wal.html and
sqlite.org/pragma.html.
"""

import asyncio
import errno
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sampan.model.errors import Exhausted, SampanError, Unavailable
from sampan.store.opening import Opened, open_or_replace, put, rows, set_apart
from sampan.tasks import step_now

T = TypeVar("T")

# After this many changed rows the log is folded back into the file, as soon as nobody waits.
CHECKPOINT_AFTER = 256


@dataclass(frozen=True, slots=True)
class Put:
    """Insert the row, or replace its body."""

    kind: str
    id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the row; absent is fine."""

    kind: str
    id: str


@dataclass(frozen=True, slots=True)
class Row:
    """A stored row."""

    kind: str
    id: str
    body: bytes


Change = Put | Delete


@dataclass(frozen=True, slots=True)
class _Waiting:
    changes: tuple[Change, ...]
    outcome: "asyncio.Future[None]"


class Database:
    """The open database, made by `Database.open` and used from one event loop."""

    def __init__(
        self, path: Path, writer: ThreadPoolExecutor, connection: sqlite3.Connection, opened: Opened
    ) -> None:
        self.path = path
        self.opened = opened
        self._writer = writer
        self._connection = connection  # used in the writer's thread only
        self._waiting: list[_Waiting] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._changed = 0  # rows since the last checkpoint

    @classmethod
    async def open(cls, path: Path) -> "Database":
        """Open or create it. A damaged file is set aside, and what can be read of it is kept: see `opened`.

        Raises Exhausted (no space) or Unavailable (no rights, or another daemon has it open).
        """
        writer = ThreadPoolExecutor(1, thread_name_prefix="state.db")
        try:
            connection, opened = await asyncio.get_running_loop().run_in_executor(
                writer, open_or_replace, path
            )
        except (sqlite3.Error, OSError) as error:
            writer.shutdown(wait=False)
            raise _failure("open", path, error) from error
        return cls(path, writer, connection, opened)

    async def load(self) -> list[Row]:
        """Every row, in order of kind and id."""
        return await self._run(self._load)

    async def commit(self, changes: Sequence[Change]) -> None:
        """Apply the changes in order, all or none; returns when they are durable.

        Raises Exhausted or Unavailable. A caller that is cancelled leaves its commit under way: shield it
        where the outcome matters.
        """
        if self._closed:
            raise Unavailable(f"{self.path} is closed: the daemon is stopping")
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(tuple(changes), outcome))
        if self._idle.is_set():
            self._next()
        await outcome

    async def quarantine(self, kind: str, id: str, reason: str) -> None:
        """Move a row that makes no sense to the table `quarantine`."""
        try:
            await self._run(lambda: self._transaction(lambda: set_apart(self._connection, kind, id, reason)))
        except (sqlite3.Error, OSError) as error:
            raise _failure("quarantine a row of", self.path, error) from error

    async def close(self) -> None:
        """Finish what is under way, fold the log in, close. Idempotent."""
        if not self._closed:
            self._closed = True
            await self._idle.wait()
            await self._run(self._connection.close)
            self._writer.shutdown(wait=False)

    # --- on the loop ----------------------------------------------------------------------------------------

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)

    def _next(self) -> None:
        """Give the idle writer all that waits, or the checkpoint that is due, or leave it idle."""
        batch, self._waiting = self._waiting, []
        self._changed += sum(len(each.changes) for each in batch)
        if not batch and self._changed < CHECKPOINT_AFTER:
            self._idle.set()
            return
        self._idle.clear()
        loop = asyncio.get_running_loop()
        if batch:
            done = loop.run_in_executor(self._writer, self._write, batch)
        else:
            self._changed = 0
            done = loop.run_in_executor(self._writer, self._checkpoint)
        done.add_done_callback(lambda done: self._settle(batch, done.result()))

    def _settle(self, batch: list[_Waiting], failures: Sequence[Exception | None]) -> None:
        for each, failure in zip(batch, failures, strict=True):
            if each.outcome.done():  # its caller was cancelled
                continue
            if failure is None:
                each.outcome.set_result(None)
            else:
                each.outcome.set_exception(failure)
        self._next()

    # --- in the writer's thread -----------------------------------------------------------------------------

    def _load(self) -> list[Row]:
        return [Row(kind.decode(), id.decode(), body) for kind, id, _, body in rows(self._connection)]

    def _write(self, batch: list[_Waiting]) -> list[Exception | None]:
        """One transaction for all; if that fails, one for each, so that one commit cannot fail another."""
        try:
            self._transaction(lambda: self._apply([change for each in batch for change in each.changes]))
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever waits
            if len(batch) == 1:
                return [_failure("write to", self.path, error)]
            return [failure for each in batch for failure in self._write([each])]
        return [None] * len(batch)

    def _apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            step_now("store.write", change.id)
            match change:
                case Put(kind, id, body):
                    put(self._connection, kind, id, body)
                case Delete(kind, id):
                    self._connection.execute("DELETE FROM records WHERE kind = ? AND id = ?", (kind, id))

    def _transaction(self, work: Callable[[], None]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            work()
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # some failures (a full disk) have rolled it back already
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            raise

    def _checkpoint(self) -> list[Exception | None]:
        with suppress(sqlite3.Error):  # the log just stays longer; the next commit meets what is wrong
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        return []


def _failure(verb: str, path: Path, error: Exception) -> Exception:
    """What the caller is told about a failure of SQLite or the file system."""
    if isinstance(error, SampanError) or not isinstance(error, sqlite3.Error | OSError):
        return error
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL" or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return Exhausted(f"cannot {verb} {path}: no space left on its file system")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Unavailable(f"cannot {verb} {path}: another process has it open; is a second sampand running?")
    return Unavailable(f"cannot {verb} {path}: {error}")
