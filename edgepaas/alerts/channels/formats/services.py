# SPDX-License-Identifier: Apache-2.0
"""Webhooks of services that call people: ntfy, PagerDuty (Events API v2), Alertmanager."""

import base64
import hashlib
import json
import re
from typing import Any

from edgepaas.alerts.channels.formats.webhook_format import WebhookFormat
from edgepaas.alerts.channels.http_answers import reports_failure
from edgepaas.alerts.channels.notification import Notification
from edgepaas.alerts.channels.wording import BoxIdentity, text, title
from edgepaas.alerts.spool.alert import SEVERITIES
from edgepaas.timing.moment import rfc3339

_DAY = 86400.0
#: Wall clock times before this are those of a box whose clock was not set: 2025-01-01.
_EARLIEST = 1_735_689_600.0


class Ntfy(WebhookFormat):
    """A topic of ntfy ("Publishing"): the text as the body, the title in a header."""

    name = "ntfy"
    #: A longer message becomes a file that is attached ("Limitations": 4,096 bytes).
    _MOST = 3800
    of_the_channel = re.compile(r"\btopic\b", re.I)

    def is_for(self, host: str, path: str) -> bool:
        """Return whether it is the public server; one's own is said by ALERT_WEBHOOK_FORMAT."""
        return host == "ntfy.sh"

    def document(self, notification: Notification, box: BoxIdentity) -> str:
        """Return the text."""
        return text(notification, box).encode()[: self._MOST].decode("utf-8", "ignore")

    def body(self, notification: Notification, box: BoxIdentity, token: str) -> bytes:
        """Return the text as it is: a topic takes no JSON."""
        return self.document(notification, box).encode()

    def headers(self, notification: Notification, box: BoxIdentity, token: str) -> dict[str, str]:
        """Return title and priority (1 to 5)."""
        priority = {"info": "3", "warning": "4", "critical": "5"}[notification.severity]
        heading = title(notification, box).encode()
        return {
            **super().headers(notification, box, token),
            "Content-Type": "text/plain; charset=utf-8",
            # RFC 2047, which ntfy reads: a header holds ASCII alone.
            "X-Title": f"=?UTF-8?B?{base64.b64encode(heading).decode()}?=",
            "X-Priority": "3" if notification.what == "resolved" else priority,
        }

    def failed(self, said: str, document: Any) -> bool:
        """It answers with the message that it published."""
        return not (isinstance(document, dict) and document.get("id") and "error" not in document)


class PagerDuty(WebhookFormat):
    """PagerDuty's Events API v2; ALERT_WEBHOOK_TOKEN is the integration's routing key."""

    name = "pagerduty"
    #: "summary" holds 1,024 characters, "dedup_key" 255.
    _MOST_SUMMARY, _MOST_TEXT = 1024, 20_000
    of_the_channel = re.compile(r"routing.?key", re.I)

    def is_for(self, host: str, path: str) -> bool:
        """Return whether it is an address of the Events API."""
        return host in ("events.pagerduty.com", "events.eu.pagerduty.com")

    def document(self, notification: Notification, box: BoxIdentity) -> dict[str, Any]:
        """Return an event of the incident that the condition is; resolved with it."""
        about = notification.condition or notification.key
        over = notification.what in ("resolved", "settled") and bool(notification.ended)
        return {
            "event_action": "resolve" if over else "trigger",
            # One for each cause of each box: the incident that "resolve" ends.
            "dedup_key": f"edgepaas-{_digest(box.known_as)}-{about}"[:255],
            "payload": {
                "summary": title(notification, box)[: self._MOST_SUMMARY],
                "source": box.label,
                "severity": notification.severity,
                "component": notification.origin,
                "class": notification.fingerprint,
                "custom_details": {"text": text(notification, box)[: self._MOST_TEXT]},
            },
        }

    def body(self, notification: Notification, box: BoxIdentity, token: str) -> bytes:
        """Return the event with the key that routes it."""
        event = {"routing_key": token, **self.document(notification, box)}
        return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()

    def headers(self, notification: Notification, box: BoxIdentity, token: str) -> dict[str, str]:
        """Return no login: the key is in the body."""
        return super().headers(notification, box, "")

    def failed(self, said: str, document: Any) -> bool:
        """It answers ``{"status": "success", …}``."""
        return not (isinstance(document, dict) and document.get("status") == "success")


class Alertmanager(WebhookFormat):
    """Prometheus' Alertmanager: ``POST /api/v2/alerts``."""

    name = "alertmanager"
    #: What is not sent again is over for Alertmanager at "endsAt", and after five minutes
    #: without one; a condition is sent again when something changes.
    _HOLDS_FOR = 30 * _DAY
    _MOST = 20_000

    def is_for(self, host: str, path: str) -> bool:
        """Return whether the address is that of its API, on whatever host."""
        return path.rstrip("/").endswith("api/v2/alerts")

    def document(self, notification: Notification, box: BoxIdentity) -> list[dict[str, Any]]:
        """Return the alert under its labels; a condition's of other severities are over."""
        about = notification.fingerprint or notification.condition or notification.key
        annotations = {
            "summary": title(notification, box),
            "description": text(notification, box)[: self._MOST],
        }
        known = notification.last >= _EARLIEST  # else Alertmanager's own clock dates it
        over = notification.ended if notification.what in ("resolved", "settled") else 0.0
        alerts = []
        for severity in SEVERITIES:
            labels = {"alertname": "EdgePaaS", "job": "edgepaas", "instance": box.name}
            if box.node:
                labels["node"] = box.node  # or two boxes of one name would be one alert
            labels |= {"fingerprint": about, "severity": severity}
            present = severity == notification.severity
            if not (present or (known and notification.condition)):
                continue
            alert: dict[str, Any] = {"labels": labels, "annotations": annotations}
            if known:
                ends = over or notification.last + (self._HOLDS_FOR if present else 0.0)
                alert["startsAt"] = rfc3339(min(notification.since or notification.last, ends))
                alert["endsAt"] = rfc3339(ends)
            alerts.append(alert)
        return alerts

    def failed(self, said: str, document: Any) -> bool:
        """It answers 200 without a body; an older one says ``{"status": "success"}``."""
        return bool(said.strip()) and (document is None or reports_failure(said, document))


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:12]
