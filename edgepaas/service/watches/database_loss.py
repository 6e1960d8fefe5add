# SPDX-License-Identifier: Apache-2.0
"""A lost database: suspected by whoever used it, confirmed within a bound, then acted upon."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.alerts import raise_alert, resolve_alert
from edgepaas.decision.losses import mark_loss
from edgepaas.errors import EXIT_DECIDE_AGAIN, EXIT_FAILED
from edgepaas.httpd.startup_responder import Front, Phase
from edgepaas.service.shutdown import Control, Ending

if TYPE_CHECKING:
    from edgepaas.database import Database
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.health.checks import HealthBoard
    from edgepaas.health.state import StateBoard

#: The fingerprint of what is raised of a loss, until a service finds its database again.
LOST = "database-lost"
#: Seconds within which a suspected loss is confirmed.
CONFIRM_WITHIN = 2.0
#: Seconds for which requests that hang in the lost database are waited for; they have hung for
#: as long as it took to be sure.
LOSS_PATIENCE = 0.4
#: Seconds between looks at a database that nobody complains of, and between health checks.
LOOK_EVERY = {"postgresql": 3.0, "sqlite": 10.0}
#: The same while requests are being worked on: a server that falls silent hangs those that
#: use it, and none of them comes back to complain.
LOOK_EVERY_BUSY = {"postgresql": 0.5, "sqlite": 10.0}
#: Seconds between looks at one that is lost and has no fallback.
RETRY_EVERY = 1.0
#: A SQLite file that fails for so many looks in a row is handed to the schema stage.
EMBEDDED_FAILURES = 5

logger = logging.getLogger("edgepaas.service")


@dataclass(frozen=True)
class Surroundings:
    """What a loss has consequences for."""

    contract: "DatabaseContract"
    paths: "Paths"
    state: "StateBoard"
    board: "HealthBoard"
    front: Front
    control: Control
    #: Counts a failure; returns how many seconds to wait before ending.
    back_off: Callable[[], float]
    #: Whether requests are being worked on.
    busy: Callable[[], bool] = lambda: False


class LossWatch:
    """Looks at *database* whenever somebody suspects it, and every few seconds by itself."""

    def __init__(self, database: "Database", around: Surroundings) -> None:
        self._database = database
        self._around = around
        self._suspected = threading.Event()
        self._lost_since: float | None = None
        self._failures = 0
        database.on_unavailable = self.suspect

    def suspect(self, error: BaseException) -> None:
        """Have the database looked at now; called by whoever could not use it."""
        logger.debug("the database is suspected: %s", error)
        self._suspected.set()

    def start(self) -> None:
        """Watch in a thread of its own until the service ends."""
        threading.Thread(target=self._run, name="database-watch", daemon=True).start()

    def _run(self) -> None:
        control = self._around.control
        refreshed = time.monotonic()
        while not control.wait(0):
            if self._lost_since is None:
                self._wait_for_a_reason()
            else:
                control.wait(RETRY_EVERY)  # not hurried by those who fail meanwhile
            self._suspected.clear()
            if control.wait(0):
                return
            self.look()
            if time.monotonic() - refreshed >= LOOK_EVERY[self._database.dialect]:
                refreshed = time.monotonic()
                self._around.board.refresh()  # or the state would only know what somebody asked

    def _wait_for_a_reason(self) -> None:
        """Return when somebody suspects the database, or it is time for a look."""
        began = time.monotonic()
        usual = LOOK_EVERY[self._database.dialect]
        busy = LOOK_EVERY_BUSY[self._database.dialect]
        while (left := began + usual - time.monotonic()) > 0:
            if self._suspected.wait(min(left, busy)) or self._around.busy():
                return

    def look(self) -> bool:
        """Ask the database once; act when it is lost, or back. Whether it answers."""
        trouble = self._ask()
        if trouble is None:
            self._back()
            return True
        self._suspected.clear()  # our own question's, and everybody's: it is acted upon now
        self._failures += 1
        if self._lost_since is None:
            self._lost_since = time.monotonic()
        if self._database.dialect == "sqlite":
            self._embedded_fails(trouble)
        elif self._around.contract.fallback_armed:
            self._decide_again(trouble)
        else:
            self._hold_out(trouble)
        return False

    def _ask(self) -> str | None:
        """Return why the database does not answer, None when it does; bounded."""
        found: list[str] = []

        def ping() -> None:
            try:
                self._database.ping()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
                found.append(str(error) or type(error).__name__)
            else:
                found.append("")

        thread = threading.Thread(target=ping, name="database-ping", daemon=True)
        thread.start()
        thread.join(CONFIRM_WITHIN)
        if not found:
            return f"no answer within {CONFIRM_WITHIN:g} s"
        return found[0] or None

    def _decide_again(self, trouble: str) -> None:
        around = self._around
        reason = f"PostgreSQL was lost: {trouble}"
        around.front.close(Phase("degraded", reason))
        around.state.note("database", reason)
        raise_alert(
            f"{reason}; deciding again, SQLite takes over if it stays away",
            fingerprint=LOST,
            origin="service",
        )
        try:
            mark_loss(around.paths, reason)
        except OSError as error:
            logger.error("the loss cannot be noted for the decision: %s", error)
        around.control.end(Ending(EXIT_DECIDE_AGAIN, reason, LOSS_PATIENCE))

    def _hold_out(self, trouble: str) -> None:
        around = self._around
        reason = f"PostgreSQL is away and BOTH_DB=false allows no fallback: {trouble}"
        around.front.close(Phase("degraded", reason))
        around.board.forget()
        if self._failures == 1:
            around.state.note("database", reason)
            raise_alert(
                f"{reason}. Requests get 503 until it is back; BOTH_DB=true would let SQLite serve",
                severity="critical",
                fingerprint=LOST,
                origin="service",
            )

    def _embedded_fails(self, trouble: str) -> None:
        around = self._around
        reason = f"the SQLite file cannot be used: {trouble}"
        around.state.note("database", reason)
        if self._failures < EMBEDDED_FAILURES:
            return
        raise_alert(
            f"{reason}; the chain starts again and checks it",
            severity="critical",
            fingerprint=LOST,
            origin="service",
        )
        around.front.close(Phase("degraded", reason))
        around.control.wait(around.back_off())
        around.control.end(Ending(EXIT_FAILED, reason, LOSS_PATIENCE))

    def _back(self) -> None:
        if self._lost_since is None:
            return
        away = time.monotonic() - self._lost_since
        self._lost_since, self._failures = None, 0
        self._around.state.withdraw("database")
        self._around.board.forget()
        self._around.front.reopen()
        logger.info("the database answers again after %.0f s", away)
        resolve_alert(
            f"the database answers again after {away:.0f} s", fingerprint=LOST, origin="service"
        )
