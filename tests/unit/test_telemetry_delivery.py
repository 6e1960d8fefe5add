# SPDX-License-Identifier: Apache-2.0
"""Delivering to a real HTTP server that misbehaves on purpose."""

import contextlib
import io
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from edgepaas.telemetry.importer.delivery import HttpSender
from edgepaas.telemetry.importer.failures import ImportFailed
from edgepaas.telemetry.importer.importer import BatchRefused, Progress
from edgepaas.telemetry.importer.progress import ProgressDisplay

READINGS = [{"device": "d", "metric": "m", "value": 1.0}]
STORED: tuple[int, dict[str, int], dict[str, str]] = (201, {"accepted": 1, "duplicates": 0}, {})
AWAY = {"error": "unavailable", "message": "not right now", "details": []}


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Script:
    """A server that gives the answers of *answers* in turn, the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[Any] = [STORED]
        self.received: list[dict[str, str]] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                script.received.append(dict(self.headers) | {"path": self.path})
                answer = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
                if answer is None:  # the connection breaks
                    self.close_connection = True
                    return
                status, body, headers = answer
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def script() -> Iterator[Script]:
    server = Script()
    yield server
    server.server.shutdown()
    server.server.server_close()
    server.thread.join()


def sender(url: str, clock: Clock, **options: Any) -> HttpSender:
    return HttpSender(url, clock=clock, sleep=clock.sleep, **options)


def test_a_batch_is_delivered_with_its_token(script: Script) -> None:
    assert sender(script.url + "/", Clock(), token="secret")(READINGS) == (1, 0)
    assert script.received[0]["Authorization"] == "Bearer secret"
    assert script.received[0]["path"] == "/api/v1/readings"


def test_a_password_in_netrc_does_not_take_the_place_of_no_token(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert sender(script.url, Clock())(READINGS) == (1, 0)
    assert "Authorization" not in script.received[0]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_is_temporary_is_tried_again(script: Script, status: int) -> None:
    script.answers = [(status, AWAY, {}), (status, b"<html>", {}), STORED]
    clock = Clock()
    assert sender(script.url, clock)(READINGS) == (1, 0)
    assert len(clock.slept) == 2


def test_retry_after_is_honoured(script: Script) -> None:
    script.answers = [(503, AWAY, {"Retry-After": "7"}), STORED]
    clock = Clock()
    sender(script.url, clock)(READINGS)
    assert clock.slept == [7.0]


def test_a_connection_that_breaks_is_tried_again(script: Script) -> None:
    script.answers = [None, STORED]
    reasons: list[str] = []
    assert sender(script.url, Clock(), on_wait=reasons.append)(READINGS) == (1, 0)
    assert len(reasons) == 1


def test_patience_ends_and_says_why() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused
        clock = Clock()
        send = sender(f"http://127.0.0.1:{taken.getsockname()[1]}", clock, patience=30)
        with pytest.raises(ImportFailed, match=r"30 s: no answer \(.*refused.*--patience"):
            send(READINGS)
    assert 10 < clock.now <= 30


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((401, {"message": "a token is needed"}, {}), "a token is needed.*--token-file"),
        ((403, {"message": "read-only"}, {}), "read-only.*--token-file"),
        ((413, {"message": "too large"}, {}), "--batch"),
        ((507, {"message": "no room left"}, {}), "507: no room left"),
        ((500, b"", {}), "500"),
        ((301, b"", {"Location": "https://elsewhere/"}), "301"),
        ((200, b"<html>a router's sign-in page</html>", {}), "answered 200"),
        ((201, b"[]", {}), "telemetry does not run on .*: its answer 201 counts no readings"),
        ((404, {"message": "There is nothing here."}, {}), "telemetry does not run on .* 404 to"),
        ((405, b"", {}), "telemetry does not run on .* 405 to"),
    ],
)
def test_what_is_final_stops_at_once_with_the_way_out(
    script: Script, answer: Any, expected: str
) -> None:
    script.answers = [answer]
    with pytest.raises(ImportFailed, match=expected):
        sender(script.url, Clock())(READINGS)
    assert len(script.received) == 1


@pytest.mark.parametrize("path", ["[3].value", "readings[3].value"])
def test_refused_readings_are_told_by_their_position(script: Script, path: str) -> None:
    body = {"message": "m", "details": [{"path": path, "message": "wrong"}, {"path": ""}]}
    script.answers = [(422, body, {})]
    with pytest.raises(BatchRefused) as refused:
        sender(script.url, Clock())(READINGS)
    assert refused.value.problems == {3: "value: wrong"}


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8080", "ftp://box", "http://", "http://[::1", "http://box:http"]
)
def test_an_address_that_is_none_is_named(url: str) -> None:
    with pytest.raises(ImportFailed, match="--url"):
        HttpSender(url)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(stream: io.StringIO) -> None:
    clock = Clock()
    display = ProgressDisplay(stream, clock)
    for done in range(0, 101, 10):
        clock.now += 1
        display.update(Progress(total=100, accepted=done))
    text = stream.getvalue()
    assert text.endswith("\n")
    if stream.isatty():
        assert text.count("\r") == 11
        assert "[############............] 50/100 readings (50%), 8/s, 6 s left" in text
    else:
        assert "\r" not in text
        assert text.splitlines()[-1] == "100/100 readings (100%), 9/s"
        assert len(text.splitlines()) < 5
    with contextlib.suppress(ValueError):
        stream.truncate(0)
