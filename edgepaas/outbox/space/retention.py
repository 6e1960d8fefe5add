# SPDX-License-Identifier: Apache-2.0
"""Retention: what was delivered long enough ago leaves the box.

Until then it is kept, so that a hub restored from a backup can be sent it again.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from edgepaas.database.reserved_names import BATCHES, OUTBOX, STATE, TRANSACTIONS
from edgepaas.outbox import ledger, tables
from edgepaas.outbox.capture import paused
from edgepaas.outbox.layout import Layout, stored_layouts
from edgepaas.outbox.reading import exact_rows
from edgepaas.outbox.references import Remover, references
from edgepaas.outbox.space import vacuum
from edgepaas.outbox.tables import quoted
from edgepaas.outbox.triggers import values_of

#: Rows that are in memory at a time.
_PAGE = 500


@dataclass(frozen=True)
class Reclaimed:
    """What went: rows of the outbox, facts of the application's tables, bytes of the file."""

    rows: int = 0
    facts: int = 0
    bytes: int = 0


def reclaim(connection: sqlite3.Connection, *, older_than: float, limit: int = 10_000) -> Reclaimed:
    """Delete what was delivered more than *older_than* seconds ago, about *limit* rows a call.

    The rows of the outbox, and with them the facts they brought to the hub, but for facts
    that other rows still point to: they go with the last of those. Shared rows stay. In one
    transaction, with capture off, so that nothing is deleted on the hub. Then free pages are
    given back. 0 seconds: all that was delivered, whatever the clock said then. Raises
    sqlite3.Error.

    The caller sees to it that the clock is right. What was delivered at a time that is yet
    to come, was so while it was not, and is kept from now on as if delivered now.
    """
    if not tables.exist(connection):
        return Reclaimed()
    now = datetime.now(UTC)
    moment = now - timedelta(seconds=older_than) if older_than > 0 else None
    with tables.transaction(connection):
        if moment is not None:
            _correct_times(connection, now)
        first, last = _range(connection, moment, limit)
        if last < first:
            rows = facts = 0
        else:
            facts = _delete_facts(connection, first, last)
            rows = _delete_rows(connection, first, last)
    return Reclaimed(rows, facts, vacuum.release(connection))


def _correct_times(connection: sqlite3.Connection, now: datetime) -> None:
    # Else nothing would leave the box until that time has come, and the budget would be used up.
    connection.execute(
        f"UPDATE {BATCHES} SET confirmed_at = ?1 WHERE confirmed_at > ?1",  # noqa: S608
        (now.isoformat(timespec="seconds"),),
    )


def _range(connection: sqlite3.Connection, moment: datetime | None, limit: int) -> tuple[int, int]:
    """Return the first and last sequence number that may be deleted, on batch boundaries."""
    reclaimed, confirmed = connection.execute(
        f"SELECT reclaimed_seq, confirmed_seq FROM {STATE}"  # noqa: S608
    ).fetchone()
    last = total = 0
    entries = connection.execute(
        f"SELECT last_seq, rows, confirmed_at FROM {BATCHES} ORDER BY last_seq"  # noqa: S608
    )
    for last_seq, rows, confirmed_at in entries:
        if last_seq > confirmed:
            break
        if moment is not None and datetime.fromisoformat(confirmed_at) > moment:
            break
        if total and total + rows > limit:
            break
        last, total = last_seq, total + rows
    return reclaimed + 1, last


def _delete_facts(connection: sqlite3.Connection, first: int, last: int) -> int:
    layouts = stored_layouts(connection)
    facts = {
        identity: layout
        for identity, layout in layouts.items()
        if layout.kind == "facts" and _has_key(connection, layout)
    }
    tables_of_facts = {layout.table for layout in facts.values()}
    found = references(connection)
    tied = {one.parent for one in found} | {
        one.child for one in found if one.parent in tables_of_facts
    }
    ids = connection.execute(
        f"SELECT DISTINCT layout FROM {OUTBOX} WHERE seq BETWEEN ? AND ? AND op = 'I'",  # noqa: S608
        (first, last),
    ).fetchall()
    there = [facts[identity] for (identity,) in ids if identity in facts]
    deleted = 0
    with paused(connection):
        for layout in there:
            if layout.table not in tied:
                deleted += _delete_facts_of(connection, layout, first, last)
        one_by_one = {layout.id: layout for layout in there if layout.table in tied}
        if one_by_one:
            remover = Remover(connection, found, tables_of_facts)
            deleted += _delete_tied(connection, one_by_one, remover, (first, last))
    return deleted


def _delete_tied(
    connection: sqlite3.Connection,
    layouts: Mapping[int, Layout],
    remover: Remover,
    numbers: tuple[int, int],
) -> int:
    """Delete facts that foreign keys join, the last first: children come after their parents."""
    width = max(position for one in layouts.values() for position in one.key_positions) + 1
    statement = (
        f"SELECT seq, layout, {values_of(width)} FROM {OUTBOX} WHERE seq BETWEEN ? AND ? "  # noqa: S608
        f"AND op = 'I' AND layout IN ({', '.join(map(str, layouts))}) ORDER BY seq DESC LIMIT ?"
    )
    first, last = numbers
    deleted = 0
    while page := exact_rows(connection, statement, (first, last, _PAGE)):
        for _, identity, *values in page:
            layout = layouts[identity]
            key = [values[position] for position in layout.key_positions]
            deleted += remover.remove(layout.table, layout.key, key)
        last = page[-1][0] - 1
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
    # Gap rows stay: they record for ever which numbers retention has not taken.
    cursor = connection.execute(
        f"DELETE FROM {OUTBOX} WHERE seq BETWEEN ? AND ? AND op <> 'G'",  # noqa: S608
        (first, last),
    )
    connection.execute(f"DELETE FROM {TRANSACTIONS} WHERE last <= ?", (last,))  # noqa: S608
    connection.execute(f"DELETE FROM {BATCHES} WHERE last_seq <= ?", (last,))  # noqa: S608
    connection.execute(f"UPDATE {STATE} SET reclaimed_seq = ?", (last,))  # noqa: S608
    ledger.add(connection, "reclaimed", cursor.rowcount)
    return cursor.rowcount
