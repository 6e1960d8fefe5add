# SPDX-License-Identifier: Apache-2.0
"""Digests: one message in front after a long outage, and one for what is too much for many."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgepaas.alerts.channels.notice import Covered, Notice, What, read_notice
from edgepaas.alerts.channels.wording import Sender, line, span
from edgepaas.alerts.conditions.fold import Condition
from edgepaas.alerts.conditions.notification_policy import compose, wall_of
from edgepaas.alerts.spool.alert import SEVERITIES
from edgepaas.alerts.spool.checksummed_json import Damaged, read_sealed, seal
from edgepaas.alerts.spool.folders import Store
from edgepaas.timing.moment import Moment

#: An outage is long when nothing could be told for this long, or for ALERT_WINDOW.
LONG_OUTAGE = 600.0
#: So many notices at once are sent one by one; what is beyond comes in digests.
MOST_SINGLE = 20
#: Lines of one digest.
MOST_LINES = 100


@dataclass(frozen=True)
class Item:
    """A condition and what is due of it."""

    condition: Condition
    what: What


def after_outage(
    items: Sequence[Item], since: Moment, now: Moment, window: float, sender: Sender
) -> Notice:
    """Return the digest that goes out first: what the messages after it are about."""
    lasted = now.seconds_since(since)
    for_long = f" for {span(lasted)}" if lasted is not None else ""
    message = (
        f"nobody could be told anything{for_long}; {_counted(items)} waited and "
        f"{'follows' if len(items) == 1 else 'follow'}, one message each"
        + (f" for the first {MOST_SINGLE}" if len(items) > MOST_SINGLE else "")
    )
    return _digest(items, message, now, window, sender, since=wall_of(since, now))


def of_many(items: Sequence[Item], now: Moment, window: float, sender: Sender) -> Notice:
    """Return a digest that stands for the messages of *items*, of which there are too many."""
    notice = _digest(items, f"{_counted(items)} at once, told together", now, window, sender)
    notices = [compose(item.condition, item.what, now, window) for item in items]
    return replace(
        notice,
        new=sum(single.new for single in notices),
        covers=tuple(
            Covered(item.condition.name, single.after)
            for item, single in zip(items, notices, strict=True)
        ),
    )


def read_pending(store: Store) -> Notice | None:
    """Return the digest that was about to be sent, None without one; raises OSError."""
    try:
        return read_notice(read_sealed(_file(store)))
    except FileNotFoundError:
        return None
    except (Damaged, KeyError, TypeError, ValueError, AttributeError):
        # Its conditions are still there, and are told anew.
        store.set_corrupt(_file(store))
        return None


def write_pending(store: Store, notice: Notice) -> None:
    """Keep a digest before it is sent; raises OSError."""
    store.put(_file(store), seal(notice.as_dict()))


def forget_pending(store: Store) -> None:
    """A digest was told, or is to be made anew; raises OSError."""
    store.remove(_file(store))


def _digest(
    items: Sequence[Item],
    message: str,
    now: Moment,
    window: float,
    sender: Sender,
    *,
    since: float = 0.0,
) -> Notice:
    notices = [compose(item.condition, item.what, now, window) for item in items]
    lines = [line(notice, sender) for notice in notices[:MOST_LINES]]
    if len(notices) > MOST_LINES:
        lines.append(f"- and {len(notices) - MOST_LINES:,} more")
    suppressed = sum(notice.suppressed for notice in notices)
    if suppressed:
        lines.append(f"{suppressed:,} alerts were suppressed: the spool had no room for them")
    worst = max(
        (notice.severity for notice in notices), key=SEVERITIES.index, default=SEVERITIES[0]
    )
    return Notice(
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


def _counted(items: Sequence[Item]) -> str:
    parts = []
    for severity in reversed(SEVERITIES):
        number = sum(item.condition.severity == severity for item in items)
        if number:
            parts.append(f"{number:,} {severity}")
    number = len(items)
    return f"{number:,} alert{'s' if number != 1 else ''} ({', '.join(parts)})"


def _file(store: Store) -> Path:
    return store.root / "digest.json"
