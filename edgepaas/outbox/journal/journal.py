# SPDX-License-Identifier: Apache-2.0
"""Writing the journal: entries of all threads that wait, in one synced transaction.

The rules that keep it true:

- An entry is in the file before the COMMIT that it speaks of is sent, so that no kill of this
  process leaves a row on the hub without one; it is synced while the server works on that, and
  before the client hears of it. Where its rows are known only by the answer to COMMIT, it is
  written and synced when that has come.
- What became of it (confirmed, or dropped since the hub refused it) rides with the next entry's
  transaction, or is written by :meth:`Journal.flush` without a sync: a process that is killed in
  between leaves entries *in flight*, which the marks of the hub settle.
- Entries are ordered by the clock that runs since boot, read when COMMIT is about to be sent: row
  locks are held then, so of two transactions that touch one row the later has the greater order,
  also where two processes write.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from edgepaas.errors import DatabaseError
from edgepaas.outbox.journal import reading, settling, space, tables
from edgepaas.outbox.journal.access import JournalSnapshot, of_the_journal, snapshot
from edgepaas.outbox.journal.entries import Change, Entry, Reach, StoredEntry
from edgepaas.outbox.journal.entry_rows import Note, Write
from edgepaas.outbox.journal.group_writer import GroupWriter
from edgepaas.outbox.journal.opening import JournalFile, connected
from edgepaas.outbox.journal.ordering import order_base
from edgepaas.outbox.journal.tables import (
    CONFIRMED,
    DOUBTFUL,
    IN_FLIGHT,
    JOURNAL,
    UNANSWERED,
)
from edgepaas.outbox.layout import Layout

#: Whether a connection may still commit on a stream, given its id and the name of its process.
Alive = Callable[[str, str], bool]


#: More transactions than a stream has.
_ALL = 1 << 62


def nobody(_stream_id: str, _owner: str) -> bool:
    """No connection is open."""
    return False


class Journal:
    """The journal of the box *node_id* in the file *path*; for any thread.

    Several processes may have it open. Close it with :meth:`close`.
    """

    def __init__(
        self,
        path: Path,
        node_id: str,
        layouts: Sequence[Layout] = (),
        *,
        owner: str = "",
        set_aside: Callable[[str], None] = lambda _line: None,
        clock: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """*layouts*: of the tables whose changes are written (outbox.layout.forwarded_layouts).

        *owner*: the name of the process that writes, by which others know whether it still runs.
        *set_aside* is called with a line for a person where the file had to be set aside.
        Raises JournalUnusable, sqlite3.Error, OSError, LockHeld.
        """
        self._clock = clock
        self._wall = wall
        file = JournalFile(path, node_id, set_aside=set_aside)
        try:
            self._writer = GroupWriter(file, layouts, owner=owner, wall=wall)
            #: Added to the clock: no order is lower than one that was given out before.
            self._base = order_base(file, clock)
        except BaseException:
            file.close()
            raise
        self.path = path
        self._guard = threading.Lock()
        #: Entries of this process whose COMMIT is under way, by order: not to be settled.
        self._open: dict[int, Entry] = {}
        self._last_order = 0

    @property
    def columns(self) -> Mapping[str, tuple[str, ...]]:
        """The columns of each table whose changes are written, by the positions of its values."""
        return self._writer.columns

    # -- writing --

    def next_order(self) -> int:
        """Return the order of a transaction whose COMMIT is about to be sent."""
        with self._guard:
            self._last_order = max(self._base + self._clock(), self._last_order + 1)
            return self._last_order

    def write(
        self, stream_id: str, mark: int, changes: Sequence[Change], *, order: int = 0
    ) -> Entry:
        """Write the *changes* of a transaction whose COMMIT is not sent yet.

        *mark*: what it moves the mark of *stream_id* to, in transactions; "" and 0 where no marks
        are kept. A kill of this process leaves the entry in the file, a power cut only after
        :meth:`sync`. Afterwards it is one of :meth:`confirm`, :meth:`drop` or :meth:`leave`.
        Raises DatabaseFull, DatabaseBusy: nothing is in the journal then; ValueError for a table
        whose layout is not known.
        """
        entry = Entry(order or self.next_order(), stream_id, mark, len(changes))
        with self._guard:
            self._open[entry.order] = entry
        try:
            if changes:
                self._writer.write(Write(entry, changes, IN_FLIGHT))
        except BaseException:
            with self._guard:
                self._open.pop(entry.order, None)
            raise
        return entry

    def sync(self, entry: Entry) -> None:
        """Return when *entry* is durable; raises DatabaseFull, DatabaseBusy where it is not."""
        self._writer.sync(entry)

    def ahead(
        self, stream_id: str, mark: int, changes: Sequence[Change], *, order: int = 0
    ) -> Entry:
        """Write and sync the *changes* of a transaction whose COMMIT is not sent yet."""
        entry = self.write(stream_id, mark, changes, order=order)
        try:
            self.sync(entry)
        except BaseException:
            self.drop(entry)
            raise
        return entry

    def record(
        self, stream_id: str, mark: int, changes: Sequence[Change], *, order: int = 0
    ) -> Entry:
        """Write the *changes* of a transaction that the hub has committed; durable on return.

        *order*: of :meth:`next_order`, taken before its COMMIT was sent. Raises as :meth:`write`.
        """
        entry = Entry(order or self.next_order(), stream_id, mark, len(changes))
        if changes:
            self._writer.write(Write(entry, changes, CONFIRMED))
            self.sync(entry)
        return entry

    def confirm(self, entry: Entry, position: tuple[str, int] | None = None) -> None:
        """Note that the hub has committed *entry*; nothing is written yet.

        *position*: the stream and the mark that tell of it, where they are not those that it was
        written with.
        """
        self._end(entry, Note(entry, CONFIRMED, position=position))

    def void(self, entry: Entry, places: Collection[int]) -> None:
        """Note that rows of a confirmed *entry*, at these places from 0, were no change."""
        if places and entry.number:
            self._writer.note(Note(entry, CONFIRMED, tuple(places)))

    def drop(self, entry: Entry) -> None:
        """Note that the hub did not commit *entry*."""
        self._end(entry, Note(entry, None))
        self._flush_if_it_can()

    def leave(self, entry: Entry) -> None:
        """Note that the COMMIT of *entry* was sent and not answered. The marks settle it.

        The caller tells whoever asked for it, so that it goes where the hub lacks it.
        """
        self._end(entry, Note(entry, UNANSWERED))
        self._flush_if_it_can()

    def flush(self) -> None:
        """Write what became of entries, without a sync; raises DatabaseFull, DatabaseBusy."""
        self._writer.flush()

    def close(self) -> None:
        """Write what is known, and close the file."""
        self._writer.close()

    # -- what the hub lacks --

    def unsettled(self) -> list[StoredEntry]:
        """Return the entries in flight that no thread of this process works on, in order."""
        with self._writer.reading() as connection:
            return [
                reading.with_changes(connection, one)
                for one in reading.unsettled(connection)
                if one.state != DOUBTFUL and one.order not in self._own_orders()
            ]

    def abandoned(self, alive: Alive = nobody) -> frozenset[int]:
        """Return the orders of the entries in flight that no connection can commit any more.

        *alive* is asked with the stream and its owner. To be called before the marks of the hub are
        read: what commits after that, on a connection that ends at once, is not among them. Raises
        DatabaseFull, DatabaseBusy.
        """
        with self._writer.reading() as connection:
            own = self._own_orders()
            return frozenset(
                one.order
                for one in reading.unsettled(connection)
                if one.order not in own and not alive(one.stream_id, one.owner)
            )

    def settle(self, hub: Mapping[str, int], abandoned: Collection[int] = ()) -> int:
        """Settle entries in flight by the marks of the *hub*; return how many.

        *hub*: the transactions of each of the box's streams there. An entry that the hub has is
        confirmed. One that it lacks is dropped or in doubt (edgepaas.outbox.journal.settling),
        where it was *abandoned* (:meth:`abandoned`) before these marks were read. Raises
        DatabaseFull, DatabaseBusy.
        """
        with self._writer.reading() as connection:
            own = self._own_orders()
            entries = [one for one in reading.unsettled(connection) if one.order not in own]
            if not entries:
                return 0
            acknowledged = reading.acknowledged_marks(connection)
            marks = {**hub, **dict.fromkeys(reading.streams_in_sums(connection, hub), _ALL)}
            decided = settling.decide(entries, marks, abandoned, acknowledged)
            if not decided:
                return 0
            self._writer.note(
                *(
                    Note(Entry(one.order, one.stream_id, one.mark, one.rows, one.number), state)
                    for one, state in decided
                )
            )
        self._writer.flush()
        return len(decided)

    def streams_ahead(self, hub: Mapping[str, int]) -> set[str]:
        """Return the streams of which a *hub* with these marks lacks entries, or may lack some.

        Joined to a sum they would seem to be there. Raises DatabaseFull, DatabaseBusy.
        """
        with self._writer.reading() as connection:
            return reading.streams_ahead(connection, hub)

    def note_joining(self, streams: Collection[str], joined_to: str, mark: int) -> None:
        """Note that *streams* are about to be joined to the stream *joined_to* on the hub.

        From its *mark* (transactions) on that one holds all of theirs. Durable on return. Raises
        DatabaseFull, DatabaseBusy.
        """
        with self._writer.changing() as connection:
            connection.executemany(
                f"UPDATE {tables.STREAMS} SET joined_to = ?, joined_mark = ? WHERE stream_id = ?",  # noqa: S608
                [(joined_to, mark, one) for one in streams],
            )

    def entries(self, stream_id: str, above: int) -> list[StoredEntry]:
        """Return the confirmed entries that a hub lacks whose mark of *stream_id* is *above*.

        In the box-wide order, with their changes.
        """
        with self._writer.reading() as connection:
            return reading.entries_of(connection, stream_id, above)

    def lacking(self, hub: Mapping[str, int], *, newest: int = 0) -> list[StoredEntry]:
        """Return the confirmed entries that a hub with these marks lacks; in order, no changes.

        *hub*: the transactions of each of the box's streams there. *newest*: only among so many
        rows at the end. :meth:`with_changes` reads what stands in them.
        """
        with self._writer.reading() as connection:
            return reading.lacking(connection, hub, newest=newest)

    def doubtful(self, hub: Mapping[str, int]) -> list[StoredEntry]:
        """Return the entries in doubt that a hub with these marks lacks; in order, no changes."""
        with self._writer.reading() as connection:
            return reading.doubtful(connection, hub)

    def with_changes_in_doubt(self, entry: StoredEntry) -> StoredEntry:
        """Return *entry*, which is in doubt, with those of its changes that may be sent again."""
        with self._writer.reading() as connection:
            return reading.with_changes_in_doubt(connection, entry)

    def joined_streams(self) -> dict[str, str]:
        """Return by stream the one on the hub that it was, or is being, joined to."""
        with self._writer.reading() as connection:
            return reading.joined_streams(connection)

    def with_changes(self, entry: StoredEntry) -> StoredEntry:
        """Return *entry* with its changes."""
        with self._writer.reading() as connection:
            return reading.with_changes(connection, entry)

    @contextlib.contextmanager
    def at_one_moment(self) -> Iterator[JournalSnapshot]:
        """Give what stands in the file now, to be read as often as is needed.

        Raises DatabaseFull, DatabaseBusy, JournalUnreadable.
        """
        self.flush()
        with of_the_journal(self.path):
            connection = connected(self.path)
        with contextlib.closing(connection), snapshot(connection):
            yield JournalSnapshot(connection, self.path)

    def note_resent(self, orders: Iterable[int]) -> None:
        """Note, durably, that these entries were handed to the outbox, which sends them again."""
        with self._writer.changing() as connection:
            # One look at the file for all of them: orders have no index, and writes wait.
            connection.execute(
                f"UPDATE {JOURNAL} SET state = {tables.RESENT} "  # noqa: S608
                f"WHERE state IN ({CONFIRMED}, {DOUBTFUL}) "
                "AND ord IN (SELECT value FROM json_each(?))",
                (json.dumps(list(orders)),),
            )

    # -- space --

    def reach(self) -> Reach:
        """Return how far back the journal reaches."""
        with self._writer.reading() as connection:
            return reading.reach(connection)

    def prune(self, *, budget: int, older_than: float = 0.0, limit: int = 2_000) -> int:
        """Delete the oldest settled entries while they take more than *budget* bytes; return rows.

        *older_than*: and those written so many seconds ago (0: no age). At most about *limit* rows
        a call, in one transaction. Raises DatabaseFull, DatabaseBusy.
        """
        with self._writer.changing() as connection:
            moment = int(self._wall() - older_than) if older_than > 0 else 0
            rows = space.prune(connection, budget=budget, before=moment, limit=limit)
        if rows:
            with self._writer.reading() as connection:
                space.give_back(connection, budget)
        return rows

    # -- inside --

    def _own_orders(self) -> set[int]:
        """Return the entries that are in flight here, or whose end is not written yet.

        Complete only for who has the connection: none is written, and none noted as written,
        meanwhile.
        """
        with self._guard:
            under_way = set(self._open)
        return under_way | self._writer.noted()

    def _flush_if_it_can(self) -> None:
        """Write what became of entries before a client hears of it; what cannot be stays noted."""
        with contextlib.suppress(DatabaseError):
            self._writer.flush()

    def _end(self, entry: Entry, note: Note) -> None:
        if entry.number:
            self._writer.note(note)
        with self._guard:
            self._open.pop(entry.order, None)
