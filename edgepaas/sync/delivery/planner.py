# SPDX-License-Identifier: Apache-2.0
"""Choosing the statements that apply a run of changes, and counting their results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgepaas.outbox.layout import Layout
from edgepaas.outbox.reading import Change
from edgepaas.outbox.revisions.naming import Naming
from edgepaas.pgdriver.pipeline import Result, Statement
from edgepaas.sync.delivery import statements
from edgepaas.sync.delivery.column_mapping import ColumnMapping, map_columns
from edgepaas.sync.delivery.runs import Run, runs_of
from edgepaas.sync.delivery.sending import Origin
from edgepaas.sync.delivery.statement_template import StatementTemplate
from edgepaas.sync.delivery.verification import existing, verify
from edgepaas.sync.hub.catalog import HubTable


@dataclass
class DeliveryCounts:
    """What became of the rows of a batch.

    ``delivered`` + ``dead`` is the number of rows. ``conflicts`` are among the delivered ones;
    ``shed`` is how many rows the gap rows among them report as given up.
    """

    delivered: int = 0
    dead: int = 0
    conflicts: int = 0
    shed: int = 0

    def add_results(
        self, templates: Sequence[StatementTemplate], results: Sequence[Result], rows: int
    ) -> None:
        """Add *rows* that were applied by *templates* with *results*."""
        self.delivered += rows
        for template, result in zip(templates, results, strict=True):
            if template.counts:
                self.conflicts += int(result.rows[0][0])
            elif template.records:
                self.conflicts += result.count


class Planner:
    """Chooses templates and caches them for one batch; *tables* are the hub's current ones."""

    def __init__(
        self,
        tables: Mapping[str, HubTable],
        models: Mapping[str, Any],
        tombstoned: set[str],
        naming: Naming | None = None,
    ) -> None:
        """*models*: ``tables`` of tables.json; *tombstoned*: tables with tombstones.

        *naming*: what was renamed since the rows were captured.
        """
        self.tables = tables
        self._models = models
        self._tombstoned = tombstoned
        self._naming = naming or Naming()
        self._hub_tables: dict[Layout, str] = {}
        self._mappings: dict[Layout, ColumnMapping] = {}
        #: The tables that statements were made for.
        self.used: dict[str, HubTable] = {}
        self._templates: dict[tuple[Any, ...], list[StatementTemplate]] = {}

    def hub_table(self, layout: Layout) -> str:
        """Return what the table of *layout* is called on the hub; its own name where it is gone."""
        found = self._hub_tables.get(layout)
        if found is None:
            found = self._naming.at_hub(layout).table or layout.table
            self._hub_tables[layout] = found
        return found

    def runs_of(self, changes: Sequence[Change]) -> list[Run]:
        """Return *changes* as runs that one statement each can apply."""
        return runs_of(changes, self.tables, self.hub_table)

    def templates_for(self, run: Run, *, comparing: bool) -> list[StatementTemplate]:
        """Return the templates that apply *run*; none where an update changes nothing there.

        *comparing*: facts that exist already are compared with the hub's, and every row is looked
        for afterwards. Without it, the first template inserts, and its row count tells whether
        any existed; rows are looked for where triggers of the hub may have removed or changed
        them. Raises SchemaDrift, TableDropped.
        """
        table = self.hub_table(run.layout)
        if run.op == "delete":
            self._tombstoned.add(table)
        clearing = run.op == "insert" and not run.resent and table in self._tombstoned
        known = (run.layout, run.op, run.resent, run.missing, run.changed, comparing, clearing)
        found = self._templates.get(known)
        if found is None:
            found = self._templates[known] = self._build(
                run, comparing=comparing, clearing=clearing
            )
        return found

    def _build(self, run: Run, *, comparing: bool, clearing: bool) -> list[StatementTemplate]:
        mapping = self._mappings.get(run.layout)
        if mapping is None:
            mapping = map_columns(run.layout, self.tables, self._models, self._naming)
            self._mappings[run.layout] = mapping
            self.used[mapping.hub_table] = self.tables[mapping.hub_table]
        templates = _changing(mapping, run, comparing=comparing, clearing=clearing)
        shape = self.tables[mapping.hub_table].shape
        check = None
        if templates and (comparing or (shape is not None and shape.watched)):
            check = verify(mapping, run)
        kept = None
        if run.op != "delete":
            changed = run.changed if run.op == "update" else None
            kept = statements.keep_dropped(mapping, changed)
        return [*templates, *(one for one in (kept, check) if one is not None)]


def _changing(
    mapping: ColumnMapping, run: Run, *, comparing: bool, clearing: bool
) -> list[StatementTemplate]:
    """Return the templates that change the hub's rows, and record what they met there."""
    if run.op == "delete":
        return [statements.delete(mapping, resent=run.resent)]
    if run.op == "update":
        template = statements.update(mapping, run.changed, resent=run.resent, missing=run.missing)
        return [] if template is None else [template]
    templates = [statements.insert(mapping, guarded=run.resent, adding=not run.resent)]
    if run.resent:
        templates.append(statements.compare(mapping, resent=True))
    elif run.layout.kind != "facts":
        templates.append(statements.merge(mapping))
    elif comparing:
        # Which of them were there is asked first: only what is new can have been changed.
        templates.insert(0, existing(mapping))
        templates.append(statements.compare(mapping, resent=False))
    if clearing:
        templates.append(statements.clear_tombstones(mapping))
    return templates


_GAP = """
INSERT INTO sync_gaps (stream_id, seq, node_id, tbl, rows, ranges, reason, first_at, last_at)
VALUES ($1::uuid, $2::bigint, $3::uuid, $4::text, $5::bigint, $6::jsonb, $7::text, $8::text,
  $9::text) ON CONFLICT (stream_id, seq) DO NOTHING"""


def gap_statement(change: Change, origin: Origin) -> Statement:
    """Return the statement that stores the gap row *change* on the hub."""
    gap = change.gap or {}
    return (
        _GAP,
        (
            origin.stream_id,
            change.seq,
            origin.node_id,
            str(gap.get("table", "")),
            int(gap.get("rows", 0)),
            json.dumps(gap.get("ranges", [])),
            str(gap.get("reason", "")),
            str(gap.get("first_at", "")),
            str(gap.get("last_at", "")),
        ),
    )


def rows_shed(change: Change) -> int:
    """Return how many rows the gap row *change* reports as given up."""
    return int((change.gap or {}).get("rows", 0))
