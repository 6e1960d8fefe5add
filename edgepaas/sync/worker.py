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
from edgepaas.sync.context import Parts
from edgepaas.sync.errors import HubError, SchemaDrift
from edgepaas.sync.failures import Trouble
from edgepaas.sync.handback import HandBack, TakeoverFailed, clear_leftovers
from edgepaas.sync.hub.presence import Presence
from edgepaas.sync.mirror.mirror import Mirror, MirrorHeldUp
from edgepaas.sync.report import Publisher, Report
from edgepaas.sync.shutdown import Ended
from edgepaas.sync.status import Mirrored
from edgepaas.sync.wakeups import Wake
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
class Worker:
    """One drainer, from its first look to the end; :meth:`run` is the main thread's."""

    parts: Parts
    wake: Wake
    report: Report = field(default_factory=Report)
    _hub: "Hub | None" = None
    _file: BoxFile | None = None
    #: Whether rows may wait that nobody has looked at.
    _dirty: bool = True
    _pause: float = 0.0

    def __post_init__(self) -> None:
        settings, contract = self.parts.settings, self.parts.contract
        me = self.parts.me()
        self.report.node_id, self.report.generation = me.node_id, contract.generation
        self._publisher = Publisher(self.parts.paths, self.report)
        self._publisher.remember()
        self._schema = self.parts.schema()
        interval = settings.number("HEARTBEAT_INTERVAL")
        self._presence = Presence(me, self.parts.paths, contract, self.report, interval)
        self._handback = HandBack(contract, settings, self.parts.paths)
        self._mirror = Mirror(self.parts.document(), self.parts.ending.check)
        self._trouble = Trouble(self.report, contract.db_state == "local-first")
        self._beat = Due(interval)
        self._pass = Due(settings.number("MIRROR_INTERVAL"))
        self._reclaim = Due(RECLAIM_EVERY)
        self._look = Due(LOOK_EVERY if contract.sqlite_active else LOOK_EVERY_BESIDE)
        self._reclaim.done()

    def run(self) -> int:
        """Drain until the end is asked for; returns the exit status."""
        ending = self.parts.ending
        try:
            while not ending.asked:
                self._turn()
                self._rest()
            self._say_goodbye()
        except Ended:
            logger.debug("given up in the middle of work: %s", ending.reason)
        finally:
            self._lose_hub()
            self._close_file()
        logger.info("ending with status %d: %s", ending.status, ending.reason)
        return ending.status

    def _say_goodbye(self) -> None:
        """Tell the hub, if it is there, what the service's last word is."""
        ending, hub = self.parts.ending, self._hub
        if hub is None or ending.status != EXIT_DONE or self._trouble.remaining > 0:
            return  # who decides again tells of it at once
        with ending.cutting(hub.cut):
            self._presence.say_goodbye(hub)

    def _turn(self) -> None:
        try:
            if self._trouble.remaining <= 0:
                self._work()
                self._trouble.over()
            else:
                self._count()
        except Ended:
            raise
        except (EdgePaaSError, sqlite3.Error, OSError) as error:
            self.parts.ending.check()  # an end cuts links; that is no trouble
            self._failed(error)
        if self._file is not None:
            self._handback.tend(self._file.connection)
        self.report.handback = self._handback.why_not(self.report.rows_waiting)
        self._publisher.publish()

    def _failed(self, error: Exception) -> None:
        """Let go of the end that failed, and try again later."""
        self._dirty = True
        self._trouble.met(error)
        if isinstance(error, HubError):
            self._lose_hub()
            self._handback.bad()
            if isinstance(error, SchemaDrift):
                self._schema.at_head = False
            return
        self._close_file()
        if is_damaged(error):
            note_damage(self.parts.contract.sqlite_path, error)
        if is_full(error) and ballast.give_up(self.parts.paths.ballast):
            # Even to note that rows are on their way takes room.
            logger.warning("the disk is full: the ballast is given up")

    def _rest(self) -> None:
        """Sleep until something is due or somebody tells of rows."""
        held = self._trouble.remaining
        if self._dirty and held <= 0:
            left = self._pause
        else:
            left = min(self._look.left, self._publisher.seconds_left(), *self._due(held))
        if self.wake.sleep(left, deaf=held > 0):
            self._dirty = True
            self.wake.sleep(max(COALESCE, self._pause), deaf=True)

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
            if not self._handback.under_way:
                yield self._pass.left

    def _work(self) -> None:
        """Everything that is due, in its order: rows first."""
        hub = self._connected()
        file = self._opened()
        if file is not None:
            self._drain(file, hub)
        if self._beat.left <= 0 or self._presence.has_news():
            self._send_heartbeat(hub)
        if file is None or not file.captures or self._is_behind():
            return
        if self._reclaim.left <= 0:
            self._do_reclaim(file, hub)
        if self._handback.under_way:
            return
        if self._handback.why_not(self.report.rows_waiting) == "now":
            self._hand_back(file, hub)
        elif self._pass.left <= 0:
            self._do_pass(file, hub)

    def _is_behind(self) -> bool:
        """Whether rows wait that one batch does not hold: until they are home all else waits.

        Some wait nearly always where devices write all the time: what came in while the last
        batch was on its way. To wait for none would be to never hand back over a slow link.
        """
        return self._dirty and self.report.rows_waiting > self.parts.settings.integer("SYNC_BATCH")

    # -- the box's end --

    def _opened(self) -> BoxFile | None:
        """Return the file, open; looks for foreign writers when it is time to."""
        if self._file is None and (self._dirty or self._look.left <= 0):
            self._look.done()
            self._file = open_box_file(self.parts.contract.sqlite_path, self.parts.paths)
            if self._file is not None and self._file.captures:
                clear_leftovers(self._file.connection, self.parts.paths, self.parts.contract)
            self._dirty = self._file is not None
            self._mirror.forget()
        elif self._file is not None and self._look.left <= 0:
            self._look.done()
            self._dirty = self._file.changed() or self._dirty
            if not self._handback.under_way and self._file.captures:
                fence.lift_if_expired(self._file.connection)
        return self._file

    def _count(self) -> None:
        """While the hub is away: how many rows wait, once a second."""
        if self._look.left <= 0 and (file := self._opened()) is not None:
            self._read_ledger(file)

    def _read_ledger(self, file: BoxFile) -> None:
        if not file.captures:
            self.report.waits(0, time.time())
            return
        stream = read_stream(file.connection)
        self.report.counted(ledger.read(file.connection), time.time())
        self.report.stream_id = stream.stream_id if stream is not None else ""

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    # -- the hub's end --

    def _connected(self) -> "Hub":
        if self._hub is None:
            hub = self.parts.connect(self._schema)
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
            self._handback.good()
            self.report.delivered(time.time())
        self._read_ledger(file)
        self._dirty = self.report.rows_waiting > 0
        full = sent >= self.parts.settings.integer("SYNC_BATCH")
        self._pause = 0.0 if full else min(LONGEST_PAUSE, took)
        self.report.state = "draining" if self._dirty else "idle"

    def _send(self, connection: sqlite3.Connection, hub: "Hub") -> int:
        from edgepaas.sync.delivery.drain import drain_batch

        with self.parts.ending.cutting(hub.cut):
            self.parts.ending.check()
            drained = drain_batch(
                connection,
                hub,
                rows=self.parts.settings.integer("SYNC_BATCH"),
                say=logger.info,
                models=self._mirror.document["tables"] or None,
            )
        return int(drained.rows)

    def _send_heartbeat(self, hub: "Hub", *, alone: bool = False) -> None:
        with self.parts.ending.cutting(hub.cut):
            self._presence.tell(hub, alone=alone)
        self._beat.done()
        self._handback.good()

    def _do_pass(self, file: BoxFile, hub: "Hub") -> None:
        began = time.monotonic()
        try:
            with self.parts.ending.cutting(hub.cut):
                passed = self._mirror.run(file.connection, hub)
        except MirrorHeldUp as error:
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
        older = self.parts.settings.number("RETENTION")
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
        timer = threading.Timer(self._handback.fence_deadline, hub.cut)
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
        self.report.waits(pending(connection), time.time())
