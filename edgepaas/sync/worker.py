# SPDX-License-Identifier: Apache-2.0
"""The drainer's main loop: delivers rows as soon as they are written, and does what else is due.

One thread, one connection to each database. It sleeps until new rows are announced or
something is due: a poll for other writers, a heartbeat, a pass of the mirror, reclaiming, the
next attempt at a PostgreSQL that is unreachable. Failures go to ``failures.FailureTracker``.
"""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from edgepaas.database.failures import is_damaged, is_full
from edgepaas.errors import EdgePaaSError
from edgepaas.files.sqlite_file import note_damage
from edgepaas.marks.record import is_alive
from edgepaas.outbox.journal.tables import journal_path
from edgepaas.outbox.space import ballast
from edgepaas.outbox.versions import UnknownOutbox
from edgepaas.sync.box_file import BoxFile
from edgepaas.sync.context import SyncContext
from edgepaas.sync.errors import HubError, SchemaDrift
from edgepaas.sync.failures import FailureTracker
from edgepaas.sync.handback import HandBack, TakeoverFailed
from edgepaas.sync.hub.heartbeat_sender import HeartbeatSender
from edgepaas.sync.mirror.mirror import Mirror
from edgepaas.sync.reclaim import Reclaimer
from edgepaas.sync.refusals.refused_tables import RefusedTables
from edgepaas.sync.report import LiveStatus, StatusPublisher
from edgepaas.sync.resend.journal_trouble import JournalTrouble
from edgepaas.sync.resend.journaled import keys_unknown_to
from edgepaas.sync.resend.lost_connections import LostConnections
from edgepaas.sync.resend.recovery import Recovery
from edgepaas.sync.shutdown import Stopped
from edgepaas.sync.takeover.drain_time import DrainTime
from edgepaas.sync.takeover.rehearsal import Rehearsal, rehearse
from edgepaas.sync.takeover.turn import TakeoverTurn
from edgepaas.sync.turns.auditing import AuditTurn
from edgepaas.sync.turns.comparison import ComparisonTurn
from edgepaas.sync.turns.heartbeats import HeartbeatTurn
from edgepaas.sync.turns.history import HistoryTurn, SharedCopier
from edgepaas.sync.turns.layouts import LayoutTurn
from edgepaas.sync.turns.mirroring import MirrorTurn
from edgepaas.sync.turns.polled_file import POLL_INTERVAL, PolledFile
from edgepaas.sync.turns.reclaiming import ReclaimTurn
from edgepaas.sync.turns.schema import SchemaTurn
from edgepaas.sync.wakeups import WakeupSocket

if TYPE_CHECKING:
    from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")

#: Seconds to wait after a wake-up, so that rows written at the same moment go in one batch.
COALESCE = 0.003
#: The longest pause between two drains, in seconds. Without one, many small drains would keep
#: a slow disk busy with syncs.
LONGEST_PAUSE = 0.05


@dataclass
class SyncWorker:
    """One drainer, from start to stop; :meth:`run` belongs to the main thread."""

    context: SyncContext
    wake: WakeupSocket
    report: LiveStatus = field(default_factory=LiveStatus)
    _hub: "Hub | None" = None
    _pause: float = 0.0

    def __post_init__(self) -> None:
        settings, contract = self.context.settings, self.context.contract
        node = self.context.local_node()
        self.report.node_id, self.report.generation = node.node_id, contract.generation
        self._publisher = StatusPublisher(self.context.paths, self.report)
        self._publisher.restore()
        self._schema = self.context.hub_schema()
        interval, stop = settings.number("HEARTBEAT_INTERVAL"), self.context.stop
        sender = HeartbeatSender(node, self.context.paths, contract, self.report, interval)
        self._drain_time = DrainTime(self.context.link, batch=settings.integer("SYNC_BATCH"))
        self._handback = HandBack(
            contract, settings, self.context.paths, drain_time=self._drain_time
        )
        self._heartbeat = HeartbeatTurn(
            sender, interval, stop, sent=self._handback.record_hub_write
        )
        self._takeover = TakeoverTurn(
            self._handback,
            Rehearsal(partial(rehearse, contract.hub_url, settings, self.context.paths)),
            self.report,
            self._send_batch,
            partial(self._heartbeat.take, alone=True),
        )
        journal = journal_path(contract.sqlite_path)
        mirror = Mirror(
            self.context.table_document(),
            stop.raise_if_requested,
            SharedCopier(journal),
            partial(keys_unknown_to, path=journal, node_id=node.node_id),
        )
        self._models = mirror.document["tables"]
        self._history = HistoryTurn(journal, wanted=contract.sqlite_active)
        trouble = JournalTrouble()
        connections = LostConnections(
            self.context.paths, node.node_id, journal, self._is_alive, trouble=trouble
        )
        self._recovery = Recovery(
            mirror.document,
            journal,
            self._is_alive,
            lambda: connections.in_doubt,
            trouble=trouble,
        )
        self._mirror = MirrorTurn(mirror, settings.number("MIRROR_INTERVAL"), self.report, stop)
        self._audit = AuditTurn(self.context, self._models, self.report)

        def opened() -> None:
            mirror.compare_everything()
            self._audit.look_at_state(self._file.current)

        self._file = PolledFile(self.context, self.report, opened=opened)
        self._refused = RefusedTables(
            self.context.paths, self._models, settings.number("POSTGRES_HOLD")
        )
        self._failures = FailureTracker(
            self.report,
            contract.db_state == "local-first",
            patience=settings.number("WRITE_PATIENCE"),
            refused=self._refused.listed if contract.sqlite_active else tuple,
        )
        self._reclaim = ReclaimTurn(
            Reclaimer(settings.number("RETENTION")),
            self._heartbeat,
            self.report,
            reclaimed=mirror.compare_everything,
        )
        self._comparison = ComparisonTurn(self.context, interval, connections)
        self._layouts = LayoutTurn(self.context, node.node_id, mirror.document, interval)
        self._schema_turn = SchemaTurn(self.context.paths, self._schema)

    def run(self) -> int:
        """Drain until a stop is requested; returns the exit status."""
        stop = self.context.stop
        try:
            while not stop.requested:
                self._turn()
                self._sleep()
            self._send_final_heartbeat()
        except Stopped:
            logger.debug("stopped in the middle of work: %s", stop.reason)
        finally:
            self._close_hub()
            self._history.close()
            self._file.close()
        logger.info("ending with status %d: %s", stop.status, stop.reason)
        return stop.status

    def _send_final_heartbeat(self) -> None:
        if self._handback.in_progress:
            return  # the box goes on, and the chain waits
        if self._hub is not None and self._failures.remaining <= 0:
            self._heartbeat.take_last(self._hub)

    def _turn(self) -> None:
        """Do everything that is due, or count what waits while the hub is unreachable."""
        try:
            self._history.take(self._file.current)
            if self._failures.remaining <= 0:
                self._work()
                self._failures.record_success()
            else:
                self._file.count_waiting(handing_back=self._handback.in_progress)
        except Stopped:
            raise
        except (EdgePaaSError, sqlite3.Error, OSError) as error:
            self.context.stop.raise_if_requested()  # a stop aborts connections: no failure
            self._handle_failure(error)
        if self._file.current is not None:
            self._handback.enforce_deadline(self._file.current.connection)
        self.report.hand_back = self._handback.status_text(self.report.rows_waiting)
        self._publisher.publish()

    def _handle_failure(self, error: Exception) -> None:
        """Close the side that failed; it is opened again after the back-off."""
        self._file.dirty = True
        self._failures.record_failure(error)
        if isinstance(error, HubError):
            self._close_hub()
            self._audit.forget_pass()
            self._handback.record_hub_failure()
            self._takeover.forget()
            if self._handback.wanted:
                self._refused.hold_on()
            if isinstance(error, SchemaDrift):
                self._schema.at_head = False
            return
        self._file.close()
        if is_damaged(error):
            note_damage(self.context.contract.sqlite_path, error)
        if is_full(error) and ballast.release(self.context.paths.ballast):
            # Even storing that a batch is in flight takes room.
            logger.warning("the disk is full: the ballast file is deleted to make room")

    def _sleep(self) -> None:
        """Sleep until something is due or new rows are announced."""
        held = self._failures.remaining
        if self._handback.in_progress:
            left = min(self._handback.seconds_left(), self._publisher.seconds_left())
        elif self._file.dirty and held <= 0:
            left = self._pause
        else:
            left = min(self._file.due.left, self._publisher.seconds_left(), *self._due(held))
        if self.wake.sleep(left, ignore_wakeups=held > 0):
            self._file.dirty = True
            self.wake.sleep(max(COALESCE, self._pause), ignore_wakeups=True)

    def _due(self, held: float) -> Iterator[float]:
        """Give the seconds until each task that a turn would do; *held*: of back-off left."""
        if held > 0:
            yield held
            return
        yield self._heartbeat.due.left
        yield self._comparison.due.left
        yield self._layouts.due.left
        yield self._schema_turn.left(self.report.rows_waiting)
        yield self._takeover.seconds_left()
        # A hand-back that is due but blocked is looked at again with the next poll.
        yield self._handback.seconds_left() or POLL_INTERVAL
        if self._file.captures:
            yield self._reclaim.due.left
            yield self._mirror.due.left
            yield self._audit.left

    def _work(self) -> None:
        """Do everything that is due, rows first; nothing while the chain waits for our end."""
        if self._handback.in_progress:
            return  # no row can wait, and a call to PostgreSQL would have to be aborted
        hub = self._connected_hub()
        try:
            file = self._file.poll(handing_back=False)
        except UnknownOutbox:
            # The box is there and serves: PostgreSQL is to know, and how many rows it keeps.
            self._heartbeat.take(hub, alone=True)
            raise
        if self._handback.wanted:
            self._rehearse(hub)
        # Before anything is sent: what a hub lost is older than what waits.
        if self._comparison.due.left <= 0 and not self._comparison.take(file, hub):
            self._file.dirty = True
        if file is not None:
            self._drain(file, hub)
        if self._heartbeat.is_due:
            self._heartbeat.take(hub)
        self._see_to_schema(file, hub)
        if file is None or not file.captures or self._has_backlog():
            return
        if self._reclaim.due.left <= 0:
            self._reclaim.take(file, hub)
        if self._handback.blocked_reason(self.report.rows_waiting) is None:
            try:
                self._takeover.take(file.connection, hub)
            except TakeoverFailed as error:
                logger.warning("PostgreSQL does not take over: %s", error)
                self._file.dirty = True
                self._close_hub()  # it may have been aborted
        elif self._look_at_hub(file, hub):
            self._file.dirty = True

    def _see_to_schema(self, file: BoxFile | None, hub: "Hub") -> None:
        """Report what a revision of PostgreSQL has to wait for; try one again that waits."""
        if self._layouts.due.left <= 0:
            self._layouts.take(file, hub)
        waiting = self.report.rows_waiting
        if self._schema_turn.left(waiting) <= 0:
            self._schema_turn.take(hub, waiting)

    def _look_at_hub(self, file: BoxFile, hub: "Hub") -> bool:
        """Mirror, else audit, if that is due; whether there is something to be sent again."""
        if self._mirror.due.left <= 0:
            return not self._mirror.take(file, hub)
        return self._audit.left <= 0 and self._audit.take(file, hub)

    def _rehearse(self, hub: "Hub") -> None:
        """Try the tables for whose sake PostgreSQL was given up, before anything is sent."""
        with self.context.stop.abort_on_stop(hub.abort):
            self._refused.rehearse(hub)

    def _has_backlog(self) -> bool:
        """Whether more rows wait than one batch holds: all other work waits for them.

        Where devices write all the time some rows nearly always wait: those written while the
        last batch was sent. Waiting for none would delay a hand-back for ever on a slow link.
        """
        return self._file.dirty and self.report.rows_waiting > self.context.settings.integer(
            "SYNC_BATCH"
        )

    def _is_alive(self, _stream_id: str, owner: str) -> bool:
        """Whether the process that wrote a stream may still commit on it."""
        return is_alive(self.context.paths, owner)

    # -- the hub --

    def _connected_hub(self) -> "Hub":
        if self._hub is None:
            hub = self.context.connect(self._schema)
            self._hub = hub
            self._file.dirty = True
            self._heartbeat.make_due()
            self._comparison.make_due()
            self._layouts.forget()
            self._schema_turn.forget()
            self.report.server = hub.server_name
            logger.info("connected to %s", hub.server_name)
        return self._hub

    def _close_hub(self) -> None:
        hub, self._hub = self._hub, None
        if hub is not None:
            hub.close()

    def _drain(self, file: BoxFile, hub: "Hub") -> None:
        """Send one batch: between two batches other work that is due gets its turn."""
        if not self._file.dirty:
            return
        if not file.captures:
            self._file.dirty = False
            self._file.read_ledger(file)
            return
        began = time.monotonic()
        sent = self._send_batch(file.connection, hub)
        took = time.monotonic() - began
        if sent:
            self._drain_time.record(sent, took)
            self._handback.record_hub_write()
            self.report.record_delivery(time.time())
        self._file.read_ledger(file)
        self._file.dirty = self.report.rows_waiting > 0
        full = sent >= self.context.settings.integer("SYNC_BATCH")
        self._pause = 0.0 if full else min(LONGEST_PAUSE, took)
        self.report.state = "draining" if self._file.dirty else "idle"

    def _send_batch(
        self,
        connection: sqlite3.Connection,
        hub: "Hub",
        before_reading: Callable[[], None] | None = None,
    ) -> int:
        from edgepaas.sync.delivery.drain import drain_batch

        with self.context.stop.abort_on_stop(hub.abort):
            self.context.stop.raise_if_requested()
            batch = drain_batch(
                connection,
                hub,
                rows=self.context.settings.integer("SYNC_BATCH"),
                log=logger.info,
                models=self._models or None,
                before_reading=before_reading,
                recovery=self._recovery,
            )
        return int(batch.rows)
