# SPDX-License-Identifier: Apache-2.0
"""How many rows wait to be sent."""

import json
import sqlite3

from edgepaas.database.reserved_names import OUTBOX, STATE
from edgepaas.outbox import sequence_gaps, tables

#: So many rows are counted one by one; more are computed from the sequence numbers.
_COUNTED = 10_000


def pending(connection: sqlite3.Connection) -> int:
    """Return how many rows of the outbox the hub has not confirmed; 0 without an outbox.

    Takes no longer for a million of them: numbers have no gaps but those that a gap row
    names, or outbox_absent.
    """
    if not tables.exist(connection):
        return 0
    confirmed, reclaimed = connection.execute(
        f"SELECT confirmed_seq, reclaimed_seq FROM {STATE}"  # noqa: S608
    ).fetchone() or (0, 0)
    counted = connection.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM {OUTBOX} WHERE seq > ? LIMIT ?)",  # noqa: S608
        (confirmed, _COUNTED),
    ).fetchone()[0]
    if counted < _COUNTED:
        return int(counted)
    last = tables.last_seq(connection)
    # After a rewind, retention may have taken what the hub has lost.
    start = max(confirmed, reclaimed)
    return last - start - missing(connection, start + 1, last)


def missing(connection: sqlite3.Connection, first: int, last: int) -> int:
    """Return how many numbers from *first* to *last* were shed, or are absent."""
    rows = connection.execute(
        f"SELECT v0 FROM {OUTBOX} WHERE op = 'G' AND seq >= ?",  # noqa: S608
        (first,),
    )
    count = sequence_gaps.count_between(sequence_gaps.ranges(connection), first, last)
    for (text,) in rows:
        count += sequence_gaps.count_between(json.loads(text)["ranges"], first, last)
    return count
