# SPDX-License-Identifier: Apache-2.0
"""When the box changed its database: what of the outbox is older than what of the journal.

The outbox numbers what SQLite took, the journal orders what PostgreSQL took; only one of them
grows at a time. At each start of the chain both are noted. What the journal wrote after that,
and before the next note, comes after the rows that the outbox had.
"""

import sqlite3
from bisect import bisect_left
from collections.abc import Sequence

from edgepaas.database.reserved_names import SWITCHES
from edgepaas.outbox import tables

#: Notes that are kept.
_MOST = 1000


def note_switch(connection: sqlite3.Connection, last_order: int | None) -> None:
    """Note where both stand; *last_order*: of the journal's youngest entry, 0 without one.

    None where the journal cannot be read now: it has at least the entries of the last note.
    Nothing is written where neither has grown. One transaction, of its own unless one is open.
    Raises sqlite3.Error.
    """
    if not tables.exist(connection):
        return
    known = _read(connection)
    if last_order is None:
        last_order = known[-1][0] if known else 0
    here = (last_order, tables.last_seq(connection))
    if known and known[-1] == here:
        return
    with tables.transaction(connection):
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {SWITCHES} (ord INTEGER NOT NULL, seq INTEGER NOT NULL)"
        )
        if known and known[-1][0] > last_order:
            # Another journal, whose orders begin anew.
            connection.execute(f"DELETE FROM {SWITCHES}")  # noqa: S608
        connection.execute(f"INSERT INTO {SWITCHES} (ord, seq) VALUES (?, ?)", here)  # noqa: S608
        connection.execute(
            f"DELETE FROM {SWITCHES} WHERE rowid <= (SELECT max(rowid) FROM {SWITCHES}) - {_MOST}"  # noqa: S608
        )


def shift(connection: sqlite3.Connection, above: int, by: int) -> None:
    """Follow the rows numbered above *above*, which get numbers *by* higher.

    In the transaction that renumbers them.
    """
    if _exists(connection):
        connection.execute(
            f"UPDATE {SWITCHES} SET seq = seq + ? WHERE seq > ?",  # noqa: S608
            (by, above),
        )


class Switches:
    """The notes of a file, to be asked."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Raises sqlite3.Error."""
        known = _read(connection)
        self._orders: Sequence[int] = [order for order, _ in known]
        self._seqs: Sequence[int] = [seq for _, seq in known]

    def row_before(self, order: int) -> int:
        """Return the number of the last row of the outbox that is older than an entry."""
        at = bisect_left(self._orders, order)
        return self._seqs[at - 1] if at else 0


def _read(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    if not _exists(connection):
        return []
    return connection.execute(f"SELECT ord, seq FROM {SWITCHES} ORDER BY rowid").fetchall()  # noqa: S608


def _exists(connection: sqlite3.Connection) -> bool:
    found = connection.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (SWITCHES,)
    )
    return found.fetchone() is not None
