# SPDX-License-Identifier: Apache-2.0
"""The connection to the hub, the PostgreSQL that every row has to reach; without SQLAlchemy.

It also works through PgBouncer in transaction pooling mode: settings last for one transaction,
no statement is prepared, and statements that belong together are sent before one Sync.
"""

import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from edgepaas.outbox.revisions.record import RevisionRecord
from edgepaas.pgdriver.connection import close_quietly, connect
from edgepaas.pgdriver.failures import is_lost, sqlstate
from edgepaas.pgdriver.hosts import endpoint_of
from edgepaas.pgdriver.pipeline import Pipeline, Result, Statement
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.settings.urls import Address, split_url
from edgepaas.sync.errors import HubError, HubUnreachable, UnclassifiedHubError, as_hub_error
from edgepaas.sync.hub.catalog import Tables, read_tables
from edgepaas.sync.hub.revisions import read_hub_record
from edgepaas.timing.link import Link

if TYPE_CHECKING:
    from edgepaas.settings import Settings

#: Seconds that a statement waits for a lock held by another session.
LOCK_TIMEOUT = 3.0
#: Seconds that PostgreSQL waits for the next statement of an open transaction, so that the
#: stream of a box that vanished in mid-batch is unlocked. A box on a slow link sends the
#: parameters of one statement within this time (edgepaas.sync.delivery.sending).
IDLE_TIMEOUT = 30.0
#: The least statement_timeout in seconds: the transfer of the parameters counts.
LEAST_STATEMENT_TIMEOUT = 30.0
#: Seconds used where DB_STATEMENT_TIMEOUT is off: a hung transaction would lock its stream.
NO_STATEMENT_TIMEOUT = 600.0
#: Seconds beyond the statement timeout after which the server counts as unreachable.
_GRACE = 10.0


class Hub:
    """One connection; only :meth:`abort` may be called from another thread.

    Every method that asks PostgreSQL raises the errors of :mod:`edgepaas.sync.errors`.
    """

    def __init__(
        self,
        connection: Any,
        server_name: str,
        *,
        statement_timeout: float,
        link: Link | None = None,
    ) -> None:
        """*connection* is one of :func:`edgepaas.pgdriver.connection.connect`, over *link*."""
        self.link = link or Link()
        self.server_name = server_name
        self.broken = False
        self._connection = connection
        self._pipeline = Pipeline(connection)
        self._unsent: list[Statement] = []
        #: What is sent with the next statements of the transaction.
        self._due: list[Statement] = []
        self._open = False
        #: For each :meth:`send` not received yet: how many results at its start to discard
        #: (those of BEGIN and of the settings).
        self._pending_results: deque[int] = deque()
        self._tables: Tables | None = None
        self._revisions: RevisionRecord | None = None
        self._revisions_read = False
        sock = connection.link
        self._abort_socket = socket.socket(
            sock.family, sock.type, sock.proto, os.dup(sock.fileno())
        )
        # Set in each transaction, since a pooler may use another server for each.
        self._begin: list[Statement] = [
            ("BEGIN", ()),
            (
                "SELECT "
                + ", ".join(
                    f"set_config('{name}', '{value}', true)"
                    for name, value in (
                        ("lock_timeout", _milliseconds(LOCK_TIMEOUT)),
                        ("statement_timeout", _milliseconds(statement_timeout)),
                        ("idle_in_transaction_session_timeout", _milliseconds(IDLE_TIMEOUT)),
                        ("TimeZone", "UTC"),
                        ("DateStyle", "ISO"),
                        ("IntervalStyle", "postgres"),
                        ("bytea_output", "hex"),
                        ("extra_float_digits", 1),
                    )
                ),
                (),
            ),
        ]

    def query(self, sql: str, *parameters: Any) -> list[list[Any]]:
        """Run one statement in one round trip and return its rows."""
        return self.run([(sql, parameters)])[0].rows

    def run(self, statements: Sequence[Statement]) -> list[Result]:
        """Run *statements* in one round trip and return their results.

        Their results together have to be small (some 100 KB), but for that of the last one.
        A parameter of type bytes is text that is encoded already. After an error in a
        transaction only :meth:`rollback` is possible.
        """
        self.send(statements)
        return self.receive()

    def send(self, statements: Sequence[Statement]) -> None:
        """Send *statements* without waiting for their results; see :meth:`receive`."""
        first = [*self._unsent, *self._due]
        self._unsent, self._due = [], []
        with self._translated():
            self._pipeline.send([*first, *statements])
        self._pending_results.append(len(first))

    def receive(self) -> list[Result]:
        """Return the results of the earliest :meth:`send` that is not answered yet."""
        first = self._pending_results.popleft()
        with self._translated():
            return self._pipeline.receive()[first:]

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block in a transaction; BEGIN is sent with its first statement.

        It is committed at the end of the block. HubUnreachable there leaves open whether it
        was committed. An error in the block rolls it back.
        """
        self.begin()
        try:
            yield
        except BaseException:
            self.rollback()
            raise
        self.commit()

    def begin(self, *, snapshot: bool = False, writing: bool = False) -> None:
        """Begin a transaction with the next statement.

        *snapshot*: every statement sees the database as of the first one, and none may write,
        unless *writing*.
        """
        how = ""
        if snapshot:
            how = f" ISOLATION LEVEL REPEATABLE READ{'' if writing else ' READ ONLY'}"
        self._unsent = [(f"BEGIN{how}", ()), *self._begin[1:]]
        self._open = True

    def commit(self, *last: Statement) -> list[Result]:
        """Run the statements *last*, commit, and return their results: one round trip."""
        nothing_sent = bool(self._unsent)
        if nothing_sent and not last:
            self._unsent, self._open = [], False
            return []
        *results, ended = self.run([*last, ("COMMIT", ())])
        self._open = False
        if ended.tag != "COMMIT":
            raise UnclassifiedHubError(
                f"{self.server_name} answered {ended.tag} to COMMIT: it was not committed"
            )
        return results

    def rollback(self) -> None:
        """Roll back the transaction, if one is open; never raises HubError."""
        nothing_sent, self._unsent = bool(self._unsent), []
        opened, self._open = self._open, False
        self._due = []
        if nothing_sent or not opened:
            return
        while self._pending_results and not self.broken:
            with contextlib.suppress(
                HubError
            ):  # the error that broke the transaction has been raised already
                self.receive()
        if not self.broken:
            with contextlib.suppress(HubError):
                self.run([("ROLLBACK", ())])

    def savepoint(
        self,
        statements: Sequence[Statement],
        *,
        accepted: Callable[[Sequence[Result]], bool] = lambda _results: True,
    ) -> list[Result]:
        """Run *statements* in a savepoint, in one round trip, and return their results.

        After an error, and where *accepted* says no to their results, they are undone, with a
        second round trip, and the transaction goes on.
        """
        try:
            results = self.run([("SAVEPOINT part", ()), *statements])[1:]
        except Exception:
            if not self.broken:
                self._undo_part()
            raise
        if accepted(results):
            self._due = [("RELEASE SAVEPOINT part", ())]
        else:
            self._undo_part()
        return results

    def _undo_part(self) -> None:
        self.run([("ROLLBACK TO SAVEPOINT part", ()), ("RELEASE SAVEPOINT part", ())])

    @property
    def tables(self) -> Tables:
        """The tables of the default schema; read once, and again after :meth:`forget_tables`."""
        if self._tables is None:
            self._tables = read_tables(self.run)
        return self._tables

    @property
    def revisions(self) -> RevisionRecord | None:
        """What the revisions of its schema renamed; None without a record. Read as ``tables``."""
        if not self._revisions_read:
            self._revisions = read_hub_record(self.run, self.tables)
            self._revisions_read = True
        return self._revisions

    def forget_tables(self) -> None:
        """Read the tables and the record of revisions again when they are used next."""
        self._tables = None
        self._revisions_read = False

    def abort(self) -> None:
        """Shut the connection down, from any thread; a call that waits for it fails at once."""
        with contextlib.suppress(OSError):  # it was not connected any more
            self._abort_socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection, broken or not."""
        self.broken = True
        self._abort_socket.close()
        close_quietly(self._connection)

    def __enter__(self) -> "Hub":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        if self.broken:
            raise HubUnreachable(f"the connection to {self.server_name} is lost; open a new one")
        try:
            yield
        except Exception as error:
            # Without an answer of the server, the state of the protocol is unknown.
            self.broken = is_lost(error) or sqlstate(error) is None
            raise as_hub_error(error, f"sending to {self.server_name}") from error
        except BaseException:
            self.broken = True
            raise


def open_hub(
    settings: "Settings", url: str, *, name: str = "edgepaas-sync", link: Link | None = None
) -> Hub:
    """Connect to the hub at *url* (``HUB_URL``) as the settings say; *link*: what is known of it.

    Within DB_CONNECT_TIMEOUT. Raises HubUnreachable or HubMisconfigured.
    """
    address = split_url(url)
    timeout = settings.number("DB_STATEMENT_TIMEOUT")
    return connect_hub(
        address,
        tls=TLSPolicy.of(settings, address),
        deadline=settings.number("DB_CONNECT_TIMEOUT"),
        statement_timeout=max(timeout, LEAST_STATEMENT_TIMEOUT) if timeout else 0,
        name=name,
        link=link,
    )


def connect_hub(
    address: Address,
    *,
    tls: TLSPolicy,
    deadline: float = 3.0,
    statement_timeout: float = LEAST_STATEMENT_TIMEOUT,
    name: str = "edgepaas-sync",
    link: Link | None = None,
) -> Hub:
    """Connect to *address* within *deadline* seconds; raises HubUnreachable, HubMisconfigured.

    *statement_timeout*: seconds, 0 for a very long one.
    """
    longest = statement_timeout or NO_STATEMENT_TIMEOUT
    link = link or Link()
    try:
        connection = connect(
            address,
            deadline=deadline,
            tls=tls,
            application_name=name,
            keep_timeout=longest + _GRACE,
            link=link,
        )
    except Exception as error:
        raise as_hub_error(error, f"connecting to {endpoint_of(address)}") from error
    return Hub(connection, connection.endpoint, statement_timeout=longest, link=link)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
