# SPDX-License-Identifier: Apache-2.0
"""The forms of a webhook's body: one class a kind of receiver, which knows its answers.

A new form is a class here and a line in :data:`FORMATS`; ALERT_WEBHOOK_FORMAT offers the names,
and a test compares the two.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from edgepaas.alerts.channels.answers import Answer
from edgepaas.alerts.channels.http_answers import judge_status
from edgepaas.alerts.channels.notification import Notification
from edgepaas.alerts.channels.wording import BoxIdentity, text, title
from edgepaas.timing.moment import rfc3339


class WebhookFormat(ABC):
    """A form of the body; compared by its name."""

    name: ClassVar[str]

    def is_for(self, host: str, path: str) -> bool:
        """Whether an address of *host* (lower case) and *path* takes this form."""
        return False

    @abstractmethod
    def document(self, notification: Notification, box: BoxIdentity) -> dict[str, Any]:
        """Return the body before it is written as JSON."""

    def judge(self, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
        """Return what the receiver's answer means; *body* is its beginning."""
        return judge_status(status, headers, body)

    def body(self, notification: Notification, box: BoxIdentity) -> bytes:
        """Return the body of the request."""
        document = self.document(notification, box)
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

    def __str__(self) -> str:
        return self.name


class Slack(WebhookFormat):
    """Slack's incoming webhooks, and what takes their form."""

    name = "slack"
    #: Slack cuts a message's text beyond this (its API, "chat.postMessage", "Truncating content").
    _MOST = 40_000

    def is_for(self, host: str, path: str) -> bool:
        """Discord takes this form at some of its addresses ("Slack-Compatible Webhook")."""
        slack = host in ("hooks.slack.com", "hooks.slack-gov.com")
        return slack or (_is_discord(host, path) and path.rstrip("/").endswith("/slack"))

    def document(self, notification: Notification, box: BoxIdentity) -> dict[str, Any]:
        """Return the text, escaped: Slack would read some characters as a mention of a user."""
        # Slack's "Formatting text for app surfaces": these three.
        said = _shortened(notification, box, self._MOST // 6)
        for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            said = said.replace(character, entity)
        return {"text": said}


class Discord(WebhookFormat):
    """Discord's "Execute Webhook"."""

    name = "discord"
    #: ``content`` holds up to 2,000 characters.
    _MOST = 2000

    def is_for(self, host: str, path: str) -> bool:
        """Return whether it is one of Discord's addresses."""
        return _is_discord(host, path)

    def document(self, notification: Notification, box: BoxIdentity) -> dict[str, Any]:
        """Return the text; an @everyone in a device's name mentions no user."""
        content = _shortened(notification, box, self._MOST)
        return {"content": content, "allowed_mentions": {"parse": []}}


class Teams(WebhookFormat):
    """Microsoft Teams: an adaptive card, by a workflow or an incoming webhook."""

    name = "teams"
    #: A message may have 28 KiB ("Incoming Webhooks": message size).
    _MOST = 20_000
    _HOSTS = (
        *("outlook.office.com", ".webhook.office.com", ".logic.azure.com", ".powerplatform.com"),
    )

    def is_for(self, host: str, path: str) -> bool:
        """Return whether it is one of Microsoft's addresses."""
        return host.endswith(self._HOSTS)

    def document(self, notification: Notification, box: BoxIdentity) -> dict[str, Any]:
        """Return a message with one card."""

        def block(said: str, **more: Any) -> dict[str, Any]:
            return {"type": "TextBlock", "text": said, "wrap": True, **more}

        body = text(notification, box)[: self._MOST]
        card = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": [
                block(title(notification, box), weight="Bolder", size="Medium"),
                *(block(line, spacing="None") for line in body.splitlines() if line),
            ],
        }
        attachment = {
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": None,
            "content": card,
        }
        return {"type": "message", "attachments": [attachment]}


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
FORMATS: tuple[WebhookFormat, ...] = (Slack(), Discord(), Teams(), Json())


def find_format(name: str, url: str) -> WebhookFormat:
    """Return the form *name*, or the one that *url* is for when it is ``auto``."""
    host, _, path = url.partition("://")[2].partition("/")
    host = host.partition(":")[0].lower()
    if name == "auto":
        return next(one for one in FORMATS if one.is_for(host, path))
    return next(one for one in FORMATS if one.name == name)


def _is_discord(host: str, path: str) -> bool:
    known = f".{host}".endswith((".discord.com", ".discordapp.com"))
    return known and path.startswith("api/webhooks")


def _shortened(notification: Notification, box: BoxIdentity, most: int) -> str:
    said = f"{title(notification, box)}\n{text(notification, box)}"
    return said if len(said) <= most else said[: most - 1] + "…"


def _time(wall: float) -> str | None:
    return rfc3339(wall) if wall else None
