# SPDX-License-Identifier: Apache-2.0
"""Reading the journal: its entries, and those that a hub lacks; functions on a connection."""

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from edgepaas.outbox.journal.entries import Reach, StoredEntry
from edgepaas.outbox.journal.tables import (
    CONFIRMED,
    DOUBTFUL,
    JOURNAL,
    STATE,
    STREAMS,
    UNCERTAIN,
    VOID,
)
from edgepaas.outbox.layout import Layout, stored_layouts
from edgepaas.outbox.reading import Change, Op, exact_rows
from edgepaas.outbox.triggers import values_of

_OPS: Final[dict[str, Op]] = {"I": "insert", "U": "update", "D": "delete"}
#: Rows that are looked at for what was acknowledged last.
RECENT: Final = 50_000
_HEADS: Final = (
    "SELECT j.ord, coalesce(s.stream_id, ''), coalesce(s.owner, ''), "  # noqa: S608
    "j.mark, j.state, j.at, j.number, j.rows "
    f"FROM {JOURNAL} j LEFT JOIN {STREAMS} s ON s.id = j.stream WHERE j.ord IS NOT NULL"
)


def unsettled(connection: sqlite3.Connection) -> list[StoredEntry]:
    """Return the entries that are not settled for good, in order, without their changes."""
    # A look at the rest of the file would take longer with each day.
    (start,) = connection.execute(f"SELECT unsettled FROM {STATE}").fetchone()  # noqa: S608
    rows = connection.execute(
        f"{_HEADS} AND j.number >= ? AND j.state IN {UNCERTAIN} ORDER BY j.ord", (start,)
    )
    return [StoredEntry(*row) for row in rows]


def entries_of(connection: sqlite3.Connection, stream_id: str, above: int) -> list[StoredEntry]:
    """Return the confirmed entries of a stream above a mark, in order, with their changes."""
    rows = connection.execute(
        f"{_HEADS} AND j.state = {CONFIRMED} AND s.stream_id = ? AND j.mark > ? ORDER BY j.ord",
        (stream_id, above),
    ).fetchall()
    return [with_changes(connection, StoredEntry(*row)) for row in rows]


def lacking(
    connection: sqlite3.Connection, hub: Mapping[str, int], *, newest: int = 0
) -> list[StoredEntry]:
    """Return the confirmed entries that a hub with these marks lacks, in order, without changes.

    *newest*: only among so many rows at the end of the file; 0: among all.
    """
    joined = streams_in_sums(connection, hub)
    rows = connection.execute(
        f"{_HEADS} AND j.state = {CONFIRMED} AND j.stream <> 0 AND j.number > "  # noqa: S608
        f"CASE ?1 WHEN 0 THEN 0 ELSE (SELECT max(number) FROM {JOURNAL}) - ?1 END",
        (newest,),
    )
    found = [
        one
        for one in (StoredEntry(*row) for row in rows)
        if one.mark > hub.get(one.stream_id, 0) and one.stream_id not in joined
    ]
    return sorted(found, key=lambda one: one.order)


def doubtful(connection: sqlite3.Connection, hub: Mapping[str, int]) -> list[StoredEntry]:
    """Return the entries in doubt that a hub with these marks lacks, in order, without changes."""
    joined = streams_in_sums(connection, hub)
    return [
        one
        for one in unsettled(connection)
        if one.state == DOUBTFUL
        and one.mark > hub.get(one.stream_id, 0)
        and one.stream_id not in joined
    ]


def streams_ahead(connection: sqlite3.Connection, hub: Mapping[str, int]) -> set[str]:
    """Return the streams with entries that a hub with these marks lacks, or may lack.

    Of the entries of the last :data:`RECENT` rows, and those that are not settled.
    """
    found = (*unsettled(connection), *lacking(connection, hub, newest=RECENT))
    return {one.stream_id for one in found}


def is_changed_later(connection: sqlite3.Connection, entry: StoredEntry, change: Change) -> bool:
    """Whether an entry that was written after *entry* holds a change of the same row."""
    for identity, layout in stored_layouts(connection).items():
        if layout.table != change.layout.table or layout.key != change.layout.key:
            continue
        key = " AND ".join(f"v{position} IS ?" for position in layout.key_positions)
        if connection.execute(
            f"SELECT 1 FROM {JOURNAL} WHERE number >= ? AND layout = ? AND op <> '{VOID}' "  # noqa: S608
            f"AND {key} LIMIT 1",
            (entry.number + entry.rows, identity, *change.key),
        ).fetchone():
            return True
    return False


def streams_in_sums(connection: sqlite3.Connection, hub: Mapping[str, int]) -> set[str]:
    """Return the streams that were joined, where a hub with these marks has all of them."""
    return {
        stream_id
        for stream_id, to, mark in connection.execute(
            f"SELECT stream_id, joined_to, joined_mark FROM {STREAMS} WHERE joined_to <> ''"  # noqa: S608
        )
        if hub.get(to, 0) >= mark
    }


def joined_streams(connection: sqlite3.Connection) -> dict[str, str]:
    """Return by stream the one on the hub that it was, or is being, joined to."""
    return dict(
        connection.execute(
            f"SELECT stream_id, joined_to FROM {STREAMS} WHERE joined_to <> ''"  # noqa: S608
        ).fetchall()
    )


def with_changes(connection: sqlite3.Connection, entry: StoredEntry) -> StoredEntry:
    """Return *entry* with its changes."""
    found = list(changes_between(connection, entry.number, entry.number + entry.rows - 1))
    return replace(entry, changes=found)


def with_changes_in_doubt(connection: sqlite3.Connection, entry: StoredEntry) -> StoredEntry:
    """Return *entry*, which is in doubt, with those of its changes that may be sent again.

    Of a row that is not a fact only where this box has not changed it since: who was not
    answered may have repeated the change, and have taken it back.
    """
    found = with_changes(connection, entry)
    kept = [
        change
        for change in found.changes
        if change.layout.kind == "facts" or not is_changed_later(connection, entry, change)
    ]
    return replace(found, changes=kept)


def changes_between(connection: sqlite3.Connection, first: int, last: int) -> Iterator[Change]:
    """Give the changes of the rows *first* to *last*; those that were no change are left out."""
    layouts = stored_layouts(connection)
    shapes = connection.execute(
        f"SELECT DISTINCT layout, op FROM {JOURNAL} WHERE number BETWEEN ? AND ?",  # noqa: S608
        (first, last),
    ).fetchall()
    width = max((_count(layouts[layout], op) for layout, op in shapes), default=1)
    statement = (
        f"SELECT number, layout, op, {values_of(width)} FROM {JOURNAL} "  # noqa: S608
        f"WHERE number BETWEEN ? AND ? AND op <> '{VOID}' ORDER BY number"
    )
    for number, layout, op, *values in exact_rows(connection, statement, (first, last)):
        yield _change(number, first, layouts[layout], op, values)


def newest_order(connection: sqlite3.Connection) -> int:
    """Return the greatest order among the entries that were written last; 0 without one.

    They are written almost in their order, and there is no index of it.
    """
    found = connection.execute(
        f"SELECT max(ord) FROM (SELECT ord FROM {JOURNAL} WHERE ord IS NOT NULL "  # noqa: S608
        "ORDER BY number DESC LIMIT 1000)"
    ).fetchone()[0]
    return int(found or 0)


def youngest_order(connection: sqlite3.Connection) -> int:
    """Return the greatest order that was given out, as far as the file tells; 0 without one."""
    (dropped,) = connection.execute(f"SELECT dropped_ord FROM {STATE}").fetchone()  # noqa: S608
    return max(newest_order(connection), int(dropped))


def acknowledged_marks(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the mark up to which each stream is known to have been acknowledged.

    By its confirmed entries, and by each later one: a connection that goes on has had its answer.
    Of the entries of the last :data:`RECENT` rows.
    """
    rows = connection.execute(
        f"SELECT s.stream_id, max(j.mark - (j.state IN {UNCERTAIN})) "  # noqa: S608
        f"FROM {JOURNAL} j JOIN {STREAMS} s ON s.id = j.stream WHERE j.ord IS NOT NULL "
        f"AND j.number > (SELECT max(number) - {RECENT} FROM {JOURNAL}) GROUP BY s.stream_id"
    )
    return dict(rows.fetchall())


def reach(connection: sqlite3.Connection) -> Reach:
    """Return how far the journal reaches back."""
    order, since = connection.execute(
        f"SELECT ord, at FROM {JOURNAL} WHERE ord IS NOT NULL ORDER BY number LIMIT 1"  # noqa: S608
    ).fetchone() or (0, 0)
    rows, waiting = connection.execute(
        f"SELECT coalesce(max(number) - min(number) + 1, 0), "  # noqa: S608
        f"(SELECT count(*) FROM {JOURNAL} WHERE state IN {UNCERTAIN} AND number >= "
        f"(SELECT unsettled FROM {STATE})) FROM {JOURNAL}"
    ).fetchone()
    dropped_order, dropped_rows = connection.execute(
        f"SELECT dropped_ord, dropped_rows FROM {STATE}"  # noqa: S608
    ).fetchone()
    return Reach(order, since, rows, waiting, dropped_order, dropped_rows, used_bytes(connection))


def used_bytes(connection: sqlite3.Connection) -> int:
    """Return what the rows take in the file; free pages are room."""
    pages, free, size = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _change(number: int, first: int, layout: Layout, op: str, values: list[Any]) -> Change:
    count = len(layout.columns)
    one, other = tuple(values[:count]), tuple(values[count : 2 * count])
    new = None if op == "D" else one
    old = one if op == "D" else other if op == "U" else None
    return Change(number, first, layout, _OPS[op], new, old, resent=True)


def _count(layout: Layout, op: str) -> int:
    return len(layout.columns) * (2 if op == "U" else 1)
