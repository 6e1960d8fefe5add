# SPDX-License-Identifier: Apache-2.0
"""What a human reads: what happened, on which box, since when, and what to do."""

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from edgepaas.alerts.channels.notice import Notice

_DID = {
    "raised": "it holds",
    "worse": "it holds and got worse",
    "still": "it still holds",
    "resolved": "it is over",
    "passed": "it came and went",
    "flapping": "it comes and goes; told again once it settles",
    "settled": "it no longer comes and goes",
    "event": "it happened",
    "digest": "what came together",
    "test": "a test",
}


@dataclass(frozen=True)
class Sender:
    """Who tells: the box's name, its build, and the time zone of what people read."""

    box: str
    build: str
    zone: tzinfo = UTC


def title(notice: Notice, sender: Sender) -> str:
    """Return one line: ``[CRITICAL] box-7: the disk is 91 % full``."""
    word = {
        "resolved": "RESOLVED",
        "passed": "PASSED",
        "flapping": "FLAPPING",
        "digest": "DIGEST",
        "test": "TEST",
    }.get(notice.what, notice.severity.upper())
    first = notice.message.split("\n", 1)[0]
    times = f" ({notice.count:,} times)" if notice.count > 1 and notice.what != "resolved" else ""
    line = f"[{word}] {sender.box}: {first}"
    return (line if len(line) <= 200 else line[:199] + "…") + times


def text(notice: Notice, sender: Sender) -> str:
    """Return the whole message as lines of plain text."""
    lines = [notice.message, ""]
    if notice.what == "digest":
        lines += [*notice.details, ""]
    lines.append(_row("what", f"{notice.severity}: {_DID[notice.what]}"))
    lines.append(_row("box", f"{sender.box} (EdgePaaS {sender.build})"))
    if notice.origin:
        lines.append(_row("raised by", notice.origin))
    lines += _times(notice, sender)
    if notice.count > 1 or notice.suppressed:
        dropped = f", {notice.suppressed:,} of them kept as a number alone" * bool(
            notice.suppressed
        )
        lines.append(_row("how often", f"{notice.count:,} times{dropped}"))
    if notice.changes > 1:
        lines.append(_row("changes", f"{notice.changes} lately"))
    if notice.what != "digest":
        lines += [_row("also said", line.replace("\n", " ")) for line in notice.details]
    if notice.condition:
        lines.append(_row("look at it", f"sudo edgepaas alerts show {notice.condition}"))
    lines.append(_row("the box", "sudo edgepaas status; sudo edgepaas doctor"))
    return "\n".join(lines) + "\n"


def line(notice: Notice, sender: Sender) -> str:
    """Return a notice as one line of a digest."""
    first = notice.message.split("\n", 1)[0]
    if len(first) > 300:
        first = first[:299] + "…"
    since = f", since {moment(notice.since, sender)}" if notice.since else ""
    over = f", over at {moment(notice.ended, sender)}" if notice.ended else ""
    times = f", {notice.count:,} times" if notice.count > 1 else ""
    said = "" if notice.what in ("raised", "event") else f" {notice.what}"
    return f"- {notice.severity}{said}: {first} ({notice.origin}{since}{over}{times})"


def moment(wall: float, sender: Sender) -> str:
    """Return a time for people, e.g. ``2026-01-31 12:00:00 UTC``."""
    bounded = max(0.0, min(wall, 253402300799.0))
    return datetime.fromtimestamp(bounded, sender.zone).strftime("%Y-%m-%d %H:%M:%S %Z")


def span(seconds: float) -> str:
    """Return a duration for people: ``3 d 2 h``, ``12 min``, ``40 s``."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{minutes} min" if minutes else f"{whole} s"


def _times(notice: Notice, sender: Sender) -> list[str]:
    lines = []
    if notice.since:
        doubt = "" if notice.clock_trusted is not False else "; the box's clock was not set"
        lasted = f" ({span(notice.duration)})" if notice.what not in ("event", "raised") else ""
        lines.append(_row("since", f"{moment(notice.since, sender)}{lasted}{doubt}"))
    if notice.ended:
        lines.append(_row("over at", moment(notice.ended, sender)))
    elif notice.count > 1 and notice.last:
        lines.append(_row("last", moment(notice.last, sender)))
    return lines


def _row(name: str, value: str) -> str:
    return f"{name + ':':<12} {value}"
