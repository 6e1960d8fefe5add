# SPDX-License-Identifier: Apache-2.0
"""Entries of all threads that wait, written in one transaction by one of them, and synced.

There is no thread for it: whoever comes first writes, or syncs, for all who have come by then, so
that nobody waits for a hand-over. A commit outlives this process at once, and a power cut once it
is synced: in between the server can be at work.
"""

import contextlib
import errno
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgepaas.errors import DatabaseBusy, DatabaseError, DatabaseFull
from edgepaas.files.locks import LockHeld
from edgepaas.outbox import tables as outbox_tables
from edgepaas.outbox.journal import tables
from edgepaas.outbox.journal.entries import Change, Entry
from edgepaas.outbox.journal.opening import JournalFile, JournalUnusable
from edgepaas.outbox.journal.tables import CONFIRMED, IN_FLIGHT, JOURNAL, UNCERTAIN, UNSETTLED, VOID
from edgepaas.outbox.layout import Layout, registered
from edgepaas.outbox.triggers import values_of

_HEAD = "number, ord, stream, mark, state, rows, at, layout, op"
#: What a row has of it that is not the first of its entry.
_NO_HEAD = (None,) * 7
#: Rows of an entry that one statement writes, which is then a transaction by itself. sqlite3 keeps
#: statements compiled, and one of many rows is large.
_AT_ONCE = 16
#: Confirmations that wait for a transaction of their own: the marks of the hub tell as well.
_MOST_NOTES = 64


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


class GroupWriter:
    """Writes entries into *file*; for any thread. *wall* tells seconds since 1970."""

    def __init__(
        self,
        file: JournalFile,
        layouts: Sequence[Layout],
        *,
        owner: str,
        wall: Callable[[], float],
    ) -> None:
        """Raises sqlite3.Error."""
        self._file = file
        self._owner = owner
        self._wall = wall
        #: Guards what waits; held for moments.
        self._guard = threading.Lock()
        #: Held by who works with the connection.
        self._turn = threading.Lock()
        self._waiting: list[Write] = []
        self._notes: list[Note] = []
        self._notes_due = self._closed = False
        self._broken = False
        #: How many transactions were committed, and how many of them are synced.
        self._written = self._synced = 0
        #: Held by who syncs, and while the file is opened anew. Who has the turn may wait for it.
        self._syncing = threading.Lock()
        #: Whether a sync tells nothing, since one failed or the file is not open; and the
        #: transactions that were not synced when that came, which no later sync makes certain.
        self._unsyncable = False
        self._refused = range(0)
        #: Streams by id, and statements by table and operation, with the layout's id.
        self._streams: dict[str, int] = {}
        self._statements: dict[tuple[str, str, int], tuple[str, int]] = {}
        self._wanted = list(layouts)
        self._register()

        self.columns = {layout.table: layout.names for layout in layouts}

    def write(self, write: Write) -> None:
        """Write an entry together with those of other threads; :meth:`sync` makes it durable.

        Raises DatabaseFull, DatabaseBusy, and what is wrong with its own values.
        """
        with self._guard:
            self._waiting.append(write)
        with self._turn:
            if not write.done:
                with self._guard:
                    group, self._waiting = self._waiting, []
                self._run_group(group)
        if write.error is not None:
            raise write.error

    def sync(self, entry: Entry) -> None:
        """Return when a power cut leaves *entry* in the file; raises DatabaseFull, DatabaseBusy."""
        if self._is_synced(entry):
            return
        with self._syncing:
            if self._is_synced(entry):
                return  # by another thread
            if self._unsyncable or entry.written in self._refused:
                raise DatabaseBusy(self._unsynced("it failed meanwhile"))
            written = self._written
            try:
                self._file.sync()
            except OSError as error:
                self._broken = self._unsyncable = True
                kind = DatabaseFull if error.errno == errno.ENOSPC else DatabaseBusy
                raise kind(self._unsynced(str(error))) from error
            self._synced = written

    def _is_synced(self, entry: Entry) -> bool:
        return self._synced >= entry.written and entry.written not in self._refused

    def _unsynced(self, why: str) -> str:
        return (
            f"the journal {self._file.path} cannot be synced ({why}): the write may be stored, "
            "and is not acknowledged"
        )

    def note(self, *notes: Note) -> None:
        """Have what became of entries written, with a later transaction or by :meth:`flush`."""
        with self._guard:
            self._notes += notes
            if len(self._notes) >= _MOST_NOTES or any(one.state is None for one in notes):
                # A dropped entry goes before another has its mark.
                self._notes_due = True

    def noted(self) -> set[int]:
        """Return the orders of entries whose end is not written yet."""
        with self._guard:
            return {one.entry.order for one in self._notes}

    def flush(self) -> None:
        """Write what became of entries, without a sync; raises DatabaseFull, DatabaseBusy.

        A file that has to be opened anew is, so that an error lasts no longer than its cause.
        """
        with self._turn:
            if self._broken and not self._closed:
                with self._translated():
                    self._connection()
            self._write_notes()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give the connection, all that is known written; raises DatabaseFull, DatabaseBusy."""
        with self._turn:
            self._write_notes()
            with self._translated():
                yield self._connection()

    @contextlib.contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection in a transaction that is durable after the block; raises the same."""
        with self._turn, self._translated():
            with outbox_tables.transaction(self._connection()):
                yield self._file.connection
            self._file.sync()

    def close(self) -> None:
        """Write what is known, and close the file."""
        with contextlib.suppress(DatabaseError), self._turn:
            self._write_notes()
        with self._turn:
            if not self._closed:
                self._closed = True
                with self._syncing:
                    # Who has not synced by now cannot tell any more.
                    self._unsyncable = True
                    self._file.close()

    # -- by who has the turn --

    def _write_notes(self) -> None:
        if self._notes and not self._closed:
            self._run([])

    def _run_group(self, group: Sequence[Write]) -> None:
        """Write *group* in one transaction; where one is refused, each by itself. Never raises."""
        try:
            self._run(group)
        except DatabaseError as error:
            for one in group:
                one.error = error
        except Exception as error:  # noqa: BLE001 - it belongs to the caller whose entry it is
            if len(group) == 1:
                group[0].error = error
            else:
                for one in group:
                    self._run_group([one])
        for one in group:
            one.done = True

    def _run(self, group: Sequence[Write]) -> None:
        """Write *group*, and what became of earlier entries where that is due; one transaction."""
        if group:
            with self._translated():
                self._connection()
                self._file.sync_by_itself()
        if len(group) == 1 and not self._notes_due and self._run_alone(group[0]):
            return
        with self._guard:
            notes, due = self._notes, self._notes_due
            self._notes, self._notes_due = [], False
        try:
            with self._translated(), outbox_tables.transaction(self._connection()):
                for note in notes:
                    self._apply(self._file.connection, note)
                for one in group:
                    self._insert(self._file.connection, one)
            self._note_written(group)
        except BaseException:
            self._streams.clear()  # one that was new is not in the file
            with self._guard:
                self._notes[:0] = notes
                self._notes_due = self._notes_due or due
            for one in group:
                one.entry.number = 0
            raise

    def _run_alone(self, write: Write) -> bool:
        """Write a small entry by one statement; whether it is one."""
        entry, changes = write.entry, write.changes
        stream = self._streams.get(entry.stream_id) if entry.stream_id else 0
        table, op = changes[0][:2]
        if stream is None or len(changes) > _AT_ONCE:
            return False
        if any(one.table != table or one.op != op for one in changes):
            return False
        statement, layout = self._statement(table, op, len(changes))
        values = [None, *self._head(write, stream), layout, op, *changes[0].values]
        for one in changes[1:]:
            values += (*_NO_HEAD, layout, op, *one.values)
        with self._translated():
            last = self._connection().execute(statement, values).lastrowid
        entry.number = int(last or 0) - len(changes) + 1
        self._note_written([write])
        return True

    def _note_written(self, group: Sequence[Write]) -> None:
        self._written += 1
        for one in group:
            one.entry.written = self._written

    def _insert(self, connection: sqlite3.Connection, write: Write) -> None:
        """Insert an entry; its rows have numbers without a gap."""
        changes = write.changes
        head = self._head(write, self._stream(connection, write.entry.stream_id))
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

    def _apply(self, connection: sqlite3.Connection, note: Note) -> None:
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

    def _head(self, write: Write, stream: int) -> tuple[int, ...]:
        entry = write.entry
        return entry.order, stream, entry.mark, write.state, entry.rows, int(self._wall())

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

    def _connection(self) -> sqlite3.Connection:
        """Return the connection, a new one where the last transaction failed."""
        if self._closed:
            raise DatabaseBusy("the journal is closed; nothing was written")
        if self._broken:
            self._streams.clear()
            with self._syncing:
                self._open_anew()
        return self._file.connection

    def _open_anew(self) -> None:
        """Open the file anew; what was not synced before may be lost, and is refused."""
        self._unsyncable = True
        self._file.reopen()
        self._register()
        first = self._refused.start or self._synced + 1
        self._refused = range(first, self._written + 1)
        self._unsyncable = self._broken = False

    def _register(self) -> None:
        """Have the file know the layouts of the tables whose changes are written."""
        connection = self._file.connection
        if not self._wanted:
            return
        with outbox_tables.transaction(connection):
            widest = max((2 * len(layout.columns) for layout in self._wanted), default=1)
            tables.widen(connection, widest)
            layouts = list(registered(connection, self._wanted))
        self._layouts = {one.table: one for one in layouts}
        self._statements.clear()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise what an error of the file means to a caller; the connection is then opened anew."""
        try:
            yield
        except _OF_THE_VALUES:
            raise
        except (sqlite3.Error, OSError, JournalUnusable, LockHeld) as error:
            self._broken = True
            raise _meaning(error, self._file.path) from error


#: What Python or SQLite has against the values, or against the statement.
_OF_THE_VALUES = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
)


def _delete(connection: sqlite3.Connection, entry: Entry) -> None:
    connection.execute(
        f"DELETE FROM {JOURNAL} WHERE number BETWEEN ? AND ? AND EXISTS "  # noqa: S608
        f"(SELECT 1 FROM {JOURNAL} WHERE number = ? AND ord = ? AND state IN {UNSETTLED})",
        (entry.number, entry.number + entry.rows - 1, entry.number, entry.order),
    )


def _meaning(error: Exception, path: Path) -> DatabaseError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return DatabaseFull(
            f"the disk has no room for the journal {path} ({error}); nothing was written"
        )
    return DatabaseBusy(f"the journal {path} cannot be written ({error}); nothing was written")
