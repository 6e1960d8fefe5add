# SPDX-License-Identifier: Apache-2.0
"""The journal's room: the oldest entries leave, counted, where it is too large or they too old."""

import sqlite3
from pathlib import Path

from edgepaas.outbox import tables as outbox_tables
from edgepaas.outbox.journal.access import JournalUnreadable, of_the_journal, opened_if_there
from edgepaas.outbox.journal.reading import used_bytes
from edgepaas.outbox.journal.tables import (
    CONFIRMED,
    JOURNAL,
    RESENT,
    STATE,
    UNCERTAIN,
    journal_path,
)
from edgepaas.outbox.space import vacuum
from edgepaas.outbox.space.budget import Usage, usage


def prune(connection: sqlite3.Connection, *, budget: int, before: int, limit: int) -> int:
    """Delete the oldest entries, about *limit* rows; return how many rows went.

    While the rows take more than *budget* bytes, settled or not: what is as old as that is not
    under way any more. And those written before the moment *before*
    (seconds since 1970; 0: none for their age). Inside the caller's transaction.
    """
    _note_settled(connection)
    excess = used_bytes(connection) - budget
    over = excess > 0
    if over:
        limit = min(limit, _rows_of(connection, excess))
    elif not before:
        return 0
    end = None
    rows = last = 0
    heads = connection.execute(
        f"SELECT number, ord, rows, at, state FROM {JOURNAL} WHERE ord IS NOT NULL "  # noqa: S608
        "ORDER BY number"
    )
    for number, order, count, at, state in heads:
        settled = state in (CONFIRMED, RESENT)
        if not (settled or over) or rows >= limit or not (over or at < before):
            break
        end, rows, last = number + count, rows + count, max(last, order)
    heads.close()
    if end is None:
        return 0
    connection.execute(f"DELETE FROM {JOURNAL} WHERE number < ?", (end,))  # noqa: S608
    # Numbers are given out again once the journal is empty.
    connection.execute(
        f"UPDATE {STATE} SET dropped_ord = max(dropped_ord, ?), "  # noqa: S608
        "dropped_rows = dropped_rows + ?, "
        f"unsettled = min(unsettled, coalesce((SELECT max(number) FROM {JOURNAL}), 0))",
        (last, rows),
    )
    return rows


def usage_of_both(connection: sqlite3.Connection, path: Path, budget: int) -> Usage:
    """Return what the rows in the SQLite file *path*, which is open, and its journal take.

    Raises sqlite3.Error, OSError.
    """
    return Usage(usage(connection, budget).used + usage_of_journal(path), budget)


def usage_of_journal(path: Path) -> int:
    """Return what the journal beside the SQLite file *path* takes; raises sqlite3.Error, OSError.

    Of one that cannot be read, all of its file.
    """
    journal = journal_path(path)
    try:
        with opened_if_there(journal, lock_timeout=0.0) as beside, of_the_journal(journal):
            return 0 if beside is None else used_bytes(beside)
    except JournalUnreadable:
        return journal.stat().st_size if journal.exists() else 0


def shrink(path: Path, by: int, *, busy_timeout: float, limit: int = 2_000) -> int:
    """Have the oldest entries of the journal beside the SQLite file *path* leave; return the rows.

    For the disk budget, while SQLite serves: what waits for PostgreSQL needs the room more. *by*:
    bytes that the journal is to take less; about *limit* rows a call. Raises JournalUnreadable.
    """
    journal = journal_path(path)
    with (
        opened_if_there(journal, lock_timeout=0.0, busy_timeout=busy_timeout) as connection,
        of_the_journal(journal),
    ):
        if connection is None:
            return 0
        target = max(0, used_bytes(connection) - by)
        with outbox_tables.transaction(connection):
            rows = prune(connection, budget=target, before=0, limit=limit)
        give_back(connection, target)
    return rows


def give_back(connection: sqlite3.Connection, budget: int) -> None:
    """Give free pages back to the file system where the file itself is larger than *budget*."""
    (size,) = connection.execute(
        "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    ).fetchone()
    if size > budget:
        vacuum.release(connection, limit=size - budget)


def _rows_of(connection: sqlite3.Connection, size: int) -> int:
    """Return about how many rows take *size* bytes; at least one."""
    (rows,) = connection.execute(
        f"SELECT coalesce(max(number) - min(number) + 1, 1) FROM {JOURNAL}"  # noqa: S608
    ).fetchone()
    return max(1, size * int(rows) // max(1, used_bytes(connection)))


def _note_settled(connection: sqlite3.Connection) -> None:
    """Remember up to where every entry is settled."""
    (start,) = connection.execute(f"SELECT unsettled FROM {STATE}").fetchone()  # noqa: S608
    first, last = connection.execute(
        f"SELECT min(number) FILTER (WHERE state IN {UNCERTAIN}), max(number) FROM {JOURNAL} "  # noqa: S608
        "WHERE number >= ?",
        (start,),
    ).fetchone()
    settled = first if first is not None else last
    if settled is not None and settled > start:
        connection.execute(f"UPDATE {STATE} SET unsettled = ?", (settled,))  # noqa: S608
