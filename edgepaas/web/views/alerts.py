# SPDX-License-Identifier: Apache-2.0
"""``/api/v1/alerts``: what holds, what is over, and what was delivered; of this box alone."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import marshmallow as ma

from edgepaas.alerts import counts, history
from edgepaas.alerts.conditions.listing import list_conditions
from edgepaas.alerts.spool.alert import SEVERITIES
from edgepaas.apikit.blueprint import ApiBlueprint, PageQuery
from edgepaas.apikit.fields import TextField
from edgepaas.apikit.problems import wrong
from edgepaas.app import Box

#: What ``state`` may be asked for, and the states that it stands for.
_STATES: dict[str, tuple[str, ...]] = {
    "open": ("raised",),
    "resolved": ("resolved",),
    "event": ("event",),
    "all": ("raised", "resolved", "event"),
}
_HISTORY = ("raised", "resolved", "delivered", "logged", "dead", "discarded", "silenced")
#: More lines than two files of history hold.
_EVERYTHING = 1_000_000
_LONGEST = 400

_FINGERPRINT = {"description": "Identifies the cause, e.g. settings:PORT."}


class AlertSchema(ma.Schema):
    """One cause: whether it holds, since when, how often it was raised."""

    name = ma.fields.String(
        required=True,
        metadata={"description": "Identifies the alert on this box; made from its fingerprint."},
    )
    state = ma.fields.String(
        required=True,
        metadata={
            "description": "raised: it holds; resolved: it is over; event: it happened once.",
            "enum": ["raised", "resolved", "event"],
        },
    )
    severity = ma.fields.String(
        required=True,
        metadata={
            "description": "The severity with which it was raised last.",
            "enum": list(SEVERITIES),
        },
    )
    message = ma.fields.String(
        required=True,
        metadata={"description": "What is wrong, for a person; as it was raised last."},
    )
    origin = ma.fields.String(
        required=True, metadata={"description": "The part of the box that raised it."}
    )
    fingerprint = ma.fields.String(
        required=True, metadata={"description": "Identifies the cause, e.g. settings:PORT."}
    )
    box = ma.fields.String(required=True, metadata={"description": "The name of the box."})
    since = ma.fields.String(
        required=True, metadata={"description": "RFC 3339; by a clock that may not be right."}
    )
    last = ma.fields.String(
        required=True, metadata={"description": "When it was raised last, RFC 3339."}
    )
    ended = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "When it was resolved, RFC 3339; null where it was not."},
    )
    ended_by = ma.fields.String(
        required=True,
        metadata={"description": "The message with which it was resolved; empty where it was not."},
    )
    clock_trusted = ma.fields.Boolean(
        required=True,
        allow_none=True,
        metadata={
            "description": "Whether the clock was right when the episode began; null: unknown."
        },
    )
    count = ma.fields.Integer(
        required=True, metadata={"description": "How often it was raised in this episode."}
    )
    undelivered = ma.fields.Integer(
        required=True,
        metadata={"description": "Alerts of it that no channel has taken."},
    )
    silenced_for = ma.fields.Float(
        required=True, metadata={"description": "Seconds left of a silence; 0 without one."}
    )
    details = ma.fields.List(
        ma.fields.String(),
        required=True,
        metadata={"description": "Earlier messages of this episode, at most four."},
    )


class AlertCountsSchema(ma.Schema):
    """How many alerts hold, wait for delivery, or cannot be delivered."""

    open = ma.fields.Integer(
        required=True,
        metadata={"description": "Conditions that hold, of severity warning or critical."},
    )
    critical = ma.fields.Integer(
        required=True, metadata={"description": "Of these, the critical ones."}
    )
    waiting = ma.fields.Integer(
        required=True, metadata={"description": "Alerts and notifications that wait for delivery."}
    )
    dead = ma.fields.Integer(
        required=True, metadata={"description": "Notifications that every channel refused."}
    )
    corrupt = ma.fields.Integer(
        required=True, metadata={"description": "Damaged files of the spool, kept apart."}
    )
    silenced = ma.fields.Integer(
        required=True, metadata={"description": "Conditions under a silence."}
    )


class AlertPage(ma.Schema):
    """Alerts, the worst first, then the oldest."""

    items = ma.fields.List(
        ma.fields.Nested(AlertSchema),
        required=True,
        metadata={"description": "The alerts of this page."},
    )
    next_cursor = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Give it as cursor for the next page; null on the last one."},
    )
    counts = ma.fields.Nested(
        AlertCountsSchema,
        required=True,
        metadata={"description": "Over all alerts of the box, whatever the filters."},
    )


class AlertQuery(PageQuery):
    """Which alerts."""

    state = ma.fields.String(
        load_default="open", validate=ma.validate.OneOf(list(_STATES)),
        metadata={"description": "open: what holds; event: what was delivered and has no end."},
    )  # fmt: skip
    severity = ma.fields.String(
        load_default=None,
        validate=ma.validate.OneOf(SEVERITIES),
        metadata={"description": "Alerts of this severity alone; all without it."},
    )
    fingerprint = TextField(longest=_LONGEST, load_default=None, metadata=_FINGERPRINT)


class HistoryEntrySchema(ma.Schema):
    """One thing that happened to an alert; what it does not tell is null."""

    time = ma.fields.String(required=True, metadata={"description": "When it happened, RFC 3339."})
    what = ma.fields.String(
        required=True,
        metadata={
            "description": "An alert was raised or resolved; a notification was delivered, written "
            "to the log alone since no channel is set up (logged), refused "
            "by every channel (dead) or discarded by an operator; an episode passed under a "
            "silence (silenced).",
            "enum": list(_HISTORY),
        },
    )
    id = ma.fields.String(
        required=True, metadata={"description": "Identifies the entry; the cursor of a page."}
    )
    severity = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "The severity of the alert."}
    )
    message = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "The message of the alert or the notification."},
    )
    origin = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "The part of the box that raised it."},
    )
    fingerprint = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Identifies the cause, e.g. settings:PORT."},
    )
    condition = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "The name of the alert."}
    )
    count = ma.fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "How often it had been raised in its episode."},
    )
    duration_seconds = ma.fields.Float(
        required=True, allow_none=True, metadata={"description": "For how long the condition held."}
    )
    via = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "The channel that took, or refused, the notification."},
    )
    why = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "Why it was refused."}
    )


class HistoryPage(ma.Schema):
    """What happened, the newest first."""

    items = ma.fields.List(
        ma.fields.Nested(HistoryEntrySchema),
        required=True,
        metadata={"description": "The entries of this page."},
    )
    next_cursor = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Give it as cursor for the next page; null on the last one."},
    )


class HistoryQuery(PageQuery):
    """Which of it."""

    what = ma.fields.String(
        load_default="",
        validate=ma.validate.OneOf(_HISTORY),
        metadata={"description": "Entries of this kind alone; all without it."},
    )
    severity = ma.fields.String(
        load_default=None,
        validate=ma.validate.OneOf(SEVERITIES),
        metadata={"description": "Entries of this severity alone; all without it."},
    )
    fingerprint = TextField(longest=_LONGEST, load_default="", metadata=_FINGERPRINT)
    condition = TextField(
        longest=_LONGEST, load_default="", metadata={"description": "An alert's name."}
    )


def alerts_blueprint(box: Box) -> ApiBlueprint:
    """Return the alerts' endpoints on *box*; they only read."""
    api = ApiBlueprint(
        "alerts", __name__, url_prefix="/api/v1/alerts", description="What went wrong on this box."
    )

    @api.route("")
    @api.arguments(AlertQuery, location="query")
    @api.response(200, AlertPage)
    def list_alerts(query: dict[str, Any]) -> dict[str, Any]:
        """List alerts: those that hold, or also those that are over"""
        wanted = _STATES[query["state"]]
        found = [
            entry
            for entry in list_conditions(box.paths, everything=True)
            if entry["state"] in wanted
            and query["severity"] in (None, entry["severity"])
            and query["fingerprint"] in (None, entry["fingerprint"])
        ]
        found.sort(key=_place)
        if query["cursor"] is not None:
            after = _decoded(query["cursor"])
            found = [entry for entry in found if _place(entry) > after]
        some = found[: query["limit"]]
        return {
            "items": [_shown(entry) for entry in some],
            "next_cursor": _encoded(_place(some[-1])) if len(found) > len(some) else None,
            "counts": counts(box.paths).as_dict(),
        }

    @api.route("/history")
    @api.arguments(HistoryQuery, location="query")
    @api.response(200, HistoryPage)
    def list_history(query: dict[str, Any]) -> dict[str, Any]:
        """List what was raised, resolved and delivered, the newest first"""
        found = history.read(
            box.paths,
            limit=_EVERYTHING if query["severity"] else query["limit"] + 1,
            before=query["cursor"] or "",
            condition=query["condition"],
            fingerprint=query["fingerprint"],
            what=query["what"],
        )
        if query["severity"] is not None:
            found = [entry for entry in found if entry.get("severity") == query["severity"]]
        some = found[: query["limit"]]
        return {
            "items": [_event(entry) for entry in some],
            "next_cursor": str(some[-1]["id"]) if len(found) > len(some) else None,
        }

    return api


def _shown(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **entry,
        "since": entry["since_time"],
        "last": entry["last_time"],
        "ended": entry["ended_time"],
    }


def _event(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry.get(name) for name in HistoryEntrySchema().fields}


def _place(entry: Mapping[str, Any]) -> tuple[int, float, str]:
    """Return where an alert stands in the list: by severity, then by age."""
    rank = len(SEVERITIES) - SEVERITIES.index(entry["severity"])
    return (rank, float(entry["since"]["wall"]), str(entry["name"]))


def _encoded(place: Sequence[object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode("ascii").rstrip("=")


def _decoded(text: str) -> tuple[int, float, str]:
    try:
        padded = (text + "=" * (-len(text) % 4)).encode("ascii")
        rank, since, name = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        return (int(rank), float(since), str(name))
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise wrong("cursor", "Not a cursor of this API.") from None
