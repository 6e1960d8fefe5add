# SPDX-License-Identifier: Apache-2.0
"""The thread that judges what was stored: behind the requests, in order, each reading once."""

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgepaas.app import PeriodicTask, TaskAlert
from edgepaas.app.errors import DatabaseError
from edgepaas.app.facts import ids_in_own_file
from edgepaas.app.storage import LockHeld, acquire
from edgepaas.telemetry.models import READINGS
from edgepaas.telemetry.rules.engine import RuleEngine
from edgepaas.telemetry.rules.feed import (
    RULES_KEPT,
    Entry,
    Fed,
    RuleCache,
    drop,
    received_now,
    take,
)
from edgepaas.telemetry.rules.judging import Received
from edgepaas.telemetry.rules.store import Notice, RuleStore

if TYPE_CHECKING:
    from edgepaas.app import Box
    from edgepaas.telemetry.rules.judging import ActiveRule

logger = logging.getLogger("edgepaas.rules")

#: Seconds that readings gather before they are judged: a commit each would wear a card out.
PACE = 0.5
#: Seconds between two looks when nothing comes in: for silence, and for rules that others change.
TICK = RULES_KEPT
#: Seconds of readiness that a kill may forget.
_METER_EVERY = 60.0
#: Seconds without success after which an alert is raised.
_ALERTED_AFTER = 60.0
#: Seconds that one look may take: a file of readings was imported, and all are judged.
_LATE_AFTER = 600.0
_STUCK = "rules-stuck"


class RuleFollower:
    """Judges what the intake of *box* stores, and raises and resolves the rules' alerts.

    Durations are the box's own (:mod:`edgepaas.telemetry.rules.judging`). *clock* is monotonic;
    only the time in which the box could take readings counts as
    silence, so neither a clock that jumps nor a box that was off makes a device silent.
    """

    def __init__(self, box: "Box", *, clock: Callable[[], float] = time.monotonic) -> None:
        self.rules = RuleCache(box.database, clock)
        #: The clocks by which the intake notes when it took readings in.
        self.received: Callable[[], Received] = received_now
        self.node = box.node_id
        self._box = box
        self._clock = clock
        self._lock: int | None = None
        self._store: RuleStore | None = None
        self._judge: Judge | None = None
        self.task = box.tasks.add(
            PeriodicTask(
                "rules",
                self._run,
                every=TICK,
                gather=PACE,
                late_after=_LATE_AFTER,
                final_run=True,
                release=self._release,
                alert=TaskAlert(
                    "Telemetry's rules are not judged meanwhile: readings are stored, and judged "
                    "later; look at the disk and the log ('edgepaas doctor').",
                    fingerprint=_STUCK,
                    after=_ALERTED_AFTER,
                ),
            )
        )

    # -- the requests' side --

    def wanted(
        self, rows: Iterable[Mapping[str, Any]], *, at_once: bool = False
    ) -> dict[uuid.UUID, Entry]:
        """Return by id those of *rows* that a rule wants to judge, in their order.

        Raises NotPlain where that would have to be waited for, and *at_once* forbids it.
        """
        return self.rules.entries(rows, at_once=at_once)

    def wake(self) -> None:
        """Have the rules look: something was stored for them."""
        self.task.wake()

    def rules_changed(self) -> None:
        """Have the next reading judged by a rule that was made, changed or deleted."""
        self.rules.forget()
        self.task.wake()

    # -- the thread --

    def start(self) -> None:
        """Judge from now on, first of all what the service before this one left."""
        self.task.start()

    def stop(self, seconds: float) -> None:
        """Judge what is stored by now, for up to *seconds*, and end."""
        self.task.stop(seconds)

    def _run(self) -> float | None:
        """Judge what is new; returns 0.0 where another service still judges."""
        try:
            if self._judge is None:
                self._judge = self._take_over()
        except LockHeld:
            return 0.0  # the service before this one still drains; the lock was waited for
        try:
            self._judge.look()
        except DatabaseError as error:
            self._judge.forget()  # the watch of the database reports it
            logger.debug("the rules wait for the database: %s", error)
        return None

    def _take_over(self) -> "Judge":
        """Take the lock and open the store; raises LockHeld, OSError, sqlite3.Error."""
        folder = self._box.folder("rules")
        self._lock = acquire(folder / "lock", timeout=0.5)
        self._store = RuleStore(folder / "rules.db", self._report)
        return Judge(self._box, self.rules, self.node, self._store, self._clock)

    def _report(self, message: str) -> None:
        """Notify an operator of what the store set aside: an event, which nothing resolves."""
        self._box.alert(message, severity="warning", origin="rules")

    def _release(self) -> None:
        """Close the store and give the lock up: the next run begins with what is stored."""
        self._judge = None
        store, self._store = self._store, None
        lock, self._lock = self._lock, None
        try:
            if store is not None:
                store.close()
        finally:
            if lock is not None:
                os.close(lock)


class Judge:
    """One look after the other at the feed; for one thread."""

    def __init__(
        self,
        box: "Box",
        rules: RuleCache,
        node: str,
        store: RuleStore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._box = box
        self._rules = rules
        self._node = node
        self._store = store
        self._clock = clock
        self._engine = RuleEngine(store, awaits_named=not box.forwards)
        self._watches: tuple[ActiveRule, ...] | None = None
        #: Batches that count already: some may still be in the feed, some are gone from it.
        self._taken = store.taken(box.database.dialect)
        self._gone: set[str] = set()
        self._first = True
        self._looked_at: float | None = None
        self._metered_at = clock()

    def look(self) -> None:
        """Judge all that is in the feed, then the silence of the rest; tell what follows.

        Raises DatabaseError, sqlite3.Error, OSError; nothing is judged twice or left out
        when it is called again after :meth:`forget`.
        """
        self._tell()
        watches = self._rules.watches(kept=RULES_KEPT / 2)
        if watches != self._watches:
            self._engine.use(watches)
            self._watches = watches
        while self._judge_some():
            self._tell()
        self._first = False
        self._listen()
        if self._engine.has_news or self._meter_is_due():
            self._keep(())
        self._tell()

    def forget(self) -> None:
        """Go back to what is stored: the last look did not come to its end."""
        self._watches = None
        self._looked_at = None
        self._engine.reload()

    def _judge_some(self) -> bool:
        database = self._box.database
        with database.read() as session:
            fed = take(session, self._node)
        if not fed:
            self._gone |= self._taken
            self._taken.clear()
            return False
        fresh = [row for row in fed if row.batch not in self._taken]
        judged_before = self._judged_in_file(fresh) if self._first else frozenset()
        for row in fresh:
            self._engine.judge(
                (
                    (device, metric, value, moment)
                    for identity, device, metric, value, moment in row.readings
                    if identity not in judged_before
                ),
                row.received,
            )
        self._keep([row.batch for row in fresh])
        self._taken.update(row.batch for row in fresh)
        database.write(lambda session: drop(session, fed))
        self._gone.update(row.batch for row in fed)
        self._taken.difference_update(self._gone)
        return True

    def _keep(self, taken: Sequence[str]) -> None:
        gone = self._gone
        self._engine.keep(database=self._box.database.dialect, taken=taken, gone=gone)
        self._gone = set()
        self._metered_at = self._clock()

    def _listen(self) -> None:
        """Count the time since the last look, as far as the box can have taken readings in it."""
        now = self._clock()
        if self._looked_at is not None:
            self._engine.listen(max(0.0, min(now - self._looked_at, 3 * TICK)))
        self._looked_at = now

    def _meter_is_due(self) -> bool:
        return self._engine.watches_silence and self._clock() - self._metered_at >= _METER_EVERY

    def _tell(self) -> None:
        """Raise and resolve what waits, one after the other, each until it is accepted."""
        while (notice := self._store.next_notice()) is not None:
            self._say(notice)
            # Killed before this, it is said again: raised still, or resolved already.
            self._store.forget_notice(notice)

    def _say(self, notice: Notice) -> None:
        if notice.raised:
            self._box.alert(
                notice.message,
                severity=notice.severity,  # type: ignore[arg-type]  # a rule's are an alert's
                fingerprint=notice.fingerprint,
                origin="rules",
            )
        else:
            self._box.resolve(notice.message, fingerprint=notice.fingerprint, origin="rules")

    def _judged_in_file(self, fed: Sequence[Fed]) -> frozenset[str]:
        """Return which readings, left behind on PostgreSQL, came again to the SQLite file.

        PostgreSQL was lost before it could say that it had them, the client sent them once
        more, and the fallback took and judged them.
        """
        if not fed or self._box.database.dialect == "sqlite":
            return frozenset()
        wanted = [uuid.UUID(entry[0]) for row in fed for entry in row.readings]
        try:
            return frozenset(map(str, ids_in_own_file(self._box, READINGS, wanted)))
        except DatabaseError as error:
            # Rather twice than never.
            logger.warning("what was judged while SQLite served is not known: %s", error)
            return frozenset()
