# SPDX-License-Identifier: Apache-2.0
"""The body of a webhook's request, in the form that its receiver takes."""

import json
from typing import Any

from edgepaas.alerts.channels.notice import Notice
from edgepaas.alerts.channels.wording import Sender, text, title
from edgepaas.timing.moment import rfc3339

#: Discord's "Execute Webhook": content holds up to 2,000 characters.
_DISCORD_MOST = 2000
#: Slack cuts a message's text beyond this (its API, "chat.postMessage", "Truncating content").
_SLACK_MOST = 40_000
#: A message of Teams may have 28 KiB ("Incoming Webhooks": message size).
_TEAMS_MOST = 20_000


def webhook_body(form: str, notice: Notice, sender: Sender) -> bytes:
    """Return the body in *form*: json, slack, discord or teams."""
    document = _FORMS[form](notice, sender)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def generic(notice: Notice, sender: Sender) -> dict[str, Any]:
    """Return a notice for programs; times in UTC, durations in seconds."""
    return {
        "key": notice.key,
        "what": notice.what,
        "severity": notice.severity,
        "title": title(notice, sender),
        "text": text(notice, sender),
        "message": notice.message,
        "details": list(notice.details),
        "box": sender.box,
        "build": sender.build,
        "origin": notice.origin,
        "fingerprint": notice.fingerprint,
        "condition": notice.condition,
        "since": rfc3339(notice.since) if notice.since else None,
        "last": rfc3339(notice.last) if notice.last else None,
        "ended": rfc3339(notice.ended) if notice.ended else None,
        "duration_seconds": round(notice.duration, 3),
        "count": notice.count,
        "new": notice.new,
        "suppressed": notice.suppressed,
        "changes": notice.changes,
        "clock_trusted": notice.clock_trusted,
    }


def _slack(notice: Notice, sender: Sender) -> dict[str, Any]:
    # Slack's "Formatting text for app surfaces": these three, or a name could be called out.
    said = _said(notice, sender, _SLACK_MOST // 6)
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        said = said.replace(character, entity)
    return {"text": said}


def _discord(notice: Notice, sender: Sender) -> dict[str, Any]:
    # Nobody is to be called by an @everyone in a device's name.
    return {"content": _said(notice, sender, _DISCORD_MOST), "allowed_mentions": {"parse": []}}


def _teams(notice: Notice, sender: Sender) -> dict[str, Any]:
    def block(said: str, **more: Any) -> dict[str, Any]:
        return {"type": "TextBlock", "text": said, "wrap": True, **more}

    body = text(notice, sender)[:_TEAMS_MOST]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [
            block(title(notice, sender), weight="Bolder", size="Medium"),
            *(block(line, spacing="None") for line in body.splitlines() if line),
        ],
    }
    attachment = {
        "contentType": "application/vnd.microsoft.card.adaptive",
        "contentUrl": None,
        "content": card,
    }
    return {"type": "message", "attachments": [attachment]}


def _said(notice: Notice, sender: Sender, most: int) -> str:
    said = f"{title(notice, sender)}\n{text(notice, sender)}"
    return said if len(said) <= most else said[: most - 1] + "…"


_FORMS = {"json": generic, "slack": _slack, "discord": _discord, "teams": _teams}
