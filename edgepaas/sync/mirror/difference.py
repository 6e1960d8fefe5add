# SPDX-License-Identifier: Apache-2.0
"""What differs between the hub and the box: kept in temporary tables, applied at once."""

import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgepaas.outbox import capture
from edgepaas.outbox.layout import Layout
from edgepaas.outbox.reading import CHUNK_BYTES, exact_rows
from edgepaas.outbox.tables import quoted
from edgepaas.sync.mirror.stored_values import StoredColumn

logger = logging.getLogger("edgepaas.sync")

_PAGE = 500
#: How often rows are tried that conflict with each other, e.g. two that swap a unique name.
_ATTEMPTS = 3

Keys = set[tuple[str, tuple[Any, ...]]]


@dataclass(frozen=True)
class MirroredTable:
    """A shared table, and how its columns are read from the hub."""

    layout: Layout
    columns: tuple[StoredColumn, ...]
    #: Tables with a foreign key to this one, directly or through others.
    children: frozenset[str]
    #: Its name on the hub, where a newer build may have renamed it.
    hub_name: str

    @property
    def name(self) -> str:
        """Its name on the box."""
        return self.layout.table

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that both sides have, as the box calls them."""
        return tuple(column.name for column in self.columns)

    @property
    def hub_names(self) -> tuple[str, ...]:
        """The same columns, as the hub calls them."""
        return tuple(column.hub_name for column in self.columns)

    @property
    def key_positions(self) -> tuple[int, ...]:
        """The positions of the key's columns in ``names``."""
        return tuple(self.names.index(name) for name in self.layout.key)


@dataclass
class ApplyResult:
    """Rows written, deleted, and skipped; ``incomplete``: the tables with skipped rows."""

    written: int = 0
    deleted: int = 0
    skipped: int = 0
    incomplete: set[str] = field(default_factory=set)

    def skip(self, table: MirroredTable) -> None:
        """Leave a row of *table* for the next pass."""
        self.skipped += 1
        self.incomplete.add(table.name)


class Difference:
    """What differs in one table: rows to write and keys to delete, in a temporary table."""

    def __init__(self, connection: sqlite3.Connection, number: int, table: MirroredTable) -> None:
        """*number* makes the name of the temporary table unique within the pass."""
        self._connection = connection
        self._name = f"temp.mirror_{number}"
        self._width = len(table.columns)
        self._rows: list[tuple[Any, ...]] = []
        self._size = 0
        #: How many rows to write and keys to delete it has.
        self.count = 0
        #: How many keys it has that are agreed on, and how many rows of one side it leaves alone.
        self.agreed = self.uncaptured = 0
        #: The only keys that may be deleted; None: all may.
        self.deletable: set[tuple[Any, ...]] | None = None
        connection.execute(f"DROP TABLE IF EXISTS {self._name}")
        # Without column types, so that SQLite converts no value.
        values = (f"v{position}" for position in range(self._width))
        self._columns = ", ".join(("op", "digest", *values))
        connection.execute(f"CREATE TABLE {self._name} ({self._columns})")

    def write(self, row: tuple[Any, ...], digest: int | None = None) -> None:
        """Add a row to write; *digest*: what is agreed on then."""
        self.count += 1
        self._add(("W", digest, *row))

    def delete(self, key: tuple[Any, ...]) -> None:
        """Add the key of a row to delete."""
        self.count += 1
        self._add_key("D", key, None)

    def agree(self, key: tuple[Any, ...], digest: int | None) -> None:
        """Add the key of a row that is the same on both sides, which was not known to be."""
        self.agreed += 1
        self._add_key("A", key, digest)

    def rows(self, op: str) -> Iterator[tuple[Any, ...]]:
        """Give the rows to write ("W") or the keys to delete ("D", padded with None)."""
        return (row[1:] for row in self.with_digests(op))

    def with_digests(self, op: str) -> Iterator[tuple[Any, ...]]:
        """Give the same, or keys that are agreed on ("A"), each with the digest before it."""
        after = 0
        while True:
            page = exact_rows(
                self._connection,
                f"SELECT rowid, {self._columns} FROM {self._name} "  # noqa: S608
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
        """Store what is still in memory."""
        marks = ", ".join("?" * (self._width + 2))
        self._connection.execute("BEGIN")  # deferred: the file itself is not locked
        try:
            self._connection.executemany(
                f"INSERT INTO {self._name} ({self._columns}) VALUES ({marks})",  # noqa: S608
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
        """Drop the temporary table."""
        self._connection.execute(f"DROP TABLE {self._name}")

    def _add_key(self, op: str, key: tuple[Any, ...], digest: int | None) -> None:
        self._add((op, digest, *key, *(None,) * (self._width - len(key))))

    def _add(self, row: tuple[Any, ...]) -> None:
        self._rows.append(row)
        self._size += sum(len(value) for value in row if isinstance(value, str | bytes))
        if len(self._rows) >= _PAGE or self._size >= CHUNK_BYTES:
            self.flush()


class Recorder(Protocol):
    """Is told, inside the transaction, what becomes of each row."""

    def begin(self) -> None:
        """Nothing is applied yet."""

    def wrote(self, table: MirroredTable, row: tuple[Any, ...], digest: int | None) -> None:
        """*row* was written."""

    def left(self, table: MirroredTable, key: tuple[Any, ...]) -> None:
        """The row of *key* could not be written or deleted."""

    def end(self, found: Sequence[tuple[MirroredTable, Difference]], waiting: Keys) -> None:
        """All was applied but for the keys *waiting*."""


def apply(
    connection: sqlite3.Connection,
    found: Sequence[tuple[MirroredTable, Difference]],
    waiting: Callable[[sqlite3.Connection], Keys],
    recorder: Recorder,
    applied: Callable[[sqlite3.Connection], None] = lambda _: None,
) -> ApplyResult:
    """Apply the differences *found*, parents first, in one transaction with capture off.

    *waiting* is called inside the transaction and returns the keys to leave alone, *applied*
    before it is committed. Foreign keys are checked at the commit; where the box's own rows
    violate one then, the rows are applied one by one, and those that cannot be are skipped.
    Raises sqlite3.Error.
    """
    try:
        return _transaction(connection, found, waiting, recorder, applied, deferred=True)
    except sqlite3.IntegrityError as error:
        logger.debug("the mirror applies row by row: %s", error)
    return _transaction(connection, found, waiting, recorder, applied, deferred=False)


@dataclass(frozen=True)
class _Applying:
    """One transaction; ``keys`` are left alone."""

    connection: sqlite3.Connection
    keys: Keys
    recorder: Recorder
    result: ApplyResult


def _transaction(
    connection: sqlite3.Connection,
    found: Sequence[tuple[MirroredTable, Difference]],
    waiting: Callable[[sqlite3.Connection], Keys],
    recorder: Recorder,
    applied: Callable[[sqlite3.Connection], None],
    *,
    deferred: bool,
) -> ApplyResult:
    connection.execute("BEGIN IMMEDIATE")
    try:
        applying = _Applying(connection, waiting(connection), recorder, ApplyResult())
        with capture.paused(connection):
            # Ends with the transaction (https://sqlite.org/pragma.html#pragma_defer_foreign_keys).
            connection.execute(f"PRAGMA defer_foreign_keys={'ON' if deferred else 'OFF'}")
            recorder.begin()
            for table, difference in reversed(found):
                _delete(applying, table, difference)
            for table, difference in found:
                _write(applying, table, difference)
            applied(connection)
            recorder.end(found, applying.keys)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return applying.result


def _delete(applying: _Applying, table: MirroredTable, difference: Difference) -> None:
    condition = " AND ".join(f"{quoted(name)} IS ?" for name in table.layout.key)
    statement = f"DELETE FROM {quoted(table.name)} WHERE {condition}"  # noqa: S608
    keys, result = applying.keys, applying.result
    # A delete may cascade to a row that still waits to be sent.
    held = bool(table.children & {name for name, _ in keys})
    for row in difference.rows("D"):
        key = row[: len(table.layout.key)]
        unproven = difference.deletable is not None and key not in difference.deletable
        if held or unproven or (table.name, key) in keys:
            result.skip(table)
            continue
        try:
            result.deleted += applying.connection.execute(statement, key).rowcount
        except sqlite3.IntegrityError:  # a row of the box refers to it
            result.skip(table)
            applying.recorder.left(table, key)


def _write(applying: _Applying, table: MirroredTable, difference: Difference) -> None:
    statement = _upsert(table)
    keys, result, recorder = applying.keys, applying.result, applying.recorder
    todo: Iterator[tuple[Any, ...]] | list[tuple[Any, ...]] = difference.with_digests("W")
    for _ in range(_ATTEMPTS):
        again = []
        for digest, *values in todo:
            row = tuple(values)
            key = tuple(row[position] for position in table.key_positions)
            if (table.name, key) in keys:
                result.skip(table)
                continue
            try:
                applying.connection.execute(statement, row)
            except (
                sqlite3.IntegrityError
            ):  # this statement alone is undone; it conflicts with another row
                again.append((digest, *row))
                continue
            result.written += 1
            recorder.wrote(table, row, digest)
        todo = again
        if not again:
            return
    for _, *values in todo:
        result.skip(table)
        recorder.left(table, tuple(values[position] for position in table.key_positions))


def _upsert(table: MirroredTable) -> str:
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
