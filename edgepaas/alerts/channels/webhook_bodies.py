# SPDX-License-Identifier: Apache-2.0
"""The body of a webhook's request, in the form that its receiver takes."""

import json
from typing import Any

from edgepaas.alerts.channels.notification import Notification
from edgepaas.alerts.channels.wording import BoxIdentity, text, title
from edgepaas.timing.moment import rfc3339

#: Discord's "Execute Webhook": content holds up to 2,000 characters.
_DISCORD_MOST = 2000
#: Slack cuts a message's text beyond this (its API, "chat.postMessage", "Truncating content").
_SLACK_MOST = 40_000
#: A message of Teams may have 28 KiB ("Incoming Webhooks": message size).
_TEAMS_MOST = 20_000


def webhook_body(form: str, notification: Notification, sender: BoxIdentity) -> bytes:
    """Return the body in *form*: json, slack, discord or teams."""
    document = _FORMS[form](notification, sender)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def generic(notification: Notification, sender: BoxIdentity) -> dict[str, Any]:
    """Return a notification for programs; times in UTC, durations in seconds."""
    return {
        "key": notification.key,
        "what": notification.what,
        "severity": notification.severity,
        "title": title(notification, sender),
        "text": text(notification, sender),
        "message": notification.message,
        "details": list(notification.details),
        "box": sender.box,
        "build": sender.build,
        "origin": notification.origin,
        "fingerprint": notification.fingerprint,
        "condition": notification.condition,
        "since": rfc3339(notification.since) if notification.since else None,
        "last": rfc3339(notification.last) if notification.last else None,
        "ended": rfc3339(notification.ended) if notification.ended else None,
        "duration_seconds": round(notification.duration, 3),
        "count": notification.count,
        "new": notification.new,
        "suppressed": notification.suppressed,
        "changes": notification.changes,
        "clock_trusted": notification.clock_trusted,
    }


def _slack(notification: Notification, sender: BoxIdentity) -> dict[str, Any]:
    # Slack's "Formatting text for app surfaces": these three, or a name could be called out.
    said = _said(notification, sender, _SLACK_MOST // 6)
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        said = said.replace(character, entity)
    return {"text": said}


def _discord(notification: Notification, sender: BoxIdentity) -> dict[str, Any]:
    # Nobody is to be called by an @everyone in a device's name.
    return {
        "content": _said(notification, sender, _DISCORD_MOST),
        "allowed_mentions": {"parse": []},
    }


def _teams(notification: Notification, sender: BoxIdentity) -> dict[str, Any]:
    def block(said: str, **more: Any) -> dict[str, Any]:
        return {"type": "TextBlock", "text": said, "wrap": True, **more}

    body = text(notification, sender)[:_TEAMS_MOST]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [
            block(title(notification, sender), weight="Bolder", size="Medium"),
            *(block(line, spacing="None") for line in body.splitlines() if line),
        ],
    }
    attachment = {
        "contentType": "application/vnd.microsoft.card.adaptive",
        "contentUrl": None,
        "content": card,
    }
    return {"type": "message", "attachments": [attachment]}


def _said(notification: Notification, sender: BoxIdentity, most: int) -> str:
    said = f"{title(notification, sender)}\n{text(notification, sender)}"
    return said if len(said) <= most else said[: most - 1] + "…"


_FORMS = {"json": generic, "slack": _slack, "discord": _discord, "teams": _teams}
