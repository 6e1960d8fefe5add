# SPDX-License-Identifier: Apache-2.0
"""Numbers of the outbox that no row has any more, and no gap row names: why is kept here.

A fork skips numbers; and retention may have taken what a hub lost later, which is then
nowhere. All else that is missing is a discrepancy.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator

from edgepaas.database.reserved_names import OUTBOX, SEQUENCE_GAPS
from edgepaas.outbox import tables

Range = tuple[int, int]


def ranges(connection: sqlite3.Connection, *, lost: bool | None = None) -> list[Range]:
    """Return the ranges (first, last) of such numbers, in order; none overlaps another.

    *lost*: only of rows that a hub lost, or only of those that forks skipped.
    """
    if not _exists(connection):
        return []
    found = connection.execute(f"SELECT first, last, lost FROM {SEQUENCE_GAPS} ORDER BY first")  # noqa: S608
    return [(a, b) for a, b, was_lost in found if lost is None or bool(was_lost) is lost]


def count_between(found: Iterable[Range], first: int, last: int) -> int:
    """Return how many numbers from *first* to *last* lie in the ranges *found*."""
    return sum(max(0, min(b, last) - max(a, first) + 1) for a, b in found)


def unexplained(connection: sqlite3.Connection, first: int, last: int) -> Iterator[Range]:
    """Give the ranges from *first* to *last* of which there is neither row nor explanation."""
    if last < first:
        return
    rows = connection.execute(
        "SELECT before + 1, seq - 1 FROM ("  # noqa: S608
        "SELECT seq, lag(seq, 1, ?) OVER (ORDER BY seq) AS before "
        f"FROM (SELECT seq FROM {OUTBOX} WHERE seq BETWEEN ? AND ? UNION ALL SELECT ?)) "
        "WHERE seq - before > 1 ORDER BY seq",
        (first - 1, first, last, last + 1),
    ).fetchall()
    explained = sorted(part for part in _explained(connection) if part[1] >= first)
    for begin, end in rows:
        start = begin
        for a, b in explained:
            if b < start:
                continue
            if a > end:
                break
            if a > start:
                yield start, a - 1
            start = b + 1
        if start <= end:
            yield start, end


def record_lost(connection: sqlite3.Connection, first: int, last: int) -> int:
    """Note what is missing from *first* to *last* as lost by the hub; how many rows they were.

    Each number counts once, however often a hub loses it. Inside the caller's transaction.
    """
    found = list(unexplained(connection, first, last))
    _put(connection, found, lost=True)
    return count_between(found, first, last)


def record_renumbering(connection: sqlite3.Connection, above: int, last: int) -> None:
    """Note that a fork gave the rows numbered above *above*, up to *last*, numbers as many higher.

    What was absent among them is so under the new numbers. Inside the caller's transaction.
    """
    shift = last - above
    if not shift:
        return
    for lost in (False, True):
        moved = [(max(a, above + 1), b) for a, b in ranges(connection, lost=lost) if b > above]
        stay = [(a, min(b, above)) for a, b in ranges(connection, lost=lost) if a <= above]
        if moved:
            connection.execute(f"DELETE FROM {SEQUENCE_GAPS} WHERE lost = ?", (int(lost),))  # noqa: S608
            _put(connection, [*stay, *((a + shift, b + shift) for a, b in moved)], lost=lost)
    _put(connection, [(above + 1, last)], lost=False)


def _put(connection: sqlite3.Connection, found: Iterable[Range], *, lost: bool) -> None:
    tables.create(connection)  # a file that an older release created lacks this table
    connection.executemany(
        f"INSERT INTO {SEQUENCE_GAPS} (first, last, lost) VALUES (?, ?, ?)",  # noqa: S608
        [(a, b, int(lost)) for a, b in found],
    )


def _explained(connection: sqlite3.Connection) -> Iterator[Range]:
    yield from ranges(connection)
    gaps = connection.execute(f"SELECT v0 FROM {OUTBOX} WHERE op = 'G'")  # noqa: S608
    for (text,) in gaps:
        for a, b in json.loads(text)["ranges"]:
            yield int(a), int(b)


def _exists(connection: sqlite3.Connection) -> bool:
    found = connection.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (SEQUENCE_GAPS,)
    )
    return found.fetchone() is not None
