# SPDX-License-Identifier: Apache-2.0
"""The mirror: the hub's shared tables as they are, kept in the box's file for the next outage.

A pass is one snapshot of the hub. A fingerprint a table tells which have changed; the rows of
those are read in the key's order beside the box's own, and what differs is put aside. Only
then is the file written, in one transaction, with capture off, and never over a key that
waits in the outbox: what the box knows better is still on its way.
"""

import itertools
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgepaas.database.reserved_names import OUTBOX
from edgepaas.outbox.layout import forwarded, known
from edgepaas.outbox.reading import CHUNK_BYTES, exact_rows, next_batch
from edgepaas.outbox.stream import read_stream
from edgepaas.outbox.tables import quoted
from edgepaas.sync.mirror.apply import Keys, Spool, Table, apply
from edgepaas.sync.mirror.stored_values import stored_column

if TYPE_CHECKING:
    from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")

#: Rows that are in memory at a time, and rows that may wait while a pass begins.
PAGE = 500
MOST_WAITING = 1000
_CURSOR = "edgepaas_mirror"
_SIZES = "edgepaas_mirror_sizes"


class MirrorPostponed(Exception):
    """This pass cannot be done now; the next one will find out whether it still cannot."""


@dataclass(frozen=True)
class Passed:
    """What a pass did: rows in the shared tables of the hub, written here, and left alone."""

    rows: int = 0
    written: int = 0
    deleted: int = 0
    #: Waiting in the outbox, or in the way of a constraint: for the next pass.
    skipped: int = 0


@dataclass
class Mirror:
    """Passes over the shared tables of *document* (run/tables.json)."""

    document: Mapping[str, Any]
    #: Raises when the work is to be given up.
    check: Callable[[], None] = lambda: None
    #: Each table's fingerprint on the hub when it was the same here.
    _seen: dict[str, str] = field(default_factory=dict)
    #: How far this stream had gone home then.
    _stream: str = ""
    _position: int = 0

    def forget(self) -> None:
        """Compare every row in the next pass: the box's own may have changed."""
        self._seen.clear()

    def run(self, connection: sqlite3.Connection, hub: "Hub") -> Passed:
        """Do a pass. Raises what *hub* raises, MirrorPostponed, sqlite3.Error."""
        if not any(layout.kind == "shared" for layout in forwarded(self.document)):
            return Passed()
        self._note_own_changes(connection)
        # What is put aside lies in a file: a large difference must not take memory.
        connection.execute("PRAGMA temp_store=FILE")
        found: list[tuple[Table, Spool]] = []
        bad: set[str] = set()
        total = 0
        hub.begin(snapshot=True)
        try:
            tables = shared_tables(self.document, hub)
            marks = _fingerprints(hub, tables)
            for table, (count, largest, mark) in zip(tables, marks, strict=True):
                total += count
                if self._seen.get(table.name) == mark:
                    continue
                self._seen[table.name] = mark
                spool = Spool(connection, len(found), table)
                found.append((table, spool))
                if not self._compare(connection, _Theirs(hub, table, largest, self.check), spool):
                    bad.add(table.name)
            hub.rollback()
            result = apply(connection, found, waiting_keys)
        except BaseException:
            hub.rollback()
            for table, _ in found:
                self._seen.pop(table.name, None)
            raise
        finally:
            for _, spool in found:
                spool.discard()
        for name in bad | result.incomplete:
            self._seen.pop(name, None)
        return Passed(total, result.written, result.deleted, result.skipped)

    def _note_own_changes(self, connection: sqlite3.Connection) -> None:
        """Forget fingerprints when shared rows went home since: the hub may have overruled them.

        A change that it refused, or that lost against a delete, leaves the hub as it was.
        """
        stream = read_stream(connection)
        if stream is None:
            return
        shared = [i for i, layout in known(connection).items() if layout.kind == "shared"]
        changed = (
            stream.stream_id != self._stream
            or connection.execute(
                f"SELECT 1 FROM {OUTBOX} WHERE seq > ? AND seq <= ? "  # noqa: S608
                f"AND layout IN ({', '.join(map(str, shared))}) LIMIT 1",
                (self._position, stream.confirmed_seq),
            ).fetchone()
        )
        if changed:
            self.forget()
        self._stream, self._position = stream.stream_id, stream.confirmed_seq

    @staticmethod
    def _compare(connection: sqlite3.Connection, theirs: "_Theirs", spool: Spool) -> bool:
        """Put aside what differs; False when the hub has a row that the box cannot hold."""
        table = theirs.table
        ours = _ours(connection, table)
        positions = table.key_positions
        row, own = next(theirs, None), next(ours, None)
        while row is not None or own is not None:
            order = _compared(row, own, positions)
            if row is not None and (order < 0 or (order == 0 and row != own)):
                spool.put(row)
            elif own is not None and order > 0 and _key(own, positions) not in theirs.unreadable:
                spool.drop(tuple(own[position] for position in positions))
            row = next(theirs, None) if order <= 0 else row
            own = next(ours, None) if order >= 0 else own
        spool.flush()
        return not theirs.unreadable


def shared_tables(document: Mapping[str, Any], hub: "Hub") -> list[Table]:
    """Return the shared tables that the hub has, parents first, with the columns it has."""
    layouts = [layout for layout in forwarded(document) if layout.kind == "shared"]
    foreign = {name: set(table.get("foreign", ())) for name, table in document["tables"].items()}
    found = []
    for layout in layouts:
        if layout.table not in hub.tables:
            continue
        theirs = hub.tables[layout.table].columns
        columns = tuple(stored_column(c) for c in layout.columns if c.name in theirs)
        if set(layout.key) <= {column.name for column in columns}:
            found.append(Table(layout, columns, _children(layout.table, foreign)))
    return found


def waiting_keys(connection: sqlite3.Connection) -> Keys:
    """Return (table, key) of each change that the hub has not confirmed.

    Raises MirrorPostponed when they are too many: rows that go home come first.
    """
    stream = read_stream(connection)
    if stream is None:
        return set()
    keys: Keys = set()
    after = stream.confirmed_seq
    while (batch := next_batch(connection, after, rows=PAGE)) is not None:
        for chunk in batch.chunks():
            keys.update((change.layout.table, change.key) for change in chunk)
            if len(keys) > MOST_WAITING:
                raise MirrorPostponed(f"more than {MOST_WAITING} rows wait to be sent first")
        after = batch.last_seq
    return keys


def _children(table: str, foreign: Mapping[str, set[str]]) -> frozenset[str]:
    found: set[str] = set()
    todo = [table]
    while todo:
        parent = todo.pop()
        for child, parents in foreign.items():
            if parent in parents and child not in found:
                found.add(child)
                todo.append(child)
    return frozenset(found)


def _fingerprints(hub: "Hub", tables: Sequence[Table]) -> Iterator[tuple[int, int, str]]:
    """Give each table's number of rows, its largest one's size, and a mark of its content.

    Sizes are characters of a row's text. In one round trip.
    """
    if not tables:
        return
    parts = []
    for table in tables:
        columns = ", ".join(quoted(name) for name in table.names)
        parts.append(
            "(SELECT concat_ws('/', count(*), coalesce(max(octet_length(t::text)), 0), "  # noqa: S608
            f"coalesce(sum(hashtextextended(t::text, 0)), 0)) "
            f"FROM (SELECT {columns} FROM {quoted(table.name)}) AS t)"
        )
    for mark in hub.query(f"SELECT {', '.join(parts)}")[0]:
        count, largest, _ = mark.split("/")
        yield int(count), int(largest), mark


class _Theirs:
    """The hub's rows of *table* in the key's order, a page at a time, as the box stores them.

    Where *largest*, the size of its largest row, makes pages of a fixed number of rows too
    large, the rows' sizes are asked for first, and so many are read as fit.
    """

    def __init__(self, hub: "Hub", table: Table, largest: int, check: Callable[[], None]) -> None:
        self._hub, self.table, self._check = hub, table, check
        self._sized = largest * PAGE > CHUNK_BYTES
        #: Keys of rows that the box cannot hold, and that stay what they are here.
        self.unreadable: set[tuple[Any, ...]] = set()
        columns = ", ".join(f"{column.select} AS c{n}" for n, column in enumerate(table.columns))
        order = ", ".join(table.columns[position].order for position in table.key_positions)
        rows = f"FROM {quoted(table.name)} ORDER BY {order}"
        hub.query(f"DECLARE {_CURSOR} NO SCROLL CURSOR FOR SELECT {columns} {rows}")
        if self._sized:
            # The same snapshot and the same order, so that they are the same rows' sizes.
            names = ", ".join(quoted(name) for name in table.names)
            hub.query(
                f"DECLARE {_SIZES} NO SCROLL CURSOR FOR "
                f"SELECT octet_length(ROW({names})::text) {rows}"
            )
        self._rows = itertools.chain.from_iterable(self._pages())
        self._last: tuple[Any, ...] | None = None

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self

    def __next__(self) -> tuple[Any, ...]:
        while True:
            values = next(self._rows)
            try:
                row = tuple(
                    None if value is None else column.read(value)
                    for value, column in zip(values, self.table.columns, strict=True)
                )
            except (ValueError, OverflowError) as error:
                self._skip(values, error)
                continue
            key = _key(row, self.table.key_positions)
            if self._last is not None and key <= self._last:
                raise MirrorPostponed(f"{self.table.name}: the hub's rows come in another order")
            self._last = key
            return row

    def _pages(self) -> Iterator[list[Any]]:
        for count in self._counts() if self._sized else itertools.repeat(PAGE):
            page = self._hub.query(f"FETCH {count} FROM {_CURSOR}")
            if not page:
                break
            self._check()
            yield page
        self._hub.query(f"CLOSE {_CURSOR}")

    def _counts(self) -> Iterator[int]:
        """Give how many rows to read next: no more than are CHUNK_BYTES, but for the last."""
        while sizes := self._hub.query(f"FETCH {PAGE} FROM {_SIZES}"):
            count = total = 0
            for (size,) in sizes:
                count, total = count + 1, total + size
                if total >= CHUNK_BYTES:
                    yield count
                    count = total = 0
            if count:
                yield count
        self._hub.query(f"CLOSE {_SIZES}")

    def _skip(self, values: Sequence[Any], error: Exception) -> None:
        positions = self.table.key_positions
        key = tuple(values[p] for p in positions)
        if not self.unreadable:
            logger.warning("the row %s of %s stays on the hub: %s", key, self.table.name, error)
        self.unreadable.add(tuple(_rank(value) for value in key))


def _ours(connection: sqlite3.Connection, table: Table) -> Iterator[tuple[Any, ...]]:
    """Give the box's rows in the key's order, a page at a time.

    No statement stays open while the hub is waited for, so others' WAL can be reset. What
    changes meanwhile waits in the outbox, and is left alone.
    """
    columns = ", ".join(quoted(name) for name in table.names)
    key = [f"{quoted(name)} COLLATE BINARY" for name in table.layout.key]
    where = f"WHERE ({', '.join(key)}) > ({', '.join('?' * len(key))})"
    positions = table.key_positions
    last: tuple[Any, ...] = ()
    while True:
        page = exact_rows(
            connection,
            f"SELECT {columns} FROM {quoted(table.name)} {where if last else ''} "  # noqa: S608
            f"ORDER BY {', '.join(key)} LIMIT {PAGE}",
            last,
            CHUNK_BYTES,
        )
        if not page:
            return
        for row in page:
            if last and _key(row, positions) <= tuple(_rank(value) for value in last):
                raise MirrorPostponed(f"{table.name}: the box's keys cannot be put in order")
            last = tuple(row[position] for position in positions)
            yield row


def _compared(
    row: Sequence[Any] | None, own: Sequence[Any] | None, positions: Sequence[int]
) -> int:
    """Return -1 when the hub's row comes first or alone, 1 when the box's does, 0: one key."""
    if row is None or own is None:
        return -1 if own is None else 1
    one, other = _key(row, positions), _key(own, positions)
    return (one > other) - (one < other)


def _key(row: Sequence[Any], positions: Sequence[int]) -> tuple[Any, ...]:
    return tuple(_rank(row[position]) for position in positions)


def _rank(value: Any) -> tuple[int, Any]:
    """Return something that sorts as SQLite does: NULL, numbers, text, blobs."""
    if value is None:
        return 0, 0
    if isinstance(value, str):
        return 2, value
    return (3, value) if isinstance(value, bytes) else (1, value)
