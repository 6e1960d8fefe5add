# SPDX-License-Identifier: Apache-2.0
"""Conditions: what is known of each cause, folded from its alerts one by one. Pure.

A condition's file is written before the alerts that it has taken in are deleted, and names
them, so that none is counted twice whenever a process is killed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from edgepaas.alerts.channels.notification import (
    NOTIFICATION_SHAPE,
    NOTIFIED_SHAPE,
    Notification,
    NotifiedState,
    notification_of,
    read_notified,
    upgraded,
    with_unheard,
)
from edgepaas.alerts.spool.alert import SEVERITIES, Alert, Severity, clean_text
from edgepaas.alerts.spool.checksummed_json import Damaged
from edgepaas.files import shapes
from edgepaas.files.records import RecordType, same_fields
from edgepaas.timing.moment import Moment, read_moment, rfc3339

State = Literal["raised", "resolved", "event"]

#: Changes that are remembered, to find out whether it flaps.
_MOST_CHANGES = 12
#: Other wordings of the same condition that are kept, and of how many bytes.
_MOST_DETAILS = 4
_DETAIL_BYTES = 400


@dataclass(frozen=True)
class Condition:
    """One cause. *since*, *count* and *message* are about the present or last episode.

    *total* counts the alerts of all episodes, evicted ones included; *suppressed* how many
    of them were evicted, of which *evicted* were counted as (epoch, number).
    """

    name: str
    id: str
    fingerprint: str
    origin: str
    box: str
    state: State
    severity: Severity
    message: str
    since: Moment
    last: Moment
    clock_trusted: bool | None
    ended: Moment | None = None
    ended_by: str = ""
    details: tuple[str, ...] = ()
    count: int = 0
    total: int = 0
    suppressed: int = 0
    evicted: tuple[str, int] = ("", 0)
    changes: tuple[Moment, ...] = ()
    notified: NotifiedState = field(default_factory=NotifiedState)
    sending: Notification | None = None
    serial: int = 0
    folded: frozenset[str] = frozenset()
    silenced: bool = False

    @property
    def new(self) -> int:
        """How many of its alerts no notification has reported."""
        return self.total - self.notified.total

    @property
    def undelivered(self) -> int:
        """How many of its alerts no channel has taken."""
        return self.new + self.notified.missed

    def described(self) -> dict[str, Any]:
        """Return its fields for the history."""
        return {
            "severity": self.severity,
            "message": self.message,
            "origin": self.origin,
            "fingerprint": self.fingerprint,
            "condition": self.name,
            "count": self.count,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the file's content, what a reader looks for first in front."""
        return {
            "state": self.state,
            "severity": self.severity,
            "message": self.message,
            "origin": self.origin,
            "fingerprint": self.fingerprint,
            "box": self.box,
            "since_time": rfc3339(self.since.wall),
            "last_time": rfc3339(self.last.wall),
            "count": self.count,
            "not_told": self.undelivered,
            "details": list(self.details),
            "ended_time": None if self.ended is None else rfc3339(self.ended.wall),
            "ended_by": self.ended_by,
            "total": self.total,
            "suppressed": self.suppressed,
            "evicted": list(self.evicted),
            "clock_trusted": self.clock_trusted,
            "silenced": self.silenced,
            "since": self.since.as_dict(),
            "last": self.last.as_dict(),
            "ended": None if self.ended is None else self.ended.as_dict(),
            "changes": [moment.as_dict() for moment in self.changes],
            "told": self.notified.as_dict(),
            "sending": None if self.sending is None else self.sending.as_dict(),
            "serial": self.serial,
            "folded": sorted(self.folded),
            "name": self.name,
            "id": self.id,
        }


def _upgraded(condition: Any) -> Any:
    sending = condition["sending"]
    return {
        **condition,
        "told": with_unheard(condition["told"]),
        # A notification within a condition does not name itself: it is of the condition's version.
        "sending": None if sending is None else upgraded(sending),
    }


#: A file of ``conditions/``: the fields of :meth:`Condition.as_dict`.
RECORD = RecordType(
    "alert-condition",
    3,
    {
        "state": shapes.one_of("raised", "resolved", "event"),
        "severity": shapes.one_of(*SEVERITIES),
        **dict.fromkeys(("message", "origin", "fingerprint", "box", "ended_by"), shapes.text),
        **dict.fromkeys(("since_time", "last_time", "name", "id"), shapes.text),
        "ended_time": shapes.optional(shapes.text),
        **dict.fromkeys(("count", "not_told", "total", "suppressed", "serial"), shapes.whole),
        "details": shapes.list_of(shapes.text),
        "evicted": shapes.pair_of(shapes.text, shapes.whole),
        "clock_trusted": shapes.optional(shapes.flag),
        "silenced": shapes.flag,
        "since": shapes.moment,
        "last": shapes.moment,
        "ended": shapes.optional(shapes.moment),
        "changes": shapes.list_of(shapes.moment),
        "told": NOTIFIED_SHAPE,
        "sending": shapes.optional(NOTIFICATION_SHAPE),
        "folded": shapes.list_of(shapes.text),
    },
    {1: same_fields, 2: _upgraded},
)


def read_condition(content: Mapping[str, Any]) -> Condition:
    """Return what :meth:`Condition.as_dict` wrote; raises Damaged."""
    try:
        entry = RECORD.fields_of(dict(content))
        if entry["severity"] not in SEVERITIES:
            raise ValueError("severity")
        if entry["state"] not in ("raised", "resolved", "event"):
            raise ValueError("state")
        return Condition(
            name=str(entry["name"]),
            id=str(entry["id"]),
            fingerprint=str(entry["fingerprint"]),
            origin=str(entry["origin"]),
            box=str(entry["box"]),
            state=entry["state"],
            severity=entry["severity"],
            message=str(entry["message"]),
            since=read_moment(entry["since"]),
            last=read_moment(entry["last"]),
            clock_trusted=entry["clock_trusted"],
            ended=None if entry["ended"] is None else read_moment(entry["ended"]),
            ended_by=str(entry["ended_by"]),
            details=tuple(str(text) for text in entry["details"]),
            count=int(entry["count"]),
            total=int(entry["total"]),
            suppressed=int(entry["suppressed"]),
            evicted=(str(entry["evicted"][0]), int(entry["evicted"][1])),
            changes=tuple(read_moment(item) for item in entry["changes"]),
            notified=read_notified(entry["told"]),
            sending=None if entry["sending"] is None else notification_of(entry["sending"]),
            serial=int(entry["serial"]),
            folded=frozenset(str(item) for item in entry["folded"]),
            silenced=bool(entry["silenced"]),
        )
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError):
        raise Damaged("it is no condition") from None


def fold(condition: Condition | None, alert: Alert) -> Condition | None:
    """Return *condition* with *alert* taken in; None where there is nothing to resolve."""
    if alert.resolved:
        return _resolved(condition, alert)
    event = alert.event or not alert.named or alert.severity == "info"
    if condition is None:
        # The alert's id: should this file be lost before the alert is deleted, the condition
        # that is made of it again sends under the same keys.
        condition = Condition(
            name=alert.condition,
            id=alert.id,
            fingerprint=alert.fingerprint,
            origin=alert.origin,
            box=alert.box,
            state="resolved",
            severity=alert.severity,
            message=alert.message,
            since=alert.at,
            last=alert.at,
            clock_trusted=alert.clock_trusted,
        )
    if condition.state == "resolved":
        condition = _begun(condition, alert)
    changed = alert.message != condition.message
    details = (*condition.details, clean_text(condition.message, _DETAIL_BYTES))
    return replace(
        condition,
        state="event" if event and condition.state != "raised" else "raised",
        severity=alert.severity,
        message=alert.message,
        origin=alert.origin,
        details=tuple(dict.fromkeys(details))[-_MOST_DETAILS:] if changed else condition.details,
        last=alert.at,
        count=condition.count + 1,
        total=condition.total + 1,
    )


def fold_evicted(condition: Condition, count: int, epoch: str) -> Condition:
    """Return *condition* with *count* alerts more that were evicted, less those counted before."""
    seen = condition.evicted[1] if condition.evicted[0] == epoch else 0
    more = max(0, count - seen)
    return replace(
        condition,
        count=condition.count + more,
        total=condition.total + more,
        suppressed=condition.suppressed + more,
        evicted=(epoch, count),
    )


def _begun(condition: Condition, alert: Alert) -> Condition:
    """Return *condition* at the beginning of another episode."""
    return replace(
        condition,
        since=alert.at,
        clock_trusted=alert.clock_trusted,
        ended=None,
        ended_by="",
        message=alert.message,
        details=(),
        count=0,
        changes=(*condition.changes, alert.at)[-_MOST_CHANGES:],
    )


def _resolved(condition: Condition | None, alert: Alert) -> Condition | None:
    if condition is None or condition.state != "raised":
        return condition
    return replace(
        condition,
        state="resolved",
        ended=alert.at,
        ended_by=alert.message,
        changes=(*condition.changes, alert.at)[-_MOST_CHANGES:],
    )
