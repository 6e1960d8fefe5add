# SPDX-License-Identifier: Apache-2.0
"""The forms of a webhook's body, and which one an address takes.

A new form is a class beside these and a line in :data:`FORMATS`; ALERT_WEBHOOK_FORMAT offers the
names, and a test compares the two.
"""

from typing import Any

from edgepaas.alerts.channels.formats.chats import Discord, Slack, Teams
from edgepaas.alerts.channels.formats.services import Alertmanager, Ntfy, PagerDuty
from edgepaas.alerts.channels.formats.webhook_format import WebhookFormat
from edgepaas.alerts.channels.notification import Notification
from edgepaas.alerts.channels.wording import BoxIdentity, text, title
from edgepaas.timing.moment import rfc3339


class Json(WebhookFormat):
    """Every field of a notification, for programs; times in UTC, durations in seconds."""

    name = "json"

    def is_for(self, host: str, path: str) -> bool:
        """Any address that is no other's."""
        return True

    def document(self, notification: Notification, box: BoxIdentity) -> dict[str, Any]:
        """Return the fields by name."""
        return {
            "key": notification.key,
            "what": notification.what,
            "severity": notification.severity,
            "title": title(notification, box),
            "text": text(notification, box),
            "message": notification.message,
            "details": list(notification.details),
            "box": box.name,
            "node": box.node,
            "build": box.build,
            "origin": notification.origin,
            "fingerprint": notification.fingerprint,
            "condition": notification.condition,
            "since": _time(notification.since),
            "last": _time(notification.last),
            "ended": _time(notification.ended),
            "duration_seconds": round(notification.duration, 3),
            "count": notification.count,
            "new": notification.new,
            "suppressed": notification.suppressed,
            "changes": notification.changes,
            "clock_trusted": notification.clock_trusted,
        }


#: The first that an address is for is taken where ALERT_WEBHOOK_FORMAT is ``auto``.
FORMATS: tuple[WebhookFormat, ...] = (
    *(Slack(), Discord(), Teams(), Ntfy(), PagerDuty(), Alertmanager()),
    Json(),
)


def find_format(name: str, url: str) -> WebhookFormat:
    """Return the form *name*, or the one that *url* is for when it is ``auto``."""
    authority, _, path = url.partition("://")[2].partition("/")
    host = authority.rpartition("@")[2].partition(":")[0].lower()
    if name == "auto":
        return next(one for one in FORMATS if one.is_for(host, path.partition("?")[0]))
    return next(one for one in FORMATS if one.name == name)


def _time(wall: float) -> str | None:
    return rfc3339(wall) if wall else None
