# SPDX-License-Identifier: Apache-2.0
"""Rows that wait in the SQLite file, and which of them a revision would take a value from."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from edgepaas.database.reserved_names import OUTBOX, STATE
from edgepaas.outbox import capture, tables
from edgepaas.outbox.layout import Layout, stored_layouts
from edgepaas.outbox.reading import exact_rows
from edgepaas.outbox.revisions.changes import Names
from edgepaas.outbox.revisions.naming import Naming
from edgepaas.outbox.revisions.record import read_record
from edgepaas.schema.renames.fitting import fits

if TYPE_CHECKING:
    from edgepaas.schema.renames.observer import ObservedRevision
    from edgepaas.schema.renames.upgrade import Guard

_PAGE = 1000


def guard_of_file(connection: sqlite3.Connection) -> "Guard":
    """Return the guard of a file that is migrated: values that wait and would have no place.

    Where nothing is captured for a hub, no row waits for one.
    """

    def guard(revision: "ObservedRevision") -> list[str]:
        if not capture.is_installed(connection):
            return []
        return broken_rows(connection, revision, Naming(box=read_record(connection)).at_box)

    return guard


def broken_rows(
    connection: sqlite3.Connection,
    revision: "ObservedRevision",
    names_before: Callable[[Layout], Names],
) -> list[str]:
    """Return which rows that wait *revision*, not recorded yet, leaves without a place, as text.

    *names_before*: where a layout stands in the database that is migrated, before the revision.
    Raises sqlite3.Error.
    """
    found: list[str] = []
    for layout in waiting_layouts(connection):
        names = names_before(layout)
        if names.table is None:
            continue
        after = names.after([revision.changes])
        if after.table is None:
            rows = _count(connection, layout, range(len(layout.columns)))
            found += _broken(rows, f"the table {names.table}", "it drops")
            continue
        pairs = zip(names.columns.values(), after.columns.values(), strict=True)
        for position, (old, new) in enumerate(pairs):
            if old is None or revision.is_retired(names.table, old):
                continue
            what = f"the column {names.table}.{old}"
            if new is None:
                found += _broken(_count(connection, layout, [position]), what, "it drops")
            elif types := revision.changed_type(names.table, old, after.table, new):
                rows = _count_unfit(connection, layout, position, types[1])
                found += _broken(rows, what, f"{types[1]} does not hold")
    return found


def waiting_layouts(connection: sqlite3.Connection) -> list[Layout]:
    """Return the layouts of rows that wait, oldest first."""
    if not tables.exist(connection):
        return []
    layouts = stored_layouts(connection)
    waiting = connection.execute(
        f"SELECT DISTINCT layout FROM {OUTBOX} "  # noqa: S608
        f"WHERE seq > (SELECT confirmed_seq FROM {STATE}) AND op <> 'G' ORDER BY layout"
    )
    return [layouts[identity] for (identity,) in waiting]


def count_waiting(connection: sqlite3.Connection, layout: Layout) -> int:
    """Return how many rows of *layout* wait."""
    statement = f"SELECT count(*) FROM {OUTBOX} WHERE {_waits(layout)}"  # noqa: S608
    return int(connection.execute(statement).fetchone()[0])


def count_empty(connection: sqlite3.Connection, layout: Layout, position: int) -> int:
    """Return how many rows of *layout* wait that are, or become, empty at *position*."""
    old = f"v{position + len(layout.columns)}"
    becomes = f"op = 'I' OR (op = 'U' AND {old} IS NOT NULL)"
    statement = (
        f"SELECT count(*) FROM {OUTBOX} "  # noqa: S608
        f"WHERE {_waits(layout)} AND v{position} IS NULL AND ({becomes})"
    )
    return int(connection.execute(statement).fetchone()[0])


def _broken(rows: int, what: str, why: str) -> list[str]:
    if not rows:
        return []
    count = "1 row waits" if rows == 1 else f"{rows:,} rows wait"
    return [f"{count} with a value of {what}, which {why}"]


def _count(connection: sqlite3.Connection, layout: Layout, positions: Sequence[int]) -> int:
    """Count the rows of *layout* that wait and bring a value at one of *positions*."""
    brings = " OR ".join(_brings(layout, position) for position in positions)
    statement = f"SELECT count(*) FROM {OUTBOX} WHERE {_waits(layout)} AND ({brings})"  # noqa: S608
    return int(connection.execute(statement).fetchone()[0])


def _count_unfit(connection: sqlite3.Connection, layout: Layout, position: int, kind: str) -> int:
    return sum(1 for value in _values(connection, layout, position) if not fits(value, kind))


def _values(connection: sqlite3.Connection, layout: Layout, position: int) -> Iterator[object]:
    """Give the values that rows of *layout* which wait bring at *position*."""
    after = 0
    while rows := exact_rows(
        connection,
        f"SELECT seq, v{position} FROM {OUTBOX} "  # noqa: S608
        f"WHERE {_waits(layout)} AND {_brings(layout, position)} AND seq > ? ORDER BY seq LIMIT ?",
        (after, _PAGE),
    ):
        after = rows[-1][0]
        yield from (row[1] for row in rows)


def _waits(layout: Layout) -> str:
    return f"seq > (SELECT confirmed_seq FROM {STATE}) AND layout = {layout.id}"  # noqa: S608


def _brings(layout: Layout, position: int) -> str:
    old = f"v{position + len(layout.columns)}"
    return f"(v{position} IS NOT NULL AND (op = 'I' OR (op = 'U' AND v{position} IS NOT {old})))"
