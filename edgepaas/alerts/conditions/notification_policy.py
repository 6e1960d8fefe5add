# SPDX-License-Identifier: Apache-2.0
"""Which notification is due of a condition, and when. Pure.

Not each alert is notified of but each change of what holds: raised, worse, resolved. A
condition that is raised again and again is notified of again after ALERT_WINDOW with the count,
then at twice the pause each time; one that comes and goes is reported as flapping, and then not
until it settles.
"""

from dataclasses import dataclass, replace

from edgepaas.alerts.channels.notification import Notification, NotifiedState, Unheard, What
from edgepaas.alerts.conditions.fold import Condition
from edgepaas.alerts.spool.alert import SEVERITIES
from edgepaas.timing.backoff import pause_after
from edgepaas.timing.moment import Moment

#: So many changes within three windows are flapping: raised, resolved, raised, and so on.
FLAPPING_CHANGES = 5
_FLAPPING_WINDOWS = 3.0
#: The longest pause between two reminders: so many windows, 6 hours by default.
_LONGEST_WINDOWS = 36


@dataclass(frozen=True)
class DueKind:
    """The kind of notification that is due *wait* seconds from now (0.0: now)."""

    what: What
    wait: float = 0.0


def what_is_due(  # noqa: PLR0911 - a table of cases
    condition: Condition, now: Moment, window: float, *, log_only: bool = False
) -> DueKind | None:
    """Return what is due of *condition*, None for nothing; *window* in seconds.

    *log_only*: no channel is set up, and the log is all that there is to notify. What only the
    log took is news to a channel that is set up later, while it holds. That it is over is
    reported to whom it was reported that it holds.
    """
    notified = condition.notified
    heard = not notified.unheard or (log_only and notified.unheard == "log")
    if notified.unheard == "log" and not log_only:
        if condition.state == "raised":
            return DueKind("raised")
        over: What = "event" if condition.state == "event" else "passed"
        return DueKind(over) if condition.new else None
    if notified.flapping:
        quiet = _since(condition.changes[-1], now) if condition.changes else float("inf")
        return DueKind("settled", max(0.0, window - quiet))
    if condition.new and recent_changes(condition, now, window) >= FLAPPING_CHANGES:
        return DueKind("flapping")
    if condition.state == "raised":
        if notified.state != "raised":
            return DueKind("raised")
        if SEVERITIES.index(condition.severity) > SEVERITIES.index(notified.severity):
            return DueKind("worse" if heard else "raised")
        again: What = "still" if heard else "raised"
        return DueKind(again, _pause(notified, now, window)) if condition.new else None
    if condition.state == "resolved":
        if notified.state == "raised":
            return DueKind("resolved" if heard else "passed")
        return DueKind("passed") if condition.new else None
    if not condition.new:
        return None
    return DueKind("event", _pause(notified, now, window) if notified.at else 0.0)


def recent_changes(condition: Condition, now: Moment, window: float) -> int:
    """Return how often it was raised or resolved lately."""
    span = window * _FLAPPING_WINDOWS
    return sum(_since(moment, now) < span for moment in condition.changes)


def is_finished(
    condition: Condition, now: Moment, window: float, *, log_only: bool = False
) -> bool:
    """Whether it can be deleted: over, delivered, and too long ago to flap."""
    if condition.state == "raised" or condition.sending is not None:
        return False
    if what_is_due(condition, now, window, log_only=log_only) is not None:
        return False
    latest = condition.notified.at or condition.last
    return _since(latest, now) >= window * _FLAPPING_WINDOWS


def compose(condition: Condition, what: What, now: Moment, window: float) -> Notification:
    """Return the notification of kind *what* of *condition*, frozen as of *now*."""
    notified = condition.notified
    over = condition.state == "resolved" and condition.ended is not None
    until = condition.ended if over and condition.ended is not None else now
    end = condition.ended_by if over and what in ("resolved", "settled", "flapping") else ""
    present = condition.sending
    return Notification(
        key=present.key if present is not None else f"{condition.id}-{condition.serial + 1}",
        what=what,
        severity=condition.severity,
        fingerprint=condition.fingerprint,
        origin=condition.origin,
        message=end or condition.message,
        condition=condition.name,
        details=((condition.message,) if end else ()) + condition.details,
        since=wall_of(condition.since, now),
        last=wall_of(condition.last, now),
        ended=wall_of(condition.ended, now) if over and condition.ended is not None else 0.0,
        duration=until.seconds_since(condition.since) or 0.0,
        count=condition.count,
        new=condition.new,
        suppressed=condition.suppressed,
        changes=recent_changes(condition, now, window),
        clock_trusted=condition.clock_trusted,
        after=NotifiedState(
            state=condition.state,
            total=condition.total,
            severity=condition.severity
            if what in ("raised", "worse")
            else max(condition.severity, notified.severity, key=SEVERITIES.index),
            flapping=what == "flapping",
            reminders=notified.reminders + 1 if what == "still" or notified.unheard else 0,
            at=None,
        ),
        attempts=present.attempts if present is not None else 0,
        refused=present.refused if present is not None else {},
        refusals=present.refusals if present is not None else {},
    )


def with_frozen_notification(
    condition: Condition, what: What, now: Moment, window: float
) -> Condition:
    """Return *condition* with the notification about to be sent: a receiver may have it from now.

    A notification that may have been received already stays as it is; one that certainly was not
    is brought up to date under its key.
    """
    present = condition.sending
    if present is not None and present.reached:
        return condition
    notification = replace(compose(condition, what, now, window), reached=True)
    serial = condition.serial if present is not None else condition.serial + 1
    return replace(condition, sending=notification, serial=serial)


def after_notification(condition: Condition, notification: Notification, now: Moment) -> Condition:
    """Return *condition* once *notification* has been delivered."""
    return replace(
        condition, notified=replace(notification.after, at=now), sending=None, silenced=False
    )


def after_unheard(
    condition: Condition, notification: Notification, unheard: Unheard, now: Moment
) -> Condition:
    """Return *condition* once *notification* is given up: no channel took it."""
    notified, after = condition.notified, notification.after
    # What people were told of an episode holds for its end, whatever became of a reminder.
    before = notified.state == "raised" and not notified.unheard
    known = before and notification.what in ("worse", "still", "flapping", "settled")
    return replace(
        condition,
        notified=replace(
            after,
            at=now,
            unheard="" if known else unheard,
            missed=notified.missed + notification.new,
        ),
        sending=None,
        silenced=False,
    )


def after_silent_episode(condition: Condition, now: Moment) -> Condition:
    """Return *condition* as if what came and went under a silence had been delivered."""
    after = compose(condition, "passed", now, 0.0).after
    return replace(condition, notified=replace(after, at=now), silenced=False)


def wall_of(moment: Moment, now: Moment) -> float:
    """Return *moment* on the wall clock as it stands now: a clock set since is made up for."""
    if now.same_boot(moment):
        return now.wall - (now.since_boot - moment.since_boot)
    return moment.wall


def _pause(notified: NotifiedState, now: Moment, window: float) -> float:
    pause = pause_after(notified.reminders + 1, first=window, longest=window * _LONGEST_WINDOWS)
    return max(0.0, pause - (_since(notified.at, now) if notified.at else 0.0))


def _since(moment: Moment, now: Moment) -> float:
    # What no clock can date was long ago: a notification too many is better than none.
    passed = now.seconds_since(moment)
    return float("inf") if passed is None else passed
