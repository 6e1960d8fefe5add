# SPDX-License-Identifier: Apache-2.0
"""Counts how writes to each table end, and says when PostgreSQL is no use for them any more."""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from edgepaas.errors import DatabaseBusy, DatabaseError, DatabaseFull, DatabaseRefused
from edgepaas.outcomes.causes import PASSING, Access, Cause, KnownTable, Refusal, refusal_of
from edgepaas.pgdriver.failures import CommitUnconfirmed, find_cause

#: So many requests have to fail before PostgreSQL is given up.
SEVERAL = 3
#: Fewer do where each of them waited so long that there was no time for more.
_FEW = 2
_LONG = 1.5
#: A cause that may pass is another incident after so many seconds without a failure.
_INCIDENT = 60.0
#: Seconds for which it is remembered whose fault a doubtful error was.
_VERDICT_KEPT = 30.0

#: Tries the write path of a table; returns the refusal of every row that it showed, if any.
#: Raises DatabaseError where it could not be tried.
Rehearse = Callable[[str], Refusal | None]


@dataclass(frozen=True)
class Failing:
    """A table whose writes fail and have not succeeded in between."""

    refusal: Refusal
    #: Seconds since the first request that failed began, and how many failed since.
    lasts: float
    count: int
    #: Whether it is worth reporting: a cause that may pass has to come more than once.
    is_known: bool
    #: Whether PostgreSQL is to be given up for it.
    is_lasting: bool


@dataclass
class _Row:
    """The failures of one table since its last success; times on the injected clock."""

    refusal: Refusal
    began: float
    last: float
    count: int = 0


class Outcomes:
    """The outcomes of this process's writes; for any thread.

    ``known`` is what the application's models say of the tables, by name.
    """

    def __init__(
        self,
        *,
        patience: float,
        rehearse: Rehearse | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*patience*: seconds for which writes may fail (WRITE_PATIENCE)."""
        self.known: Mapping[str, KnownTable] = {}
        self._patience = patience
        self._rehearse = rehearse
        self._clock = clock
        self._lock = threading.Lock()
        self._rehearsing = threading.Lock()
        self._failing: dict[tuple[str, Access], _Row] = {}
        #: Whether a doubtful error was the table's, and until when that is taken for granted.
        self._verdicts: dict[tuple[str, str, str], tuple[bool, float]] = {}

    def record(
        self,
        tables: Sequence[str],
        error: BaseException | None,
        *,
        began: float | None = None,
        access: Access = Access.WRITE,
    ) -> DatabaseError | None:
        """Record how a transaction on *tables* ended: with *error*, or None once it is durable.

        With an error, *tables* are those of the statement that failed, or all of them where that
        is unknown, the most likely one last. *began*: when the request began, by ``clock``.
        Returns what to raise in place of *error* where the
        server is at fault, None where *error* itself is to be raised. Where it cannot be known
        otherwise the table's write path is rehearsed, which takes a few round trips.
        """
        if error is None:
            self._succeeded(tables, access)
            return None
        refusal = refusal_of(error, tables, self.known, access=access)
        if refusal is None:
            return None
        if refusal.doubtful:
            verdict = self._verdict(refusal)
            if verdict is None:
                return DatabaseBusy(f"{refusal.text}; whether any row would pass is not known")
            if not verdict:
                return None
        self._failed(refusal, self._clock() if began is None else began)
        return _error_for(refusal, error)

    def failing(self) -> list[Failing]:
        """Return the tables whose writes, or reads, fail at present."""
        if not self._failing:
            return []
        now = self._clock()
        with self._lock:
            rows = list(self._failing.values())
        return [self._judged(row, now) for row in rows]

    def lasting(self) -> list[Failing]:
        """Return the tables for whose writes PostgreSQL is to be given up."""
        return [one for one in self.failing() if one.is_lasting]

    def _succeeded(self, tables: Collection[str], access: Access) -> None:
        if not self._failing:
            return
        with self._lock:
            for table in tables:
                self._failing.pop((table, access), None)

    def _failed(self, refusal: Refusal, began: float) -> None:
        now = self._clock()
        key = (refusal.table, refusal.access)
        with self._lock:
            row = self._failing.get(key)
            passing = refusal.cause in PASSING
            if row is None or (passing and began - row.last > max(_INCIDENT, 2 * self._patience)):
                row = self._failing[key] = _Row(refusal, began, now)
            row.refusal, row.last = refusal, now
            row.began = min(row.began, began)
            row.count += 1

    def _judged(self, row: _Row, now: float) -> Failing:
        refusal = row.refusal
        # What may pass is not known to last beyond the last request that met it.
        lasts = (row.last if refusal.cause in PASSING else now) - row.began
        several = row.count >= SEVERAL or (row.count >= _FEW and lasts >= _LONG * self._patience)
        return Failing(
            refusal,
            lasts,
            row.count,
            is_known=refusal.cause not in PASSING or row.count >= _FEW,
            is_lasting=refusal.access is not Access.READ and several and lasts >= self._patience,
        )

    def _verdict(self, refusal: Refusal) -> bool | None:
        """Return whether the table refuses every row; None where that cannot be found out."""
        if self._rehearse is None:
            return False
        key = (refusal.table, refusal.sqlstate, refusal.constraint)
        # One at a time: the others take what it finds.
        with self._rehearsing:
            kept = self._verdicts.get(key)
            if kept is not None and self._clock() < kept[1]:
                return kept[0]
            try:
                refused = self._rehearse(refusal.table) is not None
            except DatabaseError:
                return None
            now = self._clock()
            self._verdicts = {k: v for k, v in self._verdicts.items() if now < v[1]}
            self._verdicts[key] = (refused, now + _VERDICT_KEPT)
            return refused


def _error_for(refusal: Refusal, error: BaseException) -> DatabaseError:
    """Return what a caller is to hear of *refusal*: it did nothing wrong, and may come again."""
    unconfirmed = find_cause(error, CommitUnconfirmed)
    if unconfirmed is not None:
        return unconfirmed
    if refusal.cause is Cause.FULL:
        return DatabaseFull(f"PostgreSQL has no room left: {refusal.text}")
    known = find_cause(error, DatabaseError)
    if known is None or isinstance(known, DatabaseRefused):  # it is not these values
        return DatabaseBusy(refusal.text)
    return known
