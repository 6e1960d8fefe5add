# SPDX-License-Identifier: Apache-2.0
"""At LOG_LEVEL=DEBUG each answer is a line, and at INFO nothing is."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import pytest

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


def test_at_info_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Not even made."""
    caplog.set_level(logging.INFO, "edgepaas.request")
    ask("/", "")
    assert caplog.records == []
