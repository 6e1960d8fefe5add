# SPDX-License-Identifier: Apache-2.0
"""Delivering: what was accepted is taken in, compared with what was told, and told.

One run at a time. Before a notice is sent it is frozen in its condition's file; after
somebody has taken it, the file says so. Killed in between, it is sent again under its key.
"""

import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from edgepaas.alerts import history
from edgepaas.alerts.channels.answers import Outcome
from edgepaas.alerts.channels.channels import Ask, Channels
from edgepaas.alerts.channels.config import AlertConfig
from edgepaas.alerts.channels.notice import Notice, attempted
from edgepaas.alerts.channels.wording import title
from edgepaas.alerts.conditions import digest
from edgepaas.alerts.conditions.condition_store import Book
from edgepaas.alerts.conditions.digest import Item
from edgepaas.alerts.conditions.due_notifications import Agenda, make_agenda
from edgepaas.alerts.conditions.intake import take_in
from edgepaas.alerts.conditions.notification_policy import frozen, settled
from edgepaas.alerts.delivery.dead_notices import bury
from edgepaas.alerts.spool.accept import Spool
from edgepaas.alerts.spool.folders import Store
from edgepaas.files.paths import Paths
from edgepaas.timing.moment import Moment, current_moment, rfc3339

logger = logging.getLogger("edgepaas.alerts")

#: A run ends after so many seconds; what is left is the next one's.
_LONGEST_RUN = 120.0
#: What is due so soon is waited for.
LINGER = 15.0
#: A file that stays in new/ would start the next run at once, and for ever.
_STUCK_PAUSE = 30.0

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.CRITICAL}


class Deliverer:
    """One run of delivering; *linger*: what is due within so many seconds is waited for."""

    def __init__(
        self,
        paths: Paths,
        config: AlertConfig,
        *,
        clock: Callable[[], Moment] = current_moment,
        jitter: Callable[[], float] = random.random,
        ask: Ask | None = None,
        linger: float = LINGER,
    ) -> None:
        self.config = config
        self.spool = Spool(paths)
        self.book = Book(self.spool)
        self._store = self.spool.store
        self._clock = clock
        self._linger = linger
        self._store.prepare()
        self.channels = Channels(self._store, config, clock=clock, jitter=jitter, ask=ask)
        #: How many notices were taken, by channel and severity.
        self.taken: Counter[tuple[str, str]] = Counter()

    def run(self) -> Agenda:
        """Tell everything that is due; returns what is left. Raises OSError, LockHeld."""
        end = time.monotonic() + _LONGEST_RUN
        while True:
            stuck = take_in(self.book, self._clock, self.config.files)
            left = self._round(end)
            if stuck:
                self._sleep(min(_STUCK_PAUSE, self._linger * 2), end, arrivals=False)
                return left
            if time.monotonic() >= end:
                return left
            if self.spool.waiting_names():
                continue
            if left.wait is None or left.wait > self._linger:
                return left
            self._sleep(left.wait, end)

    def _round(self, end: float) -> Agenda:
        """Tell what is due, as far as somebody takes it."""
        long_outage = self.channels.failing_for() >= self._long_outage
        with self.book.lock():
            agenda = make_agenda(
                self.book,
                self._clock(),
                self.config.window,
                ignore_pauses=long_outage or self.channels.changed,
            )
        if not self.config.channels:
            for item in agenda.due:
                self._log(item)
            return replace(agenda, due=())
        pending = digest.read_pending(self._store)
        if not agenda.due and pending is None:
            return agenda
        now = self._clock()
        if (wait := max(self.channels.wait(), pending.wait(now) if pending else 0.0)) > 0:
            return replace(agenda, wait=wait)
        if pending is None and long_outage and len(agenda.due) > 1:
            since = self.channels.failing_since() or now
            pending = digest.after_outage(
                agenda.due, since, now, self.config.window, self.config.sender
            )
        return self._send_in_order(pending, agenda, end)

    @property
    def _long_outage(self) -> float:
        return max(self.config.window, digest.LONG_OUTAGE)

    def _send_in_order(self, pending: Notice | None, agenda: Agenda, end: float) -> Agenda:
        """Send a digest that comes first, then single notices, then digests of the rest."""
        items = list(agenda.due)
        waits = [] if agenda.wait is None else [agenda.wait]
        singles: list[Item] | None = None
        while True:
            if pending is not None:
                covered = {cover.condition for cover in pending.covers}
                items = [item for item in items if item.condition.name not in covered]
                if (wait := self._send_digest(pending)) > 0:
                    return Agenda(tuple(items), wait)
            if singles is None:
                singles, items = _split(items)
                waits += self._send_all(singles, end)
            if not items:
                return Agenda((), min(waits, default=None))
            if (wait := self.channels.wait()) > 0 or time.monotonic() >= end:
                return Agenda(tuple(items), min([*waits, max(wait, 1.0)]))
            pending = digest.of_many(
                items[: digest.MOST_LINES], self._clock(), self.config.window, self.config.sender
            )

    def _send_all(self, items: Sequence[Item], end: float) -> list[float]:
        """Send each notice; returns the seconds until those that nobody took are tried again."""
        waits: list[float] = []
        for item in items:
            if (pause := self.channels.wait()) > 0 or time.monotonic() >= end:
                return [*waits, max(pause, 1.0)]
            if (wait := self._send_one(item)) > 0:
                waits.append(wait)
        return waits

    def _send_one(self, item: Item) -> float:
        """Send one notice; returns the seconds until it is tried again, 0.0 when it is done."""
        with self.book.lock():
            present = self.book.load(item.condition.name)
            if present is None or present.told != item.condition.told:
                return 0.0  # somebody has discarded it meanwhile
            condition = frozen(present, item.what, self._clock(), self.config.window)
            if condition != present:
                self.book.save(condition)
        notice = condition.sending
        if notice is None:
            return 0.0
        outcome = self.channels.send(notice)
        with self.book.lock():
            now = self._clock()
            condition = self.book.load(item.condition.name) or condition
            if condition.sending is None or condition.sending.key != notice.key:
                return 0.0
            if outcome.kind != "later":
                self._finish(notice, outcome, now)
                self.book.save_told(settled(condition, notice, now))
                return 0.0
            # What may have been received before may have been received still.
            before = present.sending is not None and present.sending.reached
            self.book.save(
                replace(condition, sending=attempted(notice, now, outcome, reached=before))
            )
        logger.warning("an alert waits to be told: %s", outcome.words)
        return max(outcome.wait, 0.1)

    def _send_digest(self, notice: Notice) -> float:
        """Send a digest; returns the seconds until it is tried again, 0.0 when it is done."""
        with contextlib.suppress(OSError):
            digest.write_pending(self._store, notice)
        outcome = self.channels.send(notice)
        now = self._clock()
        if outcome.kind == "later":
            with contextlib.suppress(OSError):
                if outcome.reached or outcome.refused or notice.attempts:
                    later = attempted(notice, now, outcome, reached=True)
                    digest.write_pending(self._store, later)
                else:
                    digest.forget_pending(self._store)  # nobody has it: made anew the next time
            logger.warning("%d alerts wait to be told: %s", notice.count, outcome.words)
            return max(outcome.wait, 0.1)
        self._finish(notice, outcome, now)
        with self.book.lock():
            for covered in notice.covers:
                condition = self.book.load(covered.condition)
                if condition is not None:
                    told = replace(covered.after, at=now)
                    self.book.save_told(replace(condition, told=told, sending=None, silenced=False))
        digest.forget_pending(self._store)
        return 0.0

    def _finish(self, notice: Notice, outcome: Outcome, now: Moment) -> None:
        """Put down that a notice was told, or bury one that every channel refused."""
        if outcome.kind == "refused":
            path = bury(self._store, notice, outcome.refused)
            logger.error(
                "an alert was refused by every channel and is kept in %s: %s; after mending it: "
                "'edgepaas alerts retry', or 'edgepaas alerts discard'",
                path,
                outcome.words,
            )
        else:
            self.taken[outcome.via, notice.severity] += 1
            logger.info("told by %s: %s", outcome.via, title(notice, self.config.sender))
        note_notice(self._store, notice, outcome, now)

    def _log(self, item: Item) -> None:
        """Nothing is configured: the log is where it is told."""
        with self.book.lock():
            now = self._clock()
            present = self.book.load(item.condition.name)
            if present is None:
                return
            condition = frozen(present, item.what, now, self.config.window)
            if (notice := condition.sending) is None:
                return
            logger.log(_LEVELS[notice.severity], "%s", title(notice, self.config.sender))
            note_notice(self._store, notice, Outcome("taken", "log"), now)
            self.taken["log", notice.severity] += 1
            self.book.save_told(settled(condition, notice, now))

    def _sleep(self, seconds: float, end: float, *, arrivals: bool = True) -> None:
        """Wait, at most until the run's *end*; an alert that arrives ends it."""
        until = min(time.monotonic() + seconds, end)
        while (left := until - time.monotonic()) > 0:
            if arrivals and self.spool.waiting_names():
                return
            time.sleep(min(left, 0.2))


def note_notice(store: Store, notice: Notice, outcome: Outcome, now: Moment) -> None:
    """Put into the history what became of a notice."""
    history.note(
        store.root,
        "dead" if outcome.kind == "refused" else "told",
        now,
        notice.key,
        notice=notice.what,
        severity=notice.severity,
        message=notice.message,
        origin=notice.origin,
        fingerprint=notice.fingerprint,
        condition=notice.condition,
        count=notice.count,
        new=notice.new,
        since=rfc3339(notice.since) if notice.since else None,
        ended=rfc3339(notice.ended) if notice.ended else None,
        duration_seconds=round(notice.duration, 3),
        via=outcome.via,
        attempts=notice.attempts + 1,
        **({"why": outcome.words} if outcome.kind == "refused" else {}),
    )


def _split(items: list[Item]) -> tuple[list[Item], list[Item]]:
    """Return what is sent one by one, and what goes into digests."""
    if len(items) <= digest.MOST_SINGLE:
        return items, []
    # What somebody may have received already is sent again as it was.
    single = [i for i in items if i.condition.sending is not None and i.condition.sending.reached]
    rest = [item for item in items if item not in single]
    free = max(0, digest.MOST_SINGLE - len(single))
    return single + rest[:free], rest[free:]
