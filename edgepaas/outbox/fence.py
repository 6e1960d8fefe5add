# SPDX-License-Identifier: Apache-2.0
"""The fence: while it stands, no forwarded table of the file takes a write.

It is a value in the file, so that it holds for every process, and has an end of its own:
the process that put it may have died. The triggers know no time; the service lifts what expired.
"""

import json
import sqlite3
from dataclasses import dataclass

from edgepaas.database.reserved_names import FENCED, STATE
from edgepaas.outbox import tables
from edgepaas.timing.moment import Moment, current_moment, read_moment

__all__ = ["FENCED", "Fence", "fenced", "lift", "lift_if_expired", "put"]


@dataclass(frozen=True)
class Fence:
    """A fence that stands; ``remaining`` seconds, 0 when it has expired."""

    remaining: float

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self.remaining <= 0


def put(connection: sqlite3.Connection, seconds: float, now: Moment | None = None) -> None:
    """Have every write wait, from now on and for *seconds* at most.

    Returns when no write is under way any more: each came before or fails. Raises
    sqlite3.Error.
    """
    now = now or current_moment()
    entry = {"seconds": seconds, **now.as_dict()}
    with tables.transaction(connection):
        connection.execute(f"UPDATE {STATE} SET fence = ?", (json.dumps(entry),))  # noqa: S608


def lift(connection: sqlite3.Connection) -> bool:
    """Let writes pass again; whether there was a fence."""
    if not _entry(connection):
        return False
    with tables.transaction(connection):
        connection.execute(f"UPDATE {STATE} SET fence = NULL")  # noqa: S608
    return True


def fenced(connection: sqlite3.Connection, now: Moment | None = None) -> Fence | None:
    """Return the fence, expired or not; None without one."""
    text = _entry(connection)
    return Fence(_remaining(text, now or current_moment())) if text else None


def lift_if_expired(connection: sqlite3.Connection, now: Moment | None = None) -> bool:
    """Lift a fence whose time is over; whether it was lifted."""
    found = fenced(connection, now)
    return found is not None and found.expired and lift(connection)


def _entry(connection: sqlite3.Connection) -> str:
    if not tables.exist(connection):
        return ""
    row = connection.execute(f"SELECT fence FROM {STATE}").fetchone()  # noqa: S608
    return str(row[0]) if row and row[0] is not None else ""


def _remaining(text: str, now: Moment) -> float:
    try:
        entry = json.loads(text)
        seconds, begun = float(entry["seconds"]), read_moment(entry)
    except (ValueError, KeyError, TypeError):
        return 0.0  # not understood: it would otherwise stand for ever
    if now.boot_id and not now.same_boot(begun):
        return 0.0  # the process that put it ended with that boot
    passed = now.seconds_since(begun)
    return 0.0 if passed is None else max(0.0, seconds - passed)
