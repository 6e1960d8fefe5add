# SPDX-License-Identifier: Apache-2.0
"""Bringing the file in step with what the hub has of its stream, before anything is sent."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from edgepaas.alerts.catalogue import SYNC_FORK, SYNC_HUB_LOST
from edgepaas.outbox import ledger
from edgepaas.outbox.ledger import pending
from edgepaas.outbox.resending.recovery_state import note_broken
from edgepaas.outbox.stream import Counts, Stream, confirm, fork, read_stream, rewind
from edgepaas.outbox.tables import transaction
from edgepaas.sync.delivery.marks import HubStreamState, StreamComparison, compare_marks
from edgepaas.sync.delivery.planner import DeliveryCounts

#: Gets a line about everything out of the ordinary.
Log = Callable[[str], None]


@dataclass
class Totals:
    """What one call of ``drain_batch`` did so far."""

    counts: DeliveryCounts = field(default_factory=DeliveryCounts)
    #: Whether the file went on as a new stream.
    forked: bool = False
    #: Rows that the hub confirmed once, and that neither side has any more.
    hub_lost: int = 0

    def add(self, counts: DeliveryCounts) -> None:
        """Add what became of a batch."""
        self.counts.delivered += counts.delivered
        self.counts.dead += counts.dead
        self.counts.conflicts += counts.conflicts
        self.counts.shed += counts.shed


def reconcile(
    connection: sqlite3.Connection,
    before: Stream,
    hub_state: HubStreamState,
    totals: Totals,
    log: Log,
) -> Stream | None:
    """Bring the file in step with *hub_state*, the stream's row on the hub, which is locked.

    Returns the stream as it is then; None where it is another one than *before*, which was
    read before the lock was taken, so that the row of the new one has to be locked.
    """
    # Read again: a process that held the lock before may have drained this very file.
    stream = read_stream(connection)
    if stream is None or stream.stream_id != before.stream_id:
        return None
    if hub_state.unknown_to_hub and stream.base_seq and _ever_delivered(connection):
        # Another hub than the one that has what was sent before the fork.
        _rewind(connection, stream, replace(hub_state, mark=0, batch=""), totals, log)
        return None
    comparison = compare_marks(stream, hub_state.mark, hub_state.batch)
    if comparison is StreamComparison.IN_STEP:
        return stream
    if comparison is StreamComparison.COMMITTED:
        log(f"the batch up to {hub_state.mark}, whose COMMIT was not answered, was committed")
        confirm_batch(connection, hub_state.batch, hub_state.mark, hub_state.last)
        totals.add(hub_state.last)
    elif comparison is StreamComparison.HUB_BEHIND:
        _rewind(connection, stream, hub_state, totals, log)
    else:
        _fork(connection, stream, hub_state, totals, log)
        return None
    return read_stream(connection)


def confirm_batch(
    connection: sqlite3.Connection, batch: str, last_seq: int, counts: DeliveryCounts
) -> None:
    """Record in the file that the hub has committed *batch*, up to *last_seq*."""
    confirmed = Counts(counts.delivered, dead=counts.dead, conflicts=counts.conflicts)
    confirm(connection, batch, last_seq, confirmed)


def _fork(
    connection: sqlite3.Connection,
    stream: Stream,
    hub_state: HubStreamState,
    totals: Totals,
    log: Log,
) -> None:
    why = (
        f"PostgreSQL has rows of stream {stream.stream_id} up to {hub_state.mark}, and this file "
        f"knows of them up to {stream.confirmed_seq}: it is a copy, or an older state"
    )
    fork(connection, why)
    totals.forked = True
    log(why)
    SYNC_FORK.raise_alert(
        f"The SQLite file of this box was cloned or set back: {why}. It goes on as a new stream; "
        "what it sends again is applied only where nothing else was changed since"
    )


def _rewind(
    connection: sqlite3.Connection,
    stream: Stream,
    hub_state: HubStreamState,
    totals: Totals,
    log: Log,
) -> None:
    with transaction(connection):
        lost = rewind(connection, hub_state.mark, hub_state.batch)
        note_broken(connection)
    totals.hub_lost += lost
    again = pending(connection)
    log(
        f"PostgreSQL has this box's rows up to {hub_state.mark} and had them up to "
        f"{stream.confirmed_seq}: {again} are sent again, {lost} are lost"
    )
    SYNC_HUB_LOST.raise_alert(
        f"PostgreSQL has lost rows of this box (it had them up to {stream.confirmed_seq} and has "
        f"them up to {hub_state.mark}): it was restored from an older backup, or is another "
        f"database. What this box still has is sent again; {lost} rows that it no longer keeps "
        "are lost (RETENTION)",
        severity="critical" if lost else "warning",
    )


def _ever_delivered(connection: sqlite3.Connection) -> bool:
    counters = ledger.read(connection)
    return counters["delivered"] + counters["dead"] > 0
