# SPDX-License-Identifier: Apache-2.0
"""Putting changes among the rows of the outbox that wait, each at its place in time.

What a hub lost while it served is older than some of what waits, and newer than the rest: an
update that arrives before the insert of its row, or a child before its parent, is refused. So
the rows that wait are numbered anew around the changes that are put among them.
"""

import json
import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from edgepaas.database.reserved_names import OUTBOX, SEQUENCE_GAPS, STATE, TRANSACTIONS
from edgepaas.outbox import tables
from edgepaas.outbox.resending import switches
from edgepaas.outbox.resending.counters import MISSING, doubt_lost_rows
from edgepaas.outbox.stream import read_stream
from edgepaas.outbox.triggers import values_of


@dataclass(frozen=True)
class Change:
    """One change in the outbox's own form.

    *layout* is the id of a layout of the file; *op* is ``I``, ``U`` or ``D``; *values* are the
    new ones, followed by the old ones of an update; those of a delete are the old ones.
    """

    layout: int
    op: str
    values: Sequence[Any]


@dataclass(frozen=True)
class Transaction:
    """Changes that are delivered together; they come after the row numbered *after*.

    *missing*: the hub's marks say that it lacks them, so that a counter is added to whatever
    else was counted there since; else it is in doubt.
    """

    after: int
    changes: Sequence[Change]
    missing: bool = False


@dataclass(frozen=True)
class Shifts:
    """How numbers change: each one above the first *places* grows by the sum of their *counts*.

    *places* are in order. A number that is equal to a place stays below what is put there.
    """

    places: Sequence[int]
    counts: Sequence[int]

    @classmethod
    def of(cls, counts: Mapping[int, int]) -> "Shifts":
        """Return the shifts where *counts* changes are put after each number."""
        places = sorted(place for place, count in counts.items() if count)
        return cls(places, list(accumulate(counts[place] for place in places)))

    def below(self, number: int) -> int:
        """Return how many changes are put before *number*."""
        at = bisect_left(self.places, number)
        return self.counts[at - 1] if at else 0

    def split(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Give what becomes of the numbers *first* to *last*, as ranges."""
        start = first
        for place in self.places:
            if start <= place < last:
                yield start + self.below(start), place + self.below(place)
                start = place + 1
        yield start + self.below(start), last + self.below(last)


def insert_among_waiting(
    connection: sqlite3.Connection,
    transactions: Callable[[], Iterable[Transaction]],
    *,
    inserted: Callable[[], None] = lambda: None,
) -> int:
    """Put what *transactions* gives among the rows that wait, as resent; returns how many rows.

    *transactions* is called twice, and gives the same both times, in the order in which they
    were committed. What comes after a row that is confirmed, or reclaimed, goes before all that
    waits. The caller holds the lock of the stream on the hub and has found both sides in step:
    numbers that are in flight must not change. *inserted* is called in the same transaction,
    which is one of its own unless one is open. Raises sqlite3.Error.
    """
    with tables.transaction(connection):
        stream = read_stream(connection)
        if stream is None:
            raise RuntimeError("a file without an outbox has no rows that wait")
        (reclaimed,) = connection.execute(f"SELECT reclaimed_seq FROM {STATE}").fetchone()  # noqa: S608
        least = max(stream.confirmed_seq, reclaimed)
        last = stream.last_seq
        places: list[int] = []
        counts: dict[int, int] = {}
        for place, found in _placed(connection, transactions(), least, last):
            places.append(place)
            counts[place] = counts.get(place, 0) + len(found.changes)
        shifts = Shifts.of(counts)
        total = sum(counts.values())
        if not total:
            inserted()
            return 0
        _make_room(connection, shifts, least)
        _fill(connection, shifts, zip(places, transactions(), strict=True))
        connection.execute(
            "UPDATE sqlite_sequence SET seq = ? WHERE name = ?", (stream.last_seq + total, OUTBOX)
        )
        if not connection.execute("SELECT changes()").fetchone()[0]:
            connection.execute(
                "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)",
                (OUTBOX, stream.last_seq + total),
            )
        connection.execute(f"UPDATE {STATE} SET inflight_batch = '', inflight_seq = 0")  # noqa: S608
        doubt_lost_rows(connection, least)
        inserted()
    return total


def _placed(
    connection: sqlite3.Connection, transactions: Iterable[Transaction], least: int, last: int
) -> Iterator[tuple[int, Transaction]]:
    """Give each transaction with the number after which it goes, in their order."""
    before = least
    known: tuple[int, int] | None = None
    for one in transactions:
        place = max(before, min(one.after, last))
        if known is None or not known[0] <= place < known[1]:
            known = connection.execute(
                f"SELECT first, last FROM {TRANSACTIONS} WHERE first <= ? "  # noqa: S608
                "ORDER BY first DESC LIMIT 1",
                (place,),
            ).fetchone()
        if known is not None and known[0] <= place < known[1]:
            place = known[1]  # a source transaction stays whole
        before = place
        yield place, one


def _make_room(connection: sqlite3.Connection, shifts: Shifts, least: int) -> None:
    """Number anew what lies above the places; by way of negative numbers, which nothing has."""
    bounds = [*shifts.places[1:], None]
    for place, next_place, shift in zip(shifts.places, bounds, shifts.counts, strict=True):
        limit = "" if next_place is None else f" AND {{0}} <= {int(next_place)}"
        connection.execute(
            f"UPDATE {OUTBOX} SET seq = -(seq + ?) WHERE seq > ?{limit.format('seq')}",  # noqa: S608
            (shift, place),
        )
        connection.execute(
            f"UPDATE {TRANSACTIONS} SET first = -(first + ?), last = last + ? "  # noqa: S608
            f"WHERE first > ?{limit.format('first')}",
            (shift, shift, place),
        )
    connection.execute(f"UPDATE {OUTBOX} SET seq = -seq WHERE seq < 0")  # noqa: S608
    connection.execute(f"UPDATE {TRANSACTIONS} SET first = -first WHERE first < 0")  # noqa: S608
    _shift_gaps(connection, shifts, least)
    before = 0
    for place, count in zip(shifts.places, shifts.counts, strict=True):
        switches.shift(connection, place + before, count - before)
        before = count


def _shift_gaps(connection: sqlite3.Connection, shifts: Shifts, least: int) -> None:
    gaps = connection.execute(
        f"SELECT seq, v0 FROM {OUTBOX} WHERE op = 'G' AND seq > ?",  # noqa: S608
        (least,),
    ).fetchall()
    for seq, text in gaps:
        gap = json.loads(text)
        gap["ranges"] = [list(part) for a, b in gap["ranges"] for part in shifts.split(a, b)]
        connection.execute(f"UPDATE {OUTBOX} SET v0 = ? WHERE seq = ?", (json.dumps(gap), seq))  # noqa: S608
    tables.create(connection)  # a file that an older release created lacks the table of gaps
    absent = connection.execute(
        f"SELECT first, last, lost FROM {SEQUENCE_GAPS} WHERE last > ?",  # noqa: S608
        (least,),
    ).fetchall()
    if absent:
        connection.execute(f"DELETE FROM {SEQUENCE_GAPS} WHERE last > ?", (least,))  # noqa: S608
        connection.executemany(
            f"INSERT INTO {SEQUENCE_GAPS} (first, last, lost) VALUES (?, ?, ?)",  # noqa: S608
            [(*part, lost) for a, b, lost in absent for part in shifts.split(a, b)],
        )


def _fill(
    connection: sqlite3.Connection, shifts: Shifts, placed: Iterable[tuple[int, Transaction]]
) -> None:
    seq = place = -1
    for here, found in placed:
        if here != place:
            place, seq = here, here + shifts.below(here)
        for change in found.changes:
            seq += 1
            resent = MISSING if found.missing and change.op == "U" else 1
            values = [_as_stored(value) for value in change.values]
            marks = ", ".join(mark for mark, _ in values)
            connection.execute(
                f"INSERT INTO {OUTBOX} (seq, layout, op, resent, {values_of(len(values))}) "  # noqa: S608
                f"VALUES (?, ?, ?, ?, {marks})",
                (seq, change.layout, change.op, resent, *(value for _, value in values)),
            )
        if len(found.changes) > 1:
            connection.execute(
                f"INSERT INTO {TRANSACTIONS} (first, last) VALUES (?, ?)",  # noqa: S608
                (seq - len(found.changes) + 1, seq),
            )


def _as_stored(value: Any) -> tuple[str, Any]:
    """Return the mark and the parameter that store *value*; a text that is no UTF-8 as it was."""
    if isinstance(value, str) and not value.isascii():
        data = value.encode("utf-8", "surrogateescape")
        if data != value.encode("utf-8", "replace"):
            return "CAST(? AS TEXT)", data
    return "?", value
