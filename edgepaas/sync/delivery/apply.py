# SPDX-License-Identifier: Apache-2.0
"""Applying a batch at full speed: everything is sent on, answers are looked at later.

Nothing is kept of a chunk that was sent. So whatever is out of the ordinary, a row that is
refused or a fact that was there already, gives up the transaction; the batch is then read
again and applied with care (:mod:`edgepaas.sync.delivery.bisect`).
"""

from collections import deque
from collections.abc import Sequence

from edgepaas.outbox.reading import Change
from edgepaas.pgdriver.pipeline import Statement
from edgepaas.sync.delivery.column_mapping import TableDropped
from edgepaas.sync.delivery.dead_letters import RefusedChange
from edgepaas.sync.delivery.planner import DeliveryCounts, Planner, gap_statement, rows_shed
from edgepaas.sync.delivery.runs import runs_of
from edgepaas.sync.delivery.sending import Origin, bind
from edgepaas.sync.delivery.statement_template import StatementTemplate
from edgepaas.sync.delivery.values import UnsendableValue
from edgepaas.sync.errors import RowRefused
from edgepaas.sync.hub.connection import Hub

#: Chunks on their way at a time: over a slow link the next ones are sent while the answer
#: to the first travels.
WINDOW = 8

#: What was sent together: templates, how many changes they applied, whether all must be new.
_Part = tuple[Sequence[StatementTemplate], int, bool]


class NeedsRowByRow(Exception):
    """The batch holds something that is to be looked at row by row."""


class PipelinedApplier:
    """Applies the chunks of one batch inside the hub's open transaction."""

    def __init__(self, hub: Hub, planner: Planner, origin: Origin) -> None:
        self.tally = DeliveryCounts()
        #: Nothing is ever cut out at this speed.
        self.refused: tuple[RefusedChange, ...] = ()
        self._hub = hub
        self._planner = planner
        self._origin = origin
        self._sent: deque[list[_Part]] = deque()

    def apply(self, changes: Sequence[Change]) -> None:
        """Send *changes*; raises NeedsRowByRow, also about ones sent before, and HubError."""
        try:
            statements, parts = self._statements(changes)
        except (UnsendableValue, TableDropped) as reason:
            raise NeedsRowByRow(str(reason)) from reason
        if not statements:
            return
        self._hub.send(statements)
        self._sent.append(parts)
        while len(self._sent) > WINDOW:
            self._receive()

    def finish(self) -> DeliveryCounts:
        """Wait for what was sent, and return what became of it; raises as ``apply`` does."""
        while self._sent:
            self._receive()
        return self.tally

    def _statements(self, changes: Sequence[Change]) -> tuple[list[Statement], list[_Part]]:
        statements: list[Statement] = []
        parts: list[_Part] = []
        runs = runs_of(changes, self._planner.tables)
        for run in runs:
            if run.op == "gap":
                statements += [gap_statement(change, self._origin) for change in run.changes]
                parts += [((), 1, False)] * len(run.changes)
                self.tally.shed += sum(map(rows_shed, run.changes))
                continue
            templates = self._planner.templates_for(run, comparing=False)
            must_be_new = run.op == "insert" and run.layout.kind == "facts" and not run.resent
            if not templates:
                self.tally.delivered += len(run.changes)
                continue
            for sent, rows in bind(templates, run.changes, self._origin):
                statements += sent
                parts.append((templates, len(rows), must_be_new))
        return statements, parts

    def _receive(self) -> None:
        parts = self._sent.popleft()
        try:
            results = self._hub.receive()
        except RowRefused as reason:
            raise NeedsRowByRow(str(reason)) from reason
        position = 0
        for templates, rows, must_be_new in parts:
            taken = results[position : position + max(1, len(templates))]
            position += len(taken)
            if must_be_new and taken[0].count < rows:
                raise NeedsRowByRow("facts that were there already")
            self.tally.count(templates, taken[: len(templates)], rows)
