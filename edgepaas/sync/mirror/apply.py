# SPDX-License-Identifier: Apache-2.0
"""Writing what the mirror found: put aside in a temporary table, applied in one transaction."""

import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgepaas.outbox import capture
from edgepaas.outbox.layout import Layout
from edgepaas.outbox.reading import CHUNK_BYTES, exact_rows
from edgepaas.outbox.tables import quoted
from edgepaas.sync.mirror.stored_values import StoredColumn

logger = logging.getLogger("edgepaas.sync")

_PAGE = 500
#: So often are rows tried that are in each other's way, e.g. two that swap a unique name.
_ROUNDS = 3

Keys = set[tuple[str, tuple[Any, ...]]]


@dataclass(frozen=True)
class Table:
    """A shared table: how its rows are read from the hub, in the key's order."""

    layout: Layout
    columns: tuple[StoredColumn, ...]
    #: Tables that point to this one, directly or through others.
    children: frozenset[str]

    @property
    def name(self) -> str:
        """Its name, on both sides."""
        return self.layout.table

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that both sides have."""
        return tuple(column.name for column in self.columns)

    @property
    def key_positions(self) -> tuple[int, ...]:
        """Where the key's columns stand among ``names``."""
        return tuple(self.names.index(name) for name in self.layout.key)


@dataclass
class Applied:
    """Rows written, deleted, and left for the next pass; the tables that lack some."""

    written: int = 0
    deleted: int = 0
    skipped: int = 0
    incomplete: set[str] = field(default_factory=set)

    def skip(self, table: Table) -> None:
        """Leave a row of *table* for the next pass."""
        self.skipped += 1
        self.incomplete.add(table.name)


class Spool:
    """What differs in one table: rows to write, keys to delete; in a file, not in memory."""

    def __init__(self, connection: sqlite3.Connection, number: int, table: Table) -> None:
        """*number* tells this table's from those of the pass's others."""
        self._connection = connection
        self._name = f"temp.mirror_{number}"
        self._width = len(table.columns)
        self._rows: list[tuple[Any, ...]] = []
        self._size = 0
        connection.execute(f"DROP TABLE IF EXISTS {self._name}")
        # Untyped, so that values come out as they went in.
        columns = ", ".join(f"v{position}" for position in range(self._width))
        connection.execute(f"CREATE TABLE {self._name} (op, {columns})")

    def put(self, row: tuple[Any, ...]) -> None:
        """Have *row* written."""
        self._add(("W", *row))

    def drop(self, key: tuple[Any, ...]) -> None:
        """Have the row of *key* deleted."""
        self._add(("D", *key, *(None,) * (self._width - len(key))))

    def rows(self, op: str) -> Iterator[tuple[Any, ...]]:
        """Give the rows to write ("W") or keys to delete ("D", padded), a page at a time."""
        after = 0
        while True:
            page = exact_rows(
                self._connection,
                f"SELECT rowid, * FROM {self._name} "  # noqa: S608
                "WHERE op = ? AND rowid > ? ORDER BY rowid LIMIT ?",
                (op, after, _PAGE),
                CHUNK_BYTES,
            )
            if not page:
                return
            after = page[-1][0]
            for row in page:
                yield row[2:]

    def flush(self) -> None:
        """Put aside what is still in memory."""
        marks = ", ".join("?" * (self._width + 1))
        self._connection.execute("BEGIN")  # deferred: the file itself is not locked
        try:
            self._connection.executemany(
                f"INSERT INTO {self._name} VALUES ({marks})",  # noqa: S608
                self._rows,
            )
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._rows.clear()
        self._size = 0

    def discard(self) -> None:
        """Drop it."""
        self._connection.execute(f"DROP TABLE {self._name}")

    def _add(self, row: tuple[Any, ...]) -> None:
        self._rows.append(row)
        self._size += sum(len(value) for value in row if isinstance(value, str | bytes))
        if len(self._rows) >= _PAGE or self._size >= CHUNK_BYTES:
            self.flush()


def apply(
    connection: sqlite3.Connection,
    found: Sequence[tuple[Table, Spool]],
    waiting: Callable[[sqlite3.Connection], Keys],
) -> Applied:
    """Write what was *found*, parents first in its order; capture is off meanwhile.

    *waiting* is asked inside the transaction for the keys that are not to be touched. Rows
    point to each other only at the commit; where the box's own rows forbid that, each row
    that can be written alone is. Raises sqlite3.Error.
    """
    try:
        return _transaction(connection, found, waiting, deferred=True)
    except sqlite3.IntegrityError as error:
        logger.debug("the mirror goes row by row: %s", error)
    return _transaction(connection, found, waiting, deferred=False)


def _transaction(
    connection: sqlite3.Connection,
    found: Sequence[tuple[Table, Spool]],
    waiting: Callable[[sqlite3.Connection], Keys],
    *,
    deferred: bool,
) -> Applied:
    result = Applied()
    connection.execute("BEGIN IMMEDIATE")
    try:
        keys = waiting(connection)
        with capture.paused(connection):
            # Ends with the transaction (https://sqlite.org/pragma.html#pragma_defer_foreign_keys).
            connection.execute(f"PRAGMA defer_foreign_keys={'ON' if deferred else 'OFF'}")
            for table, spool in reversed(found):
                _delete(connection, table, spool, keys, result)
            for table, spool in found:
                _write(connection, table, spool, keys, result)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def _delete(
    connection: sqlite3.Connection, table: Table, spool: Spool, keys: Keys, result: Applied
) -> None:
    condition = " AND ".join(f"{quoted(name)} IS ?" for name in table.layout.key)
    statement = f"DELETE FROM {quoted(table.name)} WHERE {condition}"  # noqa: S608
    # A delete may cascade, also to a row that still waits to be sent.
    held = bool(table.children & {name for name, _ in keys})
    for row in spool.rows("D"):
        key = row[: len(table.layout.key)]
        if held or (table.name, key) in keys:
            result.skip(table)
            continue
        try:
            result.deleted += connection.execute(statement, key).rowcount
        except sqlite3.IntegrityError:  # a row of the box's own points to it
            result.skip(table)


def _write(
    connection: sqlite3.Connection, table: Table, spool: Spool, keys: Keys, result: Applied
) -> None:
    statement = _upsert(table)
    todo: Iterator[tuple[Any, ...]] | list[tuple[Any, ...]] = spool.rows("W")
    for _ in range(_ROUNDS):
        again = []
        for row in todo:
            key = tuple(row[position] for position in table.key_positions)
            if (table.name, key) in keys:
                result.skip(table)
                continue
            try:
                connection.execute(statement, row)
                result.written += 1
            except sqlite3.IntegrityError:  # undone by SQLite alone; another row is in its way
                again.append(row)
        todo = again
        if not again:
            return
    for _ in todo:
        result.skip(table)


def _upsert(table: Table) -> str:
    columns = ", ".join(quoted(name) for name in table.names)
    marks = ", ".join("?" * len(table.names))
    key = ", ".join(quoted(name) for name in table.layout.key)
    rest = [quoted(name) for name in table.names if name not in table.layout.key]
    changes = ", ".join(f"{name} = excluded.{name}" for name in rest)
    action = f"UPDATE SET {changes}" if rest else "NOTHING"
    return (
        f"INSERT INTO {quoted(table.name)} ({columns}) VALUES ({marks}) "  # noqa: S608
        f"ON CONFLICT ({key}) DO {action}"
    )
