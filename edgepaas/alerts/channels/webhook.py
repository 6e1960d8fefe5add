# SPDX-License-Identifier: Apache-2.0
"""The webhook channel: verified TLS, no secret sent elsewhere, a deadline that holds."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Self
from urllib.parse import urljoin, urlsplit

from edgepaas.alerts.channels.answers import Answer
from edgepaas.alerts.channels.formats.webhook_format import WebhookFormat
from edgepaas.alerts.channels.http_answers import MOST_BODY, Judge, judge_status
from edgepaas.alerts.channels.notification import Notification
from edgepaas.alerts.channels.webhook_formats import find_format
from edgepaas.alerts.channels.wording import BoxIdentity
from edgepaas.logs.foreign import foreign_text
from edgepaas.logs.secret_parts import secret_parts
from edgepaas.settings import Settings
from edgepaas.settings.table import CHANNEL_SETTINGS

if TYPE_CHECKING:
    from edgepaas.http_client import HttpFailure


@dataclass(frozen=True)
class WebhookChannel:
    """Posts to *url* in *format*; *timeout* in seconds."""

    name: ClassVar[str] = "webhook"
    needs: ClassVar[tuple[str, ...]] = CHANNEL_SETTINGS["webhook"]

    url: str = field(repr=False)
    format: WebhookFormat
    secret: str = field(repr=False)
    timeout: float
    token: str = field(default="", repr=False)
    #: The proxy that it is reached through; "": those of the environment.
    proxy: str = field(default="", repr=False)

    @classmethod
    def configured(cls, settings: Settings) -> Self | None:
        """Return the channel where an address is set."""
        url = settings.text("ALERT_WEBHOOK_URL")
        found = cls(
            url=url,
            format=find_format(settings.text("ALERT_WEBHOOK_FORMAT"), url),
            secret=settings.text("ALERT_WEBHOOK_SECRET"),
            timeout=settings.number("ALERT_TIMEOUT"),
            token=settings.text("ALERT_WEBHOOK_TOKEN"),
            proxy=settings.text("ALERT_PROXY"),
        )
        return found if url else None

    def send(self, notification: Notification, box: BoxIdentity) -> Answer:
        """Post *notification*; never raises for the network."""
        body = self.format.body(notification, box, self.token)
        headers = {
            **self.format.headers(notification, box, self.token),
            "Idempotency-Key": notification.key,
            "X-EdgePaaS-Key": notification.key,
        }
        if self.secret:
            headers["X-EdgePaaS-Signature"] = signature(self.secret, body)
        return request(
            "POST",
            self.url,
            self.timeout,
            headers=headers,
            body=body,
            judge=self.format.judge,
            proxy=self.proxy,
            secrets=(self.token, self.secret),
        )


def signature(secret: str, body: bytes) -> str:
    """Return ``sha256=HEX``, the HMAC-SHA256 of *body*, as the receiver computes it."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def request(
    method: str,
    url: str,
    timeout: float,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    judge: Judge = judge_status,
    proxy: str = "",
    secrets: Iterable[str] = (),
) -> Answer:
    """Make one request within *timeout* seconds; *judge* says what its answer means.

    The address is a secret: what the receiver says is shown unless it repeats a part of that,
    or one of *secrets*. *proxy*: the one that is asked for it.
    """
    from edgepaas.http_client import HttpFailure, HttpSession

    try:
        # Beyond the box: the proxies that the operator has set count.
        with HttpSession(proxies=True, proxy=proxy, redirects=True, headers=headers) as session:
            answer = session.request(method, url, deadline=timeout, body=body, most_bytes=MOST_BODY)
    except HttpFailure as failure:
        return _failed(failure)
    if 300 <= answer.status < 400:
        return _redirected(answer.status, urljoin(url, answer.headers.get("location", "")))
    judged = judge(answer.status, answer.headers, answer.body)
    parts = [part for one in (url, proxy) for part in secret_parts(one)[1:]]
    answered, _, said = judged.words.partition(": ")
    said = foreign_text(said, [*parts, *secrets]) if said else ""
    return replace(judged, words=f"{answered}: {said}" if said else answered)


def _redirected(status: int, target: str) -> Answer:
    try:
        host = urlsplit(target).netloc.rpartition("@")[2]
    except ValueError:  # an unclosed bracket
        host = "no address"
    host = foreign_text(host)
    words = f"it answered {status} and points to {host}; name that address itself"
    return Answer("later", words, down=True)


def _failed(failure: "HttpFailure") -> Answer:
    if failure.kind in ("address", "redirects"):
        return Answer("later", str(failure), down=True)
    if failure.kind == "timeout":
        return Answer("later", str(failure), reached=failure.sent, down=True)
    if not failure.sent:
        return Answer("later", f"cannot be reached: {failure}", down=True)
    return Answer("later", f"gave no whole answer: {failure}", reached=True)
