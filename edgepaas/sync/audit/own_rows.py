# SPDX-License-Identifier: Apache-2.0
"""The box's own rows that the hub has to have: what its tables and its outbox hold of them.

First the rows of each table of facts, the latest keys first: what was written without being
captured is among them. Then what the outbox delivered and the table no longer holds, and what
the journal has of the time in which PostgreSQL served. Rows that wait are left out: the hub need
not have them yet.
"""

import itertools
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from edgepaas.database.reserved_names import OUTBOX, STATE
from edgepaas.outbox.layout import Layout, stored_layouts
from edgepaas.outbox.reading import CHUNK_BYTES, exact_rows
from edgepaas.outbox.tables import quoted
from edgepaas.outbox.triggers import values_of
from edgepaas.sync.audit.journal_rows import JournalRows

#: Rows that are compared at a time.
CHUNK = 2000

Key = tuple[Any, ...]
Row = Sequence[Any]


class Chunk(NamedTuple):
    """Rows of one table, in the layout's order, and the key at which to go on."""

    layout: Layout
    rows: list[Row]
    last: Key = ()


def fact_layouts(connection: sqlite3.Connection) -> list[Layout]:
    """Return the newest layout of each table of facts that the file has, with its id."""
    found: dict[str, Layout] = {}
    for _, layout in sorted(stored_layouts(connection).items()):
        if layout.kind == "facts" and set(layout.names) <= _columns(connection, layout.table):
            found[layout.table] = layout
    return list(found.values())


class OwnRows:
    """The rows of one file; its temporary tables are gone after :meth:`close`.

    Every method raises sqlite3.Error. Others may write meanwhile.
    """

    def __init__(self, connection: sqlite3.Connection, journal: JournalRows | None = None) -> None:
        """*journal*: of what was written while PostgreSQL served."""
        self._connection = connection
        self._journal = journal
        self._layouts = stored_layouts(connection)
        self._waiting: dict[str, _KeySet] = {}
        self._queued_again: dict[str, _KeySet] = {}

    def close(self) -> None:
        """Drop the temporary tables."""
        for one in (*self._waiting.values(), *self._queued_again.values()):
            one.drop()

    def of_table(
        self, layout: Layout, *, below: Key = (), most: int | None = None
    ) -> Iterator[Chunk]:
        """Give the rows of *layout*'s table that do not wait, the greatest key first.

        *below*: only smaller keys; *most*: about so many rows. No statement stays open
        between two chunks.
        """
        key = ", ".join(f"t.{quoted(name)} COLLATE BINARY" for name in layout.key)
        order = ", ".join(f"t.{quoted(name)} COLLATE BINARY DESC" for name in layout.key)
        marks = ", ".join("?" * len(layout.key))
        names = ", ".join(f"t.{quoted(name)}" for name in layout.names)
        waiting = self._waiting_of(layout)
        given = 0
        while most is None or given < most:
            waiting.refresh()
            where = f"({key}) < ({marks}) AND " if below else ""
            rows = exact_rows(
                self._connection,
                f"SELECT {names} FROM {quoted(layout.table)} t WHERE {where}"  # noqa: S608
                f"{waiting.lacks('t', layout.key)} ORDER BY {order} LIMIT {CHUNK}",
                below,
                CHUNK_BYTES,
            )
            if not rows:
                return
            below = tuple(rows[-1][position] for position in layout.key_positions)
            given += len(rows)
            yield Chunk(layout, list(rows), below)

    def gone_from_table(self, layout: Layout, *, most: int | None = None) -> Iterator[Chunk]:
        """Give delivered facts that the outbox still holds and their table does not.

        The latest first; *most*: among so many of the latest rows of the outbox. What was
        deleted on the box as well is left out: the hub was told.
        """
        deleted = _KeySet(self._connection, "deleted", layout, self._of_table(layout.table))
        try:
            deleted.add("op = 'D'")
            waiting = self._waiting_of(layout)
            for one in self._of_table(layout.table):
                yield from self._gone(one, [deleted, waiting], most)
        finally:
            deleted.drop()

    def of_journal(self, *, most: int | None = None) -> Iterator[Chunk]:
        """Give facts of the journal that no table of the file has; *most*: as ``inserted``."""
        if self._journal is None:
            return
        for layout, rows in self._journal.inserted(rows=CHUNK, most=most):
            if set(layout.key) <= _columns(self._connection, layout.table):
                there = self._in_table(layout, [_key_in(layout, row) for row in rows])
                left = [row for row in rows if _key_in(layout, row) not in there]
                yield Chunk(layout, list(left))

    def has_more_than(self, rows: int) -> bool:
        """Whether outbox or journal hold more than their latest *rows*: the others are left out."""
        ((delivered,),) = self._connection.execute(
            f"SELECT confirmed_seq - reclaimed_seq FROM {STATE}"  # noqa: S608
        ).fetchall()
        return delivered > rows or (self._journal is not None and self._journal.has_more_than(rows))

    def joined_streams(self) -> dict[str, str]:
        """Return by stream of the journal the one on the hub that it was joined to."""
        return {} if self._journal is None else self._journal.joined_streams()

    def changed_while_serving(self, layout: Layout, keys: Sequence[Key]) -> set[Key]:
        """Return those *keys* whose rows this box changed, or deleted, while PostgreSQL served."""
        return set() if self._journal is None else self._journal.changed(layout.table, keys)

    def _in_table(self, layout: Layout, keys: Sequence[Key]) -> set[Key]:
        same = " AND ".join(f"{quoted(name)} = ?" for name in layout.key)
        statement = f"SELECT 1 FROM {quoted(layout.table)} WHERE {same}"  # noqa: S608
        return {key for key in keys if self._connection.execute(statement, key).fetchone()}

    def of_keys(self, layout: Layout, keys: Sequence[Key]) -> Chunk:
        """Return the rows of *layout*'s table that have one of *keys* and do not wait."""
        waiting = self._waiting_of(layout)
        waiting.refresh()
        names = ", ".join(f"t.{quoted(name)}" for name in layout.names)
        same = " AND ".join(f"t.{quoted(name)} = ?" for name in layout.key)
        rows: list[Row] = []
        for key in keys:
            rows += exact_rows(
                self._connection,
                f"SELECT {names} FROM {quoted(layout.table)} t WHERE {same} "  # noqa: S608
                f"AND {waiting.lacks('t', layout.key)}",
                key,
            )
        return Chunk(layout, rows)

    def still_waiting(self, layout: Layout, keys: Sequence[Key]) -> set[Key]:
        """Return those *keys* of *layout*'s table of which a change waits by now."""
        waiting = self._waiting_of(layout)
        waiting.refresh()
        return {key for key in keys if key in waiting}

    def were_queued_again(self, layout: Layout, keys: Sequence[Key]) -> set[Key]:
        """Return those *keys* that were delivered more than once: sent again already."""
        found = self._queued_again.get(layout.table)
        if found is None:
            found = _KeySet(self._connection, "again", layout, self._of_table(layout.table))
            found.add_repeated()
            self._queued_again[layout.table] = found
        return {key for key in keys if key in found}

    def _of_table(self, table: str) -> list[Layout]:
        return [layout for layout in self._layouts.values() if layout.table == table]

    def _waiting_of(self, layout: Layout) -> "_KeySet":
        found = self._waiting.get(layout.table)
        if found is None:
            found = _KeySet(self._connection, "waiting", layout, self._of_table(layout.table))
            self._waiting[layout.table] = found
        return found

    def _gone(
        self, layout: Layout, unless: Sequence["_KeySet"], most: int | None
    ) -> Iterator[Chunk]:
        if not set(layout.key) <= _columns(self._connection, layout.table):
            return
        ((confirmed, reclaimed),) = self._connection.execute(
            f"SELECT confirmed_seq, reclaimed_seq FROM {STATE}"  # noqa: S608
        ).fetchall()
        first = reclaimed if most is None else max(reclaimed, confirmed - most)
        values = values_of(len(layout.columns))
        same = " AND ".join(
            f"t.{quoted(name)} = o.v{position}"
            for name, position in zip(layout.key, layout.key_positions, strict=True)
        )
        places = [f"v{position}" for position in layout.key_positions]
        conditions = " AND ".join(one.lacks("o", places) for one in unless)
        statement = (
            f"SELECT o.seq, {values} FROM {OUTBOX} o WHERE o.seq > ? AND o.seq <= ? "  # noqa: S608
            "AND o.op = 'I' AND o.layout = ? AND NOT EXISTS "
            f"(SELECT 1 FROM {quoted(layout.table)} t WHERE {same}) AND {conditions} "
            f"ORDER BY o.seq DESC LIMIT {CHUNK}"
        )
        last = confirmed
        while rows := exact_rows(
            self._connection, statement, (first, last, layout.id), CHUNK_BYTES
        ):
            last = rows[-1][0] - 1
            yield Chunk(layout, [row[1:] for row in rows])


#: Of the temporary tables: ids of layouts are not the same in every file.
_numbers = itertools.count()


class _KeySet:
    """Keys of one table, in a temporary table of its own: there may be a million."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        purpose: str,
        layout: Layout,
        layouts: Sequence[Layout],
    ) -> None:
        self._connection = connection
        self._layouts = [one for one in layouts if len(one.key) == len(layout.key)]
        self._name = f"temp.{quoted(f'audit_{purpose}_{next(_numbers)}')}"
        self._columns = [f"k{number}" for number in range(len(layout.key))]
        self._above = 0
        names = ", ".join(self._columns)
        self.drop()
        connection.execute(
            f"CREATE TABLE {self._name} ({names}, PRIMARY KEY ({names})) WITHOUT ROWID"
        )

    def drop(self) -> None:
        self._connection.execute(f"DROP TABLE IF EXISTS {self._name}")

    def refresh(self) -> None:
        """Add what waits by now; what was sent meanwhile stays."""
        ((confirmed, last),) = self._connection.execute(
            f"SELECT confirmed_seq, (SELECT max(seq) FROM {OUTBOX}) FROM {STATE}"  # noqa: S608
        ).fetchall()
        above = max(self._above, confirmed)
        if last is not None and last > above:
            self.add("seq > ? AND seq <= ?", (above, last))
            self._above = last

    def add(self, condition: str, parameters: tuple[int, ...] = ()) -> None:
        """Add the keys of the rows of the outbox for which *condition* holds."""
        for layout in self._layouts:
            self._connection.execute(
                f"INSERT OR IGNORE INTO {self._name} SELECT {_key(layout)} FROM {OUTBOX} "  # noqa: S608
                f"WHERE op IN ('I', 'U', 'D') AND layout = ? AND {condition} AND {_given(layout)}",
                (layout.id, *parameters),
            )

    def add_repeated(self) -> None:
        """Add the keys that were delivered as an insert more than once."""
        parts = " UNION ALL ".join(
            f"SELECT {_key(layout, named=True)} FROM {OUTBOX} WHERE op = 'I' "  # noqa: S608
            f"AND layout = {layout.id} AND seq <= (SELECT confirmed_seq FROM {STATE}) "
            f"AND {_given(layout)}"
            for layout in self._layouts
        )
        names = ", ".join(self._columns)
        self._connection.execute(
            f"INSERT INTO {self._name} SELECT {names} FROM ({parts}) GROUP BY {names} "  # noqa: S608
            "HAVING count(*) > 1"
        )

    def lacks(self, alias: str, names: Mapping[str, Any] | Sequence[str]) -> str:
        """Return the condition that the key in *names* of the row *alias* is not among them."""
        same = " AND ".join(
            f"w.{own} = {alias}.{quoted(name)}"
            for own, name in zip(self._columns, names, strict=True)
        )
        return f"NOT EXISTS (SELECT 1 FROM {self._name} w WHERE {same})"  # noqa: S608

    def __contains__(self, key: Key) -> bool:
        same = " AND ".join(f"{name} = ?" for name in self._columns)
        found = self._connection.execute(f"SELECT 1 FROM {self._name} WHERE {same}", key)  # noqa: S608
        return found.fetchone() is not None


def _key_in(layout: Layout, row: Row) -> Key:
    return tuple(row[position] for position in layout.key_positions)


def _key(layout: Layout, *, named: bool = False) -> str:
    return ", ".join(
        f"v{position} AS k{number}" if named else f"v{position}"
        for number, position in enumerate(layout.key_positions)
    )


def _given(layout: Layout) -> str:
    """Return the condition that no part of the key is NULL, which no key of the hub is."""
    return " AND ".join(f"v{position} IS NOT NULL" for position in layout.key_positions)


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    rows = connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
    return {str(row[0]) for row in rows}
