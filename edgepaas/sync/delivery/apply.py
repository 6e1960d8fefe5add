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
from edgepaas.sync.delivery.dead_letters import Refused
from edgepaas.sync.delivery.planner import Planner, Tally, gap_statement, shed_by
from edgepaas.sync.delivery.runs import runs_of
from edgepaas.sync.delivery.sending import Origin, bound
from edgepaas.sync.delivery.shape import TableGone
from edgepaas.sync.delivery.statement_template import Plan
from edgepaas.sync.delivery.values import UnfitValue
from edgepaas.sync.errors import RowRefused
from edgepaas.sync.hub.connection import Hub

#: Chunks on their way at a time: over a slow link the next ones are sent while the answer
#: to the first travels.
WINDOW = 8

#: What was sent together: plans, how many changes they applied, whether all must be new.
_Part = tuple[Sequence[Plan], int, bool]


class NeedsCare(Exception):
    """The batch holds something that is to be looked at row by row."""


class Applier:
    """Applies the chunks of one batch inside the hub's open transaction."""

    def __init__(self, hub: Hub, planner: Planner, origin: Origin) -> None:
        self.tally = Tally()
        #: Nothing is ever cut out at this speed.
        self.refused: tuple[Refused, ...] = ()
        self._hub = hub
        self._planner = planner
        self._origin = origin
        self._sent: deque[list[_Part]] = deque()

    def apply(self, changes: Sequence[Change]) -> None:
        """Send *changes*; raises NeedsCare, also about ones sent before, and HubError."""
        try:
            statements, parts = self._statements(changes)
        except (UnfitValue, TableGone) as reason:
            raise NeedsCare(str(reason)) from reason
        if not statements:
            return
        self._hub.send(statements)
        self._sent.append(parts)
        while len(self._sent) > WINDOW:
            self._receive()

    def finish(self) -> Tally:
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
                self.tally.shed += sum(map(shed_by, run.changes))
                continue
            plans = self._planner.plans(run, comparing=False)
            must_be_new = run.op == "insert" and run.layout.kind == "facts" and not run.resent
            if not plans:
                self.tally.delivered += len(run.changes)
                continue
            for sent, rows in bound(plans, run.changes, self._origin):
                statements += sent
                parts.append((plans, len(rows), must_be_new))
        return statements, parts

    def _receive(self) -> None:
        parts = self._sent.popleft()
        try:
            results = self._hub.receive()
        except RowRefused as reason:
            raise NeedsCare(str(reason)) from reason
        position = 0
        for plans, rows, must_be_new in parts:
            taken = results[position : position + max(1, len(plans))]
            position += len(taken)
            if must_be_new and taken[0].count < rows:
                raise NeedsCare("facts that were there already")
            self.tally.count(plans, taken[: len(plans)], rows)
