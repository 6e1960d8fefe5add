# SPDX-License-Identifier: Apache-2.0
"""Delivery: accepted alerts are folded into conditions, and due notifications are sent.

One run at a time. Before a notification is sent it is frozen in its condition's file; once a
channel took it, the file records that. After a kill in between it is sent again under its key.
"""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from edgepaas.alerts import history
from edgepaas.alerts.channels.answers import Outcome
from edgepaas.alerts.channels.channel_failover import ChannelFailover, Send
from edgepaas.alerts.channels.config import AlertConfig
from edgepaas.alerts.channels.notification import Covered, Notification, attempted
from edgepaas.alerts.channels.wording import title
from edgepaas.alerts.conditions import digest
from edgepaas.alerts.conditions.condition_store import ConditionStore
from edgepaas.alerts.conditions.digest import DueNotification
from edgepaas.alerts.conditions.due_notifications import DueNotifications, find_due
from edgepaas.alerts.conditions.fold import Condition
from edgepaas.alerts.conditions.intake import fold_waiting
from edgepaas.alerts.conditions.notification_policy import (
    after_notification,
    after_unheard,
    with_frozen_notification,
)
from edgepaas.alerts.delivery.dead_notifications import keep_dead
from edgepaas.alerts.spool.accept import Spool
from edgepaas.alerts.spool.folders import SpoolFolders
from edgepaas.files.paths import Paths
from edgepaas.timing.backoff import jitter
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
        jitter: Callable[[], float] = lambda: jitter(0.5),
        send: Send | None = None,
        linger: float = LINGER,
    ) -> None:
        self.config = config
        self.spool = Spool(paths)
        self.store = ConditionStore(self.spool)
        self._folders = self.spool.folders
        self._clock = clock
        self._linger = linger
        self._folders.prepare()
        self.channels = ChannelFailover(
            self._folders, config, clock=clock, jitter=jitter, send=send
        )
        #: How many notifications were taken, by channel and severity.
        self.taken: Counter[tuple[str, str]] = Counter()
        #: How many notifications were written to the log alone, for want of a channel.
        self.logged = 0

    def run(self) -> DueNotifications:
        """Send everything that is due; returns what is left. Raises OSError, LockHeld."""
        end = time.monotonic() + _LONGEST_RUN
        while True:
            stuck = fold_waiting(self.store, self._clock, self.config.files)
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

    def _round(self, end: float) -> DueNotifications:
        """Send what is due, as far as a channel takes it."""
        long_outage = self.channels.failing_for() >= self._long_outage
        with self.store.lock():
            due = find_due(
                self.store,
                self._clock(),
                self.config.window,
                ignore_pauses=long_outage or self.channels.changed,
                log_only=not self.config.channels,
            )
        if not self.config.channels:
            for item in due.now:
                self._log(item)
            return replace(due, now=())
        pending = digest.read_pending(self._folders)
        if not due.now and pending is None:
            return due
        now = self._clock()
        if (wait := max(self.channels.wait(), pending.wait(now) if pending else 0.0)) > 0:
            return replace(due, wait=wait)
        if pending is None and long_outage and len(due.now) > 1:
            since = self.channels.failing_since() or now
            pending = digest.after_outage(due.now, since, now, self.config.window, self.config.box)
        return self._send_in_order(pending, due, end)

    @property
    def _long_outage(self) -> float:
        return max(self.config.window, digest.LONG_OUTAGE)

    def _send_in_order(
        self, pending: Notification | None, due: DueNotifications, end: float
    ) -> DueNotifications:
        """Send a digest that comes first, then single notifications, then digests of the rest."""
        items = list(due.now)
        waits = [] if due.wait is None else [due.wait]
        singles: list[DueNotification] | None = None
        while True:
            if pending is not None:
                covered = {cover.condition for cover in pending.covers}
                items = [item for item in items if item.condition.name not in covered]
                if (wait := self._send_digest(pending)) > 0:
                    return DueNotifications(tuple(items), wait)
            if singles is None:
                singles, items = _split(items)
                waits += self._send_all(singles, end)
            if not items:
                return DueNotifications((), min(waits, default=None))
            if (wait := self.channels.wait()) > 0 or time.monotonic() >= end:
                return DueNotifications(tuple(items), min([*waits, max(wait, 1.0)]))
            pending = digest.of_many(
                items[: digest.MOST_LINES], self._clock(), self.config.window, self.config.box
            )

    def _send_all(self, items: Sequence[DueNotification], end: float) -> list[float]:
        """Send each notification; returns the seconds until each that was not taken is retried."""
        waits: list[float] = []
        for item in items:
            if (pause := self.channels.wait()) > 0 or time.monotonic() >= end:
                return [*waits, max(pause, 1.0)]
            if (wait := self._send_one(item)) > 0:
                waits.append(wait)
        return waits

    def _send_one(self, item: DueNotification) -> float:
        """Send one notification; returns the seconds until it is retried, 0.0 when it is done."""
        with self.store.lock():
            present = self.store.load(item.condition.name)
            if present is None or present.notified != item.condition.notified:
                return 0.0  # it was discarded or delivered meanwhile
            condition = with_frozen_notification(
                present, item.what, self._clock(), self.config.window
            )
            if condition != present:
                self.store.save(condition)
        notification = condition.sending
        if notification is None:
            return 0.0
        outcome = self.channels.send(notification)
        with self.store.lock():
            now = self._clock()
            condition = self.store.load(item.condition.name) or condition
            if condition.sending is None or condition.sending.key != notification.key:
                return 0.0
            if outcome.kind != "later":
                self._finish(notification, outcome, now)
                taken = outcome.kind == "taken"
                self.store.save_notified(
                    after_notification(condition, notification, now)
                    if taken
                    else after_unheard(condition, notification, "dead", now)
                )
                return 0.0
            # What may have been received before this attempt still may have been.
            before = present.sending is not None and present.sending.reached
            self.store.save(
                replace(condition, sending=attempted(notification, now, outcome, reached=before))
            )
        logger.warning("a notification is retried later: %s", outcome.words)
        return max(outcome.wait, 0.1)

    def _send_digest(self, notification: Notification) -> float:
        """Send a digest; returns the seconds until it is tried again, 0.0 when it is done."""
        with contextlib.suppress(OSError):
            digest.write_pending(self._folders, notification)
        outcome = self.channels.send(notification)
        now = self._clock()
        if outcome.kind == "later":
            with contextlib.suppress(OSError):
                if outcome.reached or outcome.refused or notification.attempts:
                    later = attempted(notification, now, outcome, reached=True)
                    digest.write_pending(self._folders, later)
                else:  # no receiver has it: made anew the next time
                    digest.forget_pending(self._folders)
            logger.warning(
                "%d notifications are retried later: %s", notification.count, outcome.words
            )
            return max(outcome.wait, 0.1)
        self._finish(notification, outcome, now)
        with self.store.lock():
            for covered in notification.covers:
                condition = self.store.load(covered.condition)
                if condition is not None:
                    own = covered_by(notification, covered, condition)
                    self.store.save_notified(
                        after_notification(condition, own, now)
                        if outcome.kind == "taken"
                        else after_unheard(condition, own, "dead", now)
                    )
        digest.forget_pending(self._folders)
        return 0.0

    def _finish(self, notification: Notification, outcome: Outcome, now: Moment) -> None:
        """Record that a notification was delivered, or keep one that every channel refused."""
        if outcome.kind == "refused":
            path = keep_dead(self._folders, notification, outcome.refused)
            logger.error(
                "every channel refused a notification, kept in %s: %s; after mending that: "
                "'edgepaas alerts retry', or 'edgepaas alerts discard'",
                path,
                outcome.words,
            )
        else:
            self.taken[outcome.via, notification.severity] += 1
            logger.info("delivered by %s: %s", outcome.via, title(notification, self.config.box))
        record_notification(self._folders, notification, outcome, now)

    def _log(self, item: DueNotification) -> None:
        """Write a notification to the log: no channel is configured."""
        with self.store.lock():
            now = self._clock()
            present = self.store.load(item.condition.name)
            if present is None:
                return
            condition = with_frozen_notification(present, item.what, now, self.config.window)
            if (notification := condition.sending) is None:
                return
            logger.log(_LEVELS[notification.severity], "%s", title(notification, self.config.box))
            record_notification(self._folders, notification, Outcome("later", "log"), now)
            self.logged += 1
            self.store.save_notified(after_unheard(condition, notification, "log", now))

    def _sleep(self, seconds: float, end: float, *, arrivals: bool = True) -> None:
        """Wait, at most until the run's *end*; an alert that arrives ends it."""
        until = min(time.monotonic() + seconds, end)
        while (left := until - time.monotonic()) > 0:
            if arrivals and self.spool.waiting_names():
                return
            time.sleep(min(left, 0.2))


def record_notification(
    folders: SpoolFolders, notification: Notification, outcome: Outcome, now: Moment
) -> None:
    """Record in the history what became of a notification: delivered, dead, or logged alone."""
    history.record(
        folders.root,
        {"taken": "delivered", "refused": "dead", "later": "logged"}[outcome.kind],
        now,
        notification.key,
        notice=notification.what,
        severity=notification.severity,
        message=notification.message,
        origin=notification.origin,
        fingerprint=notification.fingerprint,
        condition=notification.condition,
        count=notification.count,
        new=notification.new,
        since=rfc3339(notification.since) if notification.since else None,
        ended=rfc3339(notification.ended) if notification.ended else None,
        duration_seconds=round(notification.duration, 3),
        via=outcome.via,
        attempts=notification.attempts + 1,
        **({"why": outcome.words} if outcome.kind == "refused" else {}),
    )


def covered_by(digest: Notification, covered: Covered, condition: Condition) -> Notification:
    """Return what of a *digest* is about one *condition*."""
    new = max(0, covered.after.total - condition.notified.total)
    return replace(digest, after=covered.after, new=new, covers=())


def _split(items: list[DueNotification]) -> tuple[list[DueNotification], list[DueNotification]]:
    """Return what is sent one by one, and what goes into digests."""
    if len(items) <= digest.MOST_SINGLE:
        return items, []
    # What a receiver may have already is sent again as it was.
    single = [i for i in items if i.condition.sending is not None and i.condition.sending.reached]
    rest = [item for item in items if item not in single]
    free = max(0, digest.MOST_SINGLE - len(single))
    return single + rest[:free], rest[free:]
