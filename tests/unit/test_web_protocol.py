# SPDX-License-Identifier: Apache-2.0
"""A real server on a real socket, and what no HTTP library would send."""

import json
import re
import socket
import threading
from collections.abc import Iterator

import pytest

from edgepaas.files.paths import Paths
from edgepaas.httpd.server import HTTPServer
from tests.support.boxes import make_box

GOOD = b'{"name":"x"}'
LIMIT = 1 << 20


@pytest.fixture
def port(paths: Paths) -> Iterator[int]:
    """A served box of development, which takes bodies of up to 1 MiB."""
    box = make_box(paths, REQUEST_MAX_BYTES=str(LIMIT))
    listener = socket.create_server(("127.0.0.1", 0))
    number = int(listener.getsockname()[1])
    server = HTTPServer(
        box.app,
        [listener],
        threads=2,
        connection_limit=20,
        connections_per_client=20,
        request_max_bytes=LIMIT,
    )
    server.dispatcher.open()
    ended = threading.Event()
    thread = threading.Thread(target=server.run, args=(ended.is_set,))
    thread.start()
    yield number
    ended.set()
    server.wake()
    thread.join(10)
    server.drain(lambda: True, accept_waiting=False)


def send(port: int, data: bytes) -> tuple[int, bytes]:
    """Send *data* and return status and body of the last answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        received = b""
        connection.sendall(data)
        while True:
            head, found, body = received.partition(b"\r\n\r\n")
            if found and head.startswith(b"HTTP/1.1 100"):
                received = body
                continue
            length = re.search(rb"(?i)content-length: (\d+)", head)
            if found and length and len(body) >= int(length[1]):
                return int(head.split()[1]), body
            block = connection.recv(65536)
            assert block, f"the connection ended after {received!r}"
            received += block


def post(body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST /api/things HTTP/1.1", b"Host: localhost", b"Content-Type: application/json"]
    if not any(h.lower().startswith((b"content-length", b"transfer-enc")) for h in headers):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, *headers, b"", body])


def get(path: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"GET " + path + b" HTTP/1.1", b"Host: localhost", *headers, b"", b""])


CHUNKED = b"Transfer-Encoding: chunked"
CHUNK = b"%x\r\n" % len(GOOD) + GOOD + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (post(GOOD), 201),
        (post(GOOD, b"Expect: 100-continue"), 201),
        (post(CHUNK, CHUNKED), 201),
        (post(b"zz\r\n" + GOOD, CHUNKED), 400),
        (post(CHUNK, CHUNKED, b"Content-Length: 12"), 400),
        (post(CHUNK, CHUNKED, CHUNKED), 400),
        (post(CHUNK, b"Transfer-Encoding: chunked, chunked"), 400),
        (post(CHUNK, b"Transfer-Encoding:"), 400),
        (post(CHUNK, CHUNKED, b"Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
        (post(CHUNK, CHUNKED).replace(b"HTTP/1.1", b"HTTP/1.9"), 400),
        (post(GOOD, b"Host: localhost"), 400),
        (post(GOOD, b"host: elsewhere"), 400),
        (post(GOOD).replace(b"Host: localhost", b"Host: localhost, elsewhere"), 400),
        (post(b"", b"Transfer-Encoding: gzip"), 400),
        (post(b"", b"Transfer-Encoding: chunked, gzip"), 400),
        (post(GOOD, b"Content-Length: -1"), 400),
        (post(GOOD, b"Content-Length: abc"), 400),
        (post(GOOD, b"Content-Length: 12", b"Content-Length: 12"), 400),
        (post(GOOD, b"Content-Length: " + b"9" * 5000), 400),
        (post(b"", b"Content-Length: 99999999999999999999"), 413),
        (post(b'"' + b"x" * (2 * LIMIT) + b'"'), 413),
        (post(b'"' + b"x" * (2 * LIMIT) + b'"', b"Expect: 100-continue"), 413),
        (post(b"%x\r\n" % (2 * LIMIT) + b"x" * (2 * LIMIT) + b"\r\n0\r\n\r\n", CHUNKED), 413),
        (post(b"FFFFFFFFFFFFFFF\r\n", CHUNKED), 413),
        (post(b"100000\r\n", CHUNKED), 413),
        (post(b"2\r\n[]\r\nfffff\r\n", CHUNKED), 413),
        (post(b"1;" + b"x" * 20_000, CHUNKED), 400),
        (post(b"2\r\n[]\r\n0\r\nX: " + b"x" * 20_000, CHUNKED), 400),
        (get(b"/health", b"Expect: 100-continue"), 200),
        (get(b"/%ff"), 400),
        (get(b"/\xff"), 400),
        (get(b"http://[::1/"), 400),
        (get(b"//api//things"), 404),
        (get(b"/api/things", b"X-Forwarded-For: 127.0.0.1"), 401),
        (get(b"/api/things", b"Authorization: Bearer \xff\xfe"), 401),
        (get(b"/", b"X: " + b"a" * 300_000), 431),
        (b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404),
        (b"get / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"\x16\x03\x01\x00\x51\x01\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nBad Header\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else str(value),
)
def test_whatever_is_sent_is_answered_and_never_with_a_5xx(
    port: int, request_bytes: bytes, status: int
) -> None:
    """Every refusal has the one error body, those that never reach Flask as well."""
    found, body = send(port, request_bytes)
    assert found == status, body
    if status >= 400:
        assert set(json.loads(body)) == {"error", "message", "request_id", "details"}
    assert send(port, get(b"/health"))[0] == 200, "and the server still answers"
