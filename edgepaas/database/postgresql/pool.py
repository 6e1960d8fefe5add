# SPDX-License-Identifier: Apache-2.0
"""The pool of PostgreSQL connections: what one box may hold of a server that it shares."""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sqlalchemy import Connection, Engine, event, exc
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from edgepaas.database.engine import new_engine
from edgepaas.database.failures import translate_postgres
from edgepaas.database.postgresql import dialect_adapter
from edgepaas.database.postgresql.connector import ask_within, attach_marks
from edgepaas.database.postgresql.pool_adapter import AdaptedPool
from edgepaas.errors import DatabaseBusy, DatabaseError, DatabaseUnavailable
from edgepaas.pgdriver.failures import ConnectFailure

if TYPE_CHECKING:
    from edgepaas.database.postgresql.connector import Connector
    from edgepaas.marks.keeper import MarkKeeper
    from edgepaas.pgdriver.flights import FlightConnection
    from edgepaas.settings import Settings
    from edgepaas.timing.link import Link

#: Seconds to wait for a connection of the pool, and between two attempts to get one.
POOL_TIMEOUT = 5.0
_RETRY_INTERVAL = 0.25
#: One that was used within this many seconds is not asked to prove itself.
FRESH = 1.0
#: One that was idle for so many seconds is closed, so that another box can have it.
IDLE_KEPT = 60.0
#: Seconds that a ping, and the first answer of a connection that was idle, may take; over a slow
#: link as long as so many round trips, of which the second one is for a packet that was lost.
PING_TIMEOUT = 1.5
PING_TRIPS = 2


class NoFurtherConnection(DatabaseBusy):
    """PostgreSQL has no further connection for this box, which goes on with those it has."""


class SharedServerPool(AdaptedPool):
    """A pool that makes do with fewer connections where the server is at its limit.

    The last one used is the first one taken, so that what is not needed stays idle and can
    be closed. Every connection in the pool is open: one that is lost leaves it.
    """

    def take(self) -> ConnectionPoolEntry:
        until = time.monotonic() + POOL_TIMEOUT
        while True:
            try:
                return self._opened(self.take_or_make())
            except (exc.TimeoutError, NoFurtherConnection) as error:
                left = until - time.monotonic()
                if left <= 0:
                    raise
                if isinstance(error, exc.TimeoutError):
                    continue  # it has waited
            # For one of our own that comes back; then another may have hung up.
            record = self.take_idle(min(self.patience, left))
            if record is not None:
                return self._opened(record)

    def give_back(self, record: ConnectionPoolEntry) -> None:
        if record.dbapi_connection is None:
            self.free_place()
        else:
            self.keep(record)

    def close_idle(self, idle: float) -> None:
        """Close what has not been used for *idle* seconds; one connection is kept."""
        now = time.monotonic()
        freshest_first = []
        while (record := self.take_idle(0)) is not None:
            freshest_first.append(record)
        for place, record in reversed(list(enumerate(freshest_first))):
            used_at = record.info.get("used_at")
            if place and used_at is not None and now - used_at > idle:
                record.close()
            self.give_back(record)

    def forget_idle(self) -> None:
        """Close every idle connection: where one was cut, the others are as well."""
        while (record := self.take_idle(0)) is not None:
            record.close()
            self.give_back(record)

    def _opened(self, record: ConnectionPoolEntry) -> ConnectionPoolEntry:
        """Return *record* with a connection; it may have been too old to be kept."""
        try:
            self.open_connection(record)
        except BaseException:
            self.give_back(record)
            raise
        return record


class _OwnConnections:
    """The connections of this box: those that are open, idle or in use, and those under way."""

    def __init__(
        self,
        connector: "Connector",
        suspect: Callable[[BaseException], None],
        marks: "MarkKeeper | None",
    ) -> None:
        self._connector = connector
        self._marks = marks
        self._suspect = suspect
        self._lock = threading.Lock()
        self._open: WeakSet[Any] = WeakSet()
        self._under_way = 0

    def connect(self) -> "FlightConnection":
        """Return a new one; raises ConnectFailure, and NoFurtherConnection where there are some."""
        with self._lock:
            self._under_way += 1
        try:
            connection = self._connector()
        except ConnectFailure as error:
            with self._lock:
                self._under_way -= 1
                # Of several that are refused at once the last one is alone.
                some = len(self._open) + self._under_way
            if error.full and some:
                raise NoFurtherConnection(
                    f"{error}; this box continues with the {some} that it has"
                ) from error
            raise
        except BaseException:
            with self._lock:
                self._under_way -= 1
            raise
        with self._lock:
            self._under_way -= 1
            self._open.add(connection)
        connection.reopen = partial(self._reopen, connection)
        if self._marks is not None:
            self._attach(self._marks, connection)
        return connection

    def _attach(self, marks: "MarkKeeper", connection: "FlightConnection") -> None:
        """Compare the marks over a new *connection*, and keep its own; raises ConnectFailure."""
        if marks.keeps(connection):
            return  # it was begun early
        try:
            attach_marks(marks, connection)
        except BaseException:
            with self._lock:
                self._open.discard(connection)
            raise

    def _reopen(self, dead: "FlightConnection", error: BaseException) -> "FlightConnection":
        """Return a new one in the place of *dead*, which goes on with what is in it."""
        self._suspect(error)
        with self._lock:
            self._open.discard(dead)
        fresh = self.connect()
        if self._marks is not None:
            self._marks.detach(dead)  # its stream: the server may still be busy with it
        with self._lock:
            self._open.discard(fresh)
            self._open.add(dead)
        return fresh

    def forget(self, connection: Any, _record: ConnectionPoolEntry) -> None:
        """Note that the pool closes *connection*."""
        with self._lock:
            self._open.discard(connection)


def server_engine(
    connector: "Connector",
    settings: "Settings",
    *,
    notify: Callable[[BaseException, DatabaseError], None],
    suspect: Callable[[BaseException], None] = lambda _error: None,
    marks: "MarkKeeper | None" = None,
) -> Engine:
    """Return the pooled engine on what *connector* makes.

    *notify* is called for each lost connection; that a server has no further one is no loss
    while some are open.
    *suspect* is called for a connection that turns out to be dead when it is used next, before
    a new one is tried: that can take seconds, and what is lost should be known by then.
    *marks*: keeps the marks of each connection.
    """

    own = _OwnConnections(connector, suspect, marks)

    def create() -> Any:
        try:
            return own.connect()
        except DatabaseUnavailable as error:
            notify(error, error)
            raise

    engine = new_engine(
        dialect_adapter.URL,
        translate_postgres,
        notify=notify,
        creator=create,
        poolclass=SharedServerPool,
        pool_use_lifo=True,
        pool_size=settings.integer("DB_POOL_SIZE"),
        max_overflow=settings.integer("DB_MAX_OVERFLOW"),
        pool_recycle=settings.integer("DB_POOL_RECYCLE"),
        pool_timeout=_RETRY_INTERVAL,
    )
    event.listen(engine, "close", own.forget)
    if marks is not None:
        event.listen(engine, "close", lambda connection, _record: marks.detach(connection))
    event.listen(engine, "checkin", _put_back)
    event.listen(engine, "checkout", partial(_take_out, connector.link))
    return engine


def ask(connection: Any, question: str = ";", seconds: float | None = None) -> Any:
    """Return the rows of *question*, asked outside of a transaction.

    *seconds* (default: PING_TIMEOUT) are a real deadline.
    """
    return ask_within(connection, question, seconds=PING_TIMEOUT if seconds is None else seconds)


def reading_engine(engine: Engine) -> Engine:
    """Return *engine* for reads: a statement that only reads is sent without a transaction.

    Each sees the database as it is then, as in a transaction of PostgreSQL's default kind.
    From the first statement on that is no plain read, all are one transaction, as ever; so are
    those of a connection that was given an isolation level of its own.
    """
    reads = engine.execution_options()

    def begin(connection: Connection) -> None:
        if "isolation_level" not in connection.get_execution_options():
            connection.connection.dbapi_connection.plain_reads = True  # type: ignore[union-attr]

    event.listen(reads, "begin", begin)
    return reads


def _put_back(connection: "FlightConnection | None", record: ConnectionPoolEntry) -> None:
    record.info["used_at"] = time.monotonic()
    if connection is not None:
        connection.plain_reads = False


def _take_out(
    link: "Link",
    connection: "FlightConnection",
    record: ConnectionPoolEntry,
    _proxy: PoolProxiedConnection,
) -> None:
    """Have a connection that was idle prove itself by its first answer; no ping is sent."""
    used_at = record.info.get("used_at")
    idle = used_at is not None and time.monotonic() - used_at >= FRESH
    connection.prove_within = link.limit(PING_TIMEOUT, PING_TRIPS) if idle else None
