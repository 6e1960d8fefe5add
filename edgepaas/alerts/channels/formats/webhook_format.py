# SPDX-License-Identifier: Apache-2.0
"""What the form of a webhook's body is: the body that a receiver wants, and its answers."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from edgepaas.alerts.channels.answers import Answer
from edgepaas.alerts.channels.http_answers import judge_by, reports_failure
from edgepaas.alerts.channels.notification import Notification
from edgepaas.alerts.channels.wording import BoxIdentity, text, title


class WebhookFormat(ABC):
    """A form of the body; compared by its name."""

    name: ClassVar[str]
    #: Words of a status about the message (400) that is about the address or the key all the same.
    of_the_channel: ClassVar[re.Pattern[str]] = re.compile(r"(?!)")

    def is_for(self, host: str, path: str) -> bool:
        """Whether an address of *host* (lower case) and *path* takes this form."""
        return False

    @abstractmethod
    def document(self, notification: Notification, box: BoxIdentity) -> Any:
        """Return the body before it is written as JSON."""

    def body(self, notification: Notification, box: BoxIdentity, token: str) -> bytes:
        """Return the body of the request; *token* is ALERT_WEBHOOK_TOKEN."""
        document = self.document(notification, box)
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

    def headers(self, notification: Notification, box: BoxIdentity, token: str) -> dict[str, str]:
        """Return the headers that go with the body."""
        login = {"Authorization": f"Bearer {token}"} if token else {}
        return {"Content-Type": "application/json; charset=utf-8", **login}

    def judge(self, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
        """Return what the receiver's answer means; *body* is its beginning."""
        answer = judge_by(status, headers, body, self.failed)
        if answer.kind == "refused" and self.of_the_channel.search(answer.words):
            return Answer("later", answer.words, down=True)
        return answer

    def failed(self, said: str, document: Any) -> bool:
        """Whether the body of a 2xx reports a failure; *document* is it as JSON, or None."""
        return reports_failure(said, document)

    def __str__(self) -> str:
        return self.name


def shortened(notification: Notification, box: BoxIdentity, most: int) -> str:
    """Return title and text, at most *most* characters."""
    said = f"{title(notification, box)}\n{text(notification, box)}"
    return said if len(said) <= most else said[: most - 1] + "…"


def is_empty_or(word: str, said: str) -> bool:
    """Whether a receiver said nothing, or only *word*."""
    return said.strip().strip('"').lower() in ("", word)
