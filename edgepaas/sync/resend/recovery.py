# SPDX-License-Identifier: Apache-2.0
"""What is done once about a hub that went back in time, before anything else is sent to it.

The file notes that the hub's history is broken (``outbox_recovery``) as soon as anything shows
it: a mark of its stream, of a connection, or of the history. The next batch then begins with
this, under the lock of the stream and with both sides in step. It is over when the hub has
committed a new history mark; whatever interrupts it, it is done again and queues nothing twice.
"""

import logging
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepaas.database.reserved_names import STATE
from edgepaas.outbox import tables
from edgepaas.outbox.journal.access import JournalUnreadable
from edgepaas.outbox.journal.journal import Alive, nobody
from edgepaas.outbox.resending.hub_tables import note_identities
from edgepaas.outbox.resending.insertion import insert_among_waiting
from edgepaas.outbox.resending.recovery_state import (
    HistoryMark,
    note_history,
    read_history,
)
from edgepaas.sync.hub import history
from edgepaas.sync.mirror.ordered_rows import MirrorPostponed
from edgepaas.sync.resend.home import missing_shared_rows
from edgepaas.sync.resend.journal_trouble import JournalTrouble
from edgepaas.sync.resend.journaled import opened_journal, queue_lost_entries

if TYPE_CHECKING:
    from edgepaas.outbox.stream import Stream
    from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")

#: Seconds until a journal that could not be read is tried again.
AGAIN_AFTER = 30.0


@dataclass
class Recovery:
    """Queues again what a hub lost; *document* is run/tables.json."""

    document: Mapping[str, Any]
    #: The file of the journal; None: there is none.
    journal: Path | None = None
    #: Whether a connection may still commit on a stream of the journal.
    alive: Alive = nobody
    #: Whether the journal has entries that are in doubt: they are sent again as well, though
    #: nothing shows that the hub went back.
    in_doubt: Callable[[], bool] = lambda: False
    trouble: JournalTrouble = field(default_factory=JournalTrouble)
    clock: Callable[[], float] = time.monotonic
    _again_at: float = field(default=float("-inf"), init=False)
    _prepared: bool = field(default=False, init=False)
    #: The history that the open transaction begins.
    _begun: HistoryMark = field(default=HistoryMark(), init=False)
    #: The hub's tables, of which is known what they lack.
    _identities: Mapping[str, int] = field(default_factory=dict, init=False)

    def prepare(self, connection: sqlite3.Connection, hub: "Hub", stream: "Stream") -> None:
        """Queue what *hub* lacks, and begin a new history in its open transaction.

        Where its history is not known to be broken, only what is in doubt. *hub* holds the lock
        of *stream*, and both sides are in step. A journal that cannot be read is waited for; where
        that lasts, the history stays broken, and this is done again. Raises HubError,
        sqlite3.Error, and JournalUnreadable while it is waited for.
        """
        self._prepared = False
        if self.clock() < self._again_at:
            return
        if not read_history(connection).broken:
            if self.in_doubt():
                self._queue_readable(connection, hub, stream, in_doubt_alone=True)
            return
        self._prepared = True
        self._begun = HistoryMark()
        self._identities = {}
        if self._queue(connection, hub, stream):
            self._prepared = False
            return
        if history.can_keep_history(hub):
            self._begun = history.begin_history(hub, stream.node_id)

    def committed(self, connection: sqlite3.Connection) -> None:
        """Note that the transaction of :meth:`prepare` was committed; raises sqlite3.Error."""
        if self._prepared:
            self._prepared = False
            with tables.transaction(connection):
                note_history(connection, self._begun.history_id, self._begun.mark)
                note_identities(connection, self._identities)

    def _queue(self, connection: sqlite3.Connection, hub: "Hub", stream: "Stream") -> bool:
        """Queue what is lacking; whether the journal was left out, since it cannot be read."""
        left_out = self._queue_readable(connection, hub, stream)
        queued = self._queue_shared_rows(connection, hub, stream)
        if queued:
            logger.warning(
                "%d shared rows of this box are not in PostgreSQL, which went back in time: they "
                "are sent again", queued,
            )  # fmt: skip
        return left_out

    def _queue_readable(
        self,
        connection: sqlite3.Connection,
        hub: "Hub",
        stream: "Stream",
        *,
        in_doubt_alone: bool = False,
    ) -> bool:
        """Queue what is lacking of the journal; whether that cannot be read, for long already."""
        if self.journal is None:
            return False
        try:
            self._queue_journal(
                connection, self.journal, hub, stream, in_doubt_alone=in_doubt_alone
            )
        except JournalUnreadable as error:
            if not self.trouble.record_failure(error):
                raise
            self._again_at = self.clock() + AGAIN_AFTER
            return True
        self.trouble.record_success()
        return False

    def _queue_journal(
        self,
        connection: sqlite3.Connection,
        path: Path,
        hub: "Hub",
        stream: "Stream",
        *,
        in_doubt_alone: bool = False,
    ) -> None:
        with opened_journal(path, stream.node_id) as journal:
            if journal is None:
                return
            queued = queue_lost_entries(
                connection,
                journal,
                hub,
                stream.node_id,
                self.alive,
                in_doubt_alone=in_doubt_alone,
            )
        if queued and in_doubt_alone:
            logger.info(
                "%d rows of a process that was killed are not in PostgreSQL: a client may have "
                "been told that they are, so they are sent from the journal", queued,
            )  # fmt: skip
        elif queued:
            logger.warning(
                "%d rows that PostgreSQL had acknowledged while it served are not there: they are "
                "sent again from the journal", queued,
            )  # fmt: skip

    def _queue_shared_rows(
        self, connection: sqlite3.Connection, hub: "Hub", stream: "Stream"
    ) -> int:
        (reclaimed,) = connection.execute(f"SELECT reclaimed_seq FROM {STATE}").fetchone()  # noqa: S608
        try:
            missing = missing_shared_rows(
                connection,
                hub,
                self.document,
                confirmed=stream.confirmed_seq,
                # Changes that are nowhere queued any more: only the rows themselves show them.
                differing=stream.confirmed_seq < reclaimed,
            )
        except MirrorPostponed as error:
            logger.warning("which shared rows PostgreSQL lacks cannot be found out: %s", error)
            return 0
        self._identities = missing.identities
        return insert_among_waiting(connection, lambda: missing.transactions)
