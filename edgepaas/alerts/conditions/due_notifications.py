# SPDX-License-Identifier: Apache-2.0
"""Which notifications are due now, of which condition, and when the next one will be."""

import contextlib
from dataclasses import dataclass, replace

from edgepaas.alerts import history
from edgepaas.alerts.conditions.condition_store import ConditionStore
from edgepaas.alerts.conditions.digest import DueNotification
from edgepaas.alerts.conditions.fold import Condition
from edgepaas.alerts.conditions.notification_policy import (
    after_silent_episode,
    is_finished,
    what_is_due,
)
from edgepaas.alerts.conditions.silences import read_silences, silence_of
from edgepaas.alerts.spool.alert import SEVERITIES
from edgepaas.timing.moment import Moment


@dataclass(frozen=True)
class DueNotifications:
    """What is due now, the most urgent first, and in how many seconds more is due, if any."""

    now: tuple[DueNotification, ...] = ()
    wait: float | None = None


def find_due(
    store: ConditionStore,
    now: Moment,
    window: float,
    *,
    ignore_pauses: bool = False,
    log_only: bool = False,
) -> DueNotifications:
    """Return what is due of each condition; delete finished ones, mark silenced ones.

    *ignore_pauses*: after a long outage everything that waits is due, however often it was
    tried. *log_only*: no channel is set up. The caller holds the store's lock.
    """
    silences = read_silences(store.spool.folders, now)
    due: list[DueNotification] = []
    waits: list[float] = []
    for condition in store.load_all():
        if is_finished(condition, now, window, log_only=log_only):
            with contextlib.suppress(OSError):  # the next run tries again
                store.delete(condition)
            continue
        if silence := silence_of(condition, silences, now):
            waits.append(silence)
            if not condition.silenced:
                store.save(replace(condition, silenced=True))
            continue
        if _was_silent_episode(condition):
            _record_silent_episode(store, condition, now)
            continue
        item, wait = _due(condition, now, window, log_only=log_only)
        if ignore_pauses and item is not None and condition.sending is not None:
            wait = 0.0
        if item is not None and wait <= 0:
            due.append(item)
        elif wait > 0:
            waits.append(wait)
    due.sort(key=_urgency)
    return DueNotifications(tuple(due), min(waits, default=None))


def _due(
    condition: Condition, now: Moment, window: float, *, log_only: bool
) -> tuple[DueNotification | None, float]:
    """Return what is due of a condition, and the seconds until then."""
    found = what_is_due(condition, now, window, log_only=log_only)
    if (sending := condition.sending) is not None:
        what = sending.what if sending.reached or found is None else found.what
        return DueNotification(condition, what), sending.wait(now)
    return (None, 0.0) if found is None else (DueNotification(condition, found.what), found.wait)


def _was_silent_episode(condition: Condition) -> bool:
    return (
        condition.silenced
        and condition.sending is None
        and condition.state != "raised"
        and condition.notified.state != "raised"
    )


def _record_silent_episode(store: ConditionStore, condition: Condition, now: Moment) -> None:
    """Record what came and went under a silence, without a notification."""
    if condition.new:
        root, identity = store.spool.folders.root, f"{condition.id}-{condition.total}"
        values = {**condition.described(), "new": condition.new}
        history.record(root, "silenced", now, identity, **values)
    store.save(after_silent_episode(condition, now))


def _urgency(item: DueNotification) -> tuple[int, int, float]:
    condition = item.condition
    attempts = condition.sending.attempts if condition.sending is not None else 0
    # What failed before comes last: one that its receiver chokes on holds up no other.
    return attempts, -SEVERITIES.index(condition.severity), condition.since.wall
