# SPDX-License-Identifier: Apache-2.0
"""The text of a notification: what happened, on which box, since when, and what to do."""

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from edgepaas.alerts.channels.notification import Notification
from edgepaas.logs.printable import printable_line

_DID = {
    "raised": "it holds",
    "worse": "it holds and got worse",
    "still": "it still holds",
    "resolved": "it is over",
    "passed": "it came and went",
    "flapping": "it comes and goes; the next message follows once it settles",
    "settled": "it no longer comes and goes",
    "event": "it happened",
    "digest": "what came together",
    "test": "a test",
}


@dataclass(frozen=True)
class BoxIdentity:
    """Which box notifies: its name, its build, and the time zone of what people read.

    *node*: the beginning of its id, since boxes may share a host name; empty: it has none yet.
    """

    name: str
    build: str
    zone: tzinfo = UTC
    node: str = ""

    @property
    def label(self) -> str:
        """What people tell it by in one line: ``box-7 (3f9a12cd)``."""
        return f"{self.name} ({self.node})" if self.node else self.name

    @property
    def known_as(self) -> str:
        """What tells it from every other box, for programs: the id, else the name."""
        return self.node or self.name


def title(notification: Notification, box: BoxIdentity) -> str:
    """Return one line: ``[CRITICAL] box-7 (3f9a12cd): the disk is 91 % full``."""
    word = {
        "resolved": "RESOLVED",
        "passed": "PASSED",
        "flapping": "FLAPPING",
        "digest": "DIGEST",
        "test": "TEST",
    }.get(notification.what, notification.severity.upper())
    first = notification.message.split("\n", 1)[0]
    times = (
        f" ({notification.count:,} times)"
        if notification.count > 1 and notification.what != "resolved"
        else ""
    )
    line = printable_line(f"[{word}] {box.label}: {first}")
    return (line if len(line) <= 200 else line[:199] + "…") + times


def text(notification: Notification, box: BoxIdentity) -> str:
    """Return the whole message as lines of plain text."""
    # A row of a message's own would pass for one of ours.
    lines = [notification.message.replace("\n", "\n    "), ""]
    if notification.what == "digest":
        lines += [*notification.details, ""]
    lines.append(_row("what", f"{notification.severity}: {_DID[notification.what]}"))
    node = f", node {box.node}" if box.node else ""
    lines.append(_row("box", f"{box.name}{node} (EdgePaaS {box.build})"))
    if notification.origin:
        lines.append(_row("raised by", notification.origin))
    lines += _times(notification, box)
    if notification.count > 1 or notification.suppressed:
        dropped = f", {notification.suppressed:,} of them kept as a number alone" * bool(
            notification.suppressed
        )
        lines.append(_row("how often", f"{notification.count:,} times{dropped}"))
    if notification.changes > 1:
        lines.append(_row("changes", f"{notification.changes} lately"))
    if notification.what != "digest":
        lines += [_row("also said", line.replace("\n", " ")) for line in notification.details]
    if notification.condition:
        lines.append(_row("look at it", f"sudo edgepaas alerts show {notification.condition}"))
    lines.append(_row("the box", "sudo edgepaas status; sudo edgepaas doctor"))
    return "\n".join(lines) + "\n"


def line(notification: Notification, box: BoxIdentity) -> str:
    """Return a notification as one line of a digest."""
    first = printable_line(notification.message.split("\n", 1)[0])
    if len(first) > 300:
        first = first[:299] + "…"
    since = f", since {moment(notification.since, box)}" if notification.since else ""
    over = f", over at {moment(notification.ended, box)}" if notification.ended else ""
    times = f", {notification.count:,} times" if notification.count > 1 else ""
    said = "" if notification.what in ("raised", "event") else f" {notification.what}"
    return f"- {notification.severity}{said}: {first} ({notification.origin}{since}{over}{times})"


def moment(wall: float, box: BoxIdentity) -> str:
    """Return a time for people, e.g. ``2026-01-31 12:00:00 UTC``."""
    bounded = max(0.0, min(wall, 253402300799.0))
    return datetime.fromtimestamp(bounded, box.zone).strftime("%Y-%m-%d %H:%M:%S %Z")


def span(seconds: float) -> str:
    """Return a duration for people: ``3 d 2 h``, ``12 min``, ``40 s``."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{minutes} min" if minutes else f"{whole} s"


def _times(notification: Notification, box: BoxIdentity) -> list[str]:
    lines = []
    if notification.since:
        doubt = "" if notification.clock_trusted is not False else "; the box's clock was not set"
        lasted = (
            f" ({span(notification.duration)})"
            if notification.what not in ("event", "raised")
            else ""
        )
        lines.append(_row("since", f"{moment(notification.since, box)}{lasted}{doubt}"))
    if notification.ended:
        lines.append(_row("over at", moment(notification.ended, box)))
    elif notification.count > 1 and notification.last:
        lines.append(_row("last", moment(notification.last, box)))
    return lines


def _row(name: str, value: str) -> str:
    return f"{name + ':':<12} {printable_line(value)}"
