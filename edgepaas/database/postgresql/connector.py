# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL connections as the settings say; for lean stages as well, so without SQLAlchemy."""

import contextlib
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from edgepaas.pgdriver.connection import bounded, close_quietly, connect
from edgepaas.pgdriver.failures import ConnectFailure, classify, server_message
from edgepaas.pgdriver.pg8000_adapter import simple_query
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.settings.urls import Address, split_url
from edgepaas.timing.link import Link

if TYPE_CHECKING:
    from edgepaas.marks.keeper import MarkKeeper
    from edgepaas.pgdriver.flights import FlightConnection
    from edgepaas.settings import Settings


#: Seconds that a statement waits for a table or row that another session has locked: the
#: requests that wait hold all threads, and the service would be taken for dead.
LOCK_TIMEOUT = 3.0
#: Seconds that an open transaction may ask nothing: a box that was cut off in the middle of
#: one leaves it standing at the server, which does not notice, and its locks would
#: keep the very rows that the box sends again from SQLite.
IDLE_TIMEOUT = 10.0
#: Seconds in which a new connection has to tell its marks.
COMPARE_TIMEOUT = 3.0


class Connector:
    """Makes connections as the settings say; raises DatabaseUnavailable (ConnectFailure)."""

    def __init__(
        self,
        url: str,
        settings: "Settings",
        *,
        name: str = "edgepaas",
        lock_timeout: float | None = None,
        idle_timeout: float | None = None,
        keep_prepared: bool = False,
        link: Link | None = None,
    ) -> None:
        """*lock_timeout*: seconds that a statement waits for another session's lock.

        *idle_timeout*: seconds after which the server ends an idle transaction.
        *keep_prepared*: for what sends the same statements again and again. *link*: what is
        known of the link's round trips; new measurements are added to it.
        """
        self.link = link or Link()
        self.address: Address = split_url(url)
        self._tls = TLSPolicy.of(settings, self.address)
        self._deadline = settings.number("DB_CONNECT_TIMEOUT")
        self._statement_timeout = settings.number("DB_STATEMENT_TIMEOUT") or None
        self._lock_timeout = lock_timeout
        self._idle_timeout = idle_timeout
        self._keep_prepared = keep_prepared
        self._name = name
        #: Keeps the marks of the connections that were begun early, which have been compared.
        self.keeper: MarkKeeper | None = None
        #: Connections that were begun early, for the next calls.
        self._early: queue.SimpleQueue[_Early] = queue.SimpleQueue()

    def __call__(
        self, *, deadline: float | None = None, statement_timeout: float | None = None
    ) -> "FlightConnection":
        """Connect within *deadline* seconds (default: DB_CONNECT_TIMEOUT).

        A connection that was begun early is taken first. Raises ConnectFailure.
        """
        if statement_timeout is None:
            with contextlib.suppress(queue.Empty):
                return self._early.get_nowait().take()
        return self._connect(deadline, statement_timeout)

    def begin_early(
        self, count: int, *, at_once: bool = False, keeper: "MarkKeeper | None" = None
    ) -> None:
        """Begin *count* connections in threads of their own, for the next calls to take.

        What a process has to do before it needs them takes as long as their round trips.
        *at_once*: none waits for another one, though this box may have left sessions behind.
        *keeper*: the marks are compared over each as well, and kept from then on.
        """
        self.keeper = keeper
        for _ in range(count):
            early = _Early(partial(self._connect_marked, keeper, at_once=at_once))
            if not early.start():
                return  # no more threads: the calls connect for themselves
            self._early.put(early)

    def close_early(self) -> None:
        """Close those that nobody took."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._early.get_nowait().discard()

    def _connect_marked(self, keeper: "MarkKeeper | None", *, at_once: bool) -> "FlightConnection":
        connection = self._connect(at_once=at_once)
        if keeper is not None:
            attach_marks(keeper, connection)
        return connection

    def _connect(
        self,
        deadline: float | None = None,
        statement_timeout: float | None = None,
        *,
        at_once: bool = False,
    ) -> "FlightConnection":
        return connect(
            self.address,
            deadline=min(deadline or self._deadline, self._deadline),
            tls=self._tls,
            application_name=self._name,
            statement_timeout=statement_timeout or self._statement_timeout,
            lock_timeout=self._lock_timeout,
            idle_timeout=self._idle_timeout,
            keep_prepared=self._keep_prepared,
            link=self.link,
            at_once=at_once,
        )


class _Early:
    """One connection under way."""

    def __init__(self, make: "Callable[[], FlightConnection]") -> None:
        self._make = make
        self._done = threading.Event()
        self._connection: FlightConnection | None = None
        self._error: Exception | None = None

    def start(self) -> bool:
        """Begin; whether there was a thread for it."""
        try:
            threading.Thread(target=self._run, name="early-connection", daemon=True).start()
        except RuntimeError:
            return False
        return True

    def _run(self) -> None:
        try:
            self._connection = self._make()
        except Exception as error:  # noqa: BLE001 - raised again where it is taken
            self._error = error
        finally:
            self._done.set()

    def take(self) -> "FlightConnection":
        """Return it; raises why it could not be made. It is bounded by itself."""
        self._done.wait()
        error, self._error = self._error, None
        if error is not None:
            raise error
        assert self._connection is not None  # noqa: S101 - one of the two is there
        return self._connection

    def discard(self) -> None:
        """Close it, if it is there."""
        if self._done.is_set() and self._connection is not None:
            close_quietly(self._connection)


def ask_within(connection: Any, question: str, *, seconds: float) -> Any:
    """Return the rows of *question*, asked outside of a transaction, within *seconds*."""
    before = connection.autocommit
    connection.autocommit = True
    try:
        with bounded(connection, seconds):
            return simple_query(connection, question)
    finally:
        connection.autocommit = before


def attach_marks(marks: "MarkKeeper", connection: "FlightConnection") -> None:
    """Compare the marks over a new *connection*, and have its own kept.

    Raises ConnectFailure, and closes the connection then.
    """
    try:
        marks.attach(connection, partial(ask_within, connection, seconds=COMPARE_TIMEOUT))
    except Exception as error:
        close_quietly(connection)
        raise ConnectFailure(
            classify(error), f"PostgreSQL was asked for its marks: {server_message(error)}"
        ) from error


def service_connector(url: str, settings: "Settings", link: Link | None = None) -> Connector:
    """Return what makes the service's connections to *url*, for all who try its way."""
    return Connector(
        url,
        settings,
        lock_timeout=LOCK_TIMEOUT,
        idle_timeout=IDLE_TIMEOUT,
        keep_prepared=True,
        link=link,
    )
