# SPDX-License-Identifier: Apache-2.0
"""The ledger: counters that outlive the rows they count.

Over the life of a file ``accepted == delivered + dead + shed + pending``: each row that
was captured is at the hub, among its dead letters, given up and counted, or still here.
"""

import json
import sqlite3
from typing import Final

from edgepaas.database.reserved_names import LEDGER, OUTBOX, STATE
from edgepaas.outbox import sequence_gaps, tables

#: ``conflicts`` and ``hub_lost`` count delivered rows; ``salvaged`` and ``lost_in_damage``
#: those of a file that was set aside; ``reclaimed`` what retention took; ``renumbered`` the
#: numbers that forks skipped.
COUNTERS: Final = (
    *("delivered", "dead", "shed", "conflicts", "hub_lost", "salvaged", "lost_in_damage"),
    *("forks", "reclaimed", "renumbered"),
)

#: So many rows are counted one by one; more are computed from the sequence numbers.
_COUNTED = 10_000


def add(connection: sqlite3.Connection, name: str, n: int) -> None:
    """Add *n* (which may be negative) to the counter *name*, in the caller's transaction if any.

    Raises ValueError for a counter that there is none of.
    """
    if name not in COUNTERS:
        raise ValueError(f"the ledger has no counter {name}: it has {', '.join(COUNTERS)}")
    if n:
        connection.execute(
            f"INSERT INTO {LEDGER} (name, value) VALUES (?, ?) "  # noqa: S608
            "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            (name, n),
        )


def read(connection: sqlite3.Connection) -> dict[str, int]:
    """Return every counter, with ``accepted`` and ``pending``; all 0 without an outbox."""
    counters = {"accepted": 0, "pending": 0} | dict.fromkeys(COUNTERS, 0)
    if not tables.exist(connection):
        return counters
    counters |= dict(connection.execute(f"SELECT name, value FROM {LEDGER}").fetchall())  # noqa: S608
    counters["accepted"] = tables.last_seq(connection) - counters["renumbered"]
    counters["pending"] = pending(connection)
    return counters


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
    """Return how many numbers from *first* to *last* were shed, or are sequence gaps."""
    rows = connection.execute(
        f"SELECT v0 FROM {OUTBOX} WHERE op = 'G' AND seq >= ?",  # noqa: S608
        (first,),
    )
    count = sequence_gaps.count_between(sequence_gaps.ranges(connection), first, last)
    for (text,) in rows:
        count += sequence_gaps.count_between(json.loads(text)["ranges"], first, last)
    return count
