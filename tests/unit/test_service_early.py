# SPDX-License-Identifier: Apache-2.0
"""What is answered without the application."""

import json
from collections.abc import Iterable
from typing import Any

import pytest

from edgepaas.httpd.startup_responder import Phase, StartupResponder


def call(
    front: StartupResponder, path: str, method: str = "GET", **environ: str
) -> tuple[str, dict[str, str], bytes]:
    """Return status, headers and body."""
    answer: dict[str, Any] = {}

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        answer.update(status=status, headers=dict(headers))

    body = front({"PATH_INFO": path, "REQUEST_METHOD": method} | environ, start_response)
    return answer["status"][:3], answer["headers"], b"".join(body)


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer everything with its path."""
    start_response("200 OK", [])
    return [environ["PATH_INFO"].encode()]


@pytest.fixture
def front() -> StartupResponder:
    """A front without an application yet."""
    return StartupResponder(Phase("starting", "the application is being loaded"))


def test_live_is_200_from_the_first_moment(front: StartupResponder) -> None:
    """The process runs, which is all that live says."""
    assert call(front, "/health/live")[0] == "200"


def test_ready_is_503_with_the_state_and_why(front: StartupResponder) -> None:
    """The same word as everywhere."""
    for path in ("/health/ready", "/ready", "/health"):
        status, headers, body = call(front, path)
        assert status == "503"
        assert headers["Retry-After"] == "2"
        assert json.loads(body)["state"] == "starting"
        assert json.loads(body)["reasons"] == ["the application is being loaded"]


def test_other_paths_get_the_one_error_body(front: StartupResponder) -> None:
    """With the client's own request id, where it is harmless."""
    status, headers, body = call(front, "/api/v1/readings", HTTP_X_REQUEST_ID="abc-1")
    assert status == "503"
    assert headers["Retry-After"] == "2"
    assert headers["X-Request-ID"] == "abc-1"
    assert json.loads(body)["error"] == "unavailable"
    assert json.loads(body)["request_id"] == "abc-1"
    _, headers, _ = call(front, "/", HTTP_X_REQUEST_ID="a b\x00")
    assert headers["X-Request-ID"] != "a b\x00"


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/health/live"), ("GET", "/health/admin"), ("GET", "/health/../admin")],
)
def test_only_a_probe_reaches_a_closed_application(
    front: StartupResponder, method: str, path: str
) -> None:
    """A path that only looks like a health route is the application's own."""
    assert call(front, path, method)[0] == "503"
    front.open(application)
    front.close(Phase("degraded", "PostgreSQL was lost"))
    assert call(front, path, method)[0] == "503"


def test_head_has_no_body(front: StartupResponder) -> None:
    """The headers are those of GET."""
    status, headers, body = call(front, "/health/live", "HEAD")
    assert (status, body) == ("200", b"")
    assert int(headers["Content-Length"]) > 0


def test_an_open_front_hands_everything_to_the_application(front: StartupResponder) -> None:
    """Health too: the application knows more."""
    front.open(application)
    assert call(front, "/x")[2] == b"/x"
    assert call(front, "/health/ready")[2] == b"/health/ready"


def test_a_closed_front_keeps_requests_from_a_lost_database(front: StartupResponder) -> None:
    """503 without touching the application, which still answers for its health."""
    front.open(application)
    front.close(Phase("degraded", "PostgreSQL was lost"))
    assert call(front, "/x")[0] == "503"
    assert call(front, "/health/ready")[2] == b"/health/ready"
    front.reopen()
    assert call(front, "/x")[0] == "200"
