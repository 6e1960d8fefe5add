# SPDX-License-Identifier: Apache-2.0
"""The journal's room: the oldest entries leave, counted, where it is too large or they too old."""

import sqlite3

from edgepaas.outbox.journal.reading import used_bytes
from edgepaas.outbox.journal.tables import IN_FLIGHT, JOURNAL, STATE
from edgepaas.outbox.space import vacuum


def prune(connection: sqlite3.Connection, *, budget: int, before: int, limit: int) -> int:
    """Delete the oldest entries, about *limit* rows; return how many rows went.

    While the rows take more than *budget* bytes, settled or not: what is as old as that is not
    under way any more. And those written before the moment *before*
    (seconds since 1970; 0: none for their age). Inside the caller's transaction.
    """
    _note_settled(connection)
    over = used_bytes(connection) > budget
    if not over and not before:
        return 0
    end = None
    rows = last = 0
    heads = connection.execute(
        f"SELECT number, ord, rows, at, state FROM {JOURNAL} WHERE ord IS NOT NULL "  # noqa: S608
        "ORDER BY number"
    )
    for number, order, count, at, state in heads:
        if (state == IN_FLIGHT and not over) or rows >= limit or not (over or at < before):
            break
        end, rows, last = number + count, rows + count, max(last, order)
    heads.close()
    if end is None:
        return 0
    connection.execute(f"DELETE FROM {JOURNAL} WHERE number < ?", (end,))  # noqa: S608
    connection.execute(
        f"UPDATE {STATE} SET dropped_ord = max(dropped_ord, ?), "  # noqa: S608
        "dropped_rows = dropped_rows + ?",
        (last, rows),
    )
    return rows


def give_back(connection: sqlite3.Connection, budget: int) -> None:
    """Give free pages back to the file system where the file itself is larger than *budget*."""
    (size,) = connection.execute(
        "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    ).fetchone()
    if size > budget:
        vacuum.release(connection, limit=size - budget)


def _note_settled(connection: sqlite3.Connection) -> None:
    """Remember up to where no entry is in flight."""
    (start,) = connection.execute(f"SELECT unsettled FROM {STATE}").fetchone()  # noqa: S608
    first, last = connection.execute(
        f"SELECT min(number) FILTER (WHERE state = {IN_FLIGHT}), max(number) FROM {JOURNAL} "  # noqa: S608
        "WHERE number >= ?",
        (start,),
    ).fetchone()
    settled = first if first is not None else last
    if settled is not None and settled > start:
        connection.execute(f"UPDATE {STATE} SET unsettled = ?", (settled,))  # noqa: S608
