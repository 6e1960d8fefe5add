# SPDX-License-Identifier: Apache-2.0
"""The outcomes of writes watched while PostgreSQL serves: report, then let SQLite take over."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.alerts.catalogue import WRITES_REFUSED
from edgepaas.decision.hold import write_hold
from edgepaas.errors import EXIT_DECIDE_AGAIN
from edgepaas.httpd.startup_responder import NotReady, StartupResponder
from edgepaas.outcomes.causes import Access, Refusal
from edgepaas.outcomes.outcomes import Failing, Outcomes
from edgepaas.outcomes.refused_tables import add_refused
from edgepaas.service.shutdown import Control, Ending
from edgepaas.timing.periodic_task import PeriodicTask, TaskAlert

if TYPE_CHECKING:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.health.state import StateBoard

#: Seconds between two looks at what is counted; nothing is asked of the server.
LOOK_EVERY = 0.5
#: Seconds that open requests have: those that write wait for what refuses them.
PATIENCE = 0.4

logger = logging.getLogger("edgepaas.service")


@dataclass(frozen=True)
class GivingUp:
    """What PostgreSQL's being given up has consequences for; *hold*: seconds of POSTGRES_HOLD."""

    contract: "DatabaseContract"
    paths: "Paths"
    state: "StateBoard"
    responder: StartupResponder
    control: Control
    hold: float


def noted_key(table: str, access: Access) -> str:
    """Return the key under which a refusal is held against the box."""
    return f"writes:{table}:{access}"


class OutcomeWatch:
    """Looks at *outcomes* and acts by them."""

    def __init__(self, outcomes: Outcomes, handlers: GivingUp) -> None:
        self._outcomes = outcomes
        self._handlers = handlers
        #: The tables that do not fit.
        self._unfit: Sequence[Failing] = ()
        self._noted: dict[str, Refusal] = {}
        self._alerted: set[str] = set()
        self.task = PeriodicTask(
            "write-outcomes",
            self.look,
            every=LOOK_EVERY,
            first_after=LOOK_EVERY,
            alert=TaskAlert("Writes that PostgreSQL refuses may not lead to SQLite meanwhile."),
        )

    def look(self) -> None:
        """Report the tables that PostgreSQL refuses, and give it up for those that last."""
        failing = [*self._outcomes.failing(), *self._unfit]
        self._report([one for one in failing if one.is_known])
        lasting = [one for one in failing if one.is_lasting]
        if not lasting:
            return
        if self._handlers.contract.fallback_armed:
            self._give_up(lasting)
        else:
            unfit = all(one.refusal.access is Access.FIT for one in lasting)
            answers = "is not ready" if unfit else "answers 503"
            self._alert_once(lasting, f"There is no fallback (BOTH_DB=false): it {answers}")

    def give_up(self, refusal: Refusal) -> bool:
        """Give PostgreSQL up for what was found without a write; returns whether that is done."""
        return self._give_up([_found(refusal)])

    def report_unfit(self, refusals: Sequence[Refusal]) -> None:
        """Have the next look act on tables that do not keep what is written to them.

        From any thread; with none of *refusals* it is over.
        """
        self._unfit = tuple(_found(one) for one in refusals)
        self.task.wake()

    def _report(self, known: Sequence[Failing]) -> None:
        state = self._handlers.state
        now = {noted_key(one.refusal.table, one.refusal.access): one.refusal for one in known}
        for key, refusal in now.items():
            if self._noted.get(key) != refusal:
                state.note(key, refusal.text)
                logger.warning("%s", refusal.text)
        for key in self._noted.keys() - now.keys():
            state.withdraw(key)
            logger.info("PostgreSQL takes %s again", self._noted[key].table)
        self._noted = now
        refused = {refusal.table for refusal in now.values()}
        for table in self._alerted - refused:
            WRITES_REFUSED.resolve_alert(f"PostgreSQL takes writes to {table} again", subject=table)
        self._alerted &= refused

    def _give_up(self, lasting: Sequence[Failing]) -> bool:
        handlers = self._handlers
        reason = "; ".join(dict.fromkeys(one.refusal.text for one in lasting))
        try:
            add_refused(handlers.paths.refused_tables, [one.refusal for one in lasting])
            write_hold(handlers.paths.postgres_hold, reason, handlers.hold)
        except OSError as error:
            # Without the hold PostgreSQL would be chosen again at once, and a disk that takes no
            # file takes no rows either: 503 it is, until one of the two is mended.
            logger.error("PostgreSQL cannot be given up, no file can be written: %s", error)
            self._alert_once(lasting, f"SQLite cannot take over either ({error})")
            return False
        self._alert_once(lasting, "SQLite takes over")
        handlers.responder.close(NotReady("degraded", reason))
        handlers.control.end(Ending(EXIT_DECIDE_AGAIN, reason, PATIENCE))
        return True

    def _alert_once(self, lasting: Sequence[Failing], consequence: str) -> None:
        """Raise one alert for all of it: of several tables most have one cause."""
        first, *others = lasting
        if any(one.refusal.table in self._alerted for one in lasting):
            return
        also = "".join(f"; {one.refusal.text}" for one in others)
        failed = (
            f" {first.count} requests failed for it within {first.lasts:.0f} s and none succeeded."
            if first.count
            else ""
        )
        WRITES_REFUSED.raise_alert(
            f"{first.refusal.text}{also}.{failed} {consequence}", subject=first.refusal.table
        )
        self._alerted.add(first.refusal.table)


def _found(refusal: Refusal) -> Failing:
    """Return *refusal*, which no request has met yet, as what is acted upon."""
    return Failing(refusal, 0.0, 0, is_known=True, is_lasting=True)
