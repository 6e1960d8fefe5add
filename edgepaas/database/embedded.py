"""SQLite behind the Database interface: many readers, one group-commit writer."""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, exc
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, QueuePool

from edgepaas.database.batches import EXECUTION_OPTIONS, batch_inserts
from edgepaas.database.database import Database
from edgepaas.database.failures import is_damaged, translate_errors_of, translate_sqlite
from edgepaas.database.sqlite import BUSY_TIMEOUT, open_sqlite
from edgepaas.database.types import dump_json
from edgepaas.database.writer import GroupCommitWriter
from edgepaas.errors import DatabaseBusy, DatabaseError, DatabaseUnavailable
from edgepaas.files.locks import LockHeld, acquire

T = TypeVar("T")

#: Seconds to wait for a swap of the file to finish, and for a reader's connection.
LOCK_TIMEOUT = 10.0
READER_TIMEOUT = 10.0
#: Seconds that a ping waits for another process's lock.
PING_TIMEOUT = 1.0


class EmbeddedDatabase(Database):
    """The SQLite file *path*, held under a shared *lock* until it is closed."""

    dialect = "sqlite"

    def __init__(self, path: Path, *, lock: Path, readers: int, patience: float) -> None:
        """*readers*: connections kept for reading; *patience*: seconds a write waits at most."""
        self._path = path
        self._closed = False
        self._damage: BaseException | None = None
        self._ping_lock = threading.Lock()
        try:
            self._lock = acquire(lock, shared=True, timeout=LOCK_TIMEOUT)
        except LockHeld as error:
            raise DatabaseUnavailable(
                f"{path} is being swapped or repaired by another process: {error}"
            ) from error
        try:
            self._ping_connection = self._open(read_only=True, busy_timeout=PING_TIMEOUT)
            self._inode = path.stat().st_ino
        except BaseException:
            os.close(self._lock)
            raise
        self._readers = self._engine(
            writing=False, poolclass=QueuePool, pool_size=readers, pool_timeout=READER_TIMEOUT
        )
        self._writer = GroupCommitWriter(
            self._engine(writing=True, poolclass=NullPool), patience=patience
        )

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        try:
            with Session(self._readers, expire_on_commit=False) as session:
                yield session
        except exc.TimeoutError as error:
            raise DatabaseBusy(
                f"no connection for reading came free within {READER_TIMEOUT:g} s"
            ) from error

    def write(self, work: Callable[[Session], T]) -> T:
        return self._writer.submit(work)

    def ping(self) -> None:
        if self._closed or not self._writer.alive:
            raise DatabaseUnavailable("the database is closed")
        if self._damage is not None:
            raise DatabaseUnavailable(
                f"{self._path} is damaged ({self._damage}): running the chain again sets it aside"
            )
        try:
            with self._ping_lock:
                if self._path.stat().st_ino != self._inode:
                    raise DatabaseUnavailable(
                        f"{self._path} was replaced while it was open: run the chain again"
                    )
                self._ping_connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except (OSError, sqlite3.Error) as error:
            raise DatabaseUnavailable(f"{self._path} does not answer: {error}") from error

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._writer.close()
        self._readers.dispose()
        with self._ping_lock:
            self._ping_connection.close()
        os.close(self._lock)

    def _open(self, *, read_only: bool, busy_timeout: float = BUSY_TIMEOUT) -> sqlite3.Connection:
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
        engine = create_engine(
            "sqlite://",
            creator=partial(self._open, read_only=not writing),
            json_serializer=dump_json,
            # A statement's values are people's data: they have no place in an error or a log.
            hide_parameters=True,
            execution_options=EXECUTION_OPTIONS,
            **pool,
        )
        batch_inserts(engine)
        begin = _begin_immediate if writing else _begin_snapshot
        event.listen(engine, "begin", begin)
        translate_errors_of(engine, partial(translate_sqlite, writing=writing), tell=self._noticed)
        return engine

    def _noticed(self, original: BaseException, error: DatabaseError | None) -> None:
        if is_damaged(original):
            self._damage = original
        if isinstance(error, DatabaseUnavailable):
            self._tell_unavailable(error)


def _begin_snapshot(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
