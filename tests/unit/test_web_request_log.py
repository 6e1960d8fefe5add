# SPDX-License-Identifier: Apache-2.0
"""At LOG_LEVEL=DEBUG each answer is a line; at INFO those to clients that gave an id."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from edgepaas.logs import request_id
from edgepaas.web import request_ids
from edgepaas.web.request_ids import RequestIDs


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer 404."""
    start_response("404 Not Found", [])
    return [b"no"]


def ask(path: str, query: str) -> None:
    """Send one request through the middleware."""
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": query}
    list(RequestIDs(application)(environ, lambda *_: None))


def test_a_request_is_a_line_without_its_query(caplog: pytest.LogCaptureFixture) -> None:
    """A query may hold a token, or people's data; the path is shown as it was meant."""
    caplog.set_level(logging.DEBUG, "edgepaas.request")
    ask("/f\u00c3\u00bcr", "token=geheim99")
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("GET /für 404 in ")
    assert caplog.messages[0].endswith(" ms")
    assert "geheim99" not in caplog.text


def test_the_id_that_a_client_gave_is_found_at_info_and_no_flood_of_them(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was echoed, and in no log; and a client must not rotate the log away with it."""
    now = [0.0]
    monkeypatch.setattr(request_ids, "_budget", request_ids._LineBudget(lambda: now[0]))
    caplog.set_level(logging.INFO, "edgepaas.request")
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/x", "HTTP_X_REQUEST_ID": "meter-7.42"}
    seen = []

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.append(request_id.get())
        return application(environ, start_response)

    list(RequestIDs(answer)(dict(environ), lambda *_: None))
    assert seen == ["meter-7.42"]
    assert len(caplog.messages) == 1
    for _ in range(1000):
        list(RequestIDs(application)(dict(environ), lambda *_: None))
    assert len(caplog.messages) == 100
    now[0] = 60.0
    list(RequestIDs(application)(dict(environ), lambda *_: None))
    assert len(caplog.messages) == 101
    list(RequestIDs(application)(dict(environ, HTTP_X_REQUEST_ID="no id\n"), lambda *_: None))
    assert len(caplog.messages) == 101


def test_at_info_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Not even made."""
    caplog.set_level(logging.INFO, "edgepaas.request")
    ask("/", "")
    assert caplog.records == []
