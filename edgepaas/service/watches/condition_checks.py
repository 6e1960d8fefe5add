# SPDX-License-Identifier: Apache-2.0
"""The service's checks of the alert catalogue: whether what was raised still holds.

Each takes a fingerprint and returns how things are now where the condition holds no longer,
None while it holds or where that cannot be known (:mod:`edgepaas.alerts.conditions.review`).
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.alerts.catalogue import (
    ACKNOWLEDGED_ROWS_LOST,
    HUB_RIGHTS,
    ROWS_LEFT_BEHIND,
    ROWS_NOT_IN_POSTGRES,
    SYNC_CONFLICTS,
    SYNC_DEAD_LETTERS,
    SYNC_HUB_LOST,
    UNIT,
    WRITES_REFUSED,
)
from edgepaas.alerts.catalogue_entry import CatalogueEntry
from edgepaas.alerts.conditions.review import Check
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.errors import DatabaseError
from edgepaas.files.locks import LockHeld, held
from edgepaas.outbox.journal.access import JournalUnreadable, youngest_order
from edgepaas.outbox.journal.space import usage_of_both
from edgepaas.outbox.journal.tables import journal_path
from edgepaas.outbox.space import budget
from edgepaas.outcomes.causes import Access
from edgepaas.outcomes.refused_tables import read_refused
from edgepaas.schema.hub_conditions import read_hub_conditions
from edgepaas.schema.open_problems import open_problem, open_refusal
from edgepaas.schema.sqlite.quarantine import list_quarantined
from edgepaas.service.watches.write_outcomes import noted_key
from edgepaas.sync.audit.record import read_audit, still_open
from edgepaas.sync.losses.lost_state import lost_sentences

if TYPE_CHECKING:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.health.state import StateBoard
    from edgepaas.outbox.forwarding_state import Forwarding
    from edgepaas.settings import Settings

NO_HUB = "no PostgreSQL is configured any more to which this box would send rows"

_BUSY_TIMEOUT = 2.0


@dataclass(frozen=True)
class RowCount:
    """How many rows of one kind are left, and what holds once there is none."""

    entry: CatalogueEntry
    left: int
    none_left: str


@dataclass(frozen=True)
class ServiceChecks:
    """The checks, with what they look at; *forwarding* returns None without a hub."""

    paths: "Paths"
    settings: "Settings"
    contract: "DatabaseContract"
    forwarding: "Callable[[], Forwarding | None]"
    state: "StateBoard"

    def by_name(self) -> dict[str, Check]:
        """Return the checks by the names that the catalogue gives them."""
        return {
            "service-runs": lambda _: "the service runs",
            "unit-works": self._unit_works,
            "no-fallback": self._no_fallback,
            "database-answers": self._database_answers,
            "postgresql-usable": self._postgresql_usable,
            "file-is-our-own": self._file_unused,
            "schema-accepted": self._schema_accepted,
            "file-at-head": self._file_unused,
            "nothing-set-aside": self._nothing_set_aside,
            "schema-stage-complete": self._schema_stage_complete,
            "budget-kept": self._budget_kept,
            "writes-accepted": self._writes_accepted,
            "no-row-left": self._no_row_left,
            "postgresql-takes-rows": self._postgresql_takes_rows,
            "node-id-unique": self._node_id_unique,
            "hub-captures": self._hub_captures,
            "journal-read": self._journal_read,
            "hub-schema-complete": self._hub_schema_complete,
            "audit-adds-up": self._audit_adds_up,
            "state-loss-known": self._state_loss_known,
            "journal-written": self._journal_written,
        }

    def _unit_works(self, fingerprint: str) -> str | None:
        unit = UNIT.subject(fingerprint)
        if unit == "sync":
            forwarding = self.forwarding()
            if forwarding is None:
                return NO_HUB
            return None if forwarding.state == "unknown" else "the drainer runs again"
        if unit == "serve":
            return "the service runs again"
        # A stage that fails removes its contract: one that exists shows that the stage succeeded.
        contract = self.paths.env_contract if unit == "env" else self.paths.db_contract
        return f"{contract} was written" if contract.exists() else None

    def _no_fallback(self, _: str) -> str | None:
        contract = self.contract
        if contract.db_fallback:
            return None
        return f"no fallback since {contract.decided_at} ({contract.db_state}): {contract.reason}"

    def _database_answers(self, _: str) -> str | None:
        if self.contract.db_fallback or self.state.is_noted("database"):
            return None
        return f"the database answers ({self.contract.db_state})"

    def _postgresql_usable(self, _: str) -> str | None:
        if not self.contract.sqlite_active:
            return "PostgreSQL serves"
        return None if self.contract.db_fallback else "SQLite serves by choice"

    def _writes_accepted(self, fingerprint: str) -> str | None:
        """By the drainer where SQLite serves, which tries; by the service's own writes else."""
        table = WRITES_REFUSED.subject(fingerprint)
        forwarding = self.forwarding()
        if forwarding is None:
            return NO_HUB
        listed = any(one.table == table for one in read_refused(self.paths.refused_tables))
        noted = any(self.state.is_noted(noted_key(table, access)) for access in Access)
        if listed or noted or forwarding.state == "blocked":
            return None
        return f"PostgreSQL takes writes to {table} again"

    def _file_unused(self, _: str) -> str | None:
        """Where the file is used the schema stage asks, which has the migrations."""
        if self.contract.sqlite_active or self.contract.fallback_armed:
            return None
        return f"{self.contract.sqlite_path} is not used any more"

    def _schema_accepted(self, _: str) -> str | None:
        return None if open_refusal(self.paths) else "this release works on the database"

    def _nothing_set_aside(self, _: str) -> str | None:
        found = list_quarantined(self.paths, self.contract.sqlite_path)
        return None if found else "nothing is set aside any more"

    def _schema_stage_complete(self, _: str) -> str | None:
        return None if open_problem(self.paths) else "the schema stage did all that it had to"

    def _budget_kept(self, _: str) -> str | None:
        """By the margin at which the watch, too, finds it kept: else it would not raise again."""
        path = self.contract.sqlite_path
        if not path.exists():
            return f"{path} is not there any more"
        size = budget.budget_of(path, self.settings.size("DISK_BUDGET"))
        try:
            with (
                held(self.paths.database_lock, shared=True, timeout=0.0),
                contextlib.closing(open_sqlite(path, busy_timeout=_BUSY_TIMEOUT)) as connection,
            ):
                found = usage_of_both(connection, path, size)
        except (LockHeld, sqlite3.Error, DatabaseError):
            return None  # the file is being replaced, or is damaged: checked again in an hour
        if budget.level(found.share, "full") != "ok":
            return None
        return f"{found.text} of the disk budget are used"

    def _no_row_left(self, fingerprint: str) -> str | None:
        forwarding = self.forwarding()
        if forwarding is None:
            return NO_HUB
        counts = {count.entry.pattern: count for count in row_counts(forwarding)}
        count = counts.get(fingerprint)
        return count.none_left if count is not None and not count.left else None

    def _postgresql_takes_rows(self, _: str) -> str | None:
        forwarding = self.forwarding()
        if forwarding is None:
            return NO_HUB
        well = forwarding.hub == "ok" and forwarding.state in ("idle", "draining")
        return "PostgreSQL takes rows again" if well else None

    def _audit_adds_up(self, _: str) -> str | None:
        if self.forwarding() is None:
            return NO_HUB
        record = read_audit(self.paths)
        if record is None or record.counts.get("queued_again", 0):
            return None  # the next audit finds out what became of what was sent again
        return None if still_open(self.paths) else "the last audit left nothing open"

    def _state_loss_known(self, _: str) -> str | None:
        return None if lost_sentences(self.paths) else "the loss is acknowledged"

    def _journal_written(self, _: str) -> str | None:
        if self.contract.sqlite_active:
            return "PostgreSQL does not serve any more"
        return None if self.state.is_noted("journal") else "the journal is written again"

    def _journal_read(self, _: str) -> str | None:
        try:
            youngest_order(journal_path(self.contract.sqlite_path))
        except JournalUnreadable:
            return None
        return "the journal can be read"

    def _hub_captures(self, _: str) -> str | None:
        if self.contract.sqlite_active:
            return "PostgreSQL does not serve any more"
        return None if self.state.is_noted("hub-capture") else "PostgreSQL captures changes"

    def _hub_schema_complete(self, fingerprint: str) -> str | None:
        if self.forwarding() is None:
            return NO_HUB
        found = read_hub_conditions(self.paths)
        holds = found.rights if fingerprint == HUB_RIGHTS.pattern else found.waiting
        return None if holds else "PostgreSQL's schema is this build's"

    def _node_id_unique(self, _: str) -> str | None:
        """Where there is a hub the drainer asks, which sees the other's heartbeats."""
        return NO_HUB if self.forwarding() is None else None


def row_counts(forwarding: "Forwarding") -> Iterable[RowCount]:
    """Return what is left of the rows that an operator has to see to, or the drainer to send.

    Nothing where PostgreSQL, which counts them for every process and person that settles
    some, was not asked.
    """
    if forwarding.hub != "ok":
        return ()
    in_postgres = "every row is in PostgreSQL"
    return (
        RowCount(SYNC_DEAD_LETTERS, forwarding.dead_letters, "no dead letter waits any more"),
        RowCount(SYNC_CONFLICTS, forwarding.conflicts, "no conflict waits any more"),
        *(
            RowCount(entry, forwarding.hub_lost, "the rows that PostgreSQL lost are acknowledged")
            for entry in (SYNC_HUB_LOST, ACKNOWLEDGED_ROWS_LOST)
        ),
        RowCount(ROWS_NOT_IN_POSTGRES, forwarding.rows_waiting, in_postgres),
        RowCount(ROWS_LEFT_BEHIND, forwarding.rows_waiting, in_postgres),
    )
