# SPDX-License-Identifier: Apache-2.0
"""The rehearsal of a hand-back: PostgreSQL is tried over the path that will serve.

That path is longer than the drainer's own, which has long been connected: new connections as
the service makes them, what the decision asks, the write that it tries, and the revisions that
the schema stage looks for. It is tried before the fence stops any write, in a thread beside
the drain.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.database.postgresql.connector import service_connector
from edgepaas.decision.further_connections import TO_SERVE
from edgepaas.decision.link_record import recorded_link
from edgepaas.decision.probe import probe
from edgepaas.errors import EdgePaaSError
from edgepaas.outbox.layout import TABLES_RECORD
from edgepaas.outcomes.fit import Fit, fit_question, judge
from edgepaas.pgdriver.connection import close_quietly
from edgepaas.pgdriver.failures import server_message
from edgepaas.pgdriver.pg8000_adapter import simple_query
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.schema.chain import PLATFORM_VERSION_TABLE, version_table_of
from edgepaas.schema.postgresql.migrate import recorded_revisions
from edgepaas.schema.table_contract import current_application
from edgepaas.settings.urls import split_url
from edgepaas.timing.link import ATTEMPT_TRIPS

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths
    from edgepaas.settings import Settings

logger = logging.getLogger("edgepaas.sync")

#: Seconds for which what was found is a reason to hand back.
VALID = 10.0


class RehearsalFailed(EdgePaaSError):
    """PostgreSQL would not serve over that path; the message says why."""


@dataclass(frozen=True)
class Rehearsed:
    """What a rehearsal found: the recorded revisions, and how many *seconds* it took."""

    revisions: tuple[str, ...]
    seconds: float


def rehearse(url: str, settings: "Settings", paths: "Paths") -> Rehearsed:
    """Try the path of the service to the PostgreSQL at *url*; raises RehearsalFailed.

    Bounded by the round trips of the link, and by DECISION_DEADLINE.
    """
    began = time.monotonic()
    address = split_url(url)
    link = recorded_link(paths, address)
    found = probe(
        address,
        TLSPolicy.of(settings, address),
        link.limit(settings.number("DB_CONNECT_TIMEOUT"), ATTEMPT_TRIPS),
        connections=TO_SERVE,
        until=began + settings.number("DECISION_DEADLINE"),
        link=link,
    )
    if not found.usable:
        raise RehearsalFailed(found.reason)
    try:
        connection = service_connector(url, settings, link)()
        try:
            revisions = _revisions(connection, paths)
            fit = _fit(connection, paths)
        finally:
            close_quietly(connection)
    except EdgePaaSError as error:
        raise RehearsalFailed(str(error)) from error
    except Exception as error:
        raise RehearsalFailed(f"its revisions cannot be read: {server_message(error)}") from error
    if fit.refusals:
        raise RehearsalFailed(fit.reason)
    return Rehearsed(tuple(revisions), time.monotonic() - began)


class Rehearsal:
    """Runs rehearsals in a thread, one at a time; its methods are for one other thread."""

    def __init__(
        self,
        work: Callable[[], Rehearsed],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*work*: :func:`rehearse` with its arguments."""
        self._work = work
        self._clock = clock
        self._lock = threading.Lock()
        self._running = False
        self._found: Rehearsed | None = None
        self._found_at = float("-inf")
        self._error: RehearsalFailed | None = None

    @property
    def running(self) -> bool:
        """Whether one is under way."""
        with self._lock:
            return self._running

    def begin(self) -> None:
        """Start one, unless one is under way."""
        with self._lock:
            if self._running:
                return
            self._running, self._found, self._error = True, None, None
        try:
            threading.Thread(target=self._run, name="rehearsal", daemon=True).start()
        except RuntimeError as error:  # no more threads
            self._end(None, RehearsalFailed(f"it cannot be started: {error}"))

    def take(self) -> Rehearsed | None:
        """Return what one that ended within VALID seconds found, once; None without one.

        Raises RehearsalFailed for one that failed, once as well.
        """
        with self._lock:
            error, self._error = self._error, None
            if error is not None:
                raise error
            found, self._found = self._found, None
            return found if self._clock() - self._found_at <= VALID else None

    def _run(self) -> None:
        try:
            self._end(self._work(), None)
        except RehearsalFailed as error:
            self._end(None, error)
        except BaseException as error:
            logger.error("the rehearsal failed", exc_info=error)
            self._end(None, RehearsalFailed(f"{type(error).__name__}: {error}"))

    def _end(self, found: Rehearsed | None, error: RehearsalFailed | None) -> None:
        with self._lock:
            self._running, self._error = False, error
            self._found, self._found_at = found, self._clock()


def _fit(connection: object, paths: "Paths") -> Fit:
    """Return whether the tables would keep what is written to them; nothing, without models."""
    document = TABLES_RECORD.read_or_none(paths.tables)
    if document is None or not document["tables"]:
        return Fit()
    ((answer,),) = simple_query(connection, fit_question(document["tables"]))
    return judge(document["tables"], answer)


def _revisions(connection: object, paths: "Paths") -> Sequence[str]:
    own = version_table_of(current_application(paths))
    return recorded_revisions(connection, (own, PLATFORM_VERSION_TABLE))
