# SPDX-License-Identifier: Apache-2.0
"""The ledger: counters that outlive the rows they count.

Over the life of a file ``accepted == delivered + dead + shed + pending``: each row that
was captured is at the hub, among its dead letters, given up and counted, or still here.
"""

import sqlite3
from typing import Final

from edgepaas.database.reserved_names import LEDGER
from edgepaas.outbox import tables
from edgepaas.outbox.waiting import pending

#: ``conflicts`` and ``hub_lost`` count delivered rows; ``salvaged`` and ``lost_in_damage``
#: those of a file that was set aside; ``reclaimed`` what retention took; ``renumbered`` the
#: numbers that forks skipped.
COUNTERS: Final = (
    *("delivered", "dead", "shed", "conflicts", "hub_lost", "salvaged", "lost_in_damage"),
    *("forks", "reclaimed", "renumbered"),
)


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
