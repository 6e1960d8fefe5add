# SPDX-License-Identifier: Apache-2.0
"""Whether the hub has all that it acknowledged over the service's connections.

The marks of both sides tell, by the box's record; the end of the journal tells what a process
that was killed had not recorded. What was found is sent again by the next batch, and what the
journal does not have is counted as lost.
"""

import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgepaas.files.locks import LockHeld
from edgepaas.marks.check import alert_lost, compare
from edgepaas.marks.comparison import Loss, Mark
from edgepaas.marks.record import changing, read_record
from edgepaas.outbox.journal.access import JournalUnreadable
from edgepaas.outbox.resending import resent
from edgepaas.outbox.resending.recovery_state import note_broken, read_history
from edgepaas.sync.resend.journal_trouble import JournalTrouble
from edgepaas.sync.resend.journaled import (
    NEWEST,
    doubtful_entries,
    lost_entries,
    opened_journal,
)

if TYPE_CHECKING:
    from pathlib import Path

    from edgepaas.files.paths import Paths
    from edgepaas.outbox.journal.journal import Alive
    from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")

#: Seconds after a loss in which the end of the journal is looked at again: transactions whose
#: COMMIT was under way are known by then.
LOOK_AGAIN = 120.0


class LostConnections:
    """Compares the connections of the box *node_id*, by the record in *paths* and the journal."""

    def __init__(
        self,
        paths: "Paths",
        node_id: str,
        journal: "Path",
        alive: "Alive",
        *,
        trouble: JournalTrouble | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*alive*: whether a connection may still commit on a stream of the journal."""
        self._paths = paths
        self._node_id = node_id
        self._journal = journal
        self._alive = alive
        self._trouble = trouble or JournalTrouble(clock=clock)
        self._clock = clock
        self._look_until = float("-inf")
        self._known: dict[str, Loss] = {}
        self._told = 0
        #: Whether the journal has entries that are in doubt, to be sent by the next batch.
        self.in_doubt = False

    def look_closely(self) -> None:
        """Look at the end of the journal for a while, as over a new connection."""
        self._look_until = self._clock() + LOOK_AGAIN

    def compare(self, hub: "Hub", connection: sqlite3.Connection | None) -> bool:
        """Whether *hub* has everything; what it lost is noted in the box's file.

        *connection*: of that file, None where it captures nothing. Raises HubError, sqlite3.Error
        of it; a journal that cannot be read is looked at again by the next comparison.
        """
        lost = self._compare_marks(hub)
        losses = self._read_losses()
        changed = _missing(losses) != _missing(self._known)
        if connection is None:
            return True
        if lost or changed:
            self.look_closely()
        if not lost and (changed or self._clock() < self._look_until):
            found = self._lacks_entries(hub, whole=changed)
            if found is None:
                self.look_closely()
                return True  # not known: the next comparison looks again
            lost = found
        if lost:
            note_broken(connection)
        elif losses and not read_history(connection).broken:
            self._account(connection, losses)
        # Not before: what interrupts a look at a loss must not be the last that is seen of it.
        self._known = losses
        self.in_doubt = not lost and self._has_doubts(hub)
        return not (lost or self.in_doubt)

    def _compare_marks(self, hub: "Hub") -> bool:
        """Compare by the record; whether something new is missing."""

        def ask(sql: str) -> Sequence[Sequence[Any]]:
            return hub.query(sql)

        try:
            if read_record(self._paths, self._node_id) is None:
                return False
            found = compare(
                ask,
                self._paths,
                self._node_id,
                journaled=self._journal.exists(),
                joined=self._joined_streams,
            )
            return bool(found.losses)
        except JournalUnreadable as error:
            # It is asked where the sum of joined streams is not there: the hub went back.
            self._trouble.record_failure(error)
            return True
        except (OSError, LockHeld) as error:
            # The service compares as well, by what it has in memory.
            logger.warning("the marks of the connections are not compared: %s", error)
            return False

    def _joined_streams(self) -> Collection[str]:
        with opened_journal(self._journal, self._node_id) as journal:
            return () if journal is None else journal.joined_streams().keys()

    def _read_losses(self) -> dict[str, Loss]:
        try:
            record = read_record(self._paths, self._node_id)
        except OSError:
            return self._known
        return {} if record is None else dict(record.losses)

    def _lacks_entries(self, hub: "Hub", *, whole: bool) -> bool | None:
        """Whether the journal, or its end, has what *hub* acknowledged and lacks; None: unknown."""
        try:
            with opened_journal(self._journal, self._node_id) as journal:
                found = journal is not None and bool(
                    lost_entries(
                        journal, hub, self._node_id, self._alive, newest=0 if whole else NEWEST
                    )
                )
        except JournalUnreadable as error:
            self._trouble.record_failure(error)
            return None
        self._trouble.record_success()
        return found

    def _has_doubts(self, hub: "Hub") -> bool:
        try:
            with opened_journal(self._journal, self._node_id) as journal:
                return journal is not None and bool(
                    doubtful_entries(journal, hub, self._node_id, self._alive)
                )
        except JournalUnreadable as error:
            self._trouble.record_failure(error)
            return False  # the next comparison looks again

    def _account(self, connection: sqlite3.Connection, losses: dict[str, Loss]) -> None:
        """Count what is sent again as lost no longer; alert what is in no journal."""
        marks = {
            identity: (loss.hub.transactions, loss.known.transactions)
            for identity, loss in losses.items()
        }
        rows = resent.rows_of(connection, marks)
        try:
            with changing(self._paths, self._node_id) as record:
                if _missing(record.losses) != _missing(losses):
                    # Found meanwhile, by the service: not looked for in the journal yet.
                    return
                record.set_resent(rows)
                lost = record.lost
                unknown = lost.rows - record.acknowledged.rows
        except (OSError, LockHeld) as error:
            logger.warning("what is sent again is not recorded: %s", error)
            return
        if unknown > 0 and lost.rows != self._told and self._journal.exists():
            alert_lost(lost)
        self._told = lost.rows


def _missing(losses: Mapping[str, Loss]) -> dict[str, Mark]:
    """Return what of each stream was lost, whatever of it is sent again."""
    return {identity: loss.missing for identity, loss in losses.items()}
