# SPDX-License-Identifier: Apache-2.0
"""The one HTTP client against servers that misbehave; both of its transports."""

import contextlib
import http.client
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from edgepaas.http_client import HttpAnswer, HttpFailure, HttpSession, fetch

Ask = Callable[..., HttpAnswer]
SECRET = "hvs-s3cret"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def through_session(method: str, url: str, **options: Any) -> HttpAnswer:
    """Ask as a session of one request does, without the environment's proxies."""
    with HttpSession() as session:
        return session.request(method, url, **options)


both = pytest.mark.parametrize("ask", [fetch, through_session], ids=["fetch", "session"])


class Server:
    """Answers each connection by *script*, in a thread; keeps what came in."""

    def __init__(self, script: Callable[[socket.socket], None], host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        self.received: list[bytes] = []
        self.over = threading.Event()
        self._script = script
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while not self.over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self._script(connection)

    def read(self, connection: socket.socket) -> bytes:
        """Return a request with its body, and keep it."""
        data = b""
        while b"\r\n\r\n" not in data:
            if not (part := connection.recv(65536)):
                return data
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n")
                       if line.lower().startswith(b"content-length")), 0)  # fmt: skip
        while len(body) < length:
            body += connection.recv(65536)
        self.received.append(head + b"\r\n\r\n" + body)
        return self.received[-1]

    def close(self) -> None:
        """End it."""
        self.over.set()
        self._listener.close()


@pytest.fixture
def serving() -> Iterator[Callable[..., Server]]:
    """Return a server that answers by a script of (server, connection)."""
    servers: list[Server] = []

    def start(script: Callable[[Server, socket.socket], None], **more: Any) -> Server:
        server = Server(lambda connection: script(server, connection), **more)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()


def answering(data: bytes) -> Callable[[Server, socket.socket], None]:
    def script(server: Server, connection: socket.socket) -> None:
        server.read(connection)
        connection.sendall(data)

    return script


@both
def test_an_answer_is_given_with_its_status_headers_and_body(
    ask: Ask, serving: Callable[..., Server]
) -> None:
    """Whatever the status: what it means is the caller's business."""
    server = serving(answering(b"HTTP/1.1 404 No\r\nX-Thing: 1\r\nContent-Length: 3\r\n\r\nabc"))
    answer = ask("POST", f"{server.url}/a?b=1", deadline=5, headers={"X-Own": "2"}, body=b"{}")
    assert (answer.status, answer.body, answer.complete) == (404, b"abc", True)
    assert answer.headers["x-thing"] == "1"
    assert server.received[0].startswith(b"POST /a?b=1 HTTP/1.1\r\n")
    assert b"X-Own: 2" in server.received[0] and server.received[0].endswith(b"\r\n\r\n{}")


@both
def test_an_answer_without_an_end_is_read_up_to_the_bound(
    ask: Ask, serving: Callable[..., Server]
) -> None:
    """A server that never stops fills no memory."""

    def stream(server: Server, connection: socket.socket) -> None:
        server.read(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while not server.over.is_set():
            connection.sendall(b"x" * 65536)

    answer = ask("GET", serving(stream).url, deadline=10, most_bytes=1000)
    assert (len(answer.body), answer.complete) == (1000, False)


def drip(server: Server, connection: socket.socket) -> None:
    server.read(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not server.over.wait(0.02):
        connection.sendall(b"x")


def hang(server: Server, connection: socket.socket) -> None:
    server.read(connection)
    server.over.wait(20)


@both
@pytest.mark.parametrize("script", [drip, hang])
def test_the_deadline_bounds_the_whole_exchange(
    ask: Ask, script: Any, serving: Callable[..., Server]
) -> None:
    """Also against one byte now and then, which no socket's timeout ends."""
    began = time.monotonic()
    with pytest.raises(HttpFailure, match=r"no answer within 0\.4 s") as caught:
        ask("GET", serving(script).url, deadline=0.4)
    assert time.monotonic() - began < 3
    assert (caught.value.kind, caught.value.sent) == ("timeout", True)


@both
def test_a_resolver_that_hangs_is_bounded_too(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing was sent."""
    release = threading.Event()

    def never(*_: object, **__: object) -> Any:
        release.wait(20)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", never)
    with pytest.raises(HttpFailure) as caught:
        ask("GET", "http://box.example/", deadline=0.3)
    release.set()
    assert (caught.value.kind, caught.value.sent) == ("timeout", False)


@both
def test_every_address_of_a_name_is_tried_within_the_deadline(
    ask: Ask, serving: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past one that refuses and one that swallows packets; also a check of urllib3's insides."""
    server = serving(answering(OK))
    with socket.socket() as closed, socket.socket() as full:
        closed.bind(("127.0.0.1", 0))
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:  # its backlog is full: a connection gets no answer
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        places = [closed.getsockname(), full.getsockname(), ("127.0.0.1", server.port)]
        entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        found = [(*entry, place) for place in places]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        try:
            assert ask("GET", "http://box.example:80/", deadline=3).body == b"ok"
        finally:
            for filler in fillers:
                filler.close()
    assert b"Host: box.example\r\n" in server.received[0]


@both
def test_an_ipv6_address_is_one(ask: Ask, serving: Callable[..., Server]) -> None:
    server = serving(answering(OK), host="::1")
    assert ask("GET", server.url, deadline=5).status == 200
    assert f"Host: [::1]:{server.port}\r\n".encode() in server.received[0]


def reset(server: Server, connection: socket.socket) -> None:
    server.read(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def bye(server: Server, connection: socket.socket) -> None:
    server.read(connection)


def gibberish(server: Server, connection: socket.socket) -> None:
    server.read(connection)
    connection.sendall(b"220 mail.example ESMTP\r\n")


def half(server: Server, connection: socket.socket) -> None:
    server.read(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it")


def half_a_chunk(server: Server, connection: socket.socket) -> None:
    server.read(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nhalf")


@both
@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (reset, "closed"),
        (bye, "closed"),
        (half, "closed"),
        (half_a_chunk, "closed"),
        (gibberish, "protocol"),
    ],
)
def test_what_is_no_answer_says_what_it_is(
    ask: Ask, script: Any, kind: str, serving: Callable[..., Server]
) -> None:
    """And that the server may have read the request."""
    url = f"{serving(script).url}/{SECRET}"
    with pytest.raises(HttpFailure) as caught:
        ask("POST", url, deadline=5, headers={"X-Token": SECRET}, body=SECRET.encode())
    assert (caught.value.kind, caught.value.sent) == (kind, True)
    assert SECRET not in str(caught.value)


@both
def test_nobody_there_was_sent_nothing(ask: Ask) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(HttpFailure, match="refused") as caught:
            ask("GET", f"http://127.0.0.1:{closed.getsockname()[1]}/{SECRET}", deadline=5)
    assert (caught.value.kind, caught.value.sent) == ("refused", False)
    assert SECRET not in str(caught.value)


@both
def test_a_name_that_does_not_exist_is_said(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(HttpFailure, match="cannot be resolved") as caught:
        ask("GET", "http://box.example/", deadline=5)
    assert caught.value.kind == "name"


@both
@pytest.mark.parametrize(
    "url",
    ["", "box", "ftp://box/", "http://", "http://box:x/", "http://[::1/", "http://box:99999/",
     f"file:///{SECRET}"],
)  # fmt: skip
def test_what_is_no_address_is_said_without_it(ask: Ask, url: str) -> None:
    with pytest.raises(HttpFailure, match="no address") as caught:
        ask("GET", url, deadline=5)
    assert caught.value.kind == "address" and SECRET not in str(caught.value)


@both
@pytest.mark.parametrize("value", [f"{SECRET}\r\nX: 1", f"{SECRET}\n"])
def test_a_header_that_none_may_be_is_not_repeated(
    ask: Ask, value: str, serving: Callable[..., Server]
) -> None:
    """It may be a token with a line end behind it."""
    with pytest.raises(HttpFailure) as caught:
        ask("GET", serving(answering(OK)).url, deadline=5, headers={"X-Token": value})
    assert caught.value.kind == "address" and SECRET not in str(caught.value)


@both
def test_a_redirect_is_not_followed_unasked(ask: Ask, serving: Callable[..., Server]) -> None:
    """It would carry the token to whatever host it names."""
    other = serving(answering(OK))
    head = f"HTTP/1.1 307 There\r\nLocation: {other.url}/x\r\nContent-Length: 0\r\n\r\n"
    assert ask("GET", serving(answering(head.encode())).url, deadline=5).status == 307
    assert other.received == []


def _redirecting_without_end(location: str) -> Callable[[Server, socket.socket], None]:
    """Return what answers with a redirect to *location* whose body does not end."""

    def script(server: Server, connection: socket.socket) -> None:
        server.read(connection)
        head = f"HTTP/1.1 307 There\r\nLocation: {location}\r\n\r\n"
        connection.sendall(head.encode("latin-1"))
        while not server.over.is_set():
            connection.sendall(b"x" * 65536)

    return script


@both
@pytest.mark.parametrize("location", ["/again", "http://[::1", "http://\xff\xfe\x80:x/"])
def test_a_redirects_body_is_read_up_to_the_bound_and_no_further(
    ask: Ask, serving: Callable[..., Server], location: str
) -> None:
    """Whatever it points to: what requests looks up by itself reads all of it first."""
    url = serving(_redirecting_without_end(location)).url
    answer = ask("GET", url, deadline=5, most_bytes=1000)
    assert (answer.status, len(answer.body), answer.complete) == (307, 1000, False)


@both
def test_proxies_and_netrc_of_the_environment_do_not_count(
    ask: Ask, serving: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither sees a request unless the caller wants it."""
    proxy, server = serving(answering(OK)), serving(answering(OK))
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    ask("GET", server.url, deadline=5)
    assert proxy.received == [] and b"Authorization" not in server.received[0]


def test_a_session_uses_the_proxy_that_is_wanted_and_its_deadline_holds_there(
    serving: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by the connection class of ours, which the proxy's pools have to use."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for script, expected in ((answering(OK), 200), (hang, 0)):
        proxy = serving(script)
        monkeypatch.setenv("http_proxy", proxy.url)
        with HttpSession(proxies=True) as session:
            try:
                status = session.request("GET", "http://box.example/x", deadline=0.5).status
            except HttpFailure as failure:
                status = 0
                assert (failure.kind, failure.sent) == ("timeout", True)
        assert status == expected
        assert proxy.received[0].startswith(b"GET http://box.example/x HTTP/1.1")


def test_a_session_keeps_its_connection_and_each_request_has_its_own_deadline(
    serving: Callable[..., Server],
) -> None:
    """The deadline of the first request is long over when the second one hangs."""
    connections: list[socket.socket] = []

    def twice(server: Server, connection: socket.socket) -> None:
        connections.append(connection)
        server.read(connection)
        connection.sendall(OK)
        server.read(connection)
        connection.sendall(OK)
        server.read(connection)
        server.over.wait(20)

    server = serving(twice)
    with HttpSession() as session:
        for _ in range(2):
            assert session.request("POST", server.url, deadline=0.5, body=b"1").status == 200
            time.sleep(0.6)
        with pytest.raises(HttpFailure) as caught:
            session.request("POST", server.url, deadline=0.5, body=b"1")
    assert (caught.value.kind, caught.value.sent) == ("timeout", True)
    assert len(connections) == 1


@both
def test_tls_trusts_the_systems_authorities_and_no_other_name(
    ask: Ask, serving: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)

    def secure(server: Server, connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as wrapped:
            answering(OK)(server, wrapped)

    server = serving(secure)
    with pytest.raises(HttpFailure, match="certificate verify failed") as caught:
        ask("GET", f"https://localhost:{server.port}/", deadline=5)
    assert (caught.value.kind, caught.value.sent) == ("tls", False)
    with authority.cert_pem.tempfile(dir=str(tmp_path)) as file:
        monkeypatch.setenv("SSL_CERT_FILE", file)
        assert ask("GET", f"https://localhost:{server.port}/", deadline=5).body == b"ok"
        with pytest.raises(HttpFailure) as caught:
            ask("GET", f"https://127.0.0.1:{server.port}/", deadline=5)
        assert caught.value.kind == "tls"
        monkeypatch.delenv("SSL_CERT_FILE")
        if ask is fetch:
            there = fetch("GET", f"https://localhost:{server.port}/", deadline=5, cafile=file)
            assert there.status == 200


def test_the_lean_transport_does_not_load_requests() -> None:
    """A stage, and 'edgepaas status', are not to pay for it."""
    code = (
        "import sys, edgepaas.http_client as c\n"
        "try: c.fetch('GET', 'http://127.0.0.1:1/', deadline=2)\n"
        "except c.HttpFailure: pass\n"
        "print(sorted({'requests', 'urllib3'} & set(sys.modules)))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True
    )
    assert loaded.stdout.strip() == "[]"


def test_a_connection_is_the_standard_librarys_own() -> None:
    """What fetch sets beforehand, its socket, is what http.client then uses."""
    assert http.client.HTTPConnection("box", 80).sock is None
