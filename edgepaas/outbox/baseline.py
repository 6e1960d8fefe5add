# SPDX-License-Identifier: Apache-2.0
"""Queueing whole tables: what was there before capture began."""

import sqlite3
from collections.abc import Sequence

from edgepaas.database.reserved_names import OUTBOX
from edgepaas.outbox.layout import Layout
from edgepaas.outbox.references import Reference, references
from edgepaas.outbox.tables import quoted
from edgepaas.outbox.triggers import values_of

#: Generations of rows that point to rows of their own table.
_GENERATIONS = 1000
#: The temporary table that keeps each row's generation.
_ORDER = "temp.outbox_order"


def queue(
    connection: sqlite3.Connection,
    layout: Layout,
    *,
    resent: bool,
    found: Sequence[Reference] | None = None,
) -> int:
    """Queue each row of *layout*'s table as an insert, in the caller's transaction; how many.

    A row comes after those of its own table that it points to, or PostgreSQL would refuse it.
    *found* are the file's foreign keys. Raises sqlite3.Error.
    """
    found = references(connection) if found is None else found
    own = [one for one in found if one.child == one.parent == layout.table]
    values = ", ".join(f"t.{quoted(name)}" for name in layout.names)
    order = _put_in_order(connection, layout, own) if own else ""
    cursor = connection.execute(
        f"INSERT INTO {OUTBOX} (layout, op, resent, {values_of(len(layout.columns))}) "  # noqa: S608
        f"SELECT ?, 'I', ?, {values} FROM {quoted(layout.table)} t {order}",
        (layout.id, int(resent)),
    )
    if own:
        connection.execute(f"DROP TABLE {_ORDER}")
    return cursor.rowcount


def _put_in_order(connection: sqlite3.Connection, layout: Layout, own: Sequence[Reference]) -> str:
    """Find out which rows of the table come after which; return a query's JOIN and ORDER BY."""
    table = quoted(layout.table)
    names = [f"k{position}" for position in range(len(layout.key))]
    key = ", ".join(f"t.{quoted(name)}" for name in layout.key)
    connection.execute(f"DROP TABLE IF EXISTS {_ORDER}")
    connection.execute(
        f"CREATE TABLE {_ORDER} ({', '.join(names)}, n, PRIMARY KEY ({', '.join(names)}))"
    )
    ahead = " AND ".join(
        f"NOT EXISTS (SELECT 1 FROM {table} p WHERE {_points(one)} AND NOT ({_same_row(layout)}) "  # noqa: S608
        f"AND NOT EXISTS (SELECT 1 FROM {_ORDER} o WHERE {_placed(layout, 'p')}))"
        for one in own
    )
    for generation in range(_GENERATIONS):
        cursor = connection.execute(
            f"INSERT INTO {_ORDER} ({', '.join(names)}, n) SELECT {key}, ? FROM {table} t "  # noqa: S608
            f"WHERE NOT EXISTS (SELECT 1 FROM {_ORDER} o WHERE {_placed(layout, 't')}) AND {ahead}",
            (generation,),
        )
        if not cursor.rowcount:
            break
    # Rows that point to each other in a circle come last, in no order that would help.
    return f"LEFT JOIN {_ORDER} o ON {_placed(layout, 't')} ORDER BY coalesce(o.n, {_GENERATIONS})"


def _placed(layout: Layout, row: str) -> str:
    return " AND ".join(
        f"o.k{position} = {row}.{quoted(name)}" for position, name in enumerate(layout.key)
    )


def _points(one: Reference) -> str:
    return " AND ".join(
        f"t.{quoted(column)} = p.{quoted(target)}"
        for column, target in zip(one.columns, one.targets, strict=True)
    )


def _same_row(layout: Layout) -> str:
    return " AND ".join(f"t.{quoted(name)} = p.{quoted(name)}" for name in layout.key)
