# SPDX-License-Identifier: Apache-2.0
"""Applying a batch fast: chunks are sent without waiting for the results of earlier ones.

A chunk that was sent is not kept in memory. So the transaction is rolled back when a fact
exists already, and the batch is read and sent again with a comparison of its facts; and when a
row is refused, or is not there afterwards as it was sent: the batch is then read again and applied
row by row (:mod:`edgepaas.sync.delivery.bisect`).
"""

from collections import deque
from collections.abc import Sequence

from edgepaas.outbox.reading import Change
from edgepaas.pgdriver.pipeline import Statement
from edgepaas.sync.delivery.column_mapping import TableDropped
from edgepaas.sync.delivery.dead_letters import RefusedChange
from edgepaas.sync.delivery.planner import DeliveryCounts, Planner, gap_statement, rows_shed
from edgepaas.sync.delivery.sending import Origin, bind
from edgepaas.sync.delivery.statement_template import StatementTemplate
from edgepaas.sync.delivery.values import UnsendableValue
from edgepaas.sync.delivery.verification import unstored
from edgepaas.sync.errors import RowRefused
from edgepaas.sync.hub.connection import Hub

#: Chunks without a result at a time: on a slow link the next ones are sent meanwhile.
WINDOW = 8

#: Templates that were sent together, how many changes they apply, whether all must be new.
_Sent = tuple[Sequence[StatementTemplate], int, bool]


class NeedsRowByRow(Exception):
    """The batch holds a row that this applier cannot apply."""


class FactsExist(NeedsRowByRow):
    """Facts of the batch are on the hub already; one that compares them can apply it."""


class PipelinedApplier:
    """Applies the chunks of one batch inside the hub's open transaction, pipelined."""

    def __init__(
        self, hub: Hub, planner: Planner, origin: Origin, *, comparing: bool = False
    ) -> None:
        """*comparing*: facts may be there already; they are compared with what is there."""
        self.counts = DeliveryCounts()
        #: Always empty: this applier never leaves a row out.
        self.refused: tuple[RefusedChange, ...] = ()
        self._hub = hub
        self._planner = planner
        self._origin = origin
        self._comparing = comparing
        self._sent: deque[list[_Sent]] = deque()

    def apply(self, changes: Sequence[Change]) -> None:
        """Send *changes*; raises NeedsRowByRow and FactsExist, also for changes sent before.

        Raises HubError as well.
        """
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
        """Wait for all results and return the counts; raises what ``apply`` raises."""
        while self._sent:
            self._receive()
        return self.counts

    def _statements(self, changes: Sequence[Change]) -> tuple[list[Statement], list[_Sent]]:
        statements: list[Statement] = []
        parts: list[_Sent] = []
        runs = self._planner.runs_of(changes)
        for run in runs:
            if run.op == "gap":
                statements += [gap_statement(change, self._origin) for change in run.changes]
                parts += [((), 1, False)] * len(run.changes)
                self.counts.shed += sum(map(rows_shed, run.changes))
                continue
            templates = self._planner.templates_for(run, comparing=self._comparing)
            facts = run.op == "insert" and run.layout.kind == "facts" and not run.resent
            must_be_new = facts and not self._comparing
            if not templates:
                self.counts.delivered += len(run.changes)
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
            own = results[position : position + max(1, len(templates))]
            position += len(own)
            if must_be_new and own[0].count < rows:
                raise FactsExist("facts that exist already")
            if not_there := unstored(templates, own[: len(templates)]):
                raise NeedsRowByRow(next(iter(not_there.values())))
            self.counts.add_results(templates, own[: len(templates)], rows)
