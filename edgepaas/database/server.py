"""PostgreSQL behind the Database interface: a pool whose connections have real deadlines."""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Engine, create_engine, event, exc
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from edgepaas.database.batches import EXECUTION_OPTIONS, batch_inserts
from edgepaas.database.connector import Connector
from edgepaas.database.database import Database
from edgepaas.database.failures import is_retryable, translate_errors_of, translate_postgres
from edgepaas.database.types import dump_json
from edgepaas.database.writer import WriteSession
from edgepaas.errors import DatabaseBusy, DatabaseError, DatabaseUnavailable
from edgepaas.postgres.connection import bounded, close_quietly
from edgepaas.postgres.failures import server_message

if TYPE_CHECKING:
    from edgepaas.settings import Settings

T = TypeVar("T")

#: How often a transaction is run that PostgreSQL asks for again, before DatabaseBusy.
ATTEMPTS = 6
#: Seconds to wait for a connection of the pool.
POOL_TIMEOUT = 10.0
#: A connection that was used within this many seconds is taken without asking it.
FRESH = 1.0
#: Seconds that a ping and the question to an idle connection may take.
PING_TIMEOUT = 1.5


class ServerDatabase(Database):
    """The PostgreSQL at *url*; nothing is connected before the first use."""

    dialect = "postgresql"

    def __init__(self, url: str, settings: "Settings") -> None:
        self._connector = Connector(url, settings)
        self._engine = server_engine(self._connector, settings, tell=self._noticed)
        self._ping_lock = threading.Lock()
        self._ping_connection: Any = None

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        with self._translated(), Session(self._engine, expire_on_commit=False) as session:
            yield session

    def write(self, work: Callable[[Session], T]) -> T:
        for attempt in range(ATTEMPTS):
            if attempt:
                # Two transactions in a deadlock must not meet again in step.
                time.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - no secret
            with self._translated():
                try:
                    return self._transaction(work)
                except exc.DBAPIError as error:
                    if not is_retryable(error):
                        raise
        raise DatabaseBusy(
            f"PostgreSQL asked {ATTEMPTS} times to run the transaction again; nothing was written"
        )

    def ping(self) -> None:
        with self._ping_lock:
            if self._ping_connection is None:
                self._ping_connection = self._connector(deadline=PING_TIMEOUT)
                return  # it has just logged in and set its timeout: it answers
            try:
                ask(self._ping_connection)
            except Exception as error:
                close_quietly(self._ping_connection)
                self._ping_connection = None
                raise DatabaseUnavailable(
                    f"PostgreSQL does not answer: {server_message(error)}"
                ) from error

    def close(self) -> None:
        self._engine.dispose()
        with self._ping_lock:
            if self._ping_connection is not None:
                close_quietly(self._ping_connection)
                self._ping_connection = None

    def _transaction(self, work: Callable[[Session], T]) -> T:
        with WriteSession(self._engine) as session:
            try:
                result = work(session)
                session.finish()
            except BaseException:
                # Closing alone would leave added objects detached: run again, they would
                # be taken for rows that are there.
                with contextlib.suppress(DatabaseError, exc.SQLAlchemyError):
                    session.undo()
                raise
            return result

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.TimeoutError as error:
            raise DatabaseBusy(
                f"no connection to PostgreSQL came free within {POOL_TIMEOUT:g} s"
            ) from error

    def _noticed(self, original: BaseException, error: DatabaseError) -> None:
        if isinstance(error, DatabaseUnavailable):
            self._tell_unavailable(error)


def server_engine(
    connector: Connector,
    settings: "Settings",
    *,
    tell: Callable[[BaseException, DatabaseError], None],
) -> Engine:
    """Return the pooled engine on what *connector* makes; *tell* hears of each lost connection."""

    def create() -> Any:
        try:
            return connector()
        except DatabaseUnavailable as error:
            tell(error, error)
            raise

    engine = create_engine(
        "postgresql+pg8000://",
        creator=create,
        poolclass=QueuePool,
        pool_size=settings.integer("DB_POOL_SIZE"),
        max_overflow=settings.integer("DB_MAX_OVERFLOW"),
        pool_recycle=settings.integer("DB_POOL_RECYCLE"),
        pool_timeout=POOL_TIMEOUT,
        json_serializer=dump_json,
        # A statement's values are people's data: they have no place in an error or a log.
        hide_parameters=True,
        execution_options=EXECUTION_OPTIONS,
    )
    batch_inserts(engine)
    event.listen(engine, "checkin", _stamp)
    event.listen(engine, "checkout", _ask_idle)
    translate_errors_of(engine, translate_postgres, tell=tell)
    return engine


def ask(connection: Any) -> None:
    """Let *connection* answer an empty question, outside of a transaction, in PING_TIMEOUT."""
    before = connection.autocommit
    connection.autocommit = True
    with bounded(connection, PING_TIMEOUT):
        connection.execute_simple(";")
    connection.autocommit = before


def _stamp(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info["used_at"] = time.monotonic()


def _ask_idle(connection: Any, record: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    """Pre-ping, by hand: SQLAlchemy's own lets the driver's bare OSError through to the caller."""
    used_at = record.info.get("used_at")
    if used_at is None or time.monotonic() - used_at < FRESH:
        return
    try:
        ask(connection)
    except Exception as error:
        # The pool throws it away and tries with a new one.
        raise exc.DisconnectionError(str(error)) from error
