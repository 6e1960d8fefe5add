# SPDX-License-Identifier: Apache-2.0
"""SQLite behind the Database interface: many readers, one group-commit writer."""

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, event, exc
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, QueuePool

from edgepaas.database.append import AppendJob
from edgepaas.database.database import Database
from edgepaas.database.engine import PlainSelect, new_engine
from edgepaas.database.failures import (
    is_busy,
    is_damaged,
    is_full,
    translate_sqlite,
)
from edgepaas.database.sqlite.capture_guard import Capture
from edgepaas.database.sqlite.connection import BUSY_TIMEOUT, open_sqlite
from edgepaas.database.sqlite.file_identity import OpenFiles
from edgepaas.database.sqlite.group_commit import GroupCommitWriter, GroupSizes
from edgepaas.database.sqlite.integrity import IntegrityCheck
from edgepaas.database.sqlite.transaction import in_transaction
from edgepaas.errors import DatabaseBusy, DatabaseError, DatabaseFull, DatabaseUnavailable
from edgepaas.files.locks import LockHeld, acquire
from edgepaas.files.size_limit import SizeLimit
from edgepaas.files.sqlite_file import forget_use, note_damage, note_use

logger = logging.getLogger("edgepaas.database")

T = TypeVar("T")

#: Seconds to wait for a swap of the file to finish, and for a reader's connection.
LOCK_TIMEOUT = 10.0
READER_TIMEOUT = 5.0
#: Seconds that a ping waits for another process's lock.
PING_TIMEOUT = 1.0

_PROBE = "SELECT count(*) FROM sqlite_schema"


class EmbeddedDatabase(Database):
    """The SQLite file *path*, held under a shared *lock* until it is closed."""

    dialect = "sqlite"
    appends_at_once = True

    def __init__(
        self,
        path: Path,
        *,
        lock: Path,
        readers: int,
        patience: float | None,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """*readers*: connections kept for reading; *patience*: seconds a write waits at most.

        *on_commit* is called when rows for the hub have been committed (see GroupCommitWriter).
        """
        self._path = path
        self.patience = patience
        self._files: OpenFiles | None = None
        self._files_lost = False
        self._rescued = False
        self._trial: sqlite3.Connection | None = None
        self._closed = False
        self._damage: BaseException | None = None
        self._refused = ""
        #: What the rows of the file may take.
        self.size_limit = SizeLimit(path)
        #: Called, in the thread that noticed, when a write finds no room on the disk.
        self.on_full: Callable[[], None] | None = None
        self._ping_lock = threading.Lock()
        try:
            self._lock = acquire(lock, shared=True, timeout=LOCK_TIMEOUT)
        except LockHeld as error:
            raise DatabaseUnavailable(
                f"{path} is being replaced or repaired by another process: {error}"
            ) from error
        try:
            self._ping_connection = self._open(read_only=True, busy_timeout=PING_TIMEOUT)
            self._ping_connection.execute(_PROBE).fetchone()
            self._files = OpenFiles(path)
        except BaseException:
            os.close(self._lock)
            raise
        self._readers = self._engine(
            writing=False, poolclass=QueuePool, pool_size=readers, pool_timeout=READER_TIMEOUT
        )
        self._writer = GroupCommitWriter(
            self._engine(writing=True, poolclass=NullPool),
            patience=patience,
            translate=self._driver_error,
            check=self._check_files,
            require_room=self.size_limit.require_room,
            on_commit=on_commit,
        )
        self._use = note_use(path)
        self._integrity = IntegrityCheck(path, self._found_damaged)
        self._integrity.start()

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        try:
            with Session(self._readers, expire_on_commit=False) as session:
                yield session
        except exc.TimeoutError as error:
            raise _no_reader() from error

    def fetch(self, select: PlainSelect, parameters: Mapping[str, Any]) -> list[Any]:
        text, bind = select.on(self._readers.dialect)
        values = bind(parameters)
        try:
            connection = self._readers.raw_connection()
        except exc.TimeoutError as error:
            raise _no_reader() from error
        try:
            # One statement sees one snapshot without a BEGIN around it.
            return list(connection.cursor().execute(text, values))
        except sqlite3.Error as error:
            translated = translate_sqlite(error, writing=False)
            if translated is None:
                raise
            if isinstance(translated, DatabaseUnavailable):
                connection.invalidate(error)
            self._noticed(error, translated)
            raise translated from error
        finally:
            connection.close()

    def write(self, work: Callable[[Session], T]) -> T:
        if self._refused:
            raise DatabaseFull(self._refused)
        return self._writer.submit(work)

    def submit(self, job: AppendJob) -> None:
        if not self._refused:
            self._writer.append(job)
        elif job.claim():
            job.done(DatabaseFull(self._refused))

    @property
    def group_sizes(self) -> GroupSizes:
        """How many writes went into a commit."""
        return self._writer.sizes

    def refuse_writes(self, reason: str) -> None:
        """Refuse writes with DatabaseFull, which says *reason*; empty: take them again."""
        self._refused = reason

    def guard_capture(self, capture: Capture) -> None:
        """Have what *capture* lacks put back before anything is written without it."""
        self._writer.capture = capture

    def ping(self) -> None:
        if self._closed or not self._writer.alive:
            raise DatabaseUnavailable("the database is closed")
        if self._damage is not None:
            raise DatabaseUnavailable(
                f"{self._path} is damaged ({self._damage}): running the chain again sets it aside"
            )
        self._check_files()
        with self._ping_lock:
            try:
                self._ping_connection.execute(_PROBE).fetchone()
            except sqlite3.Error as error:
                if not self._closed:
                    self._suspect(error)
                raise DatabaseUnavailable(f"{self._path} does not answer: {error}") from error
            try:
                self._try_to_write()
            except sqlite3.Error as error:
                self._suspect(error)
                raise DatabaseUnavailable(f"{self._path} cannot be written: {error}") from error

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._integrity.stop()
        self._writer.close()
        self._readers.dispose()
        with self._ping_lock:
            self._drop_trial()
            self._ping_connection.close()
        forget_use(self._use)
        os.close(self._lock)

    def _check_files(self) -> None:
        """Raise DatabaseUnavailable when the files that are open have lost their names.

        What is written into them then is gone with the process.
        """
        try:
            lost = self._files.lost() if self._files is not None else ""
        except OSError as error:
            raise DatabaseUnavailable(f"{self._path} cannot be examined: {error}") from error
        if not lost:
            return
        gone = DatabaseUnavailable(f"{lost}: nothing is written any more; run the chain again")
        if not self._files_lost:
            self._files_lost = True
            self._report_unavailable(gone)
        with self._ping_lock:
            self._checkpoint_deleted_wal()
        raise gone

    def _checkpoint_deleted_wal(self) -> None:
        """Bring what only a deleted -wal holds into the database file, if that is still there."""
        if self._rescued or self._closed or not (self._files and self._files.file_is_there()):
            return
        try:
            busy, *_ = self._ping_connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
        except sqlite3.Error as error:
            logger.error("what a deleted -wal held is not brought into the file: %s", error)
            return
        self._rescued = not busy
        if self._rescued:
            logger.warning("what was acknowledged before is in the file %s", self._path)

    def _try_to_write(self) -> None:
        """Raise sqlite3.Error when the file takes no write; with the ping's lock held.

        Costs no disk: the change is taken back. Only where the writer could not write, it is
        committed, which is the proof that it can again. BEGIN IMMEDIATE alone passes on a
        file that SQLite had to open read-only.
        """
        try:
            if self._trial is None:
                self._trial = open_sqlite(self._path, busy_timeout=0)
            trial = self._trial
            trial.execute("BEGIN IMMEDIATE")
            try:
                (version,) = trial.execute("PRAGMA user_version").fetchone()
                trial.execute(f"PRAGMA user_version={version}")
            finally:
                trial.execute("COMMIT" if self._writer.failing else "ROLLBACK")
        except sqlite3.Error as error:
            if is_busy(error):
                return  # another process writes: the file can be written
            self._drop_trial()  # it may have been opened read-only; the next one need not be
            if not is_full(error):  # known by the disk check, and reading goes on
                raise
        else:
            self._writer.failing = False

    def _drop_trial(self) -> None:
        trial, self._trial = self._trial, None
        if trial is not None:
            trial.close()

    def _open(self, *, read_only: bool, busy_timeout: float = BUSY_TIMEOUT) -> sqlite3.Connection:
        self._check_files()  # it would make a -wal of its own, beside that of the others
        try:
            return open_sqlite(self._path, read_only=read_only, busy_timeout=busy_timeout)
        except sqlite3.Error as error:
            if not self._path.exists():
                raise DatabaseUnavailable(
                    f"{self._path} is not there: run 'edgepaas schema', which creates it"
                ) from error
            translated = translate_sqlite(error, writing=True)
            self._noticed(error, translated)
            raise translated or DatabaseUnavailable(f"{self._path}: {error}") from error

    def _engine(self, *, writing: bool, **pool: Any) -> Engine:
        engine = new_engine(
            "sqlite://",
            partial(translate_sqlite, writing=writing),
            notify=self._noticed,
            creator=partial(self._open, read_only=not writing),
            **pool,
        )
        event.listen(engine, "begin", _begin_immediate if writing else _begin_snapshot)
        return engine

    def _driver_error(self, error: sqlite3.Error) -> BaseException:
        """Return what a caller gets for an *error* of the writer's bare connection."""
        translated = translate_sqlite(error, writing=True)
        if translated is not None:
            self._noticed(error, translated)
            return translated
        return exc.DBAPIError.instance("", (), error, sqlite3.Error, hide_parameters=True)

    def _found_damaged(self, problem: sqlite3.DatabaseError) -> None:
        self._damage = problem
        self._report_unavailable(DatabaseUnavailable(f"{self._path} is damaged: {problem}"))

    def _noticed(self, original: BaseException, error: DatabaseError | None) -> None:
        if is_damaged(original):
            if self._damage is None:
                note_damage(self._path, original)
            self._damage = original
        if isinstance(error, DatabaseFull) and self.on_full is not None:
            self.on_full()
        if isinstance(error, DatabaseUnavailable):
            self._report_unavailable(error)


def _no_reader() -> DatabaseBusy:
    return DatabaseBusy(f"no connection for reading came free within {READER_TIMEOUT:g} s")


def _begin_snapshot(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _begin_immediate(connection: Connection) -> None:
    # A group that began with appended facts has begun on the bare connection already.
    if not in_transaction(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
