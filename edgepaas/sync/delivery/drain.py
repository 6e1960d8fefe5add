# SPDX-License-Identifier: Apache-2.0
"""Sending what waits in the file to the hub: each batch exactly once, in one transaction.

Two numbers make it so: the stream's mark, kept on the hub in the transaction of the rows,
and the batch's random id, stored here as in flight before the COMMIT is sent. An answer
that never comes is then found out the next time: the hub has that id, or it has not.
"""

import logging
import sqlite3
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgepaas.alerts.catalogue import SYNC_CONFLICTS, SYNC_DEAD_LETTERS, SYNC_FORK, SYNC_HUB_LOST
from edgepaas.outbox import ledger
from edgepaas.outbox.layout import known
from edgepaas.outbox.reading import Batch, next_batch
from edgepaas.outbox.stream import (
    Counts,
    Stream,
    confirm,
    fork,
    pending,
    read_stream,
    rewind,
    set_inflight,
)
from edgepaas.sync.delivery import dead_letters
from edgepaas.sync.delivery.apply import NeedsRowByRow, PipelinedApplier
from edgepaas.sync.delivery.bisect import BisectingApplier
from edgepaas.sync.delivery.marks import (
    HubStreamState,
    StreamComparison,
    advance_statements,
    compare_marks,
    lock_stream,
)
from edgepaas.sync.delivery.planner import DeliveryCounts, Planner
from edgepaas.sync.delivery.sending import Origin
from edgepaas.sync.errors import RowRefused, SchemaDrift, UnclassifiedHubError
from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")

Say = Callable[[str], None]


@dataclass(frozen=True)
class DrainResult:
    """What one call did.

    ``rows`` were delivered, ``conflicts`` among them; ``dead`` are kept on the hub as dead
    letters; gap rows among them say that ``shed`` were given up; ``remaining`` wait still.
    ``hub_lost`` rows were delivered once, are not on the hub any more, nor here.
    """

    rows: int = 0
    dead: int = 0
    conflicts: int = 0
    shed: int = 0
    remaining: int = 0
    forked: bool = False
    hub_lost: int = 0


class _Progress:
    """Adds up what a call does."""

    def __init__(self) -> None:
        self.tally = DeliveryCounts()
        self.forked = False
        self.hub_lost = 0

    def add(self, tally: DeliveryCounts) -> None:
        self.tally.delivered += tally.delivered
        self.tally.dead += tally.dead
        self.tally.conflicts += tally.conflicts
        self.tally.shed += tally.shed

    def drained(self, remaining: int) -> DrainResult:
        tally = self.tally
        return DrainResult(
            tally.delivered, tally.dead, tally.conflicts, tally.shed, remaining,
            self.forked, self.hub_lost,
        )  # fmt: skip


def drain_batch(
    connection: sqlite3.Connection,
    hub: Hub,
    *,
    rows: int,
    say: Say = logger.info,
    models: Mapping[str, Any] | None = None,
) -> DrainResult:
    """Compare marks with *hub*, then send the next batch of about *rows* rows, if any waits.

    *connection* is the embedded database's, outside a transaction. *models* are the
    ``tables`` of run/tables.json; without, the file's newest layouts stand for them. *say*
    gets a line about whatever is out of the ordinary.

    Raises HubUnreachable (hold, back off; what was sent has arrived or not, the next call
    finds out), HubMisconfigured, SchemaDrift, UnclassifiedHubError, and sqlite3.Error of the file.
    """
    progress = _Progress()
    drifted = careful = False
    while True:
        stream = read_stream(connection)
        if stream is None:
            return DrainResult()
        hub.begin()
        try:
            standing = lock_stream(hub, stream)
            # Read again: whoever held the lock before may have drained this very file.
            stream = _settled(connection, stream, standing, progress, say)
            if stream is not None:
                careful = careful or standing.letters_waiting
                sending = _Sending(connection, hub, stream, standing, models, careful)
                _send_next(sending, rows, progress, say)
                break
        except SchemaDrift:
            if drifted:
                raise
            drifted = True  # perhaps only what this connection knows of the hub is old
            hub.forget_tables()
        except (NeedsRowByRow, RowRefused) as reason:
            if careful:
                raise UnclassifiedHubError(
                    f"a row was refused beyond what can be cut out: {reason}"
                ) from reason
            careful = True
            logger.debug("the batch is read again and applied with care: %s", reason)
        finally:
            hub.rollback()
    return progress.drained(pending(connection))


def _settled(
    connection: sqlite3.Connection,
    before: Stream,
    standing: HubStreamState,
    progress: _Progress,
    say: Say,
) -> Stream | None:
    """Bring the file in step with the hub's *standing*; None where the stream is another now."""
    stream = read_stream(connection)
    if stream is None or stream.stream_id != before.stream_id:
        return None
    if standing.stranger and stream.base_seq and _ever_delivered(connection):
        # Another hub than the one that has what was sent before the fork.
        _go_back(connection, stream, replace(standing, mark=0, batch=""), progress, say)
        return None
    verdict = compare_marks(stream, standing.mark, standing.batch)
    if verdict is StreamComparison.IN_STEP:
        return stream
    if verdict is StreamComparison.LANDED:
        say(f"the batch up to {standing.mark}, whose COMMIT was not answered, had arrived")
        _confirm(connection, standing.batch, standing.mark, standing.last)
        progress.add(standing.last)
    elif verdict is StreamComparison.BEHIND:
        _go_back(connection, stream, standing, progress, say)
    else:
        why = (
            f"PostgreSQL has rows of stream {stream.stream_id} up to {standing.mark} of which "
            f"this file knows up to {stream.confirmed_seq}: it is a copy, or an older state"
        )
        fork(connection, why)
        progress.forked = True
        say(why)
        SYNC_FORK.raise_alert(
            f"The SQLite file of this box was cloned or set back: {why}. It goes on as a stream "
            "of its own; what it sends again is applied only where nothing else was changed since"
        )
        return None
    return read_stream(connection)


def _go_back(
    connection: sqlite3.Connection,
    stream: Stream,
    standing: HubStreamState,
    progress: _Progress,
    say: Say,
) -> None:
    lost = rewind(connection, standing.mark, standing.batch)
    progress.hub_lost += lost
    again = pending(connection)
    say(
        f"PostgreSQL has this box's rows up to {standing.mark} and had them up to "
        f"{stream.confirmed_seq}: {again} are sent again, {lost} are lost"
    )
    SYNC_HUB_LOST.raise_alert(
        f"PostgreSQL has lost rows of this box (it had them up to {stream.confirmed_seq} and has "
        f"them up to {standing.mark}): it was restored from an older backup, or is another "
        f"database. What this box still has is sent again; {lost} rows that it no longer keeps "
        "are lost (RETENTION)",
        severity="critical" if lost else "warning",
    )


def _ever_delivered(connection: sqlite3.Connection) -> bool:
    counters = ledger.read(connection)
    return counters["delivered"] + counters["dead"] > 0


@dataclass(frozen=True)
class _Sending:
    """What a batch is sent from and to; *careful*: row by row where need be."""

    connection: sqlite3.Connection
    hub: Hub
    stream: Stream
    standing: HubStreamState
    models: Mapping[str, Any] | None
    careful: bool

    def applier(self) -> PipelinedApplier | BisectingApplier:
        models = _newest(self.connection) if self.models is None else self.models
        planner = Planner(self.hub.tables, models, set(self.standing.tombstoned))
        origin = Origin(self.stream.node_id, self.stream.stream_id)
        if not self.careful:
            return PipelinedApplier(self.hub, planner, origin)
        # A constraint that is checked at the end would not say which row broke it.
        self.hub.query("SET CONSTRAINTS ALL IMMEDIATE")
        waiting = self.standing.letters_waiting
        return BisectingApplier(self.hub, planner, origin, letters_waiting=waiting)


def _send_next(sending: _Sending, rows: int, progress: _Progress, say: Say) -> None:
    connection, hub, stream = sending.connection, sending.hub, sending.stream
    batch = next_batch(connection, sending.standing.mark, rows=rows)
    if batch is None:
        hub.commit()  # a stream that is new has its row from now on
        return
    identity = str(uuid.uuid4())
    # Before anything is sent, and while the lock is held: nobody else can send it.
    set_inflight(connection, identity, batch.last_seq)
    applier = sending.applier()
    tally = _apply(batch, applier)
    hub.commit(*advance_statements(stream, identity, batch.last_seq, tally))
    _confirm(connection, identity, batch.last_seq, tally)
    progress.add(tally)
    _tell(tally, applier.refused, say)


def _apply(batch: Batch, applier: PipelinedApplier | BisectingApplier) -> DeliveryCounts:
    for chunk in batch.chunks():
        applier.apply(chunk)
    return applier.finish()


def _confirm(
    connection: sqlite3.Connection, batch: str, last_seq: int, tally: DeliveryCounts
) -> None:
    counts = Counts(tally.delivered, dead=tally.dead, conflicts=tally.conflicts)
    confirm(connection, batch, last_seq, counts)


def _newest(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return the file's newest layout of each table, as tables.json has them."""
    return {
        layout.table: {"columns": [{"name": name} for name in layout.names]}
        for _, layout in sorted(known(connection).items())
    }


def _tell(tally: DeliveryCounts, refused: Sequence[dead_letters.RefusedChange], say: Say) -> None:
    if tally.dead:
        first = dead_letters.describe(refused)
        say(f"refused: {_rows(tally.dead)}; the first: {first}")
        SYNC_DEAD_LETTERS.raise_alert(
            f"PostgreSQL refused {_rows(tally.dead)} of this box, kept there as dead letters; "
            f"the queue goes on. The first: {first}"
        )
    if tally.conflicts:
        say(f"met by other values on the hub: {_rows(tally.conflicts)}")
        SYNC_CONFLICTS.raise_alert(
            f"PostgreSQL had other values than {_rows(tally.conflicts)} of this box; what was "
            "overwritten or left out is kept there"
        )


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
