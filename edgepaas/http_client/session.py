# SPDX-License-Identifier: Apache-2.0
"""Requests to one server and the ones it points to, on the library requests.

For what leaves the box: proxies of the environment where they are wanted, redirects within
the same server, connections that are kept from one request to the next.
"""

import re
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from edgepaas.build import build_version
from edgepaas.http_client.answers import (
    CUT_SHORT,
    HttpAnswer,
    HttpFailure,
    failure_of,
    failure_words,
)
from edgepaas.http_client.connecting import connect, target_of
from edgepaas.http_client.urllib3_adapter import library_errors, requests_adapter
from edgepaas.timing.deadline import OutOfTime, Scope, within

if TYPE_CHECKING:
    from socket import socket

_MOST_REDIRECTS = 3
#: These repeat the request as it is (RFC 9110, 15.4.8 and 15.4.9); 301 and 302 may turn a
#: POST into a GET.
_REPEATING = (307, 308)


class HttpSession:
    """Requests one after the other, for one thread at a time; to be closed.

    *proxies*: whether those of the environment are used. *proxy*: the one that is used for every
    request instead. *redirects*: whether a redirect
    that repeats the request is followed to the same server; any other is returned as the
    answer that it is.
    """

    def __init__(
        self,
        *,
        proxies: bool = False,
        proxy: str = "",
        redirects: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        import requests  # imported late: slow, and not every process makes a request

        self._redirects = redirects
        self._progress = _Progress()
        self._session = requests.Session()
        self._session.trust_env = proxies and not proxy
        if proxy:
            self._session.proxies = {"http": proxy, "https": proxy}
        # An object of our own keeps requests from looking into ~/.netrc for a login.
        self._session.auth = lambda prepared: prepared
        # It would read the whole body of a redirect, without a bound, and look for the next one.
        replaceable: Any = self._session
        replaceable.get_redirect_target = lambda _response: None
        self._session.headers["User-Agent"] = f"EdgePaaS/{build_version()}"
        self._session.headers.update(headers or {})
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests_adapter(self._progress))

    def __enter__(self) -> "HttpSession":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that were kept."""
        self._session.close()

    def request(
        self,
        method: str,
        url: str,
        *,
        deadline: float,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        most_bytes: int = 1024 * 1024,
    ) -> HttpAnswer:
        """Make one request within *deadline* seconds and return its answer; HttpFailure."""
        target_of(url)
        self._progress.sent = False

        def work(scope: Scope) -> HttpAnswer:
            self._progress.scope = scope
            return self._follow(method, url, dict(headers or {}), body, most_bytes)

        try:
            return within(deadline, work)
        except OutOfTime:
            message = f"no answer within {deadline:g} s"
            raise HttpFailure("timeout", message, sent=self._progress.sent) from None

    def _follow(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None, most_bytes: int
    ) -> HttpAnswer:
        for _ in range(_MOST_REDIRECTS + 1):
            answer = self._ask(method, url, headers, body, most_bytes)
            if not (self._redirects and answer.status in _REPEATING):
                return answer
            target = _same_server(answer.headers.get("location", ""), url)
            if target is None:
                return answer
            url = target
        raise HttpFailure(
            "redirects", f"it points further and further ({_MOST_REDIRECTS} redirects)", sent=True
        )

    def _ask(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None, most_bytes: int
    ) -> HttpAnswer:
        import requests

        failures: tuple[type[Exception], ...] = (OSError, ValueError, *library_errors())
        try:
            # stream: an answer without an end is given up at the bound. Read to its end, its
            # connection goes back to the pool; else closing it ends the connection.
            with self._session.request(
                method,
                url,
                data=body,
                headers=headers,
                timeout=self._progress.seconds,
                allow_redirects=False,
                stream=True,
            ) as response:
                content = response.raw.read(most_bytes + 1, decode_content=True)
        except requests.exceptions.InvalidHeader:
            # Its message would repeat the header, which may be a token.
            raise HttpFailure("address", "a header holds a character that none may") from None
        except failures as error:
            raise _failure(error, self._progress) from None
        return HttpAnswer(
            status=response.status_code,
            headers={name.lower(): value for name, value in response.headers.items()},
            body=content[:most_bytes],
            complete=len(content) <= most_bytes,
        )


class _Progress:
    """How far the request of a session is, for the thread that waits for its answer."""

    def __init__(self) -> None:
        #: The deadline of the request that is under way.
        self.scope: Scope | None = None
        #: Whether the server may have read something.
        self.sent = False

    @property
    def seconds(self) -> float:
        """The deadline of the request that is under way."""
        return self._current.seconds

    def connect(self, host: str, port: int) -> "socket":
        """Return a connected socket; raises OSError, OutOfTime."""
        return connect(host.strip("[]"), port, self._current)

    def connected(self) -> None:
        """Take note that the request goes out next; raises OutOfTime."""
        self._current.enter("send the request")
        self.sent = True

    def reuse(self, sock: "socket") -> None:
        """Put *sock*, kept from an earlier request, under this deadline; raises OutOfTime."""
        self._current.guard(sock)
        self.connected()

    @property
    def _current(self) -> Scope:
        if self.scope is None:
            raise RuntimeError("no request is under way")
        return self.scope


def _same_server(location: str, url: str) -> str | None:
    """Return where *location* leads from *url*; None for another server, or no address."""
    try:
        target = urljoin(url, location)
        return target if target_of(target).origin == target_of(url).origin else None
    except (ValueError, HttpFailure):
        return None


#: Exceptions of the standard library; those of requests are an OSError, too.
_PLAIN = ("builtins", "socket", "ssl")


def _failure(error: BaseException, progress: _Progress) -> HttpFailure:
    """Return what requests' or urllib3's *error* means: the fault that they wrapped."""
    from requests import exceptions

    chain = _chain(error)
    plain = [inner for inner in chain if type(inner).__module__ in _PLAIN]
    if any(isinstance(inner, TimeoutError) for inner in plain):
        return HttpFailure(
            "timeout", f"no answer within {progress.seconds:g} s", sent=progress.sent
        )
    if any(type(inner).__name__ in ("RemoteDisconnected", "IncompleteRead") for inner in chain):
        return HttpFailure("closed", CUT_SHORT, sent=progress.sent)
    if isinstance(error, exceptions.ProxyError):
        return HttpFailure("unreachable", _proxy_words(plain))
    if isinstance(error, exceptions.RequestException) and isinstance(error, ValueError):
        return HttpFailure("address", "is no address of a web server")
    told: list[BaseException] = [inner for inner in plain if isinstance(inner, OSError)]
    told += [inner for inner in chain if type(inner).__module__ == "http.client"]
    fault = told[0] if told else error
    return failure_of(fault, sent=progress.sent)


def _proxy_words(plain: list[BaseException]) -> str:
    """Return whether the proxy is away, or refuses; its own words are not repeated."""
    for inner in plain:
        if isinstance(inner, OSError) and inner.errno:
            return f"the proxy itself: {failure_words(inner)}"
        if found := re.search(r"\ATunnel connection failed: (\d{3})\b", str(inner)):
            return f"the proxy does not let it through (it answered {found[1]})"
    return "the proxy does not let it through"


def _chain(error: BaseException) -> list[BaseException]:
    """Return *error* and what is inside of it, the outermost first."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting and len(found) < 20:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or one in found:
            continue
        found.append(one)
        waiting += [getattr(one, "reason", None), *one.args, one.__cause__, one.__context__]
    return found
