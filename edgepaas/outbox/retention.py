"""Retention: what was delivered long enough ago leaves the box.

Until then it is kept, so that a hub restored from a backup can be sent it again.
"""

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from edgepaas.database.reserved import BATCHES, OUTBOX, STATE, TRANSACTIONS
from edgepaas.outbox import ledger, space, tables
from edgepaas.outbox.capture import paused
from edgepaas.outbox.layout import Layout, known
from edgepaas.outbox.tables import quoted


@dataclass(frozen=True)
class Reclaimed:
    """What went: rows of the outbox, facts of the application's tables, bytes of the file."""

    rows: int = 0
    facts: int = 0
    bytes: int = 0


def reclaim(connection: sqlite3.Connection, *, older_than: float, limit: int = 10_000) -> Reclaimed:
    """Delete what was delivered more than *older_than* seconds ago, about *limit* rows a call.

    The rows of the outbox, and with them the facts they brought to the hub; shared rows
    stay. In one transaction, with capture off, so that nothing is deleted on the hub. Then
    free pages are given back. Raises sqlite3.Error.
    """
    if not tables.exist(connection):
        return Reclaimed()
    moment = datetime.now(UTC) - timedelta(seconds=older_than)
    with tables.transaction(connection):
        first, last = _range(connection, moment, limit)
        if last < first:
            rows = facts = 0
        else:
            facts = _delete_facts(connection, first, last)
            rows = _delete_rows(connection, first, last)
    return Reclaimed(rows, facts, space.release(connection))


def _range(connection: sqlite3.Connection, moment: datetime, limit: int) -> tuple[int, int]:
    """Return the first and the last number that may go: those of whole batches."""
    reclaimed, confirmed = connection.execute(
        f"SELECT reclaimed_seq, confirmed_seq FROM {STATE}"  # noqa: S608
    ).fetchone()
    last = total = 0
    entries = connection.execute(
        f"SELECT last_seq, rows, confirmed_at FROM {BATCHES} ORDER BY last_seq"  # noqa: S608
    )
    for last_seq, rows, confirmed_at in entries:
        if last_seq > confirmed or datetime.fromisoformat(confirmed_at) > moment:
            break
        if total and total + rows > limit:
            break
        last, total = last_seq, total + rows
    return reclaimed + 1, last


def _delete_facts(connection: sqlite3.Connection, first: int, last: int) -> int:
    ids = connection.execute(
        f"SELECT DISTINCT layout FROM {OUTBOX} WHERE seq BETWEEN ? AND ? AND op = 'I'",  # noqa: S608
        (first, last),
    ).fetchall()
    layouts = known(connection)
    deleted = 0
    with paused(connection):
        for (identity,) in ids:
            layout = layouts[identity]
            if layout.kind == "facts" and _has_key(connection, layout):
                deleted += _delete_facts_of(connection, layout, first, last)
    return deleted


def _delete_facts_of(connection: sqlite3.Connection, layout: Layout, first: int, last: int) -> int:
    key = ", ".join(quoted(name) for name in layout.key)
    values = ", ".join(f"v{position}" for position in layout.key_positions)
    cursor = connection.execute(
        f"DELETE FROM {quoted(layout.table)} WHERE ({key}) IN "  # noqa: S608
        f"(SELECT {values} FROM {OUTBOX} WHERE seq BETWEEN ? AND ? AND op = 'I' AND layout = ?)",
        (first, last, layout.id),
    )
    return cursor.rowcount


def _has_key(connection: sqlite3.Connection, layout: Layout) -> bool:
    """Whether the table is still there, with this key: a migration may have changed it."""
    rows = connection.execute("SELECT name FROM pragma_table_info(?)", (layout.table,))
    return set(layout.key) <= {row[0] for row in rows}


def _delete_rows(connection: sqlite3.Connection, first: int, last: int) -> int:
    # Gap rows stay: they tell for ever which numbers were no rows that retention took.
    cursor = connection.execute(
        f"DELETE FROM {OUTBOX} WHERE seq BETWEEN ? AND ? AND op <> 'G'",  # noqa: S608
        (first, last),
    )
    connection.execute(f"DELETE FROM {TRANSACTIONS} WHERE last <= ?", (last,))  # noqa: S608
    connection.execute(f"DELETE FROM {BATCHES} WHERE last_seq <= ?", (last,))  # noqa: S608
    connection.execute(f"UPDATE {STATE} SET reclaimed_seq = ?", (last,))  # noqa: S608
    ledger.add(connection, "reclaimed", cursor.rowcount)
    return cursor.rowcount
