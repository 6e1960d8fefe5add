# SPDX-License-Identifier: Apache-2.0
"""Shedding: giving up waiting rows that the operator called low value, counted, never in silence.

What is given up goes from the outbox and from its table; a gap row that takes the place
of the numbers is forwarded like any other row, so that PostgreSQL knows what it never got.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from edgepaas.database.reserved_names import OUTBOX, STATE
from edgepaas.outbox import capture, ledger, tables
from edgepaas.outbox.layout import Layout, stored_layouts
from edgepaas.outbox.references import references, unreferenced
from edgepaas.outbox.tables import quoted

#: Rows a transaction: the application's writes wait for each.
_AT_ONCE = 500


@dataclass(frozen=True)
class LowValue:
    """One entry of LOW_VALUE: a table of facts, or those of its rows with ``column = value``."""

    table: str
    column: str = ""
    value: str = ""

    @classmethod
    def read(cls, text: str) -> "LowValue":
        """Read ``table`` or ``table:column=value``; raises ValueError, which says what is wrong."""
        table, _, condition = text.partition(":")
        column, equals, value = condition.partition("=")
        if not table or (condition and not (column and equals)):
            raise ValueError(f"{text} is neither a table nor table:column=value")
        return cls(table, column, value)


def read_low_value(entries: Iterable[str]) -> tuple[list[LowValue], list[str]]:
    """Return the entries that can be read, and what is wrong with the others."""
    wanted, wrong = [], []
    for entry in entries:
        try:
            wanted.append(LowValue.read(entry))
        except ValueError as error:
            wrong.append(str(error))
    return wanted, wrong


def shed(connection: sqlite3.Connection, wanted: Sequence[LowValue]) -> int:
    """Give up to some hundred waiting rows up, the oldest first; return how many.

    One transaction of its own. Rows that may be on their way are left alone. Raises
    sqlite3.Error.
    """
    if not wanted or not tables.exist(connection):
        return 0
    with tables.transaction(connection):
        for layout in stored_layouts(connection).values():
            if layout.kind != "facts":
                continue
            for entry in wanted:
                rows = _matching(connection, layout, entry)
                if rows:
                    _give_up(connection, layout, rows)
                    return len(rows)
    return 0


def _matching(
    connection: sqlite3.Connection, layout: Layout, entry: LowValue
) -> list[tuple[object, ...]]:
    """Return seq and key of the oldest waiting inserts that *entry* names."""
    if entry.table != layout.table or (entry.column and entry.column not in layout.names):
        return []
    keys = ", ".join(f"v{position}" for position in layout.key_positions)
    condition, values = "", [layout.id]
    if entry.column:
        condition = f"AND CAST(v{layout.names.index(entry.column)} AS TEXT) = ?"

    def value(column: str) -> str | None:
        places = {name: f"{OUTBOX}.v{position}" for position, name in enumerate(layout.names)}
        return places.get(column)

    # What others point to can only go after them.
    for alone in unreferenced(references(connection), layout.table, value):
        condition += f" AND {alone}"
    found = connection.execute(
        f"SELECT seq, {keys} FROM {OUTBOX} WHERE layout = ? AND op = 'I' AND seq > "  # noqa: S608
        f"(SELECT max(confirmed_seq, inflight_seq) FROM {STATE}) {condition} "
        f"ORDER BY seq LIMIT {_AT_ONCE}",
        [*values, entry.value] if entry.column else values,
    )
    return found.fetchall()


def _give_up(
    connection: sqlite3.Connection, layout: Layout, rows: Sequence[tuple[object, ...]]
) -> None:
    same_key = " AND ".join(f"{quoted(name)} IS ?" for name in layout.key)
    with capture.paused(connection):
        connection.executemany(
            f"DELETE FROM {quoted(layout.table)} WHERE {same_key}",  # noqa: S608
            [row[1:] for row in rows],
        )
    connection.executemany(f"DELETE FROM {OUTBOX} WHERE seq = ?", [row[:1] for row in rows])  # noqa: S608
    now = datetime.now(UTC).isoformat(timespec="seconds")
    gap = {
        "table": layout.table,
        "rows": len(rows),
        "ranges": _ranges(int(str(row[0])) for row in rows),
        "reason": "shed: the disk budget is nearly used up",
        "first_at": now,
        "last_at": now,
    }
    connection.execute(
        f"INSERT INTO {OUTBOX} (layout, op, v0) VALUES (0, 'G', ?)",  # noqa: S608
        (json.dumps(gap),),
    )
    ledger.add(connection, "shed", len(rows))


def _ranges(numbers: Iterable[int]) -> list[list[int]]:
    """Return ascending *numbers* as closed ranges."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges
