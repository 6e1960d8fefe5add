# SPDX-License-Identifier: Apache-2.0
"""Webhooks of chats: Slack, Discord, Teams. What stands in a name is text there, and no link."""

import re
from typing import Any

from edgepaas.alerts.channels.formats.webhook_format import WebhookFormat, is_empty_or, shortened
from edgepaas.alerts.channels.http_answers import reports_failure
from edgepaas.alerts.channels.notification import Notification
from edgepaas.alerts.channels.wording import BoxIdentity, text, title

#: Discord's "Markdown Text 101"; an underscore within a word is none of it.
_MARKDOWN = re.compile(r"[\\*~`|<]|(?<!\w)_|_(?!\w)|(?<=\])\(|^\s*(?:#|>|-#)", re.M)


class Slack(WebhookFormat):
    """Slack's incoming webhooks, and what takes their form."""

    name = "slack"
    #: Slack cuts a message's text beyond this (its API, "chat.postMessage", "Truncating content").
    _MOST = 40_000
    of_the_channel = re.compile(
        r"\b(?:user_not_found|invalid_token|no_service|no_team|no_active_hooks)\b"
    )

    def is_for(self, host: str, path: str) -> bool:
        """Discord takes this form at some of its addresses ("Slack-Compatible Webhook")."""
        slack = host in ("hooks.slack.com", "hooks.slack-gov.com")
        return slack or (_is_discord(host, path) and path.rstrip("/").endswith("/slack"))

    def document(self, notification: Notification, box: BoxIdentity) -> dict[str, Any]:
        """Return the text, escaped: Slack would read some characters as a mention of a user."""
        # Slack's "Formatting text for app surfaces": these three.
        said = shortened(notification, box, self._MOST // 6)
        for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            said = said.replace(character, entity)
        # What else takes this form, such as Mattermost, reads Markdown.
        return {"text": _without_links(said), "mrkdwn": False}

    def failed(self, said: str, document: Any) -> bool:
        """Slack answers ``ok``, or a word for what went wrong ("Sending messages", "errors")."""
        if isinstance(document, dict):
            return reports_failure(said, document)
        return not is_empty_or("ok", said)


class Discord(WebhookFormat):
    """Discord's "Execute Webhook"."""

    name = "discord"
    #: ``content`` holds up to 2,000 characters.
    _MOST = 2000

    def is_for(self, host: str, path: str) -> bool:
        """Return whether it is one of Discord's addresses."""
        return _is_discord(host, path)

    def document(self, notification: Notification, box: BoxIdentity) -> dict[str, Any]:
        """Return the text; an @everyone in a device's name mentions no user, a link is none."""
        content = _MARKDOWN.sub(r"\\\g<0>", shortened(notification, box, self._MOST - 100))
        if len(content) > self._MOST:
            content = content[: self._MOST - 1].rstrip("\\") + "…"
        return {"content": content, "allowed_mentions": {"parse": []}}

    def failed(self, said: str, document: Any) -> bool:
        """It answers 204 without a body, or with the message that it made ("wait")."""
        if isinstance(document, dict) and "id" in document:
            return False
        return bool(said.strip()) and (document is None or reports_failure(said, document))


class Teams(WebhookFormat):
    """Microsoft Teams: an adaptive card, by a workflow or by a connector ("Incoming Webhook").

    Both take this form. A workflow answers 202 without a body, a connector 200 with ``1``, or
    200 with the error that it got.
    """

    name = "teams"
    #: A message may have 28 KiB ("Incoming Webhooks": message size).
    _MOST = 14_000
    of_the_channel = re.compile(
        r"webhook URL|connector configuration|WorkflowTriggerIsNotEnabled", re.I
    )
    _HOSTS = (
        *("outlook.office.com", "outlook.office365.com", ".webhook.office.com"),
        *(".logic.azure.com", ".powerplatform.com", ".powerautomate.com"),
    )

    def is_for(self, host: str, path: str) -> bool:
        """Return whether it is one of Microsoft's addresses."""
        return host.endswith(self._HOSTS)

    def document(self, notification: Notification, box: BoxIdentity) -> dict[str, Any]:
        """Return a message with one card."""

        def block(said: str, **look: Any) -> dict[str, Any]:
            # A TextBlock would read Markdown in it, links too; a TextRun is text alone.
            run = {"type": "TextRun", "text": said, **look}
            return {"type": "RichTextBlock", "inlines": [run]}

        body = text(notification, box)[: self._MOST]
        heading = title(notification, box)
        card = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "fallbackText": _without_links(heading),
            "body": [
                block(_without_links(heading), weight="Bolder", size="Medium"),
                *(
                    {**block(_without_links(line)), "spacing": "None"}
                    for line in body.splitlines()
                    if line
                ),
            ],
        }
        attachment = {
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": None,
            "content": card,
        }
        return {"type": "message", "attachments": [attachment]}

    def failed(self, said: str, document: Any) -> bool:
        """A connector that was refused answers 200 and says so in a sentence."""
        if isinstance(document, dict | list):
            return reports_failure(said, document)
        return not (is_empty_or("1", said) or is_empty_or("ok", said) or said.strip() == "true")


def _without_links(said: str) -> str:
    """Return *said* as no Markdown reads a link in it."""
    return said.replace("](", "] (")


def _is_discord(host: str, path: str) -> bool:
    known = f".{host}".endswith((".discord.com", ".discordapp.com"))
    return known and path.startswith("api/webhooks")
