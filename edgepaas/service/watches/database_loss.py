# SPDX-License-Identifier: Apache-2.0
"""A lost database: suspected where it is used, confirmed within a bound, then acted upon."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.alerts.catalogue import DATABASE_LOST
from edgepaas.database.table_presence import TableMissing, describe_missing
from edgepaas.decision.losses import mark_loss
from edgepaas.errors import EXIT_DECIDE_AGAIN, EXIT_FAILED
from edgepaas.httpd.startup_responder import NotReady, StartupResponder
from edgepaas.outcomes.causes import Cause, Refusal
from edgepaas.service.crash_loop import LONGEST_DELAY
from edgepaas.service.shutdown import Control, Ending
from edgepaas.timing.backoff import Backoff
from edgepaas.timing.deadline import OutOfTime, Scope, within
from edgepaas.timing.periodic_task import PeriodicTask, TaskAlert

if TYPE_CHECKING:
    from edgepaas.database import Database
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.health.checks import HealthBoard
    from edgepaas.health.state import StateBoard

#: Seconds within which a suspected loss is confirmed; over a slow link as long as a ping may take.
CONFIRM_WITHIN = 2.0
#: Seconds for which requests that hang in the lost database are waited for; they have hung for
#: as long as it took to be sure.
LOSS_PATIENCE = 0.4
#: Seconds between looks at a database without a failed request, and between health checks.
LOOK_EVERY = {"postgresql": 3.0, "sqlite": 10.0}
#: The same while requests are being worked on: in a server that falls silent they hang,
#: and none of them fails.
LOOK_EVERY_BUSY = {"postgresql": 0.5, "sqlite": 10.0}
#: Seconds between looks at one that is lost and has no fallback.
RETRY_EVERY = 1.0
#: A SQLite file that fails for so many looks in a row is handed to the schema stage.
EMBEDDED_FAILURES = 5

logger = logging.getLogger("edgepaas.service")


@dataclass(frozen=True)
class LossHandlers:
    """What a loss has consequences for."""

    contract: "DatabaseContract"
    paths: "Paths"
    state: "StateBoard"
    board: "HealthBoard"
    responder: StartupResponder
    control: Control
    #: Counts a failure; returns how many seconds to wait before ending.
    back_off: Callable[[], float]
    #: Whether requests are being worked on.
    busy: Callable[[], bool] = lambda: False
    #: Gives PostgreSQL up for a table that it refuses; returns whether that was possible.
    give_up: Callable[[Refusal], bool] = lambda _refusal: False


class LossWatch:
    """Looks at *database* whenever a request could not use it, and every few seconds."""

    def __init__(self, database: "Database", handlers: LossHandlers) -> None:
        self._database = database
        self._handlers = handlers
        self._suspected = threading.Event()
        self._lost_since: float | None = None
        self._failures = 0
        self._looked = self._refreshed = time.monotonic()
        busy = LOOK_EVERY_BUSY[database.dialect]
        self.task = PeriodicTask(
            "database-watch",
            self._turn,
            every=busy,
            first_after=busy,
            # It sleeps the back-off of the crash loop itself.
            late_after=2 * LONGEST_DELAY,
            backoff=Backoff(first=0.1, longest=RETRY_EVERY),
            alert=TaskAlert("A lost database may go unnoticed meanwhile."),
        )
        database.on_unavailable = self.suspect

    def suspect(self, error: BaseException) -> None:
        """Have the database looked at now; called where it could not be used."""
        logger.debug("the database may be lost, checking it now: %s", error)
        self._suspected.set()
        self.task.wake()

    def _turn(self) -> float | None:
        """Look if there is a reason to; returns the seconds until it is asked again."""
        usual = LOOK_EVERY[self._database.dialect]
        passed = time.monotonic() - self._looked
        if self._lost_since is not None:
            if passed < RETRY_EVERY:  # not hurried by requests that fail meanwhile
                return RETRY_EVERY - passed
        elif not (self._suspected.is_set() or self._handlers.busy() or passed >= usual):
            return min(usual - passed, LOOK_EVERY_BUSY[self._database.dialect])
        self._suspected.clear()
        try:
            self.look()
        except BaseException:
            self._suspected.set()  # it is still not known whether the database answers
            raise
        self._looked = time.monotonic()
        if self._looked - self._refreshed >= usual:
            self._refreshed = self._looked
            self._handlers.board.refresh()  # or the state would only know what a client asked for
        return RETRY_EVERY if self._lost_since is not None else None

    def look(self) -> bool:
        """Ask the database once; act when it is lost, or back. Whether it answers."""
        found = self._ask()
        if found is None:
            self._back()
            return True
        trouble = str(found) or type(found).__name__
        self._suspected.clear()  # raised by our own question as well: it is acted upon now
        self._failures += 1
        if self._lost_since is None:
            self._lost_since = time.monotonic()
        if self._database.dialect == "sqlite":
            self._embedded_fails(trouble)
        elif self._handlers.contract.fallback_armed:
            if not self._is_refused(found):
                self._decide_again(trouble)
        else:
            self._hold_out(trouble)
        return False

    def _is_refused(self, trouble: Exception | str) -> bool:
        """Give PostgreSQL up where it answers and lacks a table; whether that was done.

        It is no loss that a new decision could see: its probe would find PostgreSQL good.
        """
        if not isinstance(trouble, TableMissing):
            return False
        what = describe_missing((trouble.table, trouble.column))
        return self._handlers.give_up(Refusal(trouble.table, Cause.MISSING, what))

    def _ask(self) -> Exception | str | None:
        """Return why the database does not answer, None when it does; bounded.

        Raises RuntimeError where no thread can be started: that is no finding about the database.
        """

        def ping(_scope: Scope) -> Exception | None:
            try:
                self._database.ping()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
                return error
            return None

        seconds = max(CONFIRM_WITHIN, self._database.longest_ping)
        try:
            return within(seconds, ping, name="database-ping")
        except OutOfTime:
            return f"no answer within {seconds:.1f} s"

    def _decide_again(self, trouble: str) -> None:
        handlers = self._handlers
        reason = f"PostgreSQL was lost: {trouble}"
        handlers.responder.close(NotReady("degraded", reason))
        handlers.state.note("database", reason)
        DATABASE_LOST.raise_alert(
            f"{reason}; deciding again, SQLite takes over if it stays away", severity="warning"
        )
        try:
            mark_loss(handlers.paths, reason)
        except OSError as error:
            logger.error("the loss cannot be noted for the decision: %s", error)
        handlers.control.end(Ending(EXIT_DECIDE_AGAIN, reason, LOSS_PATIENCE))

    def _hold_out(self, trouble: str) -> None:
        handlers = self._handlers
        reason = f"PostgreSQL is away and BOTH_DB=false allows no fallback: {trouble}"
        handlers.responder.close(NotReady("degraded", reason))
        handlers.board.forget()
        if self._failures == 1:
            handlers.state.note("database", reason)
            DATABASE_LOST.raise_alert(
                reason,
                what_to_do="Requests get 503 until it is back; BOTH_DB=true would let SQLite "
                "serve.",
            )

    def _embedded_fails(self, trouble: str) -> None:
        handlers = self._handlers
        reason = f"the SQLite file cannot be used: {trouble}"
        handlers.state.note("database", reason)
        if self._failures < EMBEDDED_FAILURES:
            return
        DATABASE_LOST.raise_alert(
            reason, what_to_do="The boot chain starts again, examines it and mends what it can."
        )
        handlers.responder.close(NotReady("degraded", reason))
        handlers.control.wait(handlers.back_off())
        handlers.control.end(Ending(EXIT_FAILED, reason, LOSS_PATIENCE))

    def _back(self) -> None:
        if self._lost_since is None:
            return
        away = time.monotonic() - self._lost_since
        self._lost_since, self._failures = None, 0
        self._handlers.state.withdraw("database")
        self._handlers.board.forget()
        self._handlers.responder.reopen()
        logger.info("the database answers again after %.0f s", away)
        DATABASE_LOST.resolve_alert(f"the database answers again after {away:.0f} s")
