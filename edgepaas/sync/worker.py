# SPDX-License-Identifier: Apache-2.0
"""The drainer's loop: rows home as soon as they are there, and everything that goes with it.

One thread, one connection to each database. It sleeps until somebody tells of rows, or
something is due: a look for foreign writers, a heartbeat, a pass of the mirror, the next
attempt at a PostgreSQL that is away. What fails is held, told and tried again.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgepaas.database.failures import is_damaged, is_full
from edgepaas.errors import EXIT_DONE, EdgePaaSError
from edgepaas.files.sqlite_file import note_damage
from edgepaas.outbox import fence, ledger
from edgepaas.outbox.space import ballast
from edgepaas.outbox.space.retention import reclaim
from edgepaas.outbox.stream import pending, read_stream
from edgepaas.sync.box_file import BoxFile, open_box_file
from edgepaas.sync.context import SyncContext
from edgepaas.sync.errors import HubError, SchemaDrift
from edgepaas.sync.failures import FailureTracker
from edgepaas.sync.handback import HandBack, TakeoverFailed, lift_leftover_fence
from edgepaas.sync.hub.heartbeat_sender import HeartbeatSender
from edgepaas.sync.mirror.mirror import Mirror, MirrorPostponed
from edgepaas.sync.report import LiveStatus, StatusPublisher
from edgepaas.sync.shutdown import Stopped
from edgepaas.sync.status import Mirrored
from edgepaas.sync.wakeups import WakeupSocket
from edgepaas.timing.due import Due
from edgepaas.timing.moment import rfc3339

if TYPE_CHECKING:
    from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")

#: Seconds between two looks for writers who do not tell; where PostgreSQL serves, nobody
#: but a script writes to the file.
LOOK_EVERY = 1.0
LOOK_EVERY_BESIDE = 5.0
#: Rows of one request, and of requests at the same moment, go in one batch; seconds.
COALESCE = 0.003
#: A drain that took longer than this is not at once followed by the next, or many small
#: ones would keep a slow disk busy with syncs.
LONGEST_PAUSE = 0.05
#: Seconds between two looks for what may be reclaimed, and rows of one transaction.
RECLAIM_EVERY = 60.0
RECLAIM_ROWS = 2000
#: Seconds by which the two clocks may differ where days are counted.
CLOCK_ASTRAY = 3600.0
#: A pass of the mirror takes no more than this share of the time.
_MIRROR_SHARE = 0.05


@dataclass
class SyncWorker:
    """One drainer, from its first look to the end; :meth:`run` is the main thread's."""

    context: SyncContext
    wake: WakeupSocket
    report: LiveStatus = field(default_factory=LiveStatus)
    _hub: "Hub | None" = None
    _file: BoxFile | None = None
    #: Whether rows may wait that nobody has looked at.
    _dirty: bool = True
    _pause: float = 0.0

    def __post_init__(self) -> None:
        settings, contract = self.context.settings, self.context.contract
        me = self.context.local_node()
        self.report.node_id, self.report.generation = me.node_id, contract.generation
        self._publisher = StatusPublisher(self.context.paths, self.report)
        self._publisher.restore()
        self._schema = self.context.hub_schema()
        interval = settings.number("HEARTBEAT_INTERVAL")
        self._heartbeat = HeartbeatSender(me, self.context.paths, contract, self.report, interval)
        self._handback = HandBack(contract, settings, self.context.paths)
        self._mirror = Mirror(self.context.table_document(), self.context.stop.raise_if_requested)
        self._failures = FailureTracker(self.report, contract.db_state == "local-first")
        self._beat = Due(interval)
        self._pass = Due(settings.number("MIRROR_INTERVAL"))
        self._reclaim = Due(RECLAIM_EVERY)
        self._look = Due(LOOK_EVERY if contract.sqlite_active else LOOK_EVERY_BESIDE)
        self._reclaim.done()

    def run(self) -> int:
        """Drain until the end is asked for; returns the exit status."""
        stop = self.context.stop
        try:
            while not stop.requested:
                self._turn()
                self._rest()
            self._say_goodbye()
        except Stopped:
            logger.debug("given up in the middle of work: %s", stop.reason)
        finally:
            self._lose_hub()
            self._close_file()
        logger.info("ending with status %d: %s", stop.status, stop.reason)
        return stop.status

    def _say_goodbye(self) -> None:
        """Tell the hub, if it is there, what the service's last word is."""
        stop, hub = self.context.stop, self._hub
        if hub is None or stop.status != EXIT_DONE or self._failures.remaining > 0:
            return  # who decides again tells of it at once
        with stop.abort_on_stop(hub.abort):
            self._heartbeat.send_final(hub)

    def _turn(self) -> None:
        try:
            if self._failures.remaining <= 0:
                self._work()
                self._failures.record_success()
            else:
                self._count()
        except Stopped:
            raise
        except (EdgePaaSError, sqlite3.Error, OSError) as error:
            self.context.stop.raise_if_requested()  # an end cuts links; that is no trouble
            self._failed(error)
        if self._file is not None:
            self._handback.enforce_deadline(self._file.connection)
        self.report.hand_back = self._handback.status_text(self.report.rows_waiting)
        self._publisher.publish()

    def _failed(self, error: Exception) -> None:
        """Let go of the end that failed, and try again later."""
        self._dirty = True
        self._failures.record_failure(error)
        if isinstance(error, HubError):
            self._lose_hub()
            self._handback.record_hub_failure()
            if isinstance(error, SchemaDrift):
                self._schema.at_head = False
            return
        self._close_file()
        if is_damaged(error):
            note_damage(self.context.contract.sqlite_path, error)
        if is_full(error) and ballast.give_up(self.context.paths.ballast):
            # Even to note that rows are on their way takes room.
            logger.warning("the disk is full: the ballast is given up")

    def _rest(self) -> None:
        """Sleep until something is due or somebody tells of rows."""
        held = self._failures.remaining
        if self._dirty and held <= 0:
            left = self._pause
        else:
            left = min(self._look.left, self._publisher.seconds_left(), *self._due(held))
        if self.wake.sleep(left, ignore_wakeups=held > 0):
            self._dirty = True
            self.wake.sleep(max(COALESCE, self._pause), ignore_wakeups=True)

    def _due(self, held: float) -> Iterator[float]:
        """Give the seconds until each thing that a turn would do."""
        if held > 0:
            yield held
            return
        yield self._beat.left
        # What is due and has to wait for something else is looked at again with the rest.
        yield self._handback.seconds_left() or LOOK_EVERY
        if self._file is not None and self._file.captures:
            yield self._reclaim.left
            if not self._handback.in_progress:
                yield self._pass.left

    def _work(self) -> None:
        """Everything that is due, in its order: rows first."""
        hub = self._connected()
        file = self._opened()
        if file is not None:
            self._drain(file, hub)
        if self._beat.left <= 0 or self._heartbeat.state_changed():
            self._send_heartbeat(hub)
        if file is None or not file.captures or self._is_behind():
            return
        if self._reclaim.left <= 0:
            self._do_reclaim(file, hub)
        if self._handback.in_progress:
            return
        if self._handback.blocked_reason(self.report.rows_waiting) is None:
            self._hand_back(file, hub)
        elif self._pass.left <= 0:
            self._do_pass(file, hub)

    def _is_behind(self) -> bool:
        """Whether rows wait that one batch does not hold: until they are home all else waits.

        Some wait nearly always where devices write all the time: what came in while the last
        batch was on its way. To wait for none would be to never hand back over a slow link.
        """
        return self._dirty and self.report.rows_waiting > self.context.settings.integer(
            "SYNC_BATCH"
        )

    # -- the box's end --

    def _opened(self) -> BoxFile | None:
        """Return the file, open; looks for foreign writers when it is time to."""
        if self._file is None and (self._dirty or self._look.left <= 0):
            self._look.done()
            self._file = open_box_file(self.context.contract.sqlite_path, self.context.paths)
            if self._file is not None and self._file.captures:
                lift_leftover_fence(
                    self._file.connection, self.context.paths, self.context.contract
                )
            self._dirty = self._file is not None
            self._mirror.forget()
        elif self._file is not None and self._look.left <= 0:
            self._look.done()
            self._dirty = self._file.changed() or self._dirty
            if not self._handback.in_progress and self._file.captures:
                fence.lift_if_expired(self._file.connection)
        return self._file

    def _count(self) -> None:
        """While the hub is away: how many rows wait, once a second."""
        if self._look.left <= 0 and (file := self._opened()) is not None:
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

    # -- the hub's end --

    def _connected(self) -> "Hub":
        if self._hub is None:
            hub = self.context.connect(self._schema)
            self._hub = hub
            self._dirty = True
            self._beat = Due(self._beat.every)
            logger.info("connected to %s", hub.place)
        return self._hub

    def _lose_hub(self) -> None:
        hub, self._hub = self._hub, None
        if hub is not None:
            hub.close()

    def _drain(self, file: BoxFile, hub: "Hub") -> None:
        """Send what waits, one batch a turn: between two there is time for what else is due."""
        if not self._dirty:
            return
        if not file.captures:
            self._dirty = False
            self._read_ledger(file)
            return
        began = time.monotonic()
        sent = self._send(file.connection, hub)
        took = time.monotonic() - began
        if sent:
            self._handback.record_hub_write()
            self.report.record_delivery(time.time())
        self._read_ledger(file)
        self._dirty = self.report.rows_waiting > 0
        full = sent >= self.context.settings.integer("SYNC_BATCH")
        self._pause = 0.0 if full else min(LONGEST_PAUSE, took)
        self.report.state = "draining" if self._dirty else "idle"

    def _send(self, connection: sqlite3.Connection, hub: "Hub") -> int:
        from edgepaas.sync.delivery.drain import drain_batch

        with self.context.stop.abort_on_stop(hub.abort):
            self.context.stop.raise_if_requested()
            drained = drain_batch(
                connection,
                hub,
                rows=self.context.settings.integer("SYNC_BATCH"),
                say=logger.info,
                models=self._mirror.document["tables"] or None,
            )
        return int(drained.rows)

    def _send_heartbeat(self, hub: "Hub", *, alone: bool = False) -> None:
        with self.context.stop.abort_on_stop(hub.abort):
            self._heartbeat.send(hub, alone=alone)
        self._beat.done()
        self._handback.record_hub_write()

    def _do_pass(self, file: BoxFile, hub: "Hub") -> None:
        began = time.monotonic()
        try:
            with self.context.stop.abort_on_stop(hub.abort):
                passed = self._mirror.run(file.connection, hub)
        except MirrorPostponed as error:
            logger.info("the mirror waits: %s", error)
            self._pass.done()
            return
        self._pass.done(longer=(time.monotonic() - began) / _MIRROR_SHARE)
        if passed.written or passed.deleted:
            logger.info("mirrored %d rows, deleted %d", passed.written, passed.deleted)
        self.report.mirror = Mirrored(rfc3339(time.time(), milliseconds=True), passed.rows)

    def _do_reclaim(self, file: BoxFile, hub: "Hub") -> None:
        # A clock that jumped ahead by years would make all that was delivered old; the
        # budget makes room whatever the clock says.
        self._send_heartbeat(hub, alone=True)
        if abs(self.report.clock_offset or 0.0) > CLOCK_ASTRAY:
            logger.warning("nothing is reclaimed: PostgreSQL's clock and ours do not agree")
            self._reclaim.done()
            return
        older = self.context.settings.number("RETENTION")
        try:
            gone = reclaim(file.connection, older_than=older, limit=RECLAIM_ROWS)
        except sqlite3.IntegrityError as error:  # e.g. a trigger that lets no fact be deleted
            logger.warning("what was delivered long ago cannot leave the box: %s", error)
            self._reclaim.done()
            return
        if gone.rows:
            logger.info("reclaimed %d delivered rows, %d bytes", gone.rows, gone.bytes)
            self._mirror.forget()
        else:
            self._reclaim.done()

    # -- handing back --

    def _hand_back(self, file: BoxFile, hub: "Hub") -> None:
        """Do it, its deadline kept by cutting the hub's link: a black hole answers nothing."""
        timer = threading.Timer(self._handback.fence_deadline, hub.abort)
        timer.daemon = True
        timer.start()
        try:
            self._handback.attempt(
                file.connection,
                lambda: self._handback_drain(file.connection, hub),
                lambda: self._send_heartbeat(hub, alone=True),
            )
        except TakeoverFailed as error:
            logger.warning("PostgreSQL does not take over: %s", error)
            self._dirty = True
            self._lose_hub()  # its link may be cut at any moment now
        finally:
            timer.cancel()

    def _handback_drain(self, connection: sqlite3.Connection, hub: "Hub") -> None:
        self._send(connection, hub)
        self.report.set_waiting(pending(connection), time.time())
