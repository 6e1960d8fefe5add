# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL behind the Database interface: a pool whose connections have real deadlines."""

import contextlib
import logging
import threading
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
from edgepaas.database.postgresql.append_queue import AppendQueue
from edgepaas.database.postgresql.append_store import FactStore
from edgepaas.database.postgresql.connector import Connector, service_connector
from edgepaas.database.postgresql.pool import (
    COMPARE_TIMEOUT,
    IDLE_KEPT,
    PING_TIMEOUT,
    POOL_TIMEOUT,
    SharedServerPool,
    ask,
    reading_engine,
    server_engine,
)
from edgepaas.database.postgresql.write_outcomes import (
    StatementTracker,
    TouchedTables,
    known_tables,
    rehearse_on,
)
from edgepaas.database.table_presence import TableMissing, missing_query
from edgepaas.database.write_session import WriteSession
from edgepaas.errors import DatabaseBusy, DatabaseError, DatabaseUnavailable
from edgepaas.outcomes.causes import Access, Refusal
from edgepaas.outcomes.outcomes import Outcomes
from edgepaas.pgdriver.commit_wait import CommitWatch
from edgepaas.pgdriver.connection import close_quietly
from edgepaas.pgdriver.failures import ConnectFailure, server_message
from edgepaas.timing.backoff import jitter, pause_after
from edgepaas.timing.deadline import Scope, within
from edgepaas.timing.link import LOGIN_TRIPS

if TYPE_CHECKING:
    from sqlalchemy import MetaData

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
#: Seconds that a row of a flight may take beside: half a kilobyte over 100 kB/s.
SECONDS_A_ROW = 0.005
#: Seconds for closing connections to a server that may be gone.
CLOSE_TIMEOUT = 2.0
#: Seconds for storing what waits to be appended when the database is closed.
APPENDS_CLOSE_TIMEOUT = 5.0
#: The same where the last ping had no answer: SQLite is waited for.
LOST_CLOSE_TIMEOUT = 0.2
#: Seconds that have to be left of it for a new connection to be worth a try.
LEAST_CONNECT = 0.5

#: Round trips for an answer to a ping; the second one is for a packet that was lost.
_PING_TRIPS = 2

_STATE = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')"


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
            patience=settings.number("WRITE_PATIENCE"), rehearse=self._rehearse
        )
        #: What commits on a connection of this database does so under its watch.
        self._commit_limit = _commit_limit(settings.number("DB_STATEMENT_TIMEOUT"))
        self.commits = CommitWatch(self._commit_limit)
        self._tracker = StatementTracker(self._engine)
        self._appends = AppendQueue(
            FactStore(
                self._engine,
                self,
                self.outcomes,
                lost=self._noticed,
                suspect=self._suspect,
                forget_idle=self._forget_idle,
                bounded=self._bounded_flight,
            ).store
        )
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
        try:
            self._pinger.ping()
        except DatabaseUnavailable as error:
            self._suspect(error)
            raise
        self._give_back_idle()

    @property
    def place(self) -> str:
        return self._pinger.place

    def require_tables(self, metadata: "MetaData") -> None:
        self._pinger.require_tables(metadata)
        self.outcomes.known = known_tables(metadata)

    @property
    def marks(self) -> "MarkKeeper | None":
        """The marks of its connections; None where none are kept."""
        return self._marks

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

    def _rehearse(self, table: str) -> Refusal | None:
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


class Pinger:
    """Asks PostgreSQL whether it would do, on a connection of its own.

    It does when it answers, takes writes, and has the tables that are relied on. An answer is
    waited for PING_TIMEOUT seconds, or two round trips of a slow link; one on a new connection
    for as long as a login takes there.
    A caller that comes while another one asks gets the same answer: the watch and a health
    check must not wait for each other when the server is silent, or it takes twice as long.
    """

    def __init__(self, connector: Connector, *, max_age: float) -> None:
        """*max_age*: seconds after which the connection is replaced by a new one."""
        self._connector = connector
        self._link = connector.link
        self._max_age = max_age
        self._made_at = 0.0
        self._renew = False
        self._question = _STATE
        self._lock = threading.Lock()
        self._asking: _PendingPing | None = None
        #: Whether the last ping had the answer that it should.
        self.works = True
        self._connection: Any = None
        self._closed = False
        #: The server that answered last, ``host:port``; empty before.
        self.place = ""

    @property
    def longest(self) -> float:
        """Seconds that :meth:`ping` takes at most: an answer in vain, then a new connection."""
        return self._link.limit(PING_TIMEOUT, LOGIN_TRIPS + 2 * _PING_TRIPS)

    def ping(self) -> None:
        """Return when the server would do; raises DatabaseUnavailable."""
        with self._lock:
            if self._closed:
                raise DatabaseUnavailable("the database is closed")
            pending = self._asking
            mine = pending is None
            if pending is None:
                pending = self._asking = _PendingPing()
        if not mine:
            # The other caller is bounded; the grace is for threads that get no processor.
            if not pending.answered.wait(2 * self.longest):
                raise DatabaseUnavailable("PostgreSQL does not answer: a ping hangs")
        else:
            try:
                self._ask()
            except DatabaseUnavailable as error:
                pending.failure = error
            except BaseException as error:
                pending.failure = DatabaseUnavailable(f"PostgreSQL could not be asked: {error!r}")
                raise
            finally:
                with self._lock:
                    self._asking = None
                self.works = pending.failure is None
                pending.answered.set()
        failure = pending.failure
        # Raised anew: several threads may hear of it.
        if isinstance(failure, TableMissing):
            raise TableMissing(failure.table, failure.column)
        if failure is not None:
            raise DatabaseUnavailable(str(failure))

    def renew(self) -> None:
        """Have the next ping log in afresh."""
        self._renew = True

    def require_tables(self, metadata: "MetaData") -> None:
        """Ask for the tables and columns of *metadata* as well."""
        tables = missing_query(metadata, "postgresql")
        self._question = (
            f"{_STATE}, t, c FROM (SELECT 1) AS one LEFT JOIN ({tables}) AS lacks(t, c) ON true"
            if tables
            else _STATE
        )

    def close(self) -> None:
        """Close the connection; a ping that is under way closes it when it ends."""
        with self._lock:
            self._closed = True
            if self._asking is None and self._connection is not None:
                close_quietly(self._connection)
                self._connection = None

    def _ask(self) -> None:
        """Ask on the kept connection; where that is gone, on a new one in the time left."""
        patience = self._link.limit(PING_TIMEOUT, _PING_TRIPS)
        deadline = time.monotonic() + patience
        connection = self._take(deadline)
        if connection is not None:
            try:
                self._examine(connection, deadline)
            except Exception as error:
                close_quietly(connection)
                connection = None
                left = deadline - time.monotonic()
                if left < LEAST_CONNECT:
                    why = server_message(error)
                    why = why if left > 0 else f"nothing came within {patience:.1f} s"
                    raise DatabaseUnavailable(f"PostgreSQL does not answer: {why}") from error
        if connection is None:
            connection = self._connector(deadline=deadline - time.monotonic())
            self._made_at = time.monotonic()
            # Over a slow link the login has taken the time of the question as well.
            question = self._link.limit(LEAST_CONNECT, _PING_TRIPS)
            deadline = max(deadline, time.monotonic() + question)
            try:
                self._examine(connection, deadline)
            except Exception as error:
                close_quietly(connection)
                if isinstance(error, DatabaseUnavailable):
                    raise
                raise DatabaseUnavailable(
                    f"PostgreSQL does not answer: {server_message(error)}"
                ) from error
        self.place = connection.endpoint
        with self._lock:
            if not self._closed:
                self._connection = connection
                return
        close_quietly(connection)

    def _take(self, deadline: float) -> Any:
        """Return the kept connection, None when there is none that would prove anything."""
        connection, self._connection = self._connection, None
        renew, self._renew = self._renew, False
        if connection is None:
            return None
        if renew:
            close_quietly(connection)
            return None
        if time.monotonic() - self._made_at > self._max_age:
            return self._younger(connection, deadline)
        return connection

    def _younger(self, old: Any, deadline: float) -> Any:
        """Return a new connection in the place of *old*; that one where there is no further one.

        A server at its limit would give the place of one that is closed to another box.
        """
        try:
            connection = self._connector(deadline=deadline - time.monotonic())
        except ConnectFailure as failure:
            if failure.full:
                return old
            close_quietly(old)
            raise
        close_quietly(old)
        self._made_at = time.monotonic()
        return connection

    def _examine(self, connection: Any, deadline: float) -> None:
        """Ask *connection* all that a ping wants to know; raises why it does not do."""
        began = time.monotonic()
        left = max(deadline - began, 0.1)
        in_recovery, read_only, *lacks = ask(connection, self._question, left)[0]
        self._link.measured(time.monotonic() - began)
        if in_recovery or read_only == "on":
            what = "is a standby" if in_recovery else "has become read-only"
            raise DatabaseUnavailable(f"PostgreSQL {what} and takes no writes")
        if lacks and lacks[0] is not None:
            raise TableMissing(lacks[0], lacks[1])


class _PendingPing:
    """A ping under way, and how it went."""

    def __init__(self) -> None:
        self.answered = threading.Event()
        self.failure: DatabaseUnavailable | None = None
