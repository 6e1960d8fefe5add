# SPDX-License-Identifier: Apache-2.0
"""The box's side of the ledger, read from the SQLite file in one snapshot."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgepaas.database.reserved_names import OUTBOX, STATE
from edgepaas.database.sqlite import numeric_order
from edgepaas.errors import EdgePaaSError
from edgepaas.files.locks import held
from edgepaas.files.sqlite_file import open_refusal_reason
from edgepaas.outbox import ledger, sequence_gaps, stream, tables, versions
from edgepaas.outbox.stream import Stream

_BUSY_TIMEOUT = 10.0
_LOCK_TIMEOUT = 10.0
#: Gaps that are listed one by one; of more, only the number is given.
_NAMED = 5


class BoxUnreadable(EdgePaaSError):
    """The SQLite file cannot be audited; the message says why."""


@dataclass(frozen=True)
class Gap:
    """Rows that were given up: ``ranges`` are their numbers, ``seq`` that of the gap row."""

    seq: int
    rows: int
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class BoxSide:
    """The file's counters; ``stream`` is None where nothing was ever captured."""

    counters: dict[str, int]
    stream: Stream | None = None
    gaps: tuple[Gap, ...] = ()
    reclaimed_seq: int = 0
    #: Ranges of numbers that the hub lost and the box no longer has.
    lost: tuple[tuple[int, int], ...] = ()
    #: Ranges of numbers that forks skipped.
    skipped: tuple[tuple[int, int], ...] = ()
    #: Ranges of numbers that are neither waiting, nor delivered, nor given up.
    holes: tuple[tuple[int, int], ...] = field(default=())

    def shed_between(self, first: int, last: int) -> int:
        """Return how many numbers from *first* to *last* were given up."""
        return sum(sequence_gaps.count_between(gap.ranges, first, last) for gap in self.gaps)

    def missing_between(self, first: int, last: int) -> int:
        """Return how many numbers from *first* to *last* the hub lost, or a fork skipped."""
        return sequence_gaps.count_between((*self.lost, *self.skipped), first, last)

    def discrepancies(self) -> list[str]:
        """Return what does not add up within the file, one sentence each."""
        found = []
        counters = self.counters
        settled = sum(counters[name] for name in ("delivered", "dead", "shed", "pending"))
        if counters["accepted"] != settled:
            found.append(
                f"the box accepted {counters['accepted']} rows, but delivered "
                f"{counters['delivered']}, dead {counters['dead']}, shed {counters['shed']} and "
                f"pending {counters['pending']} make {settled}"
            )
        for first, last in self.holes[:_NAMED]:
            numbers = str(first) if first == last else f"{first} to {last}"
            found.append(f"the outbox lacks row {numbers}, which was neither sent nor given up")
        if len(self.holes) > _NAMED:
            found.append(f"the outbox lacks rows in {len(self.holes) - _NAMED} more places")
        return found


@contextmanager
def opened_for_audit(path: Path, lock: Path) -> Iterator[sqlite3.Connection | None]:
    """Give a read-only connection to the file at *path*, None where there is no file.

    *lock* is held shared meanwhile. Raises BoxUnreadable, LockHeld, sqlite3.Error.
    """
    if not path.exists():
        yield None
        return
    with held(lock, shared=True, timeout=_LOCK_TIMEOUT):
        if trouble := open_refusal_reason(path):
            raise BoxUnreadable(f"{path} cannot be audited: {trouble}; see 'edgepaas schema'")
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(
            sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT, isolation_level=None)
        ) as connection:
            numeric_order.register(connection)
            yield connection


def read_box(connection: sqlite3.Connection | None) -> BoxSide:
    """Return the file's counters in one snapshot; others may go on writing.

    Raises BoxUnreadable for a file of a newer release, sqlite3.Error.
    """
    if connection is None or not tables.exist(connection):
        return BoxSide({"accepted": 0, "pending": 0, **dict.fromkeys(ledger.COUNTERS, 0)})
    if unknown := versions.problem(connection):
        raise BoxUnreadable(f"the SQLite file cannot be audited: {unknown}")
    connection.execute("BEGIN")  # one snapshot for all that follows
    try:
        counters = ledger.read(connection)
        found = stream.read_stream(connection)
        if found is None:
            return BoxSide(counters)
        gaps = tuple(_gaps(connection))
        (reclaimed,) = connection.execute(f"SELECT reclaimed_seq FROM {STATE}").fetchone()  # noqa: S608
        start = max(found.confirmed_seq, reclaimed) + 1
        lost = tuple(sequence_gaps.ranges(connection, lost=True))
        skipped = tuple(sequence_gaps.ranges(connection, lost=False))
        # Counted row by row: the audit must not assume that no number is missing.
        (counters["pending"],) = connection.execute(
            f"SELECT count(*) FROM {OUTBOX} WHERE seq > ?",  # noqa: S608
            (found.confirmed_seq,),
        ).fetchone()
        holes = tuple(sequence_gaps.unexplained(connection, start, found.last_seq))
        return BoxSide(counters, found, gaps, reclaimed, lost, skipped, holes)
    finally:
        connection.execute("ROLLBACK")


def _gaps(connection: sqlite3.Connection) -> Iterator[Gap]:
    rows = connection.execute(f"SELECT seq, v0 FROM {OUTBOX} WHERE op = 'G' ORDER BY seq")  # noqa: S608
    for seq, text in rows:
        entry = json.loads(text)
        yield Gap(int(seq), int(entry["rows"]), tuple((int(a), int(b)) for a, b in entry["ranges"]))
