# SPDX-License-Identifier: Apache-2.0
"""The turn of the audit that runs by itself: daily, after each return and after each restore."""

import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from edgepaas.alerts.catalogue import AUDIT_DISCREPANCY
from edgepaas.files.node_identity import node_identity
from edgepaas.marks.record import lost_rows
from edgepaas.outbox import ledger
from edgepaas.outbox.journal.access import JournalUnreadable
from edgepaas.outbox.journal.tables import journal_path
from edgepaas.outbox.stream import read_stream
from edgepaas.sync import status as sync_status
from edgepaas.sync.audit.hub import HubReader
from edgepaas.sync.audit.record import AuditRecord, open_discrepancies, read_audit, write_audit
from edgepaas.sync.errors import HubError, HubUnreachable
from edgepaas.sync.losses import lost_state
from edgepaas.sync.losses.acknowledge import read_acknowledged
from edgepaas.timing.due import Interval
from edgepaas.timing.moment import rfc3339

if TYPE_CHECKING:
    from edgepaas.alerts import Severity
    from edgepaas.outbox.stream import Stream
    from edgepaas.sync.audit.scheduled import ScheduledPass
    from edgepaas.sync.box_file import BoxFile
    from edgepaas.sync.context import SyncContext
    from edgepaas.sync.hub.connection import Hub
    from edgepaas.sync.report import LiveStatus

logger = logging.getLogger("edgepaas.sync")

#: A pass takes no more than this share of the time.
_SHARE = 0.2
#: Seconds between two looks at whether something happened that calls for a pass.
_LOOK_EVERY = 5.0
#: Seconds for which the box works undisturbed before a pass that a return calls for.
AFTER_RETURN = 30.0
#: The least seconds between two passes that returns call for: a link may fail each minute.
BETWEEN_RETURNS = 600.0
#: Seconds until a pass begins anew for which the journal could not be read.
_PUT_OFF = 60.0
#: Seconds for which the file may be away while it is replaced.
_FILE_AWAY = 60.0


class AuditTurn:
    """Compares chunk after chunk while a pass runs, and begins one when it is due.

    Rows that wait go first, where there are more of them than one batch holds.
    """

    def __init__(
        self,
        context: "SyncContext",
        models: "Mapping[str, Any]",
        report: "LiveStatus",
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*models*: ``tables`` of tables.json."""
        self._context = context
        self._models = models
        self._report = report
        self._wall = wall
        self._clock = clock
        self._every = context.settings.number("AUDIT_INTERVAL")
        self._rows = context.settings.integer("AUDIT_ROWS")
        self._look = Interval(_LOOK_EVERY)
        self._next = Interval(0.0)
        #: The status of the drainer before this one, which this one overwrites.
        self._status_before = sync_status.read(context.paths)
        self._record = read_audit(context.paths)
        self._lost_rows = lost_rows(context.paths)
        self._pass: ScheduledPass | None = None
        self._file: BoxFile | None = None
        #: Since when something calls for a pass, and what.
        self._called_at = float("-inf")
        self._why = ""
        self._ended_at = float("-inf")
        self._due_at = clock() + self._until_due()
        self._away_since: float | None = None
        self._looked_at_state = False

    @property
    def left(self) -> float:
        """Seconds until it has something to do."""
        return self._next.left if self._pass is not None else self._look.left

    def look_at_state(self, file: "BoxFile | None") -> None:
        """Find out whether the state folder or the file was deleted; raises OSError, LockHeld.

        Called whenever the file was looked for, to be opened.
        """
        path, paths = self._context.contract.sqlite_path, self._context.paths
        stream: Stream | None = None
        if file is not None:
            self._away_since = None
            if not file.captures:
                return
            stream = read_stream(file.connection)
        elif path.exists():
            return
        else:
            self._away_since = self._clock() if self._away_since is None else self._away_since
            if self._clock() - self._away_since < _FILE_AWAY:
                return
        replaced = paths.quarantine.is_dir() and any(paths.quarantine.iterdir())
        lost_state.look(
            paths,
            node_identity(paths),
            stream,
            before=(self._report, self._status_before),
            replaced=replaced,
        )
        self._looked_at_state = False

    def take(self, file: "BoxFile", hub: "Hub") -> bool:
        """Do what is due; whether rows were queued again. Raises HubError, sqlite3.Error."""
        if not self._looked_at_state:
            self._ask_about_losses(hub)
        if self._pass is not None and self._file is not file:
            self._pass = None  # what it kept in the connection is gone with it
        if self._pass is None:
            if self._look.left > 0:
                return False
            self._look.done()
            why = self._called_for(file)
            if not why:
                return False
            self._begin(file, why)
        return self._step(hub)

    def forget_pass(self) -> None:
        """Begin anew: the connection to one side is gone."""
        self._pass = None

    def _ask_about_losses(self, hub: "Hub") -> None:
        with self._context.stop.abort_on_stop(hub.abort):
            try:
                lost_state.ask_hub(self._context.paths, HubReader(hub))
            except HubUnreachable:
                raise
            except HubError as error:
                # Its tables may be in any shape: that is no reason to send nothing.
                logger.warning("PostgreSQL cannot be asked about a lost state folder: %s", error)
        self._looked_at_state = True

    def _until_due(self) -> float:
        """Return the seconds until the next daily pass, by when the last one ended."""
        if not self._every or self._record is None:
            return AFTER_RETURN
        try:
            age = self._wall() - datetime.fromisoformat(self._record.at).timestamp()
        except ValueError:
            return AFTER_RETURN
        # A clock that jumped back, or years ahead, makes it due: one pass more is no harm.
        return max(AFTER_RETURN, self._every - age) if age >= 0 else AFTER_RETURN

    def _called_for(self, file: "BoxFile") -> str:
        """Return why a pass is to begin now, "" where none is."""
        if not self._every:
            return ""
        now = self._clock()
        if why := self._happened(file):
            if why == "restore" or not self._why:
                self._why = why
            if self._called_at == float("-inf"):
                self._called_at = now
        rested = self._why == "restore" or now - self._ended_at >= BETWEEN_RETURNS
        if self._why and rested and now - self._called_at >= AFTER_RETURN:
            return self._why
        return "interval" if now >= self._due_at else ""

    def _happened(self, file: "BoxFile") -> str:
        """Return what happened since the last pass: "return", "restore", "" for nothing."""
        before = self._record
        if before is None:
            return ""
        lost = lost_rows(self._context.paths)
        if lost > self._lost_rows:
            self._lost_rows = lost
            return "restore"
        counters = ledger.read(file.connection)
        if any(counters[name] > before.counters.get(name, 0) for name in ("hub_lost", "forks")):
            return "restore"
        sent = counters["delivered"] + counters["dead"]
        known = before.counters.get("delivered", 0) + before.counters.get("dead", 0)
        if sent < known:
            return "restore"  # a rewind takes back what had been delivered
        # Where SQLite serves by choice rows are sent all the time: that is no return.
        by_choice = self._context.contract.db_state == "local-first"
        return "return" if sent > known and not by_choice else ""

    def _begin(self, file: "BoxFile", why: str) -> None:
        from edgepaas.sync.audit.scheduled import ScheduledPass

        logger.debug("an audit begins: %s", why)
        self._file = file
        self._pass = ScheduledPass(
            file.connection,
            self._models,
            self._record,
            read_acknowledged(self._context.paths),
            rows=self._rows,
            why=why,
            journal=journal_path(self._context.contract.sqlite_path),
        )

    def _step(self, hub: "Hub") -> bool:
        running = self._pass
        if running is None:
            return False
        began, before = self._clock(), running.tally.queued_again
        try:
            with self._context.stop.abort_on_stop(hub.abort):
                more = running.step(hub)
        except JournalUnreadable as error:
            logger.warning("the audit begins anew later: %s", error)
            running.close()
            self._pass = None
            self._due_at = self._clock() + _PUT_OFF
            self._called_at = self._clock() + _PUT_OFF
            return False
        took = self._clock() - began
        self._next.done(longer=took / _SHARE)
        if not more:
            self._end(running)
        return running.tally.queued_again > before

    def _end(self, ended: "ScheduledPass") -> None:
        self._pass = None
        record = ended.result(rfc3339(self._wall()))
        ended.close()
        self._record = record
        self._why, self._called_at = "", float("-inf")
        self._ended_at = self._clock()
        self._due_at = self._clock() + (self._every or float("inf"))
        try:
            write_audit(self._context.paths, record)
        except OSError as error:
            logger.error("what the audit found cannot be kept: %s", error)
        self._tell(record)

    def _tell(self, record: AuditRecord) -> None:
        said = open_discrepancies(record, read_acknowledged(self._context.paths))
        again = record.counts.get("queued_again", 0)
        if again:
            said.append(f"{again:,} rows that PostgreSQL had lost were sent again")
        if not said:
            AUDIT_DISCREPANCY.resolve_alert("the last audit found every row in place")
            logger.info("audited %d rows (%s)", record.counts["checked"], record.why)
            return
        worst: Severity = "critical" if len(said) > bool(again) else "warning"
        logger.error("the audit does not add up: %s", "; ".join(said))
        AUDIT_DISCREPANCY.raise_alert(
            "The audit does not add up: " + "; ".join(said), severity=worst
        )
