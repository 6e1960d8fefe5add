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
from edgepaas.decision.waiting import rows_waiting
from edgepaas.errors import EXIT_DONE, EdgePaaSError
from edgepaas.files.sqlite_file import note_damage
from edgepaas.outbox import fence, ledger
from edgepaas.outbox.space import ballast
from edgepaas.outbox.stream import read_stream
from edgepaas.outbox.versions import UnknownOutbox
from edgepaas.sync.box_file import BoxFile, open_box_file
from edgepaas.sync.context import SyncContext
from edgepaas.sync.errors import HubError, SchemaDrift
from edgepaas.sync.failures import FailureTracker
from edgepaas.sync.handback import HandBack, TakeoverFailed, lift_leftover_fence
from edgepaas.sync.hub.heartbeat_sender import HeartbeatSender
from edgepaas.sync.mirror.mirror import Mirror
from edgepaas.sync.mirror.ordered_rows import MirrorPostponed
from edgepaas.sync.reclaim import Reclaimer
from edgepaas.sync.refused_tables import RefusedTables
from edgepaas.sync.report import LiveStatus, StatusPublisher
from edgepaas.sync.shutdown import Stopped
from edgepaas.sync.status import Mirrored
from edgepaas.sync.takeover.drain_time import DrainTime
from edgepaas.sync.takeover.rehearsal import Rehearsal, rehearse
from edgepaas.sync.takeover.turn import TakeoverTurn
from edgepaas.sync.wakeups import WakeupSocket
from edgepaas.timing.due import Interval
from edgepaas.timing.moment import rfc3339

if TYPE_CHECKING:
    from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")

#: Seconds between two polls for writers that send no wake-up. Where PostgreSQL serves, only
#: scripts write to the file.
POLL_INTERVAL = 1.0
POLL_INTERVAL_IN_PRIMARY = 5.0
#: Seconds to wait after a wake-up, so that rows written at the same moment go in one batch.
COALESCE = 0.003
#: The longest pause between two drains, in seconds. Without one, many small drains would keep
#: a slow disk busy with syncs.
LONGEST_PAUSE = 0.05
#: Seconds between two looks at a rehearsal that is under way.
_REHEARSAL_POLL = 0.05
#: The hub is asked so often, in parts of HEARTBEAT_INTERVAL, whether it went back in time.
COMPARISON_SHARE = 2 / 3
#: A pass of the mirror takes no more than this share of the time.
_MIRROR_SHARE = 0.05


@dataclass
class SyncWorker:
    """One drainer, from start to stop; :meth:`run` belongs to the main thread."""

    context: SyncContext
    wake: WakeupSocket
    report: LiveStatus = field(default_factory=LiveStatus)
    _hub: "Hub | None" = None
    _file: BoxFile | None = None
    #: Whether rows may wait that have not been looked at.
    _dirty: bool = True
    _pause: float = 0.0

    def __post_init__(self) -> None:
        settings, contract = self.context.settings, self.context.contract
        node = self.context.local_node()
        self.report.node_id, self.report.generation = node.node_id, contract.generation
        self._publisher = StatusPublisher(self.context.paths, self.report)
        self._publisher.restore()
        self._schema = self.context.hub_schema()
        interval = settings.number("HEARTBEAT_INTERVAL")
        self._heartbeat = HeartbeatSender(node, self.context.paths, contract, self.report, interval)
        self._drain_time = DrainTime(self.context.link, batch=settings.integer("SYNC_BATCH"))
        self._handback = HandBack(
            contract, settings, self.context.paths, drain_time=self._drain_time
        )
        self._takeover = TakeoverTurn(
            self._handback,
            Rehearsal(partial(rehearse, contract.hub_url, settings, self.context.paths)),
            self.report,
            self._send_batch,
            partial(self._send_heartbeat, alone=True),
        )
        self._mirror = Mirror(self.context.table_document(), self.context.stop.raise_if_requested)
        self._refused = RefusedTables(
            self.context.paths, self._mirror.document["tables"], settings.number("POSTGRES_HOLD")
        )
        self._failures = FailureTracker(
            self.report,
            contract.db_state == "local-first",
            patience=settings.number("WRITE_PATIENCE"),
            refused=self._refused.listed if contract.sqlite_active else tuple,
        )
        self._reclaimer = Reclaimer(settings.number("RETENTION"))
        self._heartbeat_due = Interval(interval)
        self._comparison_due = Interval(COMPARISON_SHARE * interval)
        self._mirror_due = Interval(settings.number("MIRROR_INTERVAL"))
        self._poll_due = Interval(
            POLL_INTERVAL if contract.sqlite_active else POLL_INTERVAL_IN_PRIMARY
        )

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
            self._close_file()
        logger.info("ending with status %d: %s", stop.status, stop.reason)
        return stop.status

    def _send_final_heartbeat(self) -> None:
        """Report the state in which the service stops, if the hub can be reached."""
        stop, hub = self.context.stop, self._hub
        if hub is None or stop.status != EXIT_DONE or self._failures.remaining > 0:
            return  # with another status this process is started again, and reports then
        with stop.abort_on_stop(hub.abort):
            self._heartbeat.send_final(hub)

    def _turn(self) -> None:
        """Do everything that is due, or count what waits while the hub is unreachable."""
        try:
            if self._failures.remaining <= 0:
                self._work()
                self._failures.record_success()
            else:
                self._count_waiting()
        except Stopped:
            raise
        except (EdgePaaSError, sqlite3.Error, OSError) as error:
            self.context.stop.raise_if_requested()  # a stop aborts connections: no failure
            self._handle_failure(error)
        if self._file is not None:
            self._handback.enforce_deadline(self._file.connection)
        self.report.hand_back = self._handback.status_text(self.report.rows_waiting)
        self._publisher.publish()

    def _handle_failure(self, error: Exception) -> None:
        """Close the side that failed; it is opened again after the back-off."""
        self._dirty = True
        self._failures.record_failure(error)
        if isinstance(error, HubError):
            self._close_hub()
            self._handback.record_hub_failure()
            if self._handback.wanted:
                self._refused.hold_on()
            if isinstance(error, SchemaDrift):
                self._schema.at_head = False
            return
        self._close_file()
        if is_damaged(error):
            note_damage(self.context.contract.sqlite_path, error)
        if is_full(error) and ballast.release(self.context.paths.ballast):
            # Even storing that a batch is in flight takes room.
            logger.warning("the disk is full: the ballast file is deleted to make room")

    def _sleep(self) -> None:
        """Sleep until something is due or new rows are announced."""
        held = self._failures.remaining
        if self._dirty and held <= 0:
            left = self._pause
        else:
            left = min(self._poll_due.left, self._publisher.seconds_left(), *self._due(held))
        if self.wake.sleep(left, ignore_wakeups=held > 0):
            self._dirty = True
            self.wake.sleep(max(COALESCE, self._pause), ignore_wakeups=True)

    def _due(self, held: float) -> Iterator[float]:
        """Give the seconds until each task that a turn would do; *held*: of back-off left."""
        if held > 0:
            yield held
            return
        yield self._heartbeat_due.left
        yield self._comparison_due.left
        if self._takeover.rehearsal.running:
            yield _REHEARSAL_POLL
        # A hand-back that is due but blocked is looked at again with the next poll.
        yield self._handback.seconds_left() or POLL_INTERVAL
        if self._file is not None and self._file.captures:
            yield self._reclaimer.due.left
            if not self._handback.in_progress:
                yield self._mirror_due.left

    def _work(self) -> None:
        """Do everything that is due, rows first."""
        hub = self._connected_hub()
        try:
            file = self._polled_file()
        except UnknownOutbox:
            # The box is there and serves: PostgreSQL is to know, and how many rows it keeps.
            self._send_heartbeat(hub, alone=True)
            raise
        if self._handback.wanted:
            self._rehearse(hub)
        if file is not None:
            self._drain(file, hub)
        if self._heartbeat_due.left <= 0 or self._heartbeat.state_changed():
            self._send_heartbeat(hub)
        if self._comparison_due.left <= 0:
            self._compare(file, hub)
        if file is None or not file.captures or self._has_backlog():
            return
        if self._reclaimer.due.left <= 0:
            self._reclaim(file, hub)
        if self._handback.in_progress:
            return
        if self._handback.blocked_reason(self.report.rows_waiting) is None:
            try:
                self._takeover.take(file.connection, hub)
            except TakeoverFailed as error:
                logger.warning("PostgreSQL does not take over: %s", error)
                self._dirty = True
                self._close_hub()  # it may have been aborted
        elif self._mirror_due.left <= 0:
            self._run_mirror(file, hub)

    def _rehearse(self, hub: "Hub") -> None:
        """Try the tables for whose sake PostgreSQL was given up, before anything is sent."""
        with self.context.stop.abort_on_stop(hub.abort):
            self._refused.rehearse(hub)

    def _has_backlog(self) -> bool:
        """Whether more rows wait than one batch holds: all other work waits for them.

        Where devices write all the time some rows nearly always wait: those written while the
        last batch was sent. Waiting for none would delay a hand-back for ever on a slow link.
        """
        return self._dirty and self.report.rows_waiting > self.context.settings.integer(
            "SYNC_BATCH"
        )

    # -- the SQLite file --

    def _polled_file(self) -> BoxFile | None:
        """Return the file, open; polls for other writers when that is due."""
        if self._file is None and (self._dirty or self._poll_due.left <= 0):
            self._poll_due.done()
            self._file = self._opened_file()
            if self._file is not None and self._file.captures:
                lift_leftover_fence(
                    self._file.connection, self.context.paths, self.context.contract
                )
            self._dirty = self._file is not None
            self._mirror.compare_everything()
        elif self._file is not None and self._poll_due.left <= 0:
            self._poll_due.done()
            self._dirty = self._file.changed() or self._dirty
            if not self._handback.in_progress and self._file.captures:
                fence.lift_if_expired(self._file.connection)
        return self._file

    def _opened_file(self) -> BoxFile | None:
        """Open the file; counts the rows in one of a newer release, which is refused."""
        path, paths = self.context.contract.sqlite_path, self.context.paths
        try:
            return open_box_file(path, paths)
        except UnknownOutbox:
            found = rows_waiting(path, paths.database_lock)
            if found.readable:
                self.report.set_waiting(found.rows, time.time())
            raise

    def _count_waiting(self) -> None:
        """While the hub is unreachable: count the rows that wait, with each poll."""
        if self._poll_due.left <= 0 and (file := self._polled_file()) is not None:
            self._read_ledger(file)

    def _read_ledger(self, file: BoxFile) -> None:
        if not file.captures:
            self.report.set_waiting(0, time.time())
            return
        stream = read_stream(file.connection)
        self.report.set_ledger(ledger.read(file.connection), time.time())
        self.report.stream_id = stream.stream_id if stream is not None else ""

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    # -- the hub --

    def _connected_hub(self) -> "Hub":
        if self._hub is None:
            hub = self.context.connect(self._schema)
            self._hub = hub
            self._dirty = True
            self._heartbeat_due = Interval(self._heartbeat_due.every)
            self.report.server = hub.server_name
            logger.info("connected to %s", hub.server_name)
        return self._hub

    def _close_hub(self) -> None:
        hub, self._hub = self._hub, None
        if hub is not None:
            hub.close()

    def _drain(self, file: BoxFile, hub: "Hub") -> None:
        """Send one batch: between two batches other work that is due gets its turn."""
        if not self._dirty:
            return
        if not file.captures:
            self._dirty = False
            self._read_ledger(file)
            return
        began = time.monotonic()
        sent = self._send_batch(file.connection, hub)
        took = time.monotonic() - began
        if sent:
            self._drain_time.record(sent, took)
            self._handback.record_hub_write()
            self.report.record_delivery(time.time())
        self._read_ledger(file)
        self._dirty = self.report.rows_waiting > 0
        full = sent >= self.context.settings.integer("SYNC_BATCH")
        self._pause = 0.0 if full else min(LONGEST_PAUSE, took)
        self.report.state = "draining" if self._dirty else "idle"

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
                models=self._mirror.document["tables"] or None,
                before_reading=before_reading,
            )
        return int(batch.rows)

    def _send_heartbeat(self, hub: "Hub", *, alone: bool = False) -> None:
        with self.context.stop.abort_on_stop(hub.abort):
            self._heartbeat.send(hub, alone=alone)
        self._heartbeat_due.done()
        self._handback.record_hub_write()

    def _compare(self, file: BoxFile | None, hub: "Hub") -> None:
        """Find out whether the hub went back in time; a drain then finds what to send again."""
        from edgepaas.sync.back_in_time import compare_connections, compare_file

        with self.context.stop.abort_on_stop(hub.abort):
            if file is not None and file.captures and not compare_file(file.connection, hub):
                self._dirty = True
            compare_connections(self.context.paths, self.report.node_id, hub)
        self._comparison_due.done()

    def _run_mirror(self, file: BoxFile, hub: "Hub") -> None:
        began = time.monotonic()
        try:
            with self.context.stop.abort_on_stop(hub.abort):
                result = self._mirror.run(file.connection, hub)
        except MirrorPostponed as error:
            logger.info("the mirror waits: %s", error)
            self._mirror_due.done()
            return
        self._mirror_due.done(longer=(time.monotonic() - began) / _MIRROR_SHARE)
        if result.written or result.deleted:
            logger.info("mirrored %d rows, deleted %d", result.written, result.deleted)
        self.report.mirror = Mirrored(rfc3339(time.time(), milliseconds=True), result.rows)

    def _reclaim(self, file: BoxFile, hub: "Hub") -> None:
        self._send_heartbeat(hub, alone=True)  # it compares the clocks
        if self._reclaimer.run(file.connection, self.report.clock_offset):
            self._mirror.compare_everything()
