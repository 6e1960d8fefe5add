# SPDX-License-Identifier: Apache-2.0
"""Appending facts over the bare driver: SQL as text, made once a table, and no statement built.

The semantics are those of :func:`edgepaas.database.append.append_in_session`, at a fraction of
its price; the values pass through the same column types, so the same is stored.
"""

import sqlite3
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import sqlite
from sqlalchemy.types import TypeEngine

from edgepaas.database.append import AppendJob, compared_columns, stored_now
from edgepaas.database.bulk_insert import Row, key_of
from edgepaas.database.types import Number, Text, UtcDateTime, Uuid

#: Keys a statement, and variables: SQLite takes 32,766 since 3.32
#: (https://sqlite.org/limits.html), and keeps each page that a statement changes in memory.
_KEYS_AT_ONCE = 500
_VARIABLES = 2_000
#: Rows of a long statement are a multiple of this. sqlite3 keeps the last 128 statements compiled,
#: and one of 900 rows takes half a megabyte: clients choose how many rows they send.
_ROUND = 50

_DIALECT = sqlite.dialect()
_QUOTE = _DIALECT.identifier_preparer

Convert = Callable[[Any], Any]


class AppendStatements:
    """Runs append jobs in the open transaction of *connection*, for one thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        #: Rows that this transaction has seen; nobody else can delete one before it ends.
        self._present: dict[Table, set[uuid.UUID]] = {}

    def forget(self) -> None:
        """Look at every row anew: a transaction begins, or something else was done in it."""
        if self._present:
            self._present.clear()

    def run(self, job: AppendJob) -> int:
        """Store *job*; return how many of its facts are new.

        Raises FactsDiffer, DatabaseBusy, ValueError for a value that its column refuses,
        sqlite3.Error; the transaction then has to be undone as far as the job has come.
        """
        for parent, wanted in job.before.items():
            self._ensure(parent, wanted)
        accepted = self._insert(job.table, job.distinct)
        new: Collection[uuid.UUID] = job.positions.keys()
        if accepted < len(job.distinct):
            new = stored_now(job, self._stored(job))
        if accepted and job.following is not None:
            for target, more in job.following(new).items():
                for row in more:
                    statement, values = _insert_plainly(target, tuple(row))
                    self._connection.execute(statement, values([row]))
        return accepted

    def _ensure(self, table: Table, rows: Sequence[Row]) -> None:
        key = key_of(table).name
        present = self._present.setdefault(table, set())
        missing = [row for row in rows if row[key] not in present]
        if not missing:
            return
        keys = [row[key] for row in missing]
        if self._count(table, keys) < len(keys):
            self._insert(table, missing)
        present.update(keys)

    def _count(self, table: Table, keys: Sequence[uuid.UUID]) -> int:
        count = 0
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            some = tuple(map(str, keys[start : start + _KEYS_AT_ONCE]))
            count += self._connection.execute(_count(table, len(some)), some).fetchone()[0]
        return count

    def _insert(self, table: Table, rows: Sequence[Row]) -> int:
        """Insert those of *rows* that are not there yet; return their number."""
        head, marks, values = _insert_new(table, tuple(rows[0]))
        accepted = 0
        # One step of SQLite for many rows: each step lets go of the interpreter's lock.
        for some in _slices(rows):
            statement = f"{head}{', '.join([marks] * len(some))} ON CONFLICT DO NOTHING"
            accepted += self._connection.execute(statement, values(some)).rowcount
        return accepted

    def _stored(self, job: AppendJob) -> dict[uuid.UUID, Row]:
        """Return by key what is stored under the keys of *job*, as far as it is compared."""
        found: dict[uuid.UUID, Row] = {}
        keys = [str(identity) for identity in job.positions]
        columns = tuple(compared_columns(job.table, job.stamp))
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            some = keys[start : start + _KEYS_AT_ONCE]
            statement, converts = _select(job.table, columns, len(some))
            for identity, *values in self._connection.execute(statement, some):
                found[uuid.UUID(identity)] = {
                    name: convert(value) if convert is not None else value
                    for (name, convert), value in zip(converts, values, strict=True)
                }
        return found


def _slices(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    size = max(1, _VARIABLES // len(rows[0]))
    start = 0
    while start < len(rows):
        number = min(size, len(rows) - start)
        if number > _ROUND:
            number -= number % _ROUND
        yield rows[start : start + number]
        start += number


@cache
def _insert_new(
    table: Table, names: tuple[str, ...]
) -> tuple[str, str, Callable[[Sequence[Row]], list[Any]]]:
    """Return the statement's head, one row's placeholders, and what rows' values become."""
    columns = ", ".join(_QUOTE.quote(name) for name in names)
    head = f"INSERT INTO {_QUOTE.format_table(table)} ({columns}) VALUES "  # noqa: S608
    return head, f"({', '.join('?' * len(names))})", stored_values(table, names)


def stored_values(table: Table, names: tuple[str, ...]) -> Callable[[Sequence[Row]], list[Any]]:
    """Return what makes the stored values of rows, one row after the other.

    Where a value is the very object that the row before had (a device's name, the moment of
    a request), it is not converted again. The function's source holds positions alone.
    """
    known: dict[str, Any] = {"unset": object()}
    lines = ["def values(rows):", " found = []", " add = found.extend"]
    lines += [f" v{at} = t{at} = unset" for at in range(len(names))]
    lines.append(" for row in rows:")
    for at, name in enumerate(names):
        known[f"name{at}"] = name
        convert = known[f"convert{at}"] = _bind(table.c[name].type)
        if convert is None:
            lines.append(f"  t{at} = row[name{at}]")
            continue
        lines += [
            f"  v = row[name{at}]",
            f"  if v is not v{at}:",
            f"   v{at} = v",
            f"   t{at} = convert{at}(v)",
        ]
        if isinstance(table.c[name].type, Uuid):  # asked of every row: without the processor
            lines[-1] = f"   t{at} = None if v is None else str(v)"
    lines += [f"  add(({''.join(f't{at}, ' for at in range(len(names)))}))", " return found"]
    exec("\n".join(lines), known)  # noqa: S102 - of positions alone, see above
    made: Callable[[Sequence[Row]], list[Any]] = known["values"]
    return made


def _bind(kind: TypeEngine[Any]) -> Convert | None:
    """Return what a value of *kind* passes through; None: nothing."""
    if isinstance(kind, Text | Number | UtcDateTime):  # without what SQLAlchemy puts around it
        bind = kind.process_bind_param
        return lambda value: bind(value, _DIALECT)
    return kind.dialect_impl(_DIALECT).bind_processor(_DIALECT)


@cache
def _insert_plainly(
    table: Table, names: tuple[str, ...]
) -> tuple[str, Callable[[Sequence[Row]], list[Any]]]:
    head, marks, values = _insert_new(table, names)
    return f"{head}{marks}", values


@lru_cache(maxsize=64)
def _count(table: Table, number: int) -> str:
    key = _QUOTE.quote(key_of(table).name)
    marks = ", ".join("?" * number)
    return f"SELECT count(*) FROM {_QUOTE.format_table(table)} WHERE {key} IN ({marks})"  # noqa: S608


@lru_cache(maxsize=64)
def _select(
    table: Table, columns: tuple[str, ...], number: int
) -> tuple[str, list[tuple[str, Convert | None]]]:
    """Return the look-up of *number* keys, and what makes values of what is stored."""
    key = _QUOTE.quote(key_of(table).name)
    wanted = ", ".join([key, *(_QUOTE.quote(name) for name in columns)])
    marks = ", ".join("?" * number)
    converts: list[tuple[str, Convert | None]] = [
        (name, table.c[name].type.dialect_impl(_DIALECT).result_processor(_DIALECT, None))
        for name in columns
    ]
    statement = f"SELECT {wanted} FROM {_QUOTE.format_table(table)} WHERE {key} IN ({marks})"  # noqa: S608
    return statement, converts
