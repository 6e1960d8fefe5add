# SPDX-License-Identifier: Apache-2.0
"""Entries as rows of the journal's table: inserted, and noted what became of them."""

import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edgepaas.outbox import tables as outbox_tables
from edgepaas.outbox.journal import tables
from edgepaas.outbox.journal.entries import Change, Entry
from edgepaas.outbox.journal.tables import CONFIRMED, IN_FLIGHT, JOURNAL, UNCERTAIN, UNSETTLED, VOID
from edgepaas.outbox.layout import Layout, registered
from edgepaas.outbox.triggers import values_of

_HEAD = "number, ord, stream, mark, state, rows, at, layout, op"
#: What a row has of it that is not the first of its entry.
_NO_HEAD = (None,) * 7
#: Rows of an entry that one statement writes, which is then a transaction by itself. sqlite3 keeps
#: statements compiled, and one of many rows is large.
_AT_ONCE = 16


@dataclass(eq=False)
class Write:
    """An entry that waits for its transaction."""

    entry: Entry
    changes: Sequence[Change]
    state: int
    done: bool = False
    error: BaseException | None = None


@dataclass(frozen=True)
class Note:
    """What became of an entry: its state, None: it is to go; and rows that are no changes.

    ``position``: the stream and the mark that tell of it, not those that it was written with.
    """

    entry: Entry
    state: int | None
    void: Collection[int] = ()
    position: tuple[str, int] | None = None


class EntryRows:
    """Writes rows of the tables in *layouts*, for the process *owner*; one thread at a time."""

    def __init__(self, layouts: Sequence[Layout], owner: str) -> None:
        self._owner = owner
        self._wanted = list(layouts)
        self._layouts: dict[str, Layout] = {}
        #: Streams by id, and statements by table, operation and rows, with the layout's id.
        self._streams: dict[str, int] = {}
        self._statements: dict[tuple[str, str, int], tuple[str, int]] = {}

    def register(self, connection: sqlite3.Connection) -> None:
        """Have the file know the layouts; raises sqlite3.Error."""
        if not self._wanted:
            return
        with outbox_tables.transaction(connection):
            widest = max((2 * len(layout.columns) for layout in self._wanted), default=1)
            tables.widen(connection, widest)
            layouts = list(registered(connection, self._wanted))
        self._layouts = {one.table: one for one in layouts}
        self._statements.clear()

    def forget_streams(self) -> None:
        """Look for streams anew: one that was new is not in the file."""
        self._streams.clear()

    def insert_alone(self, connection: sqlite3.Connection, write: Write, at: int) -> bool:
        """Insert a small entry by one statement, a transaction by itself; whether it is one."""
        entry, changes = write.entry, write.changes
        stream = self._streams.get(entry.stream_id) if entry.stream_id else 0
        table, op = changes[0][:2]
        if stream is None or len(changes) > _AT_ONCE:
            return False
        if any(one.table != table or one.op != op for one in changes):
            return False
        statement, layout = self._statement(table, op, len(changes))
        values = [None, *_head(write, stream, at), layout, op, *changes[0].values]
        for one in changes[1:]:
            values += (*_NO_HEAD, layout, op, *one.values)
        last = connection.execute(statement, values).lastrowid
        entry.number = int(last or 0) - len(changes) + 1
        return True

    def insert(self, connection: sqlite3.Connection, write: Write, at: int) -> None:
        """Insert an entry, inside a transaction; its rows have numbers without a gap."""
        changes = write.changes
        head = _head(write, self._stream(connection, write.entry.stream_id), at)
        statement, layout = self._statement(changes[0].table, changes[0].op)
        values = (None, *head, layout, changes[0].op, *changes[0].values)
        write.entry.number = int(connection.execute(statement, values).lastrowid or 0)
        start = 1
        while start < len(changes):
            table, op = changes[start][:2]
            end = start + 1
            while end < len(changes) and changes[end][:2] == (table, op):
                end += 1
            statement, layout = self._statement(table, op)
            connection.executemany(
                statement, [(*_NO_HEAD, layout, op, *one.values) for one in changes[start:end]]
            )
            start = end

    def apply(self, connection: sqlite3.Connection, note: Note) -> None:
        """Write what became of an entry; a number that has been given out again is left alone."""
        entry = note.entry
        if note.state is None:
            _delete(connection, entry)
            return
        # Several processes settle: what one of them knows to be confirmed stays so.
        before = UNCERTAIN if note.state == CONFIRMED else f"({IN_FLIGHT})"
        moved = note.position
        stream, mark = (
            (None, None) if moved is None else (self._stream(connection, moved[0]), moved[1])
        )
        connection.execute(
            f"UPDATE {JOURNAL} SET state = ?, stream = coalesce(?, stream), "  # noqa: S608
            f"mark = coalesce(?, mark) WHERE number = ? AND ord = ? AND state IN {before}",
            (note.state, stream, mark, entry.number, entry.order),
        )
        connection.executemany(
            f"UPDATE {JOURNAL} SET op = '{VOID}' WHERE number = ? AND EXISTS "  # noqa: S608
            f"(SELECT 1 FROM {JOURNAL} WHERE number = ? AND ord = ?)",
            [(entry.number + place, entry.number, entry.order) for place in note.void],
        )

    def _statement(self, table: str, op: str, rows: int = 1) -> tuple[str, int]:
        """Return what inserts *rows* rows, and the id of their layout."""
        found = self._statements.get((table, op, rows))
        if found is None:
            layout = self._layouts.get(table)
            if layout is None:
                raise ValueError(f"the journal knows no table {table}")
            count = len(layout.columns) * (2 if op == "U" else 1)
            marks = ", ".join([f"({', '.join('?' * (9 + count))})"] * rows)
            text = f"INSERT INTO {JOURNAL} ({_HEAD}, {values_of(count)}) VALUES {marks}"  # noqa: S608
            found = self._statements[table, op, rows] = (text, layout.id)
        return found

    def _stream(self, connection: sqlite3.Connection, stream_id: str) -> int:
        """Return the number of a stream in the file; 0 for none."""
        if not stream_id:
            return 0
        found = self._streams.get(stream_id)
        if found is None:
            connection.execute(
                f"INSERT OR IGNORE INTO {tables.STREAMS} (stream_id, owner) VALUES (?, ?)",  # noqa: S608
                (stream_id, self._owner),
            )
            (found,) = connection.execute(
                f"SELECT id FROM {tables.STREAMS} WHERE stream_id = ?",  # noqa: S608
                (stream_id,),
            ).fetchone()
            self._streams[stream_id] = found
        return found


def _delete(connection: sqlite3.Connection, entry: Entry) -> None:
    connection.execute(
        f"DELETE FROM {JOURNAL} WHERE number BETWEEN ? AND ? AND EXISTS "  # noqa: S608
        f"(SELECT 1 FROM {JOURNAL} WHERE number = ? AND ord = ? AND state IN {UNSETTLED})",
        (entry.number, entry.number + entry.rows - 1, entry.number, entry.order),
    )


def _head(write: Write, stream: int, at: int) -> tuple[int, ...]:
    entry = write.entry
    return entry.order, stream, entry.mark, write.state, entry.rows, at
