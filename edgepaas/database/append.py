# SPDX-License-Identifier: Apache-2.0
"""Appending facts: known rows, stored once each, however often they are sent.

Callers give values, not statements, so that each database stores them in its own fastest way.
An :class:`AppendJob` is handed to ``Database.submit``, which does not wait;
:func:`append_facts` is the same for a caller that does.
"""

import threading
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import Table, UniqueConstraint

from edgepaas.database.bulk_insert import (
    Row,
    count_present,
    insert_in_order,
    insert_new,
    key_of,
    rows_by_id,
)
from edgepaas.errors import DatabaseBusy, DatabaseUnavailable, RowNotStored

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgepaas.database.database import Database

#: Given the keys that were stored just now, the rows that follow from them, by table.
Following = Callable[[Collection[uuid.UUID]], Mapping[Table, Sequence[Row]]]


@dataclass(frozen=True, slots=True)
class Appended:
    """How many facts were stored, and how many were there already; together all that came."""

    accepted: int
    duplicates: int


class FactsDiffer(Exception):
    """Facts whose key is there already with other content; nothing was stored.

    *positions* are theirs among the rows that were given; *taken*: they are not there, and
    another row has what is to be unique in them.
    """

    def __init__(self, table: str, positions: Sequence[int], *, taken: bool = False) -> None:
        what = (
            "have a unique value of another row"
            if taken
            else "are there already with other content"
        )
        super().__init__(f"{len(positions)} rows of {table} {what}")
        self.positions = tuple(positions)
        self.taken = taken


#: What an append job ends with.
AppendOutcome = Appended | BaseException


class AppendJob:
    """Facts on their way into a database, all of them in one transaction, or none.

    See :func:`append_facts` for what the parts mean. *done* is called once, as soon as the
    outcome is known: with Appended when all of it is durable, with an exception otherwise. It
    is called in the thread that writes, which others wait for: it must not wait, nor raise.
    """

    __slots__ = (
        "_claims",
        "before",
        "distinct",
        "done",
        "following",
        "positions",
        "rows",
        "stamp",
        "table",
    )

    def __init__(
        self,
        table: Table,
        rows: Sequence[Row],
        done: Callable[[AppendOutcome], None],
        *,
        before: Mapping[Table, Sequence[Row]] | None = None,
        stamp: str = "",
        following: Following | None = None,
    ) -> None:
        """Raises FactsDiffer where two of the rows differ, ValueError for a missing *stamp*."""
        if following is not None and not stamp:
            raise ValueError("rows that follow need a stamp, by which the new facts are known")
        self.table = table
        self.rows = rows
        self.done = done
        self.before: Mapping[Table, Sequence[Row]] = before or {}
        self.stamp = stamp
        self.following = following
        key = key_of(table).name
        if len(rows) == 1:
            self.positions: Mapping[uuid.UUID, int] = {rows[0][key]: 0}
            self.distinct: Sequence[Row] = rows
        else:
            self.positions = _distinct(table, key, rows)
            self.distinct = [rows[position] for position in self.positions.values()]
        self._claims = [None]

    def claim(self) -> bool:
        """Take the job, to run it or to give it up; False: it was taken already.

        For any thread: of two that ask at once, one gets it.
        """
        try:
            self._claims.pop()
        except IndexError:
            return False
        return True

    def give_up(self, patience: float | None) -> DatabaseBusy | DatabaseUnavailable:
        """Return why a caller that waited for *patience* seconds waits no longer.

        DatabaseBusy: the job had not begun, and will not. DatabaseUnavailable: it is being
        written, and it is not known whether it will be stored.
        """
        if self.claim():
            return DatabaseBusy(
                f"the write did not get its turn within {patience or 0:g} s; nothing was written"
            )
        return DatabaseUnavailable(
            f"the disk did not take the write within {patience or 0:g} s; "
            f"whether it was stored is unknown"
        )

    def appended(self, accepted: int) -> Appended:
        """Return the outcome where *accepted* of the rows are new."""
        return Appended(accepted, len(self.rows) - accepted)


def append_facts(
    database: "Database",
    table: Table,
    rows: Sequence[Row],
    *,
    before: Mapping[Table, Sequence[Row]] | None = None,
    stamp: str = "",
    following: Following | None = None,
) -> Appended:
    """Store those of *rows* that are not there yet; return once they are durable.

    *rows* are facts of *table* by the names of its columns, each row the same ones, values
    of the columns' Python types; its key is one column of type Uuid. A row whose key is
    there already, in the table or earlier among the rows, is a duplicate. All of it is
    stored in one transaction, or nothing:

    - *before*: rows of other tables that are inserted first where they are missing, such
      as the devices that readings name; those that are there keep what they hold.
    - *following*: is given the keys of the rows that were stored now and returns further
      rows to insert, one after the other in their order, such as a queue of what is to be
      worked on. It has no other effect: it may be called again, and with all keys before it
      is known that all are new; what it returned is then stored only if they are. *stamp*
      then names the column that this call filled with one moment in every row, and no earlier
      call did: by it, rows that were stored now are told from those that were there.

    Raises FactsDiffer where a duplicate has other content. What the box merely stamped is
    no content (a column with ``info={"merge": …}``), nor is a value that was filled in from
    such a column (``info={"filled_from": …}``). Raises DatabaseError as ``database.write``
    does, ValueError for *following* without *stamp*.
    """
    outcome = _Waiting()
    job = AppendJob(table, rows, outcome.set, before=before, stamp=stamp, following=following)
    if not rows:
        return Appended(0, 0)
    database.submit(job)
    return outcome.wait(job, database.patience)


class _Waiting:
    """The outcome of a job that a thread waits for."""

    def __init__(self) -> None:
        self._known = threading.Event()
        self._outcome: AppendOutcome | None = None

    def set(self, outcome: AppendOutcome) -> None:
        self._outcome = outcome
        self._known.set()

    def wait(self, job: AppendJob, patience: float | None) -> Appended:
        if not self._known.wait(patience):
            error = job.give_up(patience)
            if self._outcome is None:
                raise error
        if isinstance(self._outcome, Appended):
            return self._outcome
        assert self._outcome is not None  # noqa: S101 - set before _known is
        raise self._outcome


def append_in_session(session: "Session", job: AppendJob) -> int:
    """Store *job* in the transaction of *session*; return how many of its facts are new.

    For ``Database.write``; raises FactsDiffer.
    """
    for parent, wanted in job.before.items():
        _ensure(session, parent, wanted)
    accepted = insert_new(session, job.table, job.distinct)
    if accepted < len(job.distinct):
        names = compared_columns(job.table, job.stamp)
        new = stored_now(job, rows_by_id(session, job.table, job.positions, names))
    else:
        new = job.positions.keys()
    if accepted and job.following is not None:
        for target, more in job.following(new).items():
            insert_in_order(session, target, more)
    return accepted


def _distinct(table: Table, key: str, rows: Sequence[Row]) -> dict[uuid.UUID, int]:
    """Return the position of each key's first row; raises FactsDiffer."""
    positions: dict[uuid.UUID, int] = {}
    differing = []
    for position, row in enumerate(rows):
        first = positions.setdefault(row[key], position)
        if first != position and not _is_same(table, row, rows[first]):
            differing.append(position)
    if differing:
        raise FactsDiffer(table.name, differing)
    return positions


def _ensure(session: "Session", table: Table, rows: Sequence[Row]) -> None:
    key = key_of(table).name
    # Asked first: nearly always all are there, and a look costs less than a write.
    if count_present(session, table, [row[key] for row in rows]) < len(rows):
        insert_new(session, table, rows)


def compared_columns(table: Table, stamp: str) -> list[str]:
    """Return the columns of a stored row that :func:`stored_now` looks at."""
    given, filled = _content(table)
    return [*given, *filled, *([stamp] if stamp else [])]


def stored_now(job: AppendJob, stored: Mapping[uuid.UUID, Row]) -> Collection[uuid.UUID]:
    """Return which facts of *job* were stored by it, where some were there before.

    *stored* are their rows as they are now, by key. Raises FactsDiffer, RowNotStored.
    """
    missing = len(job.distinct) - len(stored)
    if missing:  # nothing is acknowledged that is not there
        if _is_unique_beside_its_key(job.table):
            lacking = [at for identity, at in job.positions.items() if identity not in stored]
            raise FactsDiffer(job.table.name, sorted(lacking), taken=True)
        raise RowNotStored(
            f"{missing} rows of {job.table.name} were accepted and are not there: a trigger "
            "removed them, or somebody deleted them a moment ago"
        )
    differing = [
        position
        for identity, position in job.positions.items()
        if not _is_same(job.table, job.rows[position], stored[identity])
    ]
    if differing:
        raise FactsDiffer(job.table.name, sorted(differing))
    stamp = job.stamp
    if not stamp:
        return ()
    # Two calls of one microsecond with one row in common would have to meet here.
    return {
        identity
        for identity, row in stored.items()
        if row[stamp] == job.rows[job.positions[identity]][stamp]
    }


def _is_same(table: Table, row: Row, other: Row) -> bool:
    """Whether *other* is the same fact as *row*, which came later."""
    given, filled = _content(table)
    return all(row[name] == other[name] for name in given if name in row) and all(
        row[name] == row[source] or row[name] == other[name]
        for name, source in filled.items()
        if name in row
    )


@cache
def _is_unique_beside_its_key(table: Table) -> bool:
    constraints = any(isinstance(one, UniqueConstraint) for one in table.constraints)
    return constraints or any(index.unique for index in table.indexes)


@cache
def _content(table: Table) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the columns that make a fact what it is, and those that may be filled in."""
    columns = [
        column for column in table.columns if not column.primary_key and "merge" not in column.info
    ]
    filled = {c.name: str(c.info["filled_from"]) for c in columns if "filled_from" in c.info}
    return tuple(column.name for column in columns if column.name not in filled), filled
