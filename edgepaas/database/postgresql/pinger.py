# SPDX-License-Identifier: Apache-2.0
"""Asking PostgreSQL whether it would do, on a connection of its own: bounded, and once for all."""

import threading
import time
from typing import TYPE_CHECKING, Any

from edgepaas.database.postgresql.connector import Connector
from edgepaas.database.postgresql.pool import PING_TIMEOUT, PING_TRIPS, ask
from edgepaas.database.table_presence import TableMissing, missing_query
from edgepaas.errors import DatabaseUnavailable
from edgepaas.pgdriver.connection import close_quietly
from edgepaas.pgdriver.failures import ConnectFailure, server_message
from edgepaas.timing.link import LOGIN_TRIPS

if TYPE_CHECKING:
    from sqlalchemy import MetaData

#: Seconds that have to be left of a ping for a new connection to be worth a try.
LEAST_CONNECT = 0.5

_STATE = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')"


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
        return self._link.limit(PING_TIMEOUT, LOGIN_TRIPS + 2 * PING_TRIPS)

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
        patience = self._link.limit(PING_TIMEOUT, PING_TRIPS)
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
            question = self._link.limit(LEAST_CONNECT, PING_TRIPS)
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
