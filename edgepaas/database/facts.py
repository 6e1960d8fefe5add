# SPDX-License-Identifier: Apache-2.0
"""Appending facts: known rows, stored once each, however often they are sent.

Callers give values, not statements, so that another way to the file (one that needs no
SQLAlchemy) can take the place of this one without their notice.
"""

import sqlite3
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sqlalchemy import Table
from sqlalchemy.orm import Session

from edgepaas.database.bulk_insert import (
    Row,
    count_present,
    insert_in_order,
    insert_new,
    key_of,
    rows_by_id,
)
from edgepaas.database.database import Database
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.errors import DatabaseBusy, DatabaseUnavailable, EdgePaaSError
from edgepaas.files.locks import held

#: Keys a statement, when the box's own file is asked.
_KEYS_AT_ONCE = 500
#: Seconds to wait for the lock of the box's own file.
_FILE_LOCK_SECONDS = 1.0

#: Given the keys that were stored just now, the rows that follow from them, by table.
Following = Callable[[Collection[uuid.UUID]], Mapping[Table, Sequence[Row]]]


@dataclass(frozen=True)
class Appended:
    """How many facts were stored, and how many were there already; together all that came."""

    accepted: int
    duplicates: int


class FactsDiffer(Exception):
    """Facts whose key is there already with other content; nothing was stored.

    *positions* are theirs among the rows that were given.
    """

    def __init__(self, table: str, positions: Sequence[int]) -> None:
        super().__init__(f"{len(positions)} rows of {table} are there already with other content")
        self.positions = tuple(positions)


def append_facts(
    database: Database,
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
      worked on. It has no other effect: it may be called again. *stamp* then names the
      column that this call filled with one moment in every row, and no earlier call did:
      by it, rows that were stored now are told from those that were there.

    Raises FactsDiffer where a duplicate has other content. What the box merely stamped is
    no content (a column with ``info={"merge": …}``), nor is a value that was filled in from
    such a column (``info={"filled_from": …}``). Raises DatabaseError as ``database.write``
    does, ValueError for *following* without *stamp*.
    """
    if following is not None and not stamp:
        raise ValueError("rows that follow need a stamp, by which the new facts are known")
    if not rows:
        return Appended(0, 0)
    key = key_of(table).name
    positions = _distinct(table, key, rows)
    distinct = {identity: rows[position] for identity, position in positions.items()}

    def work(session: Session) -> int:
        for parent, wanted in (before or {}).items():
            _ensure(session, parent, wanted)
        accepted = insert_new(session, table, list(distinct.values()))
        new: Collection[uuid.UUID] = distinct
        if accepted < len(distinct):
            new = _compare(session, table, distinct, positions, stamp)
        if accepted and following is not None:
            for target, more in following(new).items():
                insert_in_order(session, target, more)
        return accepted

    accepted = database.write(work)
    return Appended(accepted, len(rows) - accepted)


def ids_in_file(
    path: Path, lock: Path, table: Table, identities: Iterable[uuid.UUID]
) -> frozenset[uuid.UUID]:
    """Return which of these *identities* the SQLite file *path* holds in *table*.

    *lock* is held shared meanwhile. No file holds none. Raises DatabaseUnavailable.
    """
    if not path.exists():
        return frozenset()
    keys = [str(identity) for identity in identities]
    found: set[uuid.UUID] = set()
    try:
        with (
            held(lock, shared=True, timeout=_FILE_LOCK_SECONDS),
            closing(open_sqlite(path, read_only=True)) as connection,
        ):
            for start in range(0, len(keys), _KEYS_AT_ONCE):
                some = keys[start : start + _KEYS_AT_ONCE]
                marks = ", ".join("?" * len(some))
                name, key = f'"{table.name}"', f'"{key_of(table).name}"'
                statement = f"SELECT {key} FROM {name} WHERE {key} IN ({marks})"  # noqa: S608
                found.update(uuid.UUID(text) for (text,) in connection.execute(statement, some))
    except (sqlite3.Error, OSError, EdgePaaSError) as error:
        raise DatabaseUnavailable(f"{path} cannot be read: {error}") from error
    return frozenset(found)


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


def _ensure(session: Session, table: Table, rows: Sequence[Row]) -> None:
    key = key_of(table).name
    # Asked first: nearly always all are there, and a look costs less than a write.
    if count_present(session, table, [row[key] for row in rows]) < len(rows):
        insert_new(session, table, rows)


def _compare(
    session: Session,
    table: Table,
    distinct: Mapping[uuid.UUID, Row],
    positions: Mapping[uuid.UUID, int],
    stamp: str,
) -> Collection[uuid.UUID]:
    """Return which of the *distinct* rows were stored now; raises FactsDiffer."""
    columns = [*_content(table)[0], *_content(table)[1], *([stamp] if stamp else [])]
    stored = rows_by_id(session, table, distinct, columns)
    missing = len(distinct) - len(stored)
    if missing:  # deleted a moment ago: nothing is acknowledged that is not there
        raise DatabaseBusy(f"{missing} rows of {table.name} were deleted while they were repeated")
    differing = [
        positions[identity]
        for identity, row in distinct.items()
        if not _is_same(table, row, stored[identity])
    ]
    if differing:
        raise FactsDiffer(table.name, sorted(differing))
    if not stamp:
        return ()
    # Two calls of one microsecond with one row in common would have to meet here.
    return {identity for identity, row in stored.items() if row[stamp] == distinct[identity][stamp]}


def _is_same(table: Table, row: Row, other: Row) -> bool:
    """Whether *other* is the same fact as *row*, which came later."""
    given, filled = _content(table)
    return all(row[name] == other[name] for name in given if name in row) and all(
        row[name] == row[source] or row[name] == other[name]
        for name, source in filled.items()
        if name in row
    )


@cache
def _content(table: Table) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the columns that make a fact what it is, and those that may be filled in."""
    columns = [
        column for column in table.columns if not column.primary_key and "merge" not in column.info
    ]
    filled = {c.name: str(c.info["filled_from"]) for c in columns if "filled_from" in c.info}
    return tuple(column.name for column in columns if column.name not in filled), filled
