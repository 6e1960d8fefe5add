# SPDX-License-Identifier: Apache-2.0
"""What PostgreSQL acknowledged while it served and lost: found in the journal, put into the outbox.

Every row that a client was told of is in the journal. What a hub has of it is told by the marks
of the box's connections; the rest is put into the outbox at its place in time, and delivered as
all else is.
"""

import contextlib
import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepaas.alerts.catalogue import JOURNAL_UNUSABLE
from edgepaas.errors import DatabaseError
from edgepaas.marks.hub import TABLE, read_streams
from edgepaas.outbox import tables
from edgepaas.outbox.journal.access import JournalSnapshot, JournalUnreadable, of_the_journal
from edgepaas.outbox.journal.journal import Alive, Journal
from edgepaas.outbox.journal.tables import DOUBTFUL
from edgepaas.outbox.layout import Layout, registered
from edgepaas.outbox.resending import resent
from edgepaas.outbox.resending.insertion import Change, Transaction, insert_among_waiting
from edgepaas.outbox.resending.resent import ResentEntry
from edgepaas.outbox.resending.switches import Switches
from edgepaas.sync.mirror.ordered_rows import MirrorPostponed

if TYPE_CHECKING:
    from edgepaas.outbox import reading
    from edgepaas.outbox.journal.entries import StoredEntry
    from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")

#: Rows at the end of the journal that are compared beside the marks: what a process that was
#: killed, and its record of the marks with it, had acknowledged last.
NEWEST = 20_000
_OPS = {"insert": "I", "update": "U", "delete": "D"}


@contextlib.contextmanager
def opened_journal(path: Path, node_id: str) -> Iterator[Journal | None]:
    """Give the journal *path* of the box; None where there is none.

    One that is damaged is set aside, with an alert. Raises JournalUnreadable, also for what the
    journal raises in the block.
    """
    with of_the_journal(path):
        journal = (
            Journal(path, node_id, set_aside=JOURNAL_UNUSABLE.raise_alert)
            if path.exists()
            else None
        )
    if journal is None:
        yield None
        return
    with contextlib.closing(journal):
        try:
            yield journal
        except DatabaseError as error:  # the hub raises HubError, the box's file sqlite3.Error
            raise JournalUnreadable(f"the journal cannot be read: {error}") from error


def lost_entries(
    journal: Journal, hub: "Hub", node_id: str, alive: Alive, *, newest: int = 0
) -> "list[StoredEntry]":
    """Return the entries that *hub* had acknowledged and does not have; in order, no changes.

    *newest*: only among so many rows. What is in flight is settled first; *alive* is asked as by
    :meth:`Journal.abandoned`. Two looks at the hub: what is confirmed between the first look and
    that into the journal is there at the second. Raises HubError, DatabaseError.
    """
    suspected = _suspected(journal, hub, node_id, alive, newest=newest)
    second = _marks(hub, node_id) if suspected else None
    if second is None:
        return []
    return [one for one in journal.lacking(second, newest=newest) if one.order in suspected]


def _suspected(
    journal: Journal, hub: "Hub", node_id: str, alive: Alive, *, newest: int = 0
) -> set[int]:
    """Settle what is in flight; return the orders of the entries that *hub* lacks at this look."""
    abandoned = journal.abandoned(alive)
    marks = _marks(hub, node_id)
    if marks is None:
        return set()
    journal.settle(marks, abandoned)
    return {one.order for one in journal.lacking(marks, newest=newest)}


def doubtful_entries(
    journal: Journal, hub: "Hub", node_id: str, alive: Alive
) -> "list[StoredEntry]":
    """Return the entries that *hub* lacks and that somebody may have been told of; no changes.

    Their process was killed before it had written what became of them. *alive* is asked as by
    :meth:`Journal.abandoned`. Raises HubError, DatabaseError.
    """
    abandoned = journal.abandoned(alive)
    marks = _marks(hub, node_id)
    if marks is None:
        return []
    journal.settle(marks, abandoned)
    return journal.doubtful(marks)


def keys_unknown_to(hub: "Hub", path: Path, node_id: str) -> set[tuple[str, tuple[Any, ...]]]:
    """Return (table, key) of the shared rows that the box changed and *hub*'s snapshot lacks.

    They were changed since the snapshot began, or the hub lost the change. Among the newest
    entries of the journal *path*. Raises HubError, and MirrorPostponed where it cannot be read.
    """
    try:
        with opened_journal(path, node_id) as journal:
            marks = None if journal is None else _marks(hub, node_id)
            if journal is None or marks is None:
                return set()
            with journal.at_one_moment() as seen:
                return {
                    (change.layout.table, change.key)
                    for entry in (*seen.lacking(marks, newest=NEWEST), *seen.doubtful(marks))
                    for change in seen.with_changes(entry).changes
                    if change.layout.kind == "shared"
                }
    except JournalUnreadable as error:
        raise MirrorPostponed(str(error)) from error


def queue_lost_entries(
    connection: sqlite3.Connection,
    journal: Journal,
    hub: "Hub",
    node_id: str,
    alive: Alive,
    *,
    in_doubt_alone: bool = False,
) -> int:
    """Put what *hub* lost of the journal among the rows that wait; return how many rows.

    As :func:`edgepaas.outbox.resending.insertion.insert_among_waiting`. An entry is put there
    once, whatever is killed in between. What is in doubt is put there as well; *in_doubt_alone*:
    nothing else. Raises HubError, DatabaseError, sqlite3.Error.
    """
    known = resent.not_noted(connection)
    _note(connection, journal, known)
    suspected = _suspected(journal, hub, node_id, alive)
    marks = _marks(hub, node_id)
    if marks is None:
        return 0
    # It is read twice, while the disk budget may have the oldest entries leave.
    with journal.at_one_moment() as seen:
        lost = [] if in_doubt_alone else seen.lacking(marks)
        found = [one for one in lost if one.order in suspected] + seen.doubtful(marks)
        found.sort(key=lambda one: one.order)
        rows = _queue(connection, seen, found) if found else 0
    _note(connection, journal, [one.order for one in found])
    return rows


def _queue(
    connection: sqlite3.Connection, journal: JournalSnapshot, found: "Sequence[StoredEntry]"
) -> int:
    """Put these entries among the rows that wait, and remember them; return how many rows."""
    joined = journal.joined_streams
    switches = Switches(connection)
    with tables.transaction(connection):
        layouts = _Layouts(connection)
        counts: dict[int, int] = {}

        def transactions() -> Iterator[Transaction]:
            for entry in found:
                missing = entry.state != DOUBTFUL
                read = journal.with_changes if missing else journal.with_changes_in_doubt
                changes = read(entry).changes
                counts[entry.order] = len(changes)
                yield Transaction(
                    switches.row_before(entry.order),
                    [layouts.change(one) for one in changes],
                    missing=missing,
                )

        def inserted() -> None:
            resent.remember(
                connection,
                (
                    ResentEntry(
                        one.order,
                        one.stream_id,
                        joined.get(one.stream_id, ""),
                        one.mark,
                        counts[one.order],
                    )
                    for one in found
                ),
            )

        return insert_among_waiting(connection, transactions, inserted=inserted)


def _note(connection: sqlite3.Connection, journal: Journal, orders: Sequence[int]) -> None:
    if orders:
        journal.note_resent(orders)
        with tables.transaction(connection):
            resent.set_noted(connection, orders)


def _marks(hub: "Hub", node_id: str) -> Mapping[str, int] | None:
    """Return the transactions of each of the box's streams on *hub*; None: nothing is known."""
    if TABLE not in hub.tables:
        return None
    found = read_streams(hub.query, node_id, ())
    if found is None or not found.readable:
        return None
    return {identity: mark.transactions for identity, mark in found.marks.items()}


class _Layouts:
    """The layouts of the journal in the file of the outbox, inside the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._known: dict[int, int] = {}

    def change(self, change: "reading.Change") -> Change:
        """Return *change* in the form of the outbox."""
        values: tuple[Any, ...] = (*(change.new or ()), *(change.old or ()))
        return Change(self._id(change.layout), _OPS[change.op], values)

    def _id(self, layout: Layout) -> int:
        found = self._known.get(layout.id)
        if found is None:
            tables.widen(self._connection, 2 * len(layout.columns))
            (stored,) = registered(self._connection, [layout])
            found = self._known[layout.id] = stored.id
        return found
