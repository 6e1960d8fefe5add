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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edgepaas.errors import DatabaseBusy, DatabaseError, DatabaseFull
from edgepaas.files.locks import LockHeld
from edgepaas.files.sqlite_file import note_damage
from edgepaas.outbox import tables as outbox_tables
from edgepaas.outbox.journal.entries import Entry
from edgepaas.outbox.journal.entry_rows import EntryRows, Note, Write
from edgepaas.outbox.journal.opening import JournalFile, JournalUnusable, says_damaged
from edgepaas.outbox.layout import Layout

#: Confirmations that wait for a transaction of their own: the marks of the hub tell as well.
_MOST_NOTES = 64


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
        self._rows = EntryRows(layouts, owner)
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
        self._rows.register(file.connection)
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
        at = int(self._wall())
        with self._guard:
            notes, due = self._notes, self._notes_due
            self._notes, self._notes_due = [], False
        try:
            with self._translated(), outbox_tables.transaction(self._connection()):
                for note in notes:
                    self._rows.apply(self._file.connection, note)
                for one in group:
                    self._rows.insert(self._file.connection, one, at)
            self._note_written(group)
        except BaseException:
            self._rows.forget_streams()
            with self._guard:
                self._notes[:0] = notes
                self._notes_due = self._notes_due or due
            for one in group:
                one.entry.number = 0
            raise

    def _run_alone(self, write: Write) -> bool:
        """Write a small entry by one statement; whether it is one."""
        with self._translated():
            alone = self._rows.insert_alone(self._connection(), write, int(self._wall()))
        if alone:
            self._note_written([write])
        return alone

    def _note_written(self, group: Sequence[Write]) -> None:
        self._written += 1
        for one in group:
            one.entry.written = self._written

    def _connection(self) -> sqlite3.Connection:
        """Return the connection, a new one where the last transaction failed."""
        if self._closed:
            raise DatabaseBusy("the journal is closed; nothing was written")
        if self._broken:
            self._rows.forget_streams()
            with self._syncing:
                self._open_anew()
        return self._file.connection

    def _open_anew(self) -> None:
        """Open the file anew; what was not synced before may be lost, and is refused."""
        self._unsyncable = True
        self._file.reopen()
        self._rows.register(self._file.connection)
        first = self._refused.start or self._synced + 1
        self._refused = range(first, self._written + 1)
        self._unsyncable = self._broken = False

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise what an error of the file means to a caller; the connection is then opened anew."""
        try:
            yield
        except _OF_THE_VALUES:
            raise
        except (sqlite3.Error, OSError, JournalUnusable, LockHeld) as error:
            self._broken = True
            if says_damaged(error):
                note_damage(self._file.path, error)
            raise _meaning(error, self._file.path) from error


#: What Python or SQLite has against the values, or against the statement.
_OF_THE_VALUES = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
)


def _meaning(error: Exception, path: Path) -> DatabaseError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return DatabaseFull(
            f"the disk has no room for the journal {path} ({error}); nothing was written"
        )
    return DatabaseBusy(f"the journal {path} cannot be used ({error}); nothing was written")
