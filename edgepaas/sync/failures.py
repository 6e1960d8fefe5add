# SPDX-License-Identifier: Apache-2.0
"""Failures to deliver rows: classified, alerted once, and retried after a back-off."""

import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from edgepaas.alerts.catalogue import (
    HUB_AWAY,
    HUB_MISCONFIGURED,
    HUB_SCHEMA,
    HUB_TROUBLE,
    SYNC_FAILED,
    SYNC_FILE,
    WRITES_REFUSED,
)
from edgepaas.alerts.catalogue_entry import CatalogueEntry
from edgepaas.database.failures import is_damaged
from edgepaas.outbox.versions import UnknownOutbox
from edgepaas.outcomes.causes import PASSING, Cause
from edgepaas.outcomes.refused_tables import RefusedTable
from edgepaas.sync.errors import (
    HubError,
    HubMisconfigured,
    HubUnreachable,
    SchemaDrift,
    TableRefused,
)
from edgepaas.sync.hub.schema_upgrade import SchemaBlocked
from edgepaas.sync.report import LiveStatus
from edgepaas.sync.status import HubState, SyncState
from edgepaas.timing import backoff
from edgepaas.timing.backoff import Backoff

logger = logging.getLogger("edgepaas.sync")

#: Alerts that are resolved once PostgreSQL accepts rows again.
_RESOLVED_BY_SUCCESS = (
    *(HUB_MISCONFIGURED, HUB_SCHEMA, HUB_TROUBLE, HUB_AWAY, SYNC_FILE, SYNC_FAILED),
)
#: Seconds for which PostgreSQL may be unreachable before an alert is raised where no other part
#: raises one: where SQLite serves by choice nothing falls back, and a changed password looks
#: like an unreachable server.
AWAY_ALERT_AFTER = 3600.0


@dataclass(frozen=True)
class FailureClass:
    """What an error means for forwarding; ``hub`` is None where it is not about PostgreSQL."""

    state: SyncState
    hub: HubState | None
    #: The alert to raise; None: no operator is needed, only time.
    alert: CatalogueEntry | None = None


#: The first match counts; any other error comes from the box itself.
_CLASSES: tuple[tuple[type[Exception], FailureClass], ...] = (
    (SchemaBlocked, FailureClass("blocked", "schema", HUB_SCHEMA)),
    (SchemaDrift, FailureClass("blocked", "schema", HUB_SCHEMA)),
    (TableRefused, FailureClass("blocked", "error", WRITES_REFUSED)),
    (HubUnreachable, FailureClass("held", "away")),
    (HubMisconfigured, FailureClass("blocked", "misconfigured", HUB_MISCONFIGURED)),
    (HubError, FailureClass("blocked", "error", HUB_TROUBLE)),
    (UnknownOutbox, FailureClass("blocked", None, SYNC_FILE)),
)


#: What PostgreSQL looks like by the cause for which it refuses a table.
_HUB_STATES: dict[Cause, HubState] = {
    Cause.RIGHTS: "misconfigured",
    Cause.ROW_SECURITY: "misconfigured",
    Cause.MISSING: "schema",
    Cause.REQUIRED_COLUMN: "schema",
    Cause.TYPE: "schema",
    Cause.CONSTRAINT: "schema",
    Cause.KEY: "schema",
    Cause.KIND: "schema",
}
#: The causes that show to the drainer as tables that do not fit.
_OF_SCHEMA = frozenset(cause for cause, state in _HUB_STATES.items() if state == "schema")


def same_refusal(error: Exception, refused: Sequence[RefusedTable]) -> RefusedTable | None:
    """Return which of the *refused* tables, known to the service, *error* is about."""
    if isinstance(error, TableRefused):
        found = error.refusal
        same = [one for one in refused if one.table == found.table] or [
            one for one in refused if one.cause == found.cause
        ]
    elif isinstance(error, SchemaDrift | SchemaBlocked):
        same = [one for one in refused if one.cause in _OF_SCHEMA]
    else:
        same = []
    return same[0] if same else None


def classify(error: Exception, *, drifts: int) -> FailureClass:
    """Return what *error* means; *drifts*: how many SchemaDrift errors came in a row before it."""
    if isinstance(error, SchemaDrift) and not drifts:
        return FailureClass("held", "schema")  # the schema upgrade is tried once
    for kind, found in _CLASSES:
        if isinstance(error, kind):
            if isinstance(error, TableRefused):
                return replace(found, hub=_HUB_STATES.get(error.refusal.cause, "error"))
            return found
    return (
        FailureClass("blocked", None, SYNC_FILE)
        if is_damaged(error)
        else FailureClass("held", None)
    )


@dataclass
class FailureTracker:
    """Counts failures, shows them in *report*, and says when the next attempt is due."""

    report: LiveStatus
    #: Whether to alert when PostgreSQL stays unreachable: no other part of the box does.
    alerts_when_away: bool = False
    #: Seconds for which a cause that may pass is no matter for an operator.
    patience: float = 0.0
    #: The tables for whose sake PostgreSQL was given up.
    refused: Callable[[], Sequence[RefusedTable]] = tuple
    clock: Callable[[], float] = time.monotonic
    _away_since: float | None = None
    #: A link may recover by itself and is retried soon; what an operator has to correct,
    #: less often.
    _link: Backoff = field(default_factory=Backoff)
    _lasting: Backoff = field(
        default_factory=lambda: Backoff(
            first=backoff.FIRST_OF_TROUBLE, longest=backoff.LONGEST_OF_TROUBLE
        )
    )
    _alerted: set[str] = field(default_factory=set)
    _refused_tables: set[str] = field(default_factory=set)
    _drifts: int = 0
    _passing_since: float | None = None
    _clear: bool = False

    @property
    def remaining(self) -> float:
        """Seconds until the next attempt; 0.0: it is due."""
        return max(self._link.remaining, self._lasting.remaining)

    def record_failure(self, error: Exception) -> FailureClass:
        """Record *error*, back off, and raise an alert where an operator is needed."""
        known = same_refusal(error, self.refused())
        found = self._classify(error, known)
        if isinstance(error, SchemaDrift):
            self._drifts += 1
        pause = (self._lasting if found.alert else self._link).failed()
        reason = known.text if known is not None else one_line_reason(error)
        if reason != self.report.reason:
            logger.warning("rows cannot be delivered to PostgreSQL: %s", reason)
        logger.debug("retrying after %.1f s", pause)
        self.report.state, self.report.reason = found.state, reason
        if found.hub is not None:
            self.report.hub = found.hub
        self._clear = False
        if found.hub == "away":
            self._alert_when_away_for_long(reason)
        if found.alert is not None and known is None:
            table = error.refusal.table if isinstance(error, TableRefused) else ""
            self._alert_once(
                found.alert, f"rows cannot be delivered to PostgreSQL: {reason}", table
            )
        return found

    def _classify(self, error: Exception, known: RefusedTable | None) -> FailureClass:
        found = classify(error, drifts=self._drifts)
        if known is not None:
            return replace(found, state="blocked", alert=WRITES_REFUSED)
        if isinstance(error, TableRefused) and error.refusal.cause in PASSING:
            now = self.clock()
            if self._passing_since is None:
                self._passing_since = now
            if now - self._passing_since < self.patience:
                return FailureClass("held", "away")
        return found

    def _alert_once(self, entry: CatalogueEntry, happened: str, subject: str) -> None:
        fingerprint = entry.fingerprint(subject)
        if fingerprint not in self._alerted:
            self._alerted.add(fingerprint)
            if entry is WRITES_REFUSED:
                self._refused_tables.add(subject)
            entry.raise_alert(happened, subject=subject)

    def _alert_when_away_for_long(self, reason: str) -> None:
        now = self.clock()
        if self._away_since is None:
            self._away_since = now
        long = now - self._away_since >= AWAY_ALERT_AFTER and self.report.rows_waiting > 0
        if not long or not self.alerts_when_away or HUB_AWAY.pattern in self._alerted:
            return
        self._alerted.add(HUB_AWAY.pattern)
        HUB_AWAY.raise_alert(
            f"PostgreSQL has been unreachable for more than {AWAY_ALERT_AFTER / 60:.0f} minutes: "
            f"{reason}. {self.report.rows_waiting:,} rows wait on this box"
        )

    def record_success(self) -> None:
        """Record that everything worked; resolve the alerts of earlier failures."""
        if self._clear:
            return
        self._clear = True
        self._link.succeeded()
        self._lasting.succeeded()
        self._drifts = 0
        self._away_since = self._passing_since = None
        self._alerted.clear()
        if self.report.reason:
            logger.info("PostgreSQL accepts rows again")
        self.report.hub, self.report.reason = "ok", ""
        self.report.state = "draining" if self.report.rows_waiting else "idle"
        for entry in _RESOLVED_BY_SUCCESS:  # also those of an earlier process
            entry.resolve_alert("PostgreSQL accepts rows again")
        while self._refused_tables:
            table = self._refused_tables.pop()
            WRITES_REFUSED.resolve_alert(f"PostgreSQL takes writes to {table} again", subject=table)


def one_line_reason(error: Exception) -> str:
    """Return *error* as one line of text."""
    text = " ".join(str(error).split()) or type(error).__name__
    return f"the SQLite file: {text}" if isinstance(error, sqlite3.Error) else text
