# SPDX-License-Identifier: Apache-2.0
"""Counters among the rows that are sent again: which of their increments the hub lacks for sure.

An increment that the hub lost is to be added, whatever else was counted there since; one that
the hub may have must not be added twice. The marks say what it lost. But where the row itself
was lost as well, another box may have sent its copy, which holds the increments of all: they
are in doubt then, and are applied only where they meet the value that they expect.
"""

import sqlite3
from typing import Final

from edgepaas.database.reserved_names import OUTBOX
from edgepaas.outbox.layout import Layout, stored_layouts

#: ``outbox.resent`` of an update of a counter that is sent again, and that the hub lacks.
MISSING: Final = 2


def trust(connection: sqlite3.Connection, after: int, last: int) -> None:
    """Note that the hub lacks the updates above *after* and up to *last*, its marks say so.

    They are marked as resent already, but for those that no earlier stream may have delivered,
    which are 0 in ``outbox.resent``. Inside the caller's transaction. Raises sqlite3.Error.
    """
    for layout in _layouts(connection):
        connection.execute(
            f"UPDATE {OUTBOX} SET resent = {MISSING} "  # noqa: S608
            "WHERE seq > ? AND seq <= ? AND NOT resent AND op = 'U' AND layout = ?",
            (after, last, layout.id),
        )


def doubt_lost_rows(connection: sqlite3.Connection, after: int) -> None:
    """Put in doubt the updates above *after* whose rows are sent again as well.

    Inside the caller's transaction. Raises sqlite3.Error.
    """
    layouts = _layouts(connection)
    inserted = {
        (layout.table, key)
        for layout in layouts
        for _, key in _rows(connection, layout, after, "op = 'I' AND resent")
    }
    if not inserted:
        return
    for layout in layouts:
        doubtful = [
            (seq,)
            for seq, key in _rows(connection, layout, after, f"op = 'U' AND resent = {MISSING}")
            if (layout.table, key) in inserted
        ]
        connection.executemany(f"UPDATE {OUTBOX} SET resent = 1 WHERE seq = ?", doubtful)  # noqa: S608


def _layouts(connection: sqlite3.Connection) -> list[Layout]:
    return [
        layout
        for layout in stored_layouts(connection).values()
        if any(column.merge == "add" for column in layout.columns)
    ]


def _rows(
    connection: sqlite3.Connection, layout: Layout, after: int, condition: str
) -> list[tuple[int, tuple[object, ...]]]:
    """Return number and key of the rows of *layout* above *after* for which *condition* holds."""
    key = ", ".join(f"v{position}" for position in layout.key_positions)
    found = connection.execute(
        f"SELECT seq, {key} FROM {OUTBOX} WHERE seq > ? AND layout = ? AND {condition}",  # noqa: S608
        (after, layout.id),
    )
    return [(seq, tuple(values)) for seq, *values in found]
