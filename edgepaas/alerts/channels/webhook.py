# SPDX-License-Identifier: Apache-2.0
"""Posting a notification: TLS verified, no secret carried elsewhere, a real deadline."""

import hashlib
import hmac
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from edgepaas.alerts.channels.answers import Answer
from edgepaas.alerts.channels.config import WebhookConfig

if TYPE_CHECKING:
    from edgepaas.http_client import HttpFailure

#: Statuses that say "later" though they are the client's fault by their number.
_LATER = (408, 421, 425, 429)
#: No channel waits longer before it tries again, whatever a server asks for.
LONGEST_RETRY_AFTER = 6 * 3600.0
_MOST_BODY = 300


def post(config: WebhookConfig, key: str, body: bytes) -> Answer:
    """Post *body* under *key* and return what was answered; never raises for the network."""
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "Idempotency-Key": key,
        "X-EdgePaaS-Key": key,
    }
    if config.secret:
        headers["X-EdgePaaS-Signature"] = signature(config.secret, body)
    return request("POST", config.url, config.timeout, headers=headers, body=body)


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
) -> Answer:
    """Make one request within *timeout* seconds and judge its answer."""
    from edgepaas.http_client import HttpFailure, HttpSession

    try:
        # Beyond the box: the proxies that the operator has set count.
        with HttpSession(proxies=True, redirects=True, headers=headers) as session:
            answer = session.request(
                method, url, deadline=timeout, body=body, most_bytes=_MOST_BODY
            )
    except HttpFailure as failure:
        return _failed(failure)
    if 300 <= answer.status < 400:
        return _redirected(answer.status, urljoin(url, answer.headers.get("location", "")))
    return judge(answer.status, answer.headers, answer.body)


def judge(status: int, headers: Mapping[str, str], said: bytes) -> Answer:
    """Return what a status means here; *headers* by lower-case name."""
    words = " ".join(said.decode("utf-8", "replace").split())[:_MOST_BODY]
    answered = f"it answered {status}{f': {words}' if words else ''}"
    if 200 <= status < 300:
        return Answer("taken", answered, reached=True)
    if 400 <= status < 500 and status not in _LATER:
        return Answer("refused", answered)
    # What a server's error left behind cannot be known; one that is told to wait was not read.
    return Answer("later", answered, reached=status not in _LATER, retry_after=retry_after(headers))


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds of ``Retry-After`` (RFC 9110, 10.2.3), 0.0 without one."""
    text = headers.get("retry-after", "").strip()
    if text.isdigit():
        return min(float(text[:9]), LONGEST_RETRY_AFTER)
    try:
        until = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    try:
        # By the server's own clock: this box's may never have been set.
        now = parsedate_to_datetime(headers.get("date", "")).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        now = time.time()
    return max(0.0, min(until - now, LONGEST_RETRY_AFTER))


def _redirected(status: int, target: str) -> Answer:
    host = urlsplit(target).netloc.rpartition("@")[2]
    return Answer("refused", f"it answered {status} and points to {host}; name that address itself")


def _failed(failure: "HttpFailure") -> Answer:
    if failure.kind in ("address", "redirects"):
        return Answer("refused", str(failure))
    if failure.kind == "timeout":
        return Answer("later", str(failure), reached=failure.sent, down=True)
    if not failure.sent:
        return Answer("later", f"cannot be reached: {failure}", down=True)
    return Answer("later", f"gave no whole answer: {failure}", reached=True)
