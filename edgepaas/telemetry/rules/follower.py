# SPDX-License-Identifier: Apache-2.0
"""The thread that judges what was stored: behind the requests, in order, each reading once."""

import logging
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from edgepaas.app.errors import DatabaseError
from edgepaas.app.facts import ids_in_own_file
from edgepaas.app.storage import LockHeld, acquire
from edgepaas.telemetry.models import READINGS
from edgepaas.telemetry.rules.engine import RuleEngine
from edgepaas.telemetry.rules.feed import RULES_KEPT, Entry, Fed, RuleBook, drop, take
from edgepaas.telemetry.rules.store import Notice, RuleStore

if TYPE_CHECKING:
    from edgepaas.app import Box
    from edgepaas.telemetry.rules.judging import Watch

logger = logging.getLogger("edgepaas.rules")

#: Seconds that readings gather before they are judged: a commit each would wear a card out.
PACE = 0.5
#: Seconds between two looks when nothing comes in: for silence, and for rules that others change.
TICK = RULES_KEPT
#: Seconds of listening that a kill may forget.
_METER_EVERY = 60.0
#: Seconds without success after which a human is told.
_TOLD_AFTER = 60.0
_STUCK = "rules-stuck"


class RuleFollower:
    """Judges what the intake of *box* stores, and raises and resolves the rules' alerts.

    *clock* is monotonic; only the time in which the box could take readings counts as
    silence, so neither a clock that jumps nor a box that was off makes a device silent.
    """

    def __init__(self, box: "Box", *, clock: Callable[[], float] = time.monotonic) -> None:
        self.book = RuleBook(box.database, clock)
        self.node = box.node_id
        self._box = box
        self._clock = clock
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # -- the requests' side --

    def wanted(self, rows: Iterable[Mapping[str, Any]]) -> dict[uuid.UUID, Entry]:
        """Return by id those of *rows* that a rule wants to judge, in their order."""
        return self.book.entries(rows)

    def wake(self) -> None:
        """Say that something was stored for the rules."""
        self._woken.set()

    def rules_changed(self) -> None:
        """Say that a rule was made, changed or deleted: the next reading is judged by it."""
        self.book.forget()
        self._woken.set()

    # -- the thread --

    def start(self) -> None:
        """Judge from now on, first of all what a predecessor left."""
        self._thread = threading.Thread(target=self._run, name="rules", daemon=True)
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Judge what is stored by now, for up to *seconds*, and end."""
        self._stopping.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        trouble = _Trouble(self._box, self._clock)
        while not self._stopping.is_set():
            try:
                lock = acquire(self._box.folder("rules") / "lock", timeout=0.5)
            except LockHeld:
                continue  # the service before this one still drains
            except OSError as error:
                trouble.over_there(error)
                self._stopping.wait(TICK)
                continue
            self._work_under(lock, trouble)

    def _work_under(self, lock: int, trouble: "_Trouble") -> None:
        try:
            with closing(RuleStore(self._box.folder("rules") / "rules.db")) as store:
                judge = Judge(self._box, self.book, self.node, store, self._clock)
                self._work(judge, trouble)
        except (sqlite3.Error, OSError) as error:
            trouble.over_there(error)
            self._stopping.wait(TICK)
        finally:
            os.close(lock)

    def _work(self, judge: "Judge", trouble: "_Trouble") -> None:
        while True:
            last = self._stopping.is_set()
            self._woken.clear()
            try:
                judge.look()
            except DatabaseError as error:
                judge.forget()  # whoever watches the database tells of it
                logger.debug("the rules wait for the database: %s", error)
            except Exception as error:  # noqa: BLE001 - the next look may do better
                judge.forget()
                trouble.over_there(error)
            else:
                trouble.over()
            if last:
                return
            self._woken.wait(TICK)
            self._stopping.wait(PACE)


class Judge:
    """One look after the other at the feed; for one thread."""

    def __init__(
        self,
        box: "Box",
        book: RuleBook,
        node: str,
        store: RuleStore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._box = box
        self._book = book
        self._node = node
        self._store = store
        self._clock = clock
        self._engine = RuleEngine(store, awaits_named=not box.forwards)
        self._watches: tuple[Watch, ...] | None = None
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
        watches = self._book.watches(kept=RULES_KEPT / 2)
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
                (device, metric, value, moment)
                for identity, device, metric, value, moment in row.readings
                if identity not in judged_before
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


class _Trouble:
    """Tells a human when the rules are judged no more, and when they are again."""

    def __init__(self, box: "Box", clock: Callable[[], float]) -> None:
        self._box = box
        self._clock = clock
        self._since: float | None = None
        #: None: a service before this one may have told of it.
        self._told: bool | None = None

    def over_there(self, error: BaseException) -> None:
        """Note that a look failed with *error*."""
        now = self._clock()
        if self._since is None:
            self._since = now
            logger.warning("the rules could not be judged, and are tried again: %r", error)
        if self._told or now - self._since < _TOLD_AFTER:
            return
        self._told = True
        logger.error("the rules are not judged", exc_info=error)
        self._box.alert(
            f"telemetry's rules have not been judged for {now - self._since:.0f} s ({error}): "
            "readings are stored and will be judged later; look at the disk and the log "
            "('edgepaas doctor')",
            severity="critical",
            fingerprint=_STUCK,
            origin="rules",
        )

    def over(self) -> None:
        """Note that a look succeeded."""
        if self._told is not False:
            self._box.resolve(
                "telemetry's rules are judged again", fingerprint=_STUCK, origin="rules"
            )
        self._since, self._told = None, False
