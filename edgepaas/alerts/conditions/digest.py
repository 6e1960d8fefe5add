# SPDX-License-Identifier: Apache-2.0
"""Digests: one ahead of the rest after a long outage, and one in place of too many messages."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgepaas.alerts.channels.notification import (
    RECORD,
    Covered,
    Notification,
    What,
    read_notification,
)
from edgepaas.alerts.channels.wording import BoxIdentity, line, span
from edgepaas.alerts.conditions.fold import Condition
from edgepaas.alerts.conditions.notification_policy import compose, wall_of
from edgepaas.alerts.spool.alert import SEVERITIES
from edgepaas.alerts.spool.checksummed_json import Damaged, checksummed_record, read_checksummed
from edgepaas.alerts.spool.folders import SpoolFolders
from edgepaas.timing.moment import Moment

#: An outage is long when nothing could be delivered for this long, or for ALERT_WINDOW.
LONG_OUTAGE = 600.0
#: So many notifications at once are sent one by one; what is beyond comes in digests.
MOST_SINGLE = 20
#: Lines of one digest.
MOST_LINES = 100


@dataclass(frozen=True)
class DueNotification:
    """A condition, and the kind of notification that is due of it."""

    condition: Condition
    what: What


def after_outage(
    items: Sequence[DueNotification], since: Moment, now: Moment, window: float, box: BoxIdentity
) -> Notification:
    """Return the digest that goes out first: what the messages after it are about."""
    lasted = now.seconds_since(since)
    for_long = f" for {span(lasted)}" if lasted is not None else ""
    message = (
        f"no notification could be delivered{for_long}; {_counted(items)} waited and "
        f"{'follows' if len(items) == 1 else 'follow'}, one message each"
        + (f" for the first {MOST_SINGLE}" if len(items) > MOST_SINGLE else "")
    )
    return _digest(items, message, now, window, box, since=wall_of(since, now))


def of_many(
    items: Sequence[DueNotification], now: Moment, window: float, box: BoxIdentity
) -> Notification:
    """Return a digest that stands for the messages of *items*, of which there are too many."""
    notification = _digest(
        items, f"{_counted(items)} at once, delivered together", now, window, box
    )
    notifications = [compose(item.condition, item.what, now, window) for item in items]
    return replace(
        notification,
        new=sum(single.new for single in notifications),
        covers=tuple(
            Covered(item.condition.name, single.after)
            for item, single in zip(items, notifications, strict=True)
        ),
    )


def read_pending(folders: SpoolFolders) -> Notification | None:
    """Return the digest that was about to be sent, None without one; raises OSError."""
    try:
        return read_notification(read_checksummed(_file(folders)))
    except FileNotFoundError:
        return None
    except (Damaged, KeyError, TypeError, ValueError, AttributeError):
        # Its conditions are still there, and are notified of anew.
        folders.set_corrupt(_file(folders))
        return None


def write_pending(folders: SpoolFolders, notification: Notification) -> None:
    """Keep a digest before it is sent; raises OSError."""
    folders.put(_file(folders), checksummed_record(RECORD, notification.as_dict()))


def forget_pending(folders: SpoolFolders) -> None:
    """Delete the pending digest: it was delivered, or is to be made anew; raises OSError."""
    folders.remove(_file(folders))


def _digest(
    items: Sequence[DueNotification],
    message: str,
    now: Moment,
    window: float,
    box: BoxIdentity,
    *,
    since: float = 0.0,
) -> Notification:
    notifications = [compose(item.condition, item.what, now, window) for item in items]
    lines = [line(notification, box) for notification in notifications[:MOST_LINES]]
    if len(notifications) > MOST_LINES:
        lines.append(f"- and {len(notifications) - MOST_LINES:,} more")
    suppressed = sum(notification.suppressed for notification in notifications)
    if suppressed:
        lines.append(f"{suppressed:,} alerts were suppressed: the spool had no room for them")
    worst = max(
        (notification.severity for notification in notifications),
        key=SEVERITIES.index,
        default=SEVERITIES[0],
    )
    return Notification(
        key=f"digest-{os.urandom(8).hex()}",
        what="digest",
        severity=worst,
        fingerprint="",
        origin="edgepaas-alerts",
        message=message,
        details=tuple(lines),
        since=since,
        last=now.wall,
        count=len(items),
        suppressed=suppressed,
        reached=True,
    )


def _counted(items: Sequence[DueNotification]) -> str:
    parts = []
    for severity in reversed(SEVERITIES):
        number = sum(item.condition.severity == severity for item in items)
        if number:
            parts.append(f"{number:,} {severity}")
    number = len(items)
    return f"{number:,} alert{'s' if number != 1 else ''} ({', '.join(parts)})"


def _file(folders: SpoolFolders) -> Path:
    return folders.root / "digest.json"
