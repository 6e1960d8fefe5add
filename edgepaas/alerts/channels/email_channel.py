# SPDX-License-Identifier: Apache-2.0
"""The e-mail channel: which mail server, and whom to write to."""

import re
from dataclasses import dataclass
from typing import ClassVar, Self

from edgepaas.alerts.channels.answers import Answer
from edgepaas.alerts.channels.mail_settings import MailSettings
from edgepaas.alerts.channels.notification import Notification
from edgepaas.alerts.channels.wording import BoxIdentity
from edgepaas.settings import Settings
from edgepaas.settings.table import CHANNEL_SETTINGS


@dataclass(frozen=True)
class EmailChannel(MailSettings):
    """Sends by SMTP."""

    name: ClassVar[str] = "email"
    needs: ClassVar[tuple[str, ...]] = CHANNEL_SETTINGS["email"]

    @classmethod
    def configured(cls, settings: Settings) -> Self | None:
        """Return the e-mail channel if a server and a recipient are set, else None."""
        found = cls(
            host=settings.text("SMTP__HOST"),
            port=settings.integer("SMTP__PORT"),
            security=settings.text("SMTP__SECURITY"),
            username=settings.text("SMTP__USERNAME"),
            password=settings.text("SMTP__PASSWORD"),
            sender=settings.text("ALERT_EMAIL_FROM") or _default_sender(settings),
            to=settings.items("ALERT_EMAIL_TO"),
            timeout=settings.number("ALERT_TIMEOUT"),
            helo=settings.text("SMTP__HELO"),
        )
        return found if found.host and found.to else None

    def send(self, notification: Notification, box: BoxIdentity) -> Answer:
        """Send an e-mail (:func:`edgepaas.alerts.channels.smtp.send`)."""
        from edgepaas.alerts.channels.smtp import send  # 40 ms, wanted only to send something

        return send(self, notification, box)


def _default_sender(settings: Settings) -> str:
    """Return an address that a server takes: one with a domain that has a dot (RFC 5321, 2.3.5)."""
    username, node = settings.text("SMTP__USERNAME"), _domain(settings.text("NODE_NAME"))
    if "." in username.partition("@")[2]:
        return username
    receiver = next(iter(settings.items("ALERT_EMAIL_TO")), "").rpartition("@")[2]
    return f"edgepaas@{receiver if '.' in receiver and '.' not in node else node}"


def _domain(node: str) -> str:
    """Return a box's name as a mail server takes it behind the @."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", node).strip("-.") or "localhost"
