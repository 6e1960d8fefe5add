# SPDX-License-Identifier: Apache-2.0
"""Sending the next batch of captured rows to the hub, exactly once, in one transaction.

Two numbers make that sure: the stream's mark, which the hub keeps in the transaction of the
rows, and the batch's random id, which the file stores as in flight before anything is sent.
When the answer to COMMIT is lost, the next call finds out: either the hub has that id or not.
"""

import json
import logging
import sqlite3
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edgepaas.alerts.catalogue import SYNC_CONFLICTS, SYNC_DEAD_LETTERS
from edgepaas.outbox.layout import stored_layouts
from edgepaas.outbox.ledger import pending
from edgepaas.outbox.reading import Batch, next_batch
from edgepaas.outbox.revisions.naming import Naming
from edgepaas.outbox.revisions.record import read_record
from edgepaas.outbox.stream import Stream, read_stream, set_inflight
from edgepaas.outcomes.causes import refusal_of
from edgepaas.sync.delivery import dead_letters
from edgepaas.sync.delivery.apply import FactsExist, NeedsRowByRow, PipelinedApplier
from edgepaas.sync.delivery.bisect import BisectingApplier
from edgepaas.sync.delivery.marks import (
    HubStreamState,
    advance_statements,
    lock_stream,
    unaltered_statements,
)
from edgepaas.sync.delivery.planner import DeliveryCounts, Planner
from edgepaas.sync.delivery.reconcile import Log, Totals, confirm_batch, reconcile
from edgepaas.sync.delivery.sending import Origin
from edgepaas.sync.errors import (
    HubError,
    RowRefused,
    SchemaDrift,
    TableRefused,
    UnclassifiedHubError,
)
from edgepaas.sync.hub.connection import Hub
from edgepaas.sync.hub.revisions import unchanged_statements

logger = logging.getLogger("edgepaas.sync")


@dataclass(frozen=True)
class DrainResult:
    """What one call did.

    ``rows`` were delivered, ``conflicts`` among them; ``dead`` are kept on the hub as dead
    letters; gap rows among them report that ``shed`` rows were given up; ``remaining`` still
    wait. ``hub_lost`` rows were delivered once and are now neither on the hub nor here.
    """

    rows: int = 0
    dead: int = 0
    conflicts: int = 0
    shed: int = 0
    remaining: int = 0
    forked: bool = False
    hub_lost: int = 0


class Recovery(Protocol):
    """What is done about a hub that went back in time (edgepaas.sync.resend.recovery)."""

    def prepare(self, connection: sqlite3.Connection, hub: Hub, stream: Stream) -> None:
        """Queue what *hub* has lost, if anything, in its open transaction."""

    def committed(self, connection: sqlite3.Connection) -> None:
        """Note that this transaction was committed."""


class NoRecovery:
    """Queues nothing: the drain of a file alone."""

    def prepare(self, connection: sqlite3.Connection, hub: Hub, stream: Stream) -> None:
        """Do nothing."""

    def committed(self, connection: sqlite3.Connection) -> None:
        """Do nothing."""


NO_RECOVERY = NoRecovery()


def drain_batch(
    connection: sqlite3.Connection,
    hub: Hub,
    *,
    rows: int,
    log: Log = logger.info,
    models: Mapping[str, Any] | None = None,
    before_reading: Callable[[], None] | None = None,
    recovery: Recovery = NO_RECOVERY,
) -> DrainResult:
    """Bring the file in step with *hub*, then send the next batch of about *rows* rows, if any.

    *connection* is that of the embedded database, outside a transaction. *models* are the
    ``tables`` of run/tables.json; without them, the file's newest layouts are used. *log*
    gets a line about everything out of the ordinary. *recovery* queues what a hub lost that
    went back in time, before the rows that wait.

    Raises HubUnreachable (retry later; whether the batch was committed is found out by the
    next call), TableRefused, HubMisconfigured, SchemaDrift, UnclassifiedHubError, and
    sqlite3.Error of the file.
    """
    totals = Totals()
    drifted = row_by_row = comparing = False
    while True:
        stream = read_stream(connection)
        if stream is None:
            return DrainResult()
        hub.begin()
        sending = None
        try:
            hub_state = lock_stream(hub, stream)
            stream = reconcile(connection, stream, hub_state, totals, log)
            if stream is not None:
                recovery.prepare(connection, hub, stream)
                if before_reading is not None:
                    before_reading()
                row_by_row = row_by_row or hub_state.letters_waiting
                sending = _Sending(
                    connection, hub, stream, hub_state, models, row_by_row, comparing
                )
                _send_next(sending, rows, totals, log)
                recovery.committed(connection)
                break
        except TableRefused:
            raise
        except SchemaDrift:
            rows, drifted = _fewer_after_drift(hub, rows, again=drifted), True
        except (NeedsRowByRow, RowRefused) as reason:
            if row_by_row:
                raise UnclassifiedHubError(
                    f"a row was refused that cannot be taken out of its batch: {reason}"
                ) from reason
            comparing = isinstance(reason, FactsExist)
            row_by_row = not comparing
            logger.debug("the batch is read again and applied otherwise: %s", reason)
        except HubError as error:
            # Sent together, the statements do not show which table it was that refused.
            if row_by_row or not sending or hub.broken or not refusal_of(error, ()):
                raise
            row_by_row = True
            logger.debug("the batch is read again to find what refuses it: %s", error)
        finally:
            hub.rollback()
    return _result(totals, pending(connection))


def _fewer_after_drift(hub: Hub, rows: int, *, again: bool) -> int:
    """Return how many rows to send after a SchemaDrift, which is being handled; or raise it.

    At first perhaps only what this connection knows of the hub is old. Where it comes *again*, rows
    of an older layout may stand before the one that does not fit: they go home, since a revision
    may wait for that.
    """
    if not again:
        hub.forget_tables()
        return rows
    if rows <= 1:
        raise  # noqa: PLE0704 - the SchemaDrift
    return rows // 2


def _result(totals: Totals, remaining: int) -> DrainResult:
    counts = totals.counts
    return DrainResult(
        counts.delivered, counts.dead, counts.conflicts, counts.shed, remaining,
        totals.forked, totals.hub_lost,
    )  # fmt: skip


@dataclass(frozen=True)
class _Sending:
    """The box's file and the hub that a batch is sent between.

    *row_by_row*: bisected on errors; *comparing*: facts of it are on the hub already.
    """

    connection: sqlite3.Connection
    hub: Hub
    stream: Stream
    hub_state: HubStreamState
    models: Mapping[str, Any] | None
    row_by_row: bool
    comparing: bool

    def planner(self) -> Planner:
        models = _newest_layouts(self.connection) if self.models is None else self.models
        naming = Naming(self.hub.revisions, read_record(self.connection))
        return Planner(self.hub.tables, models, set(self.hub_state.tombstoned), naming)

    def applier(self, planner: Planner) -> PipelinedApplier | BisectingApplier:
        origin = Origin(self.stream.node_id, self.stream.stream_id)
        if not self.row_by_row:
            return PipelinedApplier(self.hub, planner, origin, comparing=self.comparing)
        # A constraint that is checked at COMMIT would not tell which row broke it.
        self.hub.query("SET CONSTRAINTS ALL IMMEDIATE")
        waiting = self.hub_state.letters_waiting
        return BisectingApplier(self.hub, planner, origin, letters_waiting=waiting)


def _send_next(sending: _Sending, rows: int, totals: Totals, log: Log) -> None:
    connection, hub, stream = sending.connection, sending.hub, sending.stream
    batch = next_batch(connection, sending.hub_state.mark, rows=rows)
    if batch is None:
        hub.commit()  # the row of a stream that is new to the hub stays
        return
    batch_id = str(uuid.uuid4())
    # Before anything is sent, and while the lock is held, so that no other process sends it.
    set_inflight(connection, batch_id, batch.last_seq)
    planner = sending.planner()
    applier = sending.applier(planner)
    counts = _apply(batch, applier)
    hub.commit(
        *unchanged_statements(hub.revisions),
        *advance_statements(stream, batch_id, batch.last_seq, counts),
        *unaltered_statements(planner.used.values()),
    )
    confirm_batch(connection, batch_id, batch.last_seq, counts)
    totals.add(counts)
    _report(counts, applier.refused, log)


def _apply(batch: Batch, applier: PipelinedApplier | BisectingApplier) -> DeliveryCounts:
    for chunk in batch.chunks():
        applier.apply(chunk)
    return applier.finish()


def _newest_layouts(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return the file's newest layout of each table, in the form of tables.json."""
    return {
        layout.table: json.loads(layout.definition())
        for _, layout in sorted(stored_layouts(connection).items())
    }


def _report(
    counts: DeliveryCounts, refused: Sequence[dead_letters.RefusedChange], log: Log
) -> None:
    """Log and alert about dead letters and conflicts of a batch."""
    if counts.dead:
        first = dead_letters.describe(refused)
        log(f"refused: {_rows(counts.dead)}; the first: {first}")
        SYNC_DEAD_LETTERS.raise_alert(
            f"PostgreSQL refused {_rows(counts.dead)} of this box; they are kept there as dead "
            f"letters, and delivery goes on. The first: {first}"
        )
    if counts.conflicts:
        log(f"PostgreSQL had other values: {_rows(counts.conflicts)}")
        SYNC_CONFLICTS.raise_alert(
            f"PostgreSQL had other values than {_rows(counts.conflicts)} of this box; the values "
            "that were overwritten or left out are kept there"
        )


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
