# SPDX-License-Identifier: Apache-2.0
"""A notification: one message to an operator, as it was frozen before it was first sent.

What may have reached a receiver is sent again under the same key with the same content,
until a channel took it; what has happened since goes into the next notification.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from edgepaas.alerts.channels.answers import Outcome
from edgepaas.alerts.spool.alert import SEVERITIES, Severity, clean_text
from edgepaas.files import shapes
from edgepaas.files.records import RecordType, same_fields
from edgepaas.timing.moment import Moment, read_moment, rfc3339

What = Literal[
    "raised",  # it holds
    "worse",  # it holds, and is more severe than the last notification
    "still",  # it was raised again and again since the last notification
    "resolved",  # it is over
    "passed",  # it came and went before any notification was delivered
    "flapping",  # it comes and goes; one notification until it settles
    "settled",  # it no longer flaps
    "event",  # it happened; nothing holds
    "digest",  # what has come together
    "test",
]


Unheard = Literal["", "log", "dead"]


@dataclass(frozen=True)
class NotifiedState:
    """What the last notification of a condition reported, and when."""

    state: str = ""
    total: int = 0
    severity: Severity = "info"
    flapping: bool = False
    reminders: int = 0
    at: Moment | None = None
    #: Why nobody was told of the present episode: no channel is set up (``log``), or every one
    #: refused the notification (``dead``); "" once a channel took one.
    unheard: Unheard = ""
    #: How many alerts the notifications that no channel took were about.
    missed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return it as a file keeps it."""
        return {
            "state": self.state,
            "total": self.total,
            "severity": self.severity,
            "flapping": self.flapping,
            "reminders": self.reminders,
            "at": None if self.at is None else self.at.as_dict(),
            "unheard": self.unheard,
            "missed": self.missed,
        }


def read_notified(entry: Mapping[str, Any]) -> NotifiedState:
    """Return what :meth:`NotifiedState.as_dict` wrote; raises KeyError, TypeError, ValueError."""
    if entry["severity"] not in SEVERITIES:
        raise ValueError("severity")
    return NotifiedState(
        state=str(entry["state"]),
        total=int(entry["total"]),
        severity=entry["severity"],
        flapping=bool(entry["flapping"]),
        reminders=int(entry["reminders"]),
        at=None if entry["at"] is None else read_moment(entry["at"]),
        unheard=entry["unheard"],
        missed=int(entry["missed"]),
    )


@dataclass(frozen=True)
class Covered:
    """A condition that a digest reports, and its notified state once the digest is delivered."""

    condition: str
    after: NotifiedState


@dataclass(frozen=True)
class Notification:
    """See the module. Times are wall clock seconds, 0.0 where there is none; *duration* seconds.

    *count* is how often it was raised in this episode, *new* how many of all its alerts no
    earlier notification reported, *changes* how often it changed lately. *reached*: a receiver may
    have it, though none confirmed it. *not_before*: seconds to wait from *tried*.
    """

    key: str
    what: What
    severity: Severity
    fingerprint: str
    origin: str
    message: str
    condition: str = ""
    details: tuple[str, ...] = ()
    since: float = 0.0
    last: float = 0.0
    ended: float = 0.0
    duration: float = 0.0
    count: int = 0
    new: int = 0
    suppressed: int = 0
    changes: int = 0
    clock_trusted: bool | None = None
    after: NotifiedState = field(default_factory=NotifiedState)
    covers: tuple[Covered, ...] = ()
    attempts: int = 0
    reached: bool = False
    tried: Moment | None = None
    not_before: float = 0.0
    refused: Mapping[str, str] = field(default_factory=dict)
    refusals: Mapping[str, int] = field(default_factory=dict)

    def wait(self, now: Moment) -> float:
        """Return for how many seconds it is not to be sent again."""
        if self.tried is None:
            return 0.0
        passed = now.seconds_since(self.tried)
        return 0.0 if passed is None else max(0.0, self.not_before - passed)

    def as_dict(self) -> dict[str, Any]:
        """Return it as a file keeps it, times readable as well."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            **values,
            "time": rfc3339(self.last) if self.last else None,
            "details": list(self.details),
            "after": self.after.as_dict(),
            "covers": [{"condition": c.condition, "after": c.after.as_dict()} for c in self.covers],
            "tried": None if self.tried is None else self.tried.as_dict(),
            "refused": dict(self.refused),
            "refusals": dict(self.refusals),
        }


_NOTIFIED = shapes.object_of(
    {
        "state": shapes.text,
        "total": shapes.whole,
        "severity": shapes.one_of(*SEVERITIES),
        "flapping": shapes.flag,
        "reminders": shapes.whole,
        "at": shapes.optional(shapes.moment),
        "unheard": shapes.one_of(*get_args(Unheard)),
        "missed": shapes.whole,
    }
)


def with_unheard(notified: Any) -> Any:
    """Return a notified state of before it said whether a channel took the notification."""
    return {**notified, "unheard": "", "missed": 0}


def upgraded(notification: Any) -> Any:
    """Return the fields of version 3 of a notification of version 2."""
    covers = [{**one, "after": with_unheard(one["after"])} for one in notification["covers"]]
    after = with_unheard(notification["after"])
    return {**notification, "after": after, "covers": covers, "refusals": {}}


#: A file of ``dead/``, the digest's, and a part of a condition's: :meth:`Notification.as_dict`.
RECORD = RecordType(
    "alert-notification",
    3,
    {
        **dict.fromkeys(("key", "fingerprint", "origin", "message", "condition"), shapes.text),
        "what": shapes.one_of(*get_args(What)),
        "severity": shapes.one_of(*SEVERITIES),
        "details": shapes.list_of(shapes.text),
        **dict.fromkeys(("since", "last", "ended", "duration", "not_before"), shapes.number),
        **dict.fromkeys(("count", "new", "suppressed", "changes", "attempts"), shapes.whole),
        "clock_trusted": shapes.optional(shapes.flag),
        "after": _NOTIFIED,
        "covers": shapes.list_of(shapes.object_of({"condition": shapes.text, "after": _NOTIFIED})),
        "reached": shapes.flag,
        "tried": shapes.optional(shapes.moment),
        "refused": shapes.map_of(shapes.text),
        "refusals": shapes.map_of(shapes.whole),
        "time": shapes.optional(shapes.text),
    },
    {1: same_fields, 2: upgraded},
)
#: The shapes of both, for the record of a condition, which holds them.
NOTIFICATION_SHAPE = shapes.object_of(RECORD.fields)
NOTIFIED_SHAPE = _NOTIFIED


def read_notification(content: Mapping[str, Any]) -> Notification:
    """Return what :meth:`Notification.as_dict` wrote; raises ValueError for anything else."""
    return notification_of(RECORD.fields_of(dict(content)))


def notification_of(entry: Mapping[str, Any]) -> Notification:
    """Return the notification of checked fields, as another record holds them."""
    if entry["severity"] not in SEVERITIES:
        raise ValueError("severity")
    return Notification(
        key=str(entry["key"]),
        what=entry["what"],
        severity=entry["severity"],
        fingerprint=str(entry["fingerprint"]),
        origin=str(entry["origin"]),
        message=clean_text(str(entry["message"])),
        condition=str(entry["condition"]),
        details=tuple(str(line) for line in entry["details"]),
        since=float(entry["since"]),
        last=float(entry["last"]),
        ended=float(entry["ended"]),
        duration=float(entry["duration"]),
        count=int(entry["count"]),
        new=int(entry["new"]),
        suppressed=int(entry["suppressed"]),
        changes=int(entry["changes"]),
        clock_trusted=entry["clock_trusted"],
        after=read_notified(entry["after"]),
        covers=tuple(
            Covered(str(item["condition"]), read_notified(item["after"]))
            for item in entry["covers"]
        ),
        attempts=int(entry["attempts"]),
        reached=bool(entry["reached"]),
        tried=None if entry["tried"] is None else read_moment(entry["tried"]),
        not_before=float(entry["not_before"]),
        refused={str(name): str(why) for name, why in entry["refused"].items()},
        refusals={str(name): int(often) for name, often in entry["refusals"].items()},
    )


def attempted(
    notification: Notification, now: Moment, outcome: Outcome, *, reached: bool
) -> Notification:
    """Return *notification* after an attempt that failed: when it may be retried, and why.

    *reached*: a receiver may have had it before this attempt.
    """
    return replace(
        notification,
        attempts=notification.attempts + outcome.tried,
        reached=reached or outcome.reached,
        tried=now,
        not_before=outcome.wait,
        refused=dict(outcome.refused),
        refusals=dict(outcome.refusals),
    )
