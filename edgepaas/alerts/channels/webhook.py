# SPDX-License-Identifier: Apache-2.0
"""Posting a notification: TLS verified, no secret carried elsewhere, a real deadline."""

import hashlib
import hmac
import re
import ssl
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

from edgepaas.alerts.channels.answers import Answer, DeadlineExceeded, within
from edgepaas.alerts.channels.config import WebhookConfig
from edgepaas.build import build_version

#: Statuses that say "later" though they are the client's fault by their number.
_LATER = (408, 421, 425, 429)
_MOST_REDIRECTS = 3
#: Nobody is asked to wait longer, whatever he asks for.
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
    import requests  # 90 ms, wanted only where there is something to send

    session, progress = requests.Session(), _Progress()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _adapter(progress))
    session.headers["User-Agent"] = f"EdgePaaS/{build_version()}"
    session.headers.update(headers or {})
    try:
        return within(
            timeout, lambda: _ask(session, method, url, timeout, body), abort=session.close
        )
    except DeadlineExceeded:
        words = f"no answer within {timeout:g} s"
        return Answer("later", words, reached=progress.give_up(), down=True)
    except requests.exceptions.RequestException as error:
        return _failure(error)
    except (OSError, ValueError) as error:  # a name or an address that no socket takes
        return Answer("later", f"cannot be reached: {error}", down=True)


def _ask(session: Any, method: str, url: str, timeout: float, body: bytes | None) -> Answer:
    for _ in range(_MOST_REDIRECTS + 1):
        response = session.request(
            method,
            url,
            data=body,
            timeout=timeout,
            allow_redirects=False,
            stream=True,
            # Else requests would look into ~/.netrc for a login.
            auth=lambda prepared: prepared,
        )
        try:
            if 300 <= response.status_code < 400:
                target = urljoin(url, response.headers.get("Location", ""))
                # 301 and 302 may turn a POST into a GET (RFC 9110, 15.4); 307 and 308 must not.
                if response.status_code in (307, 308) and _origin(target) == _origin(url):
                    url = target
                    continue
                return _redirected(response.status_code, target)
            said = response.raw.read(_MOST_BODY, decode_content=True)
            return judge(response.status_code, response.headers, said)
        finally:
            response.close()
    return Answer("refused", f"it points further and further ({_MOST_REDIRECTS} redirects)")


def judge(status: int, headers: Mapping[str, str], said: bytes) -> Answer:
    """Return what a status means here."""
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
    text = headers.get("Retry-After", "").strip()
    if text.isdigit():
        return min(float(text[:9]), LONGEST_RETRY_AFTER)
    try:
        until = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    try:
        # By the server's own clock: this box's may never have been set.
        now = parsedate_to_datetime(headers.get("Date", "")).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        now = time.time()
    return max(0.0, min(until - now, LONGEST_RETRY_AFTER))


def _redirected(status: int, target: str) -> Answer:
    host = urlsplit(target).netloc.rpartition("@")[2]
    return Answer("refused", f"it answered {status} and points to {host}; name that address itself")


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        port = None
    return parts.scheme, (parts.hostname or "").lower(), port


def _failure(error: Exception) -> Answer:
    from requests import exceptions
    from urllib3.exceptions import ConnectTimeoutError, MaxRetryError

    inner = error.args[0] if error.args else None
    reason = getattr(inner, "reason", inner)
    if isinstance(reason, ConnectTimeoutError) and reason.args:
        reason = reason.args[-1]  # behind the connection, as an object
    # urllib3's own "HTTPConnection(host=…): " in front says nothing to a person.
    words = re.sub(r"^.{0,20}Connection\(.{0,300}?\): ", "", str(reason or error))
    # With no retries of its own, urllib3 wraps so only what failed before the request was sent.
    unsent = isinstance(inner, MaxRetryError) or isinstance(
        error, exceptions.ConnectTimeout | exceptions.SSLError | exceptions.ProxyError
    )
    if unsent:
        return Answer("later", f"cannot be reached: {words}", down=True)
    if isinstance(error, exceptions.InvalidURL | exceptions.InvalidSchema):
        return Answer("refused", f"is no address: {words}")
    slow = isinstance(error, exceptions.Timeout)
    return Answer("later", f"gave no whole answer: {words}", reached=True, down=slow)


class _Progress:
    """Whether the receiver may have read something, for the thread that waits for an answer.

    Without a network neither a name's resolver nor a connection comes to an end in time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connected = self._over = False

    def connect(self) -> None:
        """Take note of a connection; raises OSError where nobody waits for it any more."""
        with self._lock:
            if self._over:
                raise OSError("it was given up")
            self._connected = True

    def give_up(self) -> bool:
        """Have nothing sent from now on; whether something may have been."""
        with self._lock:
            self._over = True
            return self._connected


def _adapter(progress: _Progress) -> Any:
    """Return requests' adapter that says when it is connected, and trusts what this box trusts.

    By itself requests trusts only the authorities it comes with, not those that the
    operator has added to the system.
    """
    from requests.adapters import HTTPAdapter
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            progress.connect()

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            progress.connect()

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **more: Any) -> None:
            super().init_poolmanager(*args, **more, ssl_context=ssl.create_default_context())
            self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

        def proxy_manager_for(self, *args: Any, **more: Any) -> Any:
            progress.connect()  # what a proxy does with it cannot be seen
            return super().proxy_manager_for(*args, **more)

    return Adapter()
