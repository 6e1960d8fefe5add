# SPDX-License-Identifier: Apache-2.0
"""Applying a batch with care: what PostgreSQL will never take is found and cut out.

Each run is tried whole under a savepoint, then in halves, down to the single row that is
refused. In halves the changes are in their order again, so what a statement over many rows
could not do (two rows that swap a unique value) comes right by itself.
"""

from collections.abc import Sequence

from edgepaas.outbox.reading import Change
from edgepaas.pgdriver.pipeline import Statement
from edgepaas.sync.delivery.column_mapping import TableDropped
from edgepaas.sync.delivery.dead_letters import (
    RefusedChange,
    rows_with_waiting_letters,
    store_dead_letters,
)
from edgepaas.sync.delivery.planner import DeliveryCounts, Planner, gap_statement, rows_shed
from edgepaas.sync.delivery.runs import Run, runs_of
from edgepaas.sync.delivery.sending import Origin, bind, row_key, unsendable_reason
from edgepaas.sync.delivery.statement_template import StatementTemplate
from edgepaas.sync.delivery.values import INVALID_CHARACTER
from edgepaas.sync.errors import RowRefused
from edgepaas.sync.hub.connection import Hub

#: No SQLSTATE: the row was not refused itself.
FOLLOWS = "an earlier change of this row was refused and waits here"


class BisectingApplier:
    """Applies the chunks of one batch inside the hub's open transaction, row by row if need be."""

    def __init__(
        self, hub: Hub, planner: Planner, origin: Origin, *, letters_waiting: bool
    ) -> None:
        """*letters_waiting*: dead letters of this node may wait on the hub."""
        self.tally = DeliveryCounts()
        #: The first rows that were cut out, for a message.
        self.refused: list[RefusedChange] = []
        self._hub = hub
        self._planner = planner
        self._origin = origin
        self._letters_waiting = letters_waiting
        self._cut: dict[tuple[str, str], None] = {}

    def apply(self, changes: Sequence[Change]) -> None:
        """Apply *changes*, all but those that are refused; raises HubError."""
        refused: list[RefusedChange] = []
        # Those of this very chunk; of earlier ones the hub knows.
        self._cut.clear()
        if self._letters_waiting:
            self._cut |= rows_with_waiting_letters(self._hub, self._origin.node_id, changes)
        for run in runs_of(changes, self._planner.tables):
            if run.op == "gap":
                self._hub.run([gap_statement(change, self._origin) for change in run.changes])
                self.tally.delivered += len(run.changes)
                self.tally.shed += sum(map(rows_shed, run.changes))
                continue
            landing = []
            for change in run.changes:
                if self._cut and (run.layout.table, row_key(change)) in self._cut:
                    refused.append(RefusedChange(change, "", FOLLOWS))
                else:
                    landing.append(change)
            for one in self._land(run, landing):
                refused.append(one)
                self._cut[run.layout.table, row_key(one.change)] = None
        if refused:
            store_dead_letters(self._hub, refused, self._origin)
            self.tally.dead += len(refused)
            self._letters_waiting = True
            self.refused += refused[: 10 - len(self.refused)]

    def finish(self) -> DeliveryCounts:
        """Return what became of the changes."""
        return self.tally

    def _land(self, run: Run, changes: Sequence[Change]) -> list[RefusedChange]:
        """Apply *changes* of *run* and return those that are refused."""
        try:
            templates = self._planner.templates_for(run, comparing=True)
        except TableDropped:
            reason = f"neither the hub nor this box's models have a table {run.layout.table}"
            return [RefusedChange(change, "42P01", reason) for change in changes]
        if not templates:
            self.tally.delivered += len(changes)
            return []
        refused = []
        sendable = []
        for change in changes:
            reason = next(
                filter(None, (unsendable_reason(template, change) for template in templates)), ""
            )
            if reason:
                refused.append(RefusedChange(change, INVALID_CHARACTER, reason))
            else:
                sendable.append(change)
        parts: list[Sequence[Change]] = [sendable] if sendable else []
        while parts:
            part = parts.pop(0)
            try:
                self._try(templates, part)
            except RowRefused as error:
                if len(part) == 1:
                    refused.append(RefusedChange(part[0], error.sqlstate, error.said))
                else:
                    middle = len(part) // 2
                    parts[:0] = [part[:middle], part[middle:]]
        return refused

    def _try(self, templates: Sequence[StatementTemplate], changes: Sequence[Change]) -> None:
        statements: list[Statement] = []
        slices = []
        for sent, rows in bind(templates, changes, self._origin):
            statements += sent
            slices.append(len(rows))
        results = self._hub.savepoint(statements)
        for number, landed in enumerate(slices):
            start = number * len(templates)
            self.tally.count(templates, results[start : start + len(templates)], landed)
