# SPDX-License-Identifier: Apache-2.0
"""Applying a batch row by row where needed: rows that PostgreSQL refuses are found and left out.

So are rows that it accepted and did not store as they were sent.

Each run is tried as a whole in a savepoint, then in halves, down to the single row that is
refused. Halves are applied in the order of the changes, so that what one statement over many
rows cannot do (two rows that swap a unique value) succeeds.
"""

from collections.abc import Sequence

from edgepaas.outbox.reading import Change
from edgepaas.pgdriver.pipeline import Result, Statement
from edgepaas.sync.delivery.column_mapping import TableDropped
from edgepaas.sync.delivery.dead_letters import (
    RefusedChange,
    rows_with_waiting_letters,
    store_dead_letters,
)
from edgepaas.sync.delivery.planner import DeliveryCounts, Planner, gap_statement, rows_shed
from edgepaas.sync.delivery.runs import Run
from edgepaas.sync.delivery.sending import Origin, bind, row_key, unsendable_reason
from edgepaas.sync.delivery.statement_template import StatementTemplate
from edgepaas.sync.delivery.values import INVALID_CHARACTER
from edgepaas.sync.delivery.verification import unstored
from edgepaas.sync.errors import HubError, RowRefused
from edgepaas.sync.hub.connection import Hub
from edgepaas.sync.refusals.table_judge import TableJudge

#: The reason of a row that was not refused itself; it has no SQLSTATE.
FOLLOWS = "an earlier change of this row was refused and waits here"


class BisectingApplier:
    """Applies the chunks of one batch inside the hub's open transaction, bisecting refused runs."""

    def __init__(
        self, hub: Hub, planner: Planner, origin: Origin, *, letters_waiting: bool
    ) -> None:
        """*letters_waiting*: dead letters of this node may wait on the hub."""
        self.counts = DeliveryCounts()
        #: The first rows that were left out, for a message.
        self.refused: list[RefusedChange] = []
        self._hub = hub
        self._planner = planner
        self._origin = origin
        self._letters_waiting = letters_waiting
        self._judge = TableJudge(hub)
        #: Rows, by table and key, that wait as dead letters.
        self._left_out: dict[tuple[str, str], None] = {}

    def apply(self, changes: Sequence[Change]) -> None:
        """Apply *changes* but for those that are refused.

        Raises TableRefused where PostgreSQL refuses every row of a table, HubError.
        """
        refused: list[RefusedChange] = []
        # Those of this chunk; earlier ones are on the hub already.
        self._left_out.clear()
        if self._letters_waiting:
            self._left_out |= rows_with_waiting_letters(self._hub, self._origin.node_id, changes)
        for run in self._planner.runs_of(changes):
            if run.op == "gap":
                self._hub.run([gap_statement(change, self._origin) for change in run.changes])
                self.counts.delivered += len(run.changes)
                self.counts.shed += sum(map(rows_shed, run.changes))
                continue
            to_apply = []
            for change in run.changes:
                if self._left_out and (run.layout.table, row_key(change)) in self._left_out:
                    refused.append(RefusedChange(change, "", FOLLOWS))
                else:
                    to_apply.append(change)
            for one in self._apply_run(run, to_apply):
                refused.append(one)
                self._left_out[run.layout.table, row_key(one.change)] = None
        if refused:
            store_dead_letters(self._hub, refused, self._origin)
            self.counts.dead += len(refused)
            self._letters_waiting = True
            self.refused += refused[: 10 - len(self.refused)]

    def finish(self) -> DeliveryCounts:
        """Return what became of the changes."""
        return self.counts

    def _apply_run(self, run: Run, changes: Sequence[Change]) -> list[RefusedChange]:
        """Apply *changes* of *run* and return those that are refused."""
        try:
            templates = self._planner.templates_for(run, comparing=True)
        except TableDropped:
            reason = f"neither the hub nor this box's models have a table {run.layout.table}"
            return [RefusedChange(change, "42P01", reason) for change in changes]
        if not templates:
            self.counts.delivered += len(changes)
            return []
        refused = []
        sendable = []
        for change in changes:
            reason = unsendable_reason(templates, change)
            if reason:
                refused.append(RefusedChange(change, INVALID_CHARACTER, reason))
            else:
                sendable.append(change)
        return refused + (self._apply_parts(run, templates, sendable) if sendable else [])

    def _apply_parts(
        self, run: Run, templates: Sequence[StatementTemplate], changes: Sequence[Change]
    ) -> list[RefusedChange]:
        """Apply *changes*, in halves where PostgreSQL refuses them; return those refused."""
        refused: list[RefusedChange] = []
        parts = [changes]
        while parts:
            part = parts.pop(0)
            try:
                not_there = self._apply_in_savepoint(templates, part)
            except HubError as error:
                table = self._planner.hub_table(run.layout)
                refusal = self._judge.refusal(error, table, run.layout)
                if refusal is None and not isinstance(error, RowRefused):
                    raise
                if len(part) == 1 or (refusal is not None and not refusal.doubtful):
                    if refusal is not None:
                        self._judge.raise_for_table(refusal, table, run.layout, error)
                    refused.append(RefusedChange(part[0], error.sqlstate, error.server_message))
                else:
                    middle = len(part) // 2
                    parts[:0] = [part[:middle], part[middle:]]
                continue
            if not_there:
                refused += [
                    RefusedChange(change, "", not_there[change.seq])
                    for change in part
                    if change.seq in not_there
                ]
                others = [change for change in part if change.seq not in not_there]
                parts[:0] = [others] if others else []
        return refused

    def _apply_in_savepoint(
        self, templates: Sequence[StatementTemplate], changes: Sequence[Change]
    ) -> dict[int, str]:
        """Apply *changes*; where some are not there as they were sent, none of them is.

        Returns those, by sequence number, with the reason.
        """
        statements: list[Statement] = []
        slices = []
        for sent, rows in bind(templates, changes, self._origin):
            statements += sent
            slices.append(len(rows))
        not_there: dict[int, str] = {}

        def is_stored(results: Sequence[Result]) -> bool:
            not_there.update(unstored(templates, results))
            return not not_there

        results = self._hub.savepoint(statements, accepted=is_stored)
        if not not_there:
            for number, count in enumerate(slices):
                start = number * len(templates)
                self.counts.add_results(templates, results[start : start + len(templates)], count)
        return not_there
