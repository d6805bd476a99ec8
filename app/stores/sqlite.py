"""Sessions in an SQLite file, durable when the reply leaves.

One thread owns the connection. What arrives while it is waiting for the disk goes into the next transaction together,
so the price of a flush is shared by all who are waiting for one.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from asyncio import Future
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.sessions import Session
from app.stores.base import StoreAwayError, StoreFullError, StoreRefusedError

#: SQLite's own places for saying whose file this is: "NXWD", and the layout below.
APPLICATION = 0x4E585744
LAYOUT = 1

#: How long another process may hold the file's lock before a request is answered 503.
BUSY_SECONDS = 1.0

#: How long SQLite's log of what was written may become, in pages of 4 KiB, before it is put in its place.
LOG_PAGES = 8_000

#: At most so many sessions are cleared away in one transaction.
SWEEP = 500

_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL)",
    "CREATE TABLE sessions (id TEXT PRIMARY KEY, revision INTEGER NOT NULL, expires_at REAL NOT NULL,"
    " owner TEXT NOT NULL, content BLOB NOT NULL)",
    "CREATE INDEX sessions_by_expiry ON sessions (expires_at)",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {LAYOUT}",
)


@dataclass(slots=True, eq=False)
class _Order:
    """Work for the thread: `run` within a transaction, and tell `future` after that is committed."""

    run: Callable[[], Any]
    future: Future[Any]
    writes: bool
    result: Any = None
    error: Exception | None = None


class SqliteBackend:
    """A `Backend` in the file at `path`, which is made if it is not there.

    At most `capacity` sessions; a new one takes the place of the one that would have expired first. `in_use` says
    whether a request is working on a session: such a one is neither evicted nor expired. `session_key` signs ids; it
    is kept in the file, so that they are recognised after a restart.

    Raises:
        StoreRefusedError: the file cannot be used: no such folder, another program's or version's, another model's.
    """

    def __init__(self, path: Path, *, model: str, capacity: int, in_use: Callable[[str], bool]) -> None:
        self.away: str | None = None
        self.evictions = 0
        self.count = 0
        self._owners: Counter[str] = Counter()
        self._path = path
        self._capacity = capacity
        self._in_use = in_use
        self._gathered: list[_Order] = []
        self._orders: queue.SimpleQueue[list[_Order] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._seen: int | None = None
        try:
            # It holds the key that session ids are signed with: nobody else's to read.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise self._refused(error) from None
        try:
            self.session_key = self._prepare(model)
            self._recount()
        except sqlite3.Error as error:
            self._connection.close()
            raise self._refused(error) from None
        except StoreRefusedError:
            self._connection.close()
            raise

    # On the event loop.

    def owned(self, owner: str) -> int:
        return self._owners.get(owner, 0)

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="nextword-sqlite", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        if self._gathered:
            self._hand_over()
        self._orders.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._connection.close()

    def read(self, session_id: str) -> Future[bytes | None]:
        return self._order(lambda: self._first("SELECT content FROM sessions WHERE id = ?", session_id))

    def revision(self, session_id: str) -> Future[int | None]:
        return self._order(lambda: self._first("SELECT revision FROM sessions WHERE id = ?", session_id))

    def write(self, session: Session, expected_revision: int | None, content: bytes) -> Future[bool]:
        if expected_revision is None:
            return self._order(lambda: self._insert(session, content), writes=True)
        return self._order(lambda: self._update(session, expected_revision, content), writes=True)

    def remove(self, session_id: str) -> Future[bool]:
        return self._order(lambda: self._delete(session_id), writes=True)

    def expire(self, now: float) -> Future[list[str]]:
        return self._order(lambda: self._sweep(now), writes=True)

    def _order(self, run: Callable[[], Any], *, writes: bool = False) -> Future[Any]:
        order = _Order(run, self._loop.create_future(), writes)
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        self._gathered.append(order)
        return order.future

    def _hand_over(self) -> None:
        if self._gathered:
            self._orders.put(self._gathered)
            self._gathered = []

    def _deliver(self, orders: list[_Order], failure: str | None) -> None:
        if failure is not None:
            self.away = failure
        elif any(order.writes for order in orders):
            self.away = None
        for order in orders:
            if order.future.done():
                continue
            if failure is not None:
                order.future.set_exception(StoreAwayError(failure))
            elif order.error is not None:
                order.future.set_exception(order.error)
            else:
                order.future.set_result(order.result)

    # On the thread.

    def _work(self) -> None:
        closing = False
        while not closing:
            orders: list[_Order] = []
            while not closing and (not orders or not self._orders.empty()):
                more = self._orders.get()
                if more is None:
                    closing = True
                else:
                    orders += more
            if orders:
                self._loop.call_soon_threadsafe(self._deliver, orders, self._transact(orders))

    def _transact(self, orders: list[_Order]) -> str | None:
        """All of them as one; why it failed, if it did: then nothing has changed."""
        evictions = self.evictions
        try:
            self._connection.execute("BEGIN IMMEDIATE" if any(order.writes for order in orders) else "BEGIN")
            for order in orders:
                try:
                    order.result = order.run()
                except sqlite3.Error:
                    raise
                except Exception as error:
                    order.error = error  # no room, or a defect: a matter of this one only
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self.evictions = evictions
            self._seen = None  # what was counted may be off: the next sweep counts again
            with suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            return f"sessions cannot be kept in {self._path.name} now: {error}"
        return None

    def _first(self, query: str, *values: Any) -> Any:
        row = self._connection.execute(query, values).fetchone()
        return None if row is None else row[0]

    def _insert(self, session: Session, content: bytes) -> bool:
        if self.count >= self._capacity:
            self._evict()
        done = self._connection.execute(
            "INSERT OR IGNORE INTO sessions VALUES (?, ?, ?, ?, ?)",
            (session.id, session.revision, session.expires_at, session.owner, content),
        )
        if done.rowcount != 1:
            return False
        self.count += 1
        if session.owner:
            self._owners[session.owner] += 1
        return True

    def _update(self, session: Session, expected_revision: int, content: bytes) -> bool:
        done = self._connection.execute(
            "UPDATE sessions SET revision = ?, expires_at = ?, content = ? WHERE id = ? AND revision = ?",
            (session.revision, session.expires_at, content, session.id, expected_revision),
        )
        return done.rowcount == 1

    def _delete(self, session_id: str) -> bool:
        owner = self._first("DELETE FROM sessions WHERE id = ? RETURNING owner", session_id)
        if owner is None:
            return False
        self.count -= 1
        if owner:
            self._owners[owner] -= 1
            if not self._owners[owner]:
                del self._owners[owner]
        return True

    def _sweep(self, now: float) -> list[str]:
        if self.away is not None:
            # Whether it can be written again shows by writing.
            self._connection.execute("UPDATE meta SET value = value WHERE name = 'model'")
        if self._first("PRAGMA data_version") != self._seen:
            self._recount()
        rows = self._connection.execute("SELECT id FROM sessions WHERE expires_at <= ? ORDER BY expires_at", (now,))
        over = []
        for (session_id,) in rows:
            if not self._in_use(session_id):
                over.append(session_id)
                if len(over) == SWEEP:
                    break
        rows.close()
        for session_id in over:
            self._delete(session_id)
        return over

    def _evict(self) -> None:
        rows = self._connection.execute("SELECT id FROM sessions ORDER BY expires_at")
        for (session_id,) in rows:
            if not self._in_use(session_id):
                rows.close()
                self._delete(session_id)
                self.evictions += 1
                return
        raise StoreFullError(f"all {self._capacity} sessions are in use")

    # Before the thread runs.

    def _prepare(self, model: str) -> bytes:
        """Make or check what the file holds beside sessions; the key that ids are signed with."""
        execute = self._connection.execute
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        # A session that goes on is written over and over: only the last time need reach the file itself.
        execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        execute("BEGIN IMMEDIATE")  # two servers may be starting at once
        if not self._first("SELECT count(*) FROM sqlite_master"):
            for statement in _SCHEMA:
                execute(statement)
            execute("INSERT INTO meta VALUES ('model', ?), ('session_key', ?)", (model, os.urandom(32)))
        application, layout = self._first("PRAGMA application_id"), self._first("PRAGMA user_version")
        if application != APPLICATION:
            raise StoreRefusedError(f"{self._path} holds something else than nextword's sessions; name another file")
        if layout != LAYOUT:
            raise StoreRefusedError(
                f"{self._path} has layout {layout}, and this version reads {LAYOUT}; name another file"
            )
        made_by = self._first("SELECT value FROM meta WHERE name = 'model'")
        if made_by != model:
            raise StoreRefusedError(
                f"{self._path} holds sessions of the model {made_by}, not of {model}; name another file or --model"
            )
        key: bytes = self._first("SELECT value FROM meta WHERE name = 'session_key'")
        execute("COMMIT")
        return key

    def _refused(self, error: OSError | sqlite3.Error) -> StoreRefusedError:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return StoreRefusedError(f"cannot keep sessions in {self._path}: {reason}; name another file")

    def _recount(self) -> None:
        """Somebody else may have written to the file."""
        self._seen = self._first("PRAGMA data_version")
        self.count = self._first("SELECT count(*) FROM sessions")
        owners = self._connection.execute("SELECT owner, count(*) FROM sessions WHERE owner != '' GROUP BY owner")
        self._owners = Counter(dict(owners.fetchall()))
