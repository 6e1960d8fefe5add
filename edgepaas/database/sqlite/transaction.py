# SPDX-License-Identifier: Apache-2.0
"""One transaction of the writer: jobs of SQLAlchemy's and jobs of the bare driver in it.

A transaction of appended facts alone never meets SQLAlchemy. A job that wants a session gets
one on the same connection, in the same transaction.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection

from edgepaas.database.append import FactsDiffer
from edgepaas.database.failures import translate_sqlite
from edgepaas.database.sqlite.append_statements import AppendStatements
from edgepaas.database.sqlite.capture_guard import Capture, CaptureGuard
from edgepaas.database.sqlite.transaction_stamp import TransactionStamp
from edgepaas.database.sqlite.write_job import FactsJob, Job, WorkJob
from edgepaas.database.write_session import WriteSession
from edgepaas.errors import DatabaseBusy

logger = logging.getLogger("edgepaas.database")

#: Facts of a job that is undone alone where it is refused. SQLite keeps in memory each page that
#: was changed since a savepoint: of ten thousand facts, a hundred megabytes in a large file.
MOST_IN_SAVEPOINT = 500

Translate = Callable[[sqlite3.Error], BaseException]


class WriterConnection:
    """The writer's connection, and what is kept for as long as it is open."""

    def __init__(
        self,
        connection: Connection,
        translate: Translate,
        capture: Callable[[], Capture | None] = lambda: None,
    ) -> None:
        """*translate* returns what callers get for an error of the bare driver.

        *capture* returns how changes are captured, None where they are not.
        """
        self.connection = connection
        driver: Any = connection.connection.dbapi_connection
        self.driver: sqlite3.Connection = driver
        self.translate = translate
        self.stamp = TransactionStamp(driver)
        self.guard = CaptureGuard(driver, capture)
        self.statements = AppendStatements(driver)

    def transaction(self) -> "Transaction":
        """Return a transaction that has not begun."""
        return Transaction(self)

    @property
    def is_lost(self) -> bool:
        """Whether the connection is closed, or was given up."""
        return self.connection.closed or self.connection.invalidated

    def drop(self) -> None:
        """Close it: after a failed commit or sync nothing it remembers is trusted."""
        if self.connection.closed:
            return
        try:
            self.connection.invalidate()
            self.connection.close()
        except Exception as error:  # noqa: BLE001 - the failure that led here is being reported
            logger.warning("the writer's connection could not be closed: %s", error)


class Transaction:
    """What the jobs of one group run in."""

    def __init__(self, on: WriterConnection) -> None:
        self._on = on
        self._driver = on.driver
        self._stamp = on.stamp
        self._session: WriteSession | None = None

    def begin(self, first: Job) -> None:
        """Begin, in the way of the *first* job."""
        self._on.statements.forget()
        if isinstance(first, FactsJob):
            self._execute("BEGIN IMMEDIATE")
        else:
            self._open_session()
        with self._translated():
            self._on.guard.begin()
            self._stamp.begin()

    @property
    def is_open(self) -> bool:
        """Whether SQLite has the transaction open."""
        return in_transaction(self._on.connection)

    @property
    def captured(self) -> int:
        """Rows captured for the hub."""
        return self._stamp.captured

    def run(self, job: Job) -> None:
        """Run a job of SQLAlchemy's; raises what it raises."""
        assert isinstance(job, WorkJob)  # noqa: S101 - there are two kinds
        self._on.statements.forget()
        job.run(self._session or self._open_session())

    def append(self, facts: FactsJob) -> None:
        """Store the facts of a job. One that is refused is undone alone, and knows why.

        Raises what is not the job's own fault, and why one was refused that cannot be undone
        alone: the others in the transaction are then run again.
        """
        try:  # not with _translated(): this is the way of the smallest write
            self._append(facts)
        except sqlite3.Error as error:
            raise self._on.translate(error) from error

    def _append(self, facts: FactsJob) -> None:
        several = 1 < len(facts.job.distinct) <= MOST_IN_SAVEPOINT
        changes = self._driver.total_changes
        if several:
            self._driver.execute("SAVEPOINT facts")
        try:
            accepted = self._on.statements.run(facts.job)
        except (FactsDiffer, ValueError, OverflowError, DatabaseBusy) as refusal:
            if several:
                self._driver.execute("ROLLBACK TO facts")
                self._driver.execute("RELEASE facts")
            elif self._driver.total_changes != changes:
                raise
            self._on.statements.forget()
            facts.note(translate_sqlite(refusal, writing=True) or refusal)
            return
        if several:
            self._driver.execute("RELEASE facts")
        facts.note(facts.job.appended(accepted))
        self._stamp.mark()

    def mark(self) -> None:
        """A job is done: what was captured since the last one is its."""
        with self._translated():
            self._stamp.mark()

    def finish(self, require_room: Callable[[sqlite3.Connection], None]) -> None:
        """Write what belongs to all jobs; raises DatabaseFull where there is no room for it all."""
        with self._translated():
            self._on.guard.finish()
            require_room(self._driver)

    def commit(self) -> None:
        """Commit; durable when this returns."""
        if self._session is not None:
            self._session.finish()
        else:
            self._execute("COMMIT")

    def undo(self) -> None:
        """Roll back, and release what there is."""
        if self._session is not None:
            self._session.undo()
            self._session.release()
        elif self._driver.in_transaction:
            self._driver.execute("ROLLBACK")

    def release(self) -> None:
        """Close the session, if there is one."""
        if self._session is not None:
            self._session.release()

    def _execute(self, statement: str) -> None:
        try:
            self._driver.execute(statement)
        except sqlite3.Error as error:
            raise self._on.translate(error) from error

    def _open_session(self) -> WriteSession:
        self._session = WriteSession(self._on.connection)
        self._session.connection()
        return self._session

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._on.translate(error) from error


def in_transaction(connection: Connection) -> bool:
    """Whether SQLite has a transaction open on *connection*."""
    driver = connection.connection.dbapi_connection
    return driver is not None and bool(driver.in_transaction)
