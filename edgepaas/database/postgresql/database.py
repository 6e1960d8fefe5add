# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL behind the Database interface: a pool whose connections have real deadlines."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import exc
from sqlalchemy.orm import Session

from edgepaas.database.append import AppendJob
from edgepaas.database.database import Database
from edgepaas.database.failures import is_retryable
from edgepaas.database.postgresql.append_journal import AppendJournal
from edgepaas.database.postgresql.append_queue import AppendQueue
from edgepaas.database.postgresql.append_store import FactStore
from edgepaas.database.postgresql.connector import COMPARE_TIMEOUT, Connector, service_connector
from edgepaas.database.postgresql.pinger import Pinger
from edgepaas.database.postgresql.pool import (
    IDLE_KEPT,
    POOL_TIMEOUT,
    SharedServerPool,
    ask,
    reading_engine,
    server_engine,
)
from edgepaas.database.postgresql.write_outcomes import (
    StatementTracker,
    TouchedTables,
    forwarded_tables,
    known_tables,
    rehearse_on,
)
from edgepaas.database.write_session import WriteSession
from edgepaas.errors import DatabaseBusy, DatabaseError, DatabaseUnavailable
from edgepaas.outcomes.causes import Access, Refusal
from edgepaas.outcomes.outcomes import Outcomes
from edgepaas.pgdriver.commit_wait import CommitWatch
from edgepaas.pgdriver.failures import ConnectFailure, server_message
from edgepaas.timing.backoff import jitter, pause_after
from edgepaas.timing.deadline import Scope, within

if TYPE_CHECKING:
    from sqlalchemy import MetaData

    from edgepaas.marks.journaling import StreamJournal
    from edgepaas.marks.keeper import MarkKeeper
    from edgepaas.settings import Settings

logger = logging.getLogger("edgepaas.database")

T = TypeVar("T")

#: How often a transaction is run that PostgreSQL asks for again, before DatabaseBusy.
ATTEMPTS = 6
#: Seconds before the second attempt at most; twice as long before each later one.
_FIRST_PAUSE = 0.04
#: Seconds that COMMIT and its cancellation take at most where DB_STATEMENT_TIMEOUT is off.
UNBOUNDED_STATEMENTS = 60.0
#: How many times as long as a COMMIT an append may take in all, with a journal on the disk.
_PATIENCE_FACTOR = 6.0
#: Seconds that a row of a flight may take beside: half a kilobyte over 100 kB/s.
SECONDS_A_ROW = 0.005
#: Seconds for closing connections to a server that may be gone.
CLOSE_TIMEOUT = 2.0
#: Seconds for storing what waits to be appended when the database is closed.
APPENDS_CLOSE_TIMEOUT = 5.0
#: The same where the last ping had no answer: SQLite is waited for.
LOST_CLOSE_TIMEOUT = 0.2


class ServerDatabase(Database):
    """The PostgreSQL at *url*; nothing is connected before the first use."""

    dialect = "postgresql"
    appends_at_once = True

    def __init__(
        self,
        url: str,
        settings: "Settings",
        *,
        connector: Connector | None = None,
        marks: "MarkKeeper | None" = None,
    ) -> None:
        """*connector*: of :func:`service_connector`, where it knows the link already.

        *marks*: keeps what the server acknowledges, so that what it loses has a number.
        """
        self._marks = marks
        self._connector = connector or service_connector(url, settings)
        self._engine = server_engine(
            self._connector, settings, notify=self._noticed, suspect=self._suspect, marks=marks
        )
        #: How the writes of this process end, by table; what else writes to PostgreSQL reports
        #: to it as well.
        self.outcomes = Outcomes(
            patience=settings.number("WRITE_PATIENCE"), rehearse=self.rehearse_write
        )
        #: What commits on a connection of this database does so under its watch.
        self._commit_limit = _commit_limit(settings.number("DB_STATEMENT_TIMEOUT"))
        self.commits = CommitWatch(self._commit_limit)
        self._tracker = StatementTracker(self._engine)
        self._facts = FactStore(
            self._engine,
            self,
            self.outcomes,
            lost=self._noticed,
            suspect=self._suspect,
            forget_idle=self._forget_idle,
            bounded=self._bounded_flight,
        )
        self._appends = AppendQueue(self._facts.store)
        self._reads = reading_engine(self._engine)
        self._pinger = Pinger(self._connector, max_age=settings.number("DB_POOL_RECYCLE"))
        self._gave_back_at = time.monotonic()

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        with (
            self._recorded(reading=True),
            self._translated(),
            Session(self._reads, expire_on_commit=False) as session,
        ):
            yield session

    def write(self, work: Callable[[Session], T]) -> T:
        for attempt in range(ATTEMPTS):
            if attempt:
                # Two transactions in a deadlock must not meet again in step.
                time.sleep(pause_after(attempt, first=_FIRST_PAUSE, longest=1.0) * jitter(0.0))
            with self._recorded(reading=False) as touched, self._translated():
                try:
                    return self._transaction(work, touched)
                except exc.DBAPIError as error:
                    if not is_retryable(error):
                        raise
                touched.forget()
        raise DatabaseBusy(
            f"PostgreSQL asked {ATTEMPTS} times to run the transaction again; nothing was written"
        )

    def submit(self, job: AppendJob) -> None:
        self._appends.put(job)

    @property
    def longest_ping(self) -> float:
        return self._pinger.longest

    def ping(self) -> None:
        before = self._pinger.place
        try:
            self._pinger.ping()
        except DatabaseUnavailable as error:
            self._suspect(error)
            raise
        if before not in ("", self._pinger.place):
            # Another of several hosts: reads would go on at the first one, which falls behind.
            self._forget_idle()
        self._give_back_idle()

    @property
    def place(self) -> str:
        return self._pinger.place

    def require_tables(self, metadata: "MetaData") -> None:
        self._pinger.require_tables(metadata)
        self.outcomes.known = known_tables(metadata)
        self._tracker.forwarded = forwarded_tables(metadata)

    @property
    def marks(self) -> "MarkKeeper | None":
        """The marks of its connections; None where none are kept."""
        return self._marks

    def use_journal(self, journal: "StreamJournal | None") -> None:
        """Write rows of forwarded tables into *journal* ahead of their COMMIT; None: into none.

        It is closed with the database. Only where marks are kept (:attr:`marks`).
        """
        if self._marks is None:
            return
        self._marks.journal = journal
        # PostgreSQL's part is bounded by itself; a disk that hangs is bounded by nothing.
        self.patience = None if journal is None else _PATIENCE_FACTOR * self._commit_limit
        self._facts.journal = None if journal is None else AppendJournal(journal)

    def compare_marks(self) -> None:
        """Compare the marks over a connection of the pool; raises DatabaseError."""
        if self._marks is None:
            return
        with self._translated(), self._engine.connect() as connection:
            driver = connection.connection.dbapi_connection
            try:
                self._marks.look(partial(ask, driver, seconds=COMPARE_TIMEOUT))
            except Exception as error:
                connection.invalidate(error)
                said = server_message(error)
                raise DatabaseUnavailable(f"PostgreSQL does not tell its marks: {said}") from error

    def close(self) -> None:
        """Close what can be closed in CLOSE_TIMEOUT; a lost server's is left to the kernel."""
        self._appends.close(APPENDS_CLOSE_TIMEOUT if self._pinger.works else LOST_CLOSE_TIMEOUT)

        def work(_scope: Scope) -> None:
            self._connector.close_early()
            self._pinger.close()
            self._engine.dispose()

        try:
            within(CLOSE_TIMEOUT, work, name="database-close")
        except Exception as error:  # noqa: BLE001 - the process ends, and so do its connections
            logger.warning("not every connection to PostgreSQL was closed in order: %r", error)
        if self._marks is not None:
            journal = self._marks.journal
            self.use_journal(None)
            if journal is not None:
                journal.close()
            self._marks.close()

    def _transaction(self, work: Callable[[Session], T], touched: TouchedTables) -> T:
        session = WriteSession(self._engine)
        try:
            result = work(session)
            session.flush()
            touched.committing = True
            with self.commits.watching(session.connection().connection.dbapi_connection):
                session.finish()
        except BaseException:
            # Closing alone would leave added objects detached; when *work* is run again, the
            # session would take them for rows that exist.
            with contextlib.suppress(DatabaseError, exc.SQLAlchemyError):
                session.undo()
            raise
        finally:
            session.release()
        return result

    @contextlib.contextmanager
    def _recorded(self, *, reading: bool) -> Iterator[TouchedTables]:
        """Record how the block ended for the tables that it touched; raises what it is to raise."""
        with self._tracker.tracking() as touched:
            try:
                yield touched
            except (exc.DBAPIError, DatabaseError) as error:
                access = Access.READ if reading else touched.access
                instead = self.outcomes.record(
                    touched.blamed, error, began=touched.began, access=access
                )
                if instead is None or instead is error:
                    raise
                raise instead from error
            if reading:
                self.outcomes.record(tuple(touched.read), None, access=Access.READ)
                return
            self.outcomes.record(tuple(touched.written), None)
            self.outcomes.record(tuple(touched.read), None, access=Access.LOOK)

    def _bounded_flight(self, connection: Any, rows: int) -> AbstractContextManager[None]:
        """Bound a flight of *rows* rows with its COMMIT, which waits for none of them."""
        before = self._commit_limit + rows * SECONDS_A_ROW
        return self.commits.watching(connection, before=before)

    def rehearse_write(self, table: str) -> Refusal | None:
        """Rehearse a write to *table*, on a new connection; return why every row is refused.

        None where the row was taken. Raises DatabaseUnavailable.
        """
        return rehearse_on(
            lambda seconds: self._connector(deadline=seconds),
            table,
            self.outcomes.known.get(table),
        )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.TimeoutError as error:
            raise DatabaseBusy(
                f"no connection to PostgreSQL came free within {POOL_TIMEOUT:g} s"
            ) from error

    def _give_back_idle(self) -> None:
        if time.monotonic() - self._gave_back_at < IDLE_KEPT / 2:
            return
        self._gave_back_at = time.monotonic()
        if isinstance(self._engine.pool, SharedServerPool):
            self._engine.pool.close_idle(IDLE_KEPT)

    def _forget_idle(self) -> None:
        if isinstance(self._engine.pool, SharedServerPool):
            self._engine.pool.forget_idle()

    def _noticed(self, original: BaseException, error: DatabaseError) -> None:
        if isinstance(original, ConnectFailure):
            # Old connections may go on working where no new one is let in.
            self._pinger.renew()
        if isinstance(error, DatabaseUnavailable):
            self._report_unavailable(error)


def _commit_limit(statement_timeout: float) -> float:
    """Return the seconds that a COMMIT may wait, by DB_STATEMENT_TIMEOUT (0: none).

    Half of it, since what cannot be cancelled gets as much time again.
    """
    return (statement_timeout or UNBOUNDED_STATEMENTS) / 2
