# SPDX-License-Identifier: Apache-2.0
"""One alert as it lies in the spool: what happened, how severe, where, when by which clock."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from edgepaas.alerts.spool.checksummed_json import Damaged
from edgepaas.files import shapes
from edgepaas.files.records import RecordType
from edgepaas.logs.printable import printable_text
from edgepaas.timing.moment import Moment, read_moment, rfc3339

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")

#: Of a message, in UTF-8; what is longer is cut: it is to be read, and to fit on a full disk.
MESSAGE_BYTES = 2000
_SHORT_BYTES = 200

#: systemd-timesyncd makes this file once it has set the clock (systemd-timesyncd.service(8)).
_SYNCHRONISED = Path("/run/systemd/timesync/synchronized")
#: No box is older than this source: 2025-01-01T00:00:00Z; nor younger than 2100.
_EARLIEST, _LATEST = 1735689600, 4102444800

_NAME = re.compile(
    r"(?P<sequence>[0-9]{12,19})-(?P<kind>info|warning|critical|resolved)"
    r"-(?P<condition>[a-z0-9-]{1,80})\.(?P<id>[0-9a-f]{16})\.json\Z"
)


@dataclass(frozen=True)
class Alert:
    """One call of ``raise_alert`` (*resolved* False) or ``resolve_alert``.

    *condition* names the cause that it is about: alerts of one condition are counted
    together. *named*: the caller gave a fingerprint; *event*: nothing holds once it was
    delivered. *clock_trusted* is None when the box offers no way to know.
    """

    id: str
    sequence: int
    condition: str
    named: bool
    resolved: bool
    event: bool
    severity: Severity
    fingerprint: str
    message: str
    origin: str
    box: str
    at: Moment
    clock_trusted: bool | None

    @property
    def name(self) -> str:
        """The file's name; names sort by sequence."""
        kind = "resolved" if self.resolved else self.severity
        return f"{self.sequence:012d}-{kind}-{self.condition}.{self.id}.json"

    def as_dict(self) -> dict[str, Any]:
        """Return the file's content, what a reader looks for first in front."""
        return {
            "what": "resolved" if self.resolved else "raised",
            "severity": self.severity,
            "message": self.message,
            "origin": self.origin,
            "fingerprint": self.fingerprint,
            "event": self.event,
            "box": self.box,
            "time": rfc3339(self.at.wall),
            "clock_trusted": self.clock_trusted,
            "at": self.at.as_dict(),
            "sequence": self.sequence,
            "condition": self.condition,
            "id": self.id,
        }


class AlertName(NamedTuple):
    """What is known from the name of an alert file; *kind* is the severity, or ``resolved``."""

    sequence: int
    kind: str
    condition: str
    id: str


def read_name(name: str) -> AlertName | None:
    """Return the *name* of a file, parsed; None for one that EdgePaaS did not name."""
    match = _NAME.match(name)
    if match is None:
        return None
    return AlertName(int(match["sequence"]), match["kind"], match["condition"], match["id"])


#: A file of ``new/``: the fields of :meth:`Alert.as_dict`.
RECORD = RecordType(
    "alert",
    2,
    {
        **dict.fromkeys(("what", "severity", "message", "origin", "fingerprint"), shapes.text),
        "event": shapes.flag,
        **dict.fromkeys(("box", "time", "condition", "id"), shapes.text),
        "clock_trusted": shapes.optional(shapes.flag),
        "at": shapes.moment,
        "sequence": shapes.whole,
    },
    # What an earlier release accepted says nothing of being an event.
    {1: lambda old: {"event": False, **old}},
)


def read_alert(content: Mapping[str, Any]) -> Alert:
    """Return the alert in a file's content; raises Damaged."""
    try:
        entry = RECORD.fields_of(dict(content))
        severity = entry["severity"]
        if severity not in SEVERITIES or entry["what"] not in ("raised", "resolved"):
            raise ValueError("severity")
        return Alert(
            id=entry["id"],
            sequence=entry["sequence"],
            condition=entry["condition"],
            named=bool(entry["fingerprint"]),
            resolved=entry["what"] == "resolved",
            event=entry["event"],
            severity=severity,
            fingerprint=entry["fingerprint"],
            message=clean_text(entry["message"]),
            origin=entry["origin"],
            box=entry["box"],
            at=read_moment(entry["at"]),
            clock_trusted=entry["clock_trusted"],
        )
    except (ValueError, OverflowError) as problem:
        raise Damaged(f"it is no alert: {problem}") from None


def condition_name(fingerprint: str, origin: str, message: str) -> str:
    """Return the name of the condition: readable, fit for a file, one for each fingerprint.

    Without a fingerprint the same text of the same origin is the same condition.
    """
    import hashlib  # 4 ms, and most processes raise nothing

    identity = f"f\0{fingerprint}" if fingerprint else f"m\0{origin}\0{message}"
    digest = hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()[:12]
    slug = re.sub(r"[^a-z0-9]+", "-", (fingerprint or f"once {origin}").lower()).strip("-")[:48]
    return f"{slug.strip('-') or 'alert'}-{digest}"


def clean_text(text: str, most: int = MESSAGE_BYTES) -> str:
    """Return *text* without what cannot be printed, trimmed and cut to *most* bytes of UTF-8."""
    text = printable_text(text.encode("utf-8", "replace").decode("utf-8")).strip()
    if len(text.encode()) <= most:
        return text
    return text.encode()[: most - 3].decode("utf-8", "ignore") + "…"


def clean_word(text: str) -> str:
    """Return a fingerprint or an origin fit for one line."""
    return " ".join(clean_text(text, _SHORT_BYTES).split())


def clock_trusted(now: Moment) -> bool | None:
    """Whether the wall clock can be trusted: False for a year that cannot be; None: unknown.

    Cheaper than the health check, which asks the kernel as well: this is asked by every
    process that raises an alert.
    """
    if not _EARLIEST <= now.wall < _LATEST:
        return False
    return True if _SYNCHRONISED.exists() else None
