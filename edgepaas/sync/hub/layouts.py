# SPDX-License-Identifier: Apache-2.0
"""Telling the hub which layouts this box writes, and which ones rows that wait have.

A revision that drops a column waits until no report names a layout that has it
(edgepaas.schema.renames.boxes). The reports of a box that was taken out of ``nodes`` go with it.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgepaas.database.reserved_names import OUTBOX, STATE
from edgepaas.outbox import tables
from edgepaas.outbox.layout import Layout, forwarded_layouts, stored_layouts

if TYPE_CHECKING:
    from edgepaas.sync.hub.connection import Hub

TABLE = "sync_layouts"

_FORGET = f"""
DELETE FROM {TABLE} l WHERE (node_id = $1::uuid AND NOT EXISTS (
    SELECT 1 FROM json_to_recordset($2::text::json) AS r(tbl text, revision text)
    WHERE r.tbl = l.tbl AND r.revision = l.revision))
  OR NOT EXISTS (SELECT 1 FROM nodes n WHERE n.node_id = l.node_id)"""  # noqa: S608
_REPORT = f"""
INSERT INTO {TABLE} (node_id, tbl, revision, columns, rows, is_current)
SELECT $1::uuid, r.* FROM json_to_recordset($2::text::json)
  AS r(tbl text, revision text, columns jsonb, rows bigint, is_current bool)
ON CONFLICT (node_id, tbl, revision) DO UPDATE SET columns = excluded.columns,
  rows = excluded.rows, is_current = excluded.is_current, updated_at = now()"""  # noqa: S608


@dataclass(frozen=True)
class LayoutReport:
    """A layout, how many rows of it wait, and whether the box writes it now."""

    table: str
    revision: str
    columns: Mapping[str, str]
    rows: int
    is_current: bool


def reports_of(
    document: Mapping[str, Any], connection: sqlite3.Connection | None
) -> tuple[LayoutReport, ...]:
    """Return the report of a box with the tables of *document* (run/tables.json).

    *connection*: that of its file, whose rows may wait; None without one. How many rows wait is
    said of layouts that are no longer written alone. Raises sqlite3.Error.
    """
    current = forwarded_layouts(document)
    found = {(one.table, one.revision): _report(one, 0, is_current=True) for one in current}
    waiting = _older_rows(connection, current) if connection is not None else {}
    for layout, rows in waiting.items():
        key = (layout.table, layout.revision)
        known = found.get(key)
        if known is None or not known.is_current:
            more = rows + (0 if known is None else known.rows)
            found[key] = _report(layout, more, is_current=False)
    return tuple(found[key] for key in sorted(found))


def send_reports(hub: "Hub", node_id: str, reports: Iterable[LayoutReport]) -> None:
    """Replace what *hub* knows of the box *node_id*; one round trip. Raises HubError.

    Nothing where the hub has no table for it: contracting does not wait there.
    """
    if TABLE not in hub.tables:
        return
    rows = json.dumps(
        [
            {
                "tbl": one.table,
                "revision": one.revision,
                "columns": one.columns,
                "rows": one.rows,
                "is_current": one.is_current,
            }
            for one in reports
        ]
    )
    hub.run([(_FORGET, (node_id, rows)), (_REPORT, (node_id, rows))])


def _report(layout: Layout, rows: int, *, is_current: bool) -> LayoutReport:
    columns = {column.name: column.type for column in layout.columns}
    return LayoutReport(layout.table, layout.revision, columns, rows, is_current)


def _older_rows(connection: sqlite3.Connection, current: Sequence[Layout]) -> Mapping[Layout, int]:
    """Return how many rows wait of each layout that none of *current* is; nothing of others."""
    if not tables.exist(connection):
        return {}
    stored = stored_layouts(connection)
    written = {(one.table, one.definition()) for one in current}
    newest = {(one.table, one.definition()): one.id for one in stored.values()}
    older = [i for i, one in stored.items() if newest[one.table, one.definition()] != i]
    older += [i for key, i in newest.items() if key not in written]
    if not older:
        return {}
    counted = connection.execute(
        f"SELECT layout, count(*) FROM {OUTBOX} "  # noqa: S608
        f"WHERE seq > (SELECT confirmed_seq FROM {STATE}) "
        f"AND layout IN ({', '.join(map(str, older))}) GROUP BY layout"
    )
    return {stored[identity]: int(rows) for identity, rows in counted}
