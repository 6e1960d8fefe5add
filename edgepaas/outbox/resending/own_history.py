# SPDX-License-Identifier: Apache-2.0
"""What this box wrote to PostgreSQL, copied from its journal into the tables of its own file.

So a box in fallback shows its own history. Changes of shared rows are applied in their order
beside each pass of the mirror and before SQLite serves; facts are copied before SQLite serves, the
newest first and for a moment only, and go on being copied while it does. Nothing of it is
captured: PostgreSQL has it, or is sent it from the journal.
"""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgepaas.database.reserved_names import COPIED
from edgepaas.outbox import capture, tables
from edgepaas.outbox.journal.access import given_by_the_journal, of_the_journal, snapshot
from edgepaas.outbox.journal.reading import changes_between
from edgepaas.outbox.journal.tables import JOURNAL, STREAMS, UNSETTLED
from edgepaas.outbox.layout import Layout, stored_layouts
from edgepaas.outbox.reading import Change
from edgepaas.outbox.resending import fact_copies
from edgepaas.outbox.resending.fact_copies import CopiedEntry
from edgepaas.outbox.tables import quoted

logger = logging.getLogger("edgepaas.outbox")

#: Facts that are copied at most: the newest. A day at 2 a second.
MOST_FACTS = 200_000
#: Rows of the journal that are copied in one transaction, about.
STEP = 2_000
#: Rows of the journal without a shared one after which it is noted that they were looked at.
_NOTED_EVERY = 10_000


@dataclass(frozen=True)
class _Pointer:
    """Up to where entries are copied: the order of one, and where it stands in the journal."""

    order: int = 0
    number: int = 0


@dataclass(frozen=True)
class _Head:
    """The first row of an entry."""

    number: int
    order: int
    rows: int
    at: int


def copy_shared(connection: sqlite3.Connection, journal: sqlite3.Connection) -> int:
    """Apply the changes of shared rows that are in the journal alone; return how many.

    *connection* is that of the box's file. Raises sqlite3.Error of it, JournalUnreadable.
    """
    before = _read_pointer(connection, "shared")
    with snapshot(journal):
        with of_the_journal():
            until = _settled(journal)
            if until.order <= before.order:
                return 0
            heads = _heads_with(journal, _start(journal, before), before.order, "shared")
        if not heads and until.number - before.number < _NOTED_EVERY:
            return 0
        applied = 0
        with tables.transaction(connection), capture.paused(connection):
            columns = _Columns(connection)
            for head in heads:
                for change in _changes_of(journal, head):
                    if change.layout.kind == "shared":
                        applied += _apply(connection, columns, change)
            _note_pointer(connection, "shared", until)
    return applied


class FactCopier:
    """Copies facts, the newest first, in steps; remembers how far it has come."""

    def __init__(self, connection: sqlite3.Connection, journal: sqlite3.Connection) -> None:
        """Both are used by :meth:`step` alone. Raises sqlite3.Error, JournalUnreadable."""
        self._connection = connection
        self._journal = journal
        self._before = _read_pointer(connection, "facts")
        with of_the_journal():
            self._until = _settled(journal)
        self._below = self._until.number + 1
        self._copied = 0
        #: Whether nothing is left to be copied.
        self.done = self._until.order <= self._before.order

    def step(self) -> int:
        """Copy some; return how many facts are new. Raises sqlite3.Error, JournalUnreadable."""
        if self.done:
            return 0
        copied = rows = 0
        with (
            snapshot(self._journal),
            tables.transaction(self._connection),
            capture.paused(self._connection),
        ):
            columns = _Columns(self._connection)
            for head in self._next_heads():
                self._below = head.number
                rows += head.rows
                entry = _entry(self._journal, head)
                for change in _changes_of(self._journal, head):
                    if change.layout.kind == "facts" and change.new is not None:
                        copied += _insert_fact(self._connection, columns, change, entry)
                if rows >= STEP:
                    break
            else:
                self.done = True
            self._copied += copied
            self.done = self.done or self._copied >= MOST_FACTS
            if self.done:
                _note_pointer(self._connection, "facts", self._until)
        return copied

    def _next_heads(self) -> Iterator[_Head]:
        with of_the_journal():
            rows = self._journal.execute(
                f"SELECT number, ord, rows, at FROM {JOURNAL} WHERE number < ? AND number > ? "  # noqa: S608
                f"AND ord > ? AND state NOT IN {UNSETTLED} ORDER BY number DESC LIMIT {STEP}",
                (self._below, _start(self._journal, self._before), self._before.order),
            ).fetchall()
        for row in rows:
            yield _Head(*row)


def copy_history(
    connection: sqlite3.Connection,
    journal: sqlite3.Connection,
    *,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Copy shared rows, then facts for so many *seconds*; return how many rows came.

    Raises sqlite3.Error, JournalUnreadable.
    """
    deadline = clock() + seconds
    copied = copy_shared(connection, journal)
    copier = FactCopier(connection, journal)
    while not copier.done and clock() < deadline:
        copied += copier.step()
    return copied


class _Columns:
    """The columns that the file's tables have now, by table."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._known: dict[str, frozenset[str]] = {}

    def fit(self, layout: Layout) -> bool:
        """Whether the table takes rows of *layout*; those of an older one may not be shown."""
        found = self._known.get(layout.table)
        if found is None:
            rows = self._connection.execute(
                "SELECT name FROM pragma_table_info(?)", (layout.table,)
            )
            found = self._known[layout.table] = frozenset(str(row[0]) for row in rows)
        return set(layout.names) <= found


def _entry(journal: sqlite3.Connection, head: _Head) -> CopiedEntry:
    with of_the_journal():
        stream_id, mark = journal.execute(
            f"SELECT coalesce(s.stream_id, ''), j.mark FROM {JOURNAL} j "  # noqa: S608
            f"LEFT JOIN {STREAMS} s ON s.id = j.stream WHERE j.number = ?",
            (head.number,),
        ).fetchone()
    return CopiedEntry(head.at, head.order, stream_id, mark)


def _insert_fact(
    connection: sqlite3.Connection, columns: _Columns, change: Change, entry: CopiedEntry
) -> int:
    layout = change.layout
    if change.new is None or not columns.fit(layout):
        return 0
    names = ", ".join(quoted(name) for name in layout.names)
    marks = ", ".join("?" * len(layout.names))
    try:
        inserted = connection.execute(
            f"INSERT OR IGNORE INTO {quoted(layout.table)} ({names}) VALUES ({marks})",  # noqa: S608
            change.new,
        ).rowcount
    except sqlite3.IntegrityError as error:
        logger.debug("%s is not copied: %s", change, error)
        return 0
    if inserted > 0:
        fact_copies.remember(connection, layout, change.key, entry)
        return 1
    return 0


def _apply(connection: sqlite3.Connection, columns: _Columns, change: Change) -> int:
    """Apply the change of a shared row; one that the file refuses is left to the mirror."""
    layout = change.layout
    if not columns.fit(layout):
        return 0
    table = quoted(layout.table)
    key = " AND ".join(f"{quoted(name)} IS ?" for name in layout.key)
    try:
        if change.new is None:
            return connection.execute(f"DELETE FROM {table} WHERE {key}", change.key).rowcount  # noqa: S608
        names = ", ".join(quoted(name) for name in layout.names)
        marks = ", ".join("?" * len(layout.names))
        conflict = ", ".join(quoted(name) for name in layout.key)
        changed = [layout.names[n] for n in change.changed if layout.names[n] not in layout.key]
        sets = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in changed)
        action = f"UPDATE SET {sets}" if sets else "NOTHING"
        return connection.execute(
            f"INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT ({conflict}) DO {action}",  # noqa: S608
            change.new,
        ).rowcount
    except sqlite3.IntegrityError as error:
        logger.debug("%s is left to the mirror: %s", change, error)
        return 0


def _changes_of(journal: sqlite3.Connection, head: _Head) -> Iterator[Change]:
    last = head.number + head.rows - 1
    return given_by_the_journal(changes_between(journal, head.number, last))


def _heads_with(journal: sqlite3.Connection, start: int, above: int, kind: str) -> list[_Head]:
    """Return the settled entries after number *start* that hold a change of a table of *kind*."""
    wanted = [identity for identity, one in stored_layouts(journal).items() if one.kind == kind]
    layouts = ", ".join(map(str, wanted)) or "NULL"
    rows = journal.execute(
        f"SELECT number, ord, rows, at FROM {JOURNAL} WHERE ord > ? AND number > ? AND number IN "  # noqa: S608
        f"(SELECT (SELECT h.number FROM {JOURNAL} h WHERE h.number <= j.number "
        "AND h.ord IS NOT NULL ORDER BY h.number DESC LIMIT 1) "
        f"FROM {JOURNAL} j WHERE j.number > ? AND j.layout IN ({layouts})) "
        f"AND state NOT IN {UNSETTLED} ORDER BY ord",
        (above, start, start),
    )
    return [_Head(*row) for row in rows]


def _settled(journal: sqlite3.Connection) -> _Pointer:
    """Return the youngest entry before which, and at which, none is in flight."""
    row = journal.execute(
        f"SELECT ord, number FROM {JOURNAL} WHERE ord IS NOT NULL AND state NOT IN {UNSETTLED} "  # noqa: S608
        f"AND number < coalesce((SELECT min(number) FROM {JOURNAL} WHERE state IN {UNSETTLED} "
        f"AND number > (SELECT max(number) FROM {JOURNAL}) - 10000), 9e18) "
        "ORDER BY number DESC LIMIT 1"
    ).fetchone()
    return _Pointer(*row) if row else _Pointer()


def _start(journal: sqlite3.Connection, pointer: _Pointer) -> int:
    """Return the number after which entries are newer than *pointer*; 0: perhaps all of them.

    Numbers are given out again once the journal is empty.
    """
    row = journal.execute(
        f"SELECT ord FROM {JOURNAL} WHERE number = ?",  # noqa: S608
        (pointer.number,),
    ).fetchone()
    return pointer.number if row and row[0] == pointer.order else 0


def _read_pointer(connection: sqlite3.Connection, kind: str) -> _Pointer:
    found = connection.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (COPIED,)
    ).fetchone()
    if found is None:
        return _Pointer()
    row = connection.execute(
        f"SELECT ord, number FROM {COPIED} WHERE kind = ?",  # noqa: S608
        (kind,),
    ).fetchone()
    return _Pointer(*row) if row else _Pointer()


def _note_pointer(connection: sqlite3.Connection, kind: str, pointer: _Pointer) -> None:
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {COPIED} (kind TEXT PRIMARY KEY, ord INTEGER NOT NULL, "
        "number INTEGER NOT NULL)"
    )
    connection.execute(
        f"INSERT OR REPLACE INTO {COPIED} (kind, ord, number) VALUES (?, ?, ?)",  # noqa: S608
        (kind, pointer.order, pointer.number),
    )
