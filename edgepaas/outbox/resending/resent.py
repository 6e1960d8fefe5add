# SPDX-License-Identifier: Apache-2.0
"""Which entries of the journal were put into the outbox, kept beside their rows.

Journal and outbox are two files: an entry is noted here in the transaction that puts its rows
into the outbox, and in the journal afterwards. Killed in between, nothing is put there twice.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from edgepaas.database.reserved_names import RESENT
from edgepaas.outbox.resending.fact_copies import CopiedEntry

_TABLE = f"""CREATE TABLE IF NOT EXISTS {RESENT} (
    ord INTEGER PRIMARY KEY,
    stream_id TEXT NOT NULL, joined_to TEXT NOT NULL, mark INTEGER NOT NULL,
    rows INTEGER NOT NULL, noted INTEGER NOT NULL DEFAULT 0)"""
#: Of entries that left the journal, and of which copies are sent again.
_OF_COPIES = 2
#: Entries that are remembered one by one; of more, the oldest are forgotten.
_MOST = 200_000


class ResentEntry(NamedTuple):
    """An entry that was put into the outbox: its order, its stream and mark, and its rows.

    ``joined_to``: the stream on the hub that its own was joined to, or empty.
    """

    order: int
    stream_id: str
    joined_to: str
    mark: int
    rows: int


def remember(connection: sqlite3.Connection, entries: Iterable[ResentEntry]) -> None:
    """Note *entries*, in the transaction that puts their rows into the outbox."""
    connection.execute(_TABLE)
    connection.executemany(
        f"INSERT OR IGNORE INTO {RESENT} (ord, stream_id, joined_to, mark, rows) "  # noqa: S608
        "VALUES (?, ?, ?, ?, ?)",
        entries,
    )
    connection.execute(
        f"DELETE FROM {RESENT} WHERE noted <> 0 AND ord < (SELECT ord FROM {RESENT} "  # noqa: S608
        "ORDER BY ord DESC LIMIT 1 OFFSET ?)",
        (_MOST,),
    )


def remember_copies(
    connection: sqlite3.Connection,
    entries: Mapping[CopiedEntry, int],
    joined: Mapping[str, str],
) -> None:
    """Note that so many rows of *entries*, which are in no journal any more, are sent again.

    *joined*: by stream the one on the hub that it was joined to. An entry that the journal sent
    again was counted whole. Inside the caller's transaction.
    """
    if not entries:
        return
    connection.execute(_TABLE)
    connection.executemany(
        f"INSERT INTO {RESENT} (ord, stream_id, joined_to, mark, rows, noted) "  # noqa: S608
        f"VALUES (?, ?, ?, ?, ?, {_OF_COPIES}) ON CONFLICT (ord) DO UPDATE "
        f"SET rows = rows + excluded.rows WHERE noted = {_OF_COPIES}",
        [
            (one.order, one.stream_id, joined.get(one.stream_id, ""), one.mark, rows)
            for one, rows in entries.items()
        ],
    )


def not_noted(connection: sqlite3.Connection) -> list[int]:
    """Return the orders of those that the journal may not know of yet."""
    if not _exists(connection):
        return []
    rows = connection.execute(f"SELECT ord FROM {RESENT} WHERE noted = 0 ORDER BY ord")  # noqa: S608
    return [order for (order,) in rows]


def set_noted(connection: sqlite3.Connection, orders: Iterable[int]) -> None:
    """Note that the journal knows of these."""
    connection.executemany(
        f"UPDATE {RESENT} SET noted = 1 WHERE ord = ?",  # noqa: S608
        [(one,) for one in orders],
    )


def rows_of(
    connection: sqlite3.Connection, losses: Mapping[str, tuple[int, int]]
) -> dict[str, int]:
    """Return how many rows of each lost stream were sent again.

    *losses*: by stream, the marks on the hub and as the box knows it (transactions). Of a
    stream that others were joined to, the rows of those count.
    """
    if not _exists(connection):
        return {}
    found: dict[str, int] = {}
    for stream_id, (there, known) in losses.items():
        (own,) = connection.execute(
            f"SELECT coalesce(sum(rows), 0) FROM {RESENT} "  # noqa: S608
            "WHERE stream_id = ? AND mark > ? AND mark <= ?",
            (stream_id, there, known),
        ).fetchone()
        (joined,) = connection.execute(
            f"SELECT coalesce(sum(rows), 0) FROM {RESENT} WHERE joined_to = ?",  # noqa: S608
            (stream_id,),
        ).fetchone()
        if own or joined:
            found[stream_id] = int(own) + int(joined)
    return found


def _exists(connection: sqlite3.Connection) -> bool:
    found = connection.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (RESENT,)
    )
    return found.fetchone() is not None
