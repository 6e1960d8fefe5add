# SPDX-License-Identifier: Apache-2.0
"""The interface that applications see: read, write, ping; the same on both databases."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

if TYPE_CHECKING:
    from sqlalchemy import MetaData
    from sqlalchemy.orm import Session

    from edgepaas.database.append import AppendJob
    from edgepaas.database.engine import PlainSelect

logger = logging.getLogger("edgepaas.database")

T = TypeVar("T")


class Database(ABC):
    """An open database; safe to use from several threads, not across a fork.

    Connection errors of the driver come out as DatabaseUnavailable, DatabaseBusy or
    DatabaseFull, and so does whatever else the server is at fault for (a missing right, a table
    that was changed); a character that it cannot hold as DatabaseRefused.
    sqlalchemy.exc.IntegrityError and its like pass through.

    A list of rows for one ``session.execute(insert(Model), rows)`` travels as few
    multi-row statements; that is the fast way to insert on either database.
    """

    dialect: ClassVar[Literal["sqlite", "postgresql"]]

    #: Whether :meth:`submit` returns at once, so that a thread may call it that must not wait.
    appends_at_once: ClassVar[bool] = False
    #: Seconds after which a caller of :meth:`submit` waits no longer; None: what is asked of
    #: the database is bounded by itself.
    patience: float | None = None

    #: Called, in the thread that noticed, when an operation finds the database lost.
    on_unavailable: Callable[[BaseException], None] | None = None

    @abstractmethod
    def read(self) -> "AbstractContextManager[Session]":
        """Yield a session for reading; what it writes is refused or rolled back.

        On SQLite the whole block sees one snapshot, on PostgreSQL each statement its own.
        Objects stay usable after the block as far as they were loaded.
        """

    def fetch(self, select: "PlainSelect", parameters: "Mapping[str, Any]") -> list[Any]:
        """Return the rows of *select* as plain tuples, as :class:`PlainSelect` says.

        For lists that are asked for often; one statement, which sees one snapshot. Raises as
        :meth:`read` does.
        """
        with self.read() as session:
            connection = session.connection()
            text, bind = select.on(connection.dialect)
            return [tuple(row) for row in connection.exec_driver_sql(text, bind(parameters))]

    @abstractmethod
    def write(self, work: "Callable[[Session], T]") -> T:
        """Run ``work(session)`` in a transaction and return its result once it is durable.

        *work* must have no other effect than on the session: it may run in another thread
        (with the caller's context variables), and again, when PostgreSQL asks for it or
        another write of the same group failed. It neither commits nor rolls back; an
        exception from it undoes all that it did and is raised here. Long computation
        belongs before it: on SQLite others wait.
        """

    def submit(self, job: "AppendJob") -> None:
        """Have the facts of *job* stored, and ``job.done`` called with the outcome.

        Where :attr:`appends_at_once` is False, that has happened when this returns.
        """
        from edgepaas.database.append import append_in_session

        if not job.claim():
            return
        try:
            accepted = self.write(lambda session: append_in_session(session, job))
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller, whatever it is
            job.done(error)
        else:
            job.done(job.appended(accepted))

    @property
    def longest_ping(self) -> float:
        """Seconds that :meth:`ping` takes at most; 0.0 for a database on this box."""
        return 0.0

    @abstractmethod
    def ping(self) -> None:
        """Return when the database answers; raises DatabaseUnavailable within a few seconds."""

    @property
    def place(self) -> str:
        """The server that answered the last ping, ``host:port``; empty for a file."""
        return ""

    def require_tables(self, metadata: "MetaData") -> None:  # noqa: B027 - a choice, not a duty
        """Have a ping look for the tables and columns of *metadata*, where others could drop them.

        PostgreSQL does; SQLite's file is this box's own.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish what is being written and close every connection; may be called twice."""

    def _report_unavailable(self, error: BaseException) -> None:
        logger.warning("%s", error)
        self._suspect(error)

    def _suspect(self, error: BaseException) -> None:
        if self.on_unavailable is not None:
            self.on_unavailable(error)
