# SPDX-License-Identifier: Apache-2.0
"""Vault and OpenBao, played by a real HTTP server on loopback."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from edgepaas.settings.resolve import resolve
from edgepaas.settings.vault import VaultAccess, VaultUnavailable, read_vault

TOKEN = "hvs.geheim"
SECRET = {"PORT": 9000, "database__password": "s3cret", "HEALTH_AUTH": True, "NODE_NAME": None}


class Handler(BaseHTTPRequestHandler):
    """KV version 2 as the HTTP API describes it; one secret at secret/data/edgepaas."""

    def do_GET(self) -> None:
        if self.headers["X-Vault-Token"] != TOKEN:
            self._answer(403, {"errors": ["permission denied"]})
        elif self.path == "/v1/secret/data/edgepaas":
            self._answer(200, {"data": {"data": SECRET, "metadata": {"version": 3}}})
        elif self.path == "/v1/secret/data/deleted":
            self._answer(200, {"data": {"data": None, "metadata": {"deletion_time": "x"}}})
        elif self.path == "/v1/secret/data/elsewhere":
            self.send_response(307)
            self.send_header("Location", "http://evil.example/v1/secret/data/edgepaas")
            self.end_headers()
        elif self.path == "/v1/secret/data/sealed":
            self._answer(503, {"errors": ["Vault is sealed"]})
        elif self.path == "/v1/secret/data/page":
            self._send(200, b"<html>")
        elif self.path == "/v1/secret/data/long":
            self._send(200, b"x" * 2_000_000)
        else:
            self._answer(404, {"errors": []})

    def _answer(self, status: int, body: object) -> None:
        self._send(status, json.dumps(body).encode())

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving(wrap: Callable[[socket.socket], socket.socket] | None = None) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if wrap is not None:
        server.socket = wrap(server.socket)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def vault() -> Iterator[str]:
    with serving() as port:
        yield f"http://127.0.0.1:{port}"


def access(url: str, *, path: str = "secret/data/edgepaas", **other: object) -> VaultAccess:
    values = {"token": TOKEN, "cacert": "", "timeout": 10.0, **other}
    return VaultAccess(url=url, path=path, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path", ["secret/data/edgepaas", "secret/edgepaas", "/secret/edgepaas/", "v1/secret/edgepaas"]
)
def test_every_way_to_write_the_path_finds_the_secret(vault: str, path: str) -> None:
    assert read_vault(access(vault, path=path)) == {
        "PORT": "9000",
        "database__password": "s3cret",
        "HEALTH_AUTH": "true",
    }


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("secret/data/nothing", "404: there is no secret at VAULT__PATH"),
        ("secret/data/sealed", "503: it is sealed"),
        ("secret/data/deleted", "was deleted"),
        ("secret/data/elsewhere", "points to evil.example"),
        ("secret/data/page", "not a secret of KV version 2"),
        ("secret/data/long", "longer than"),
    ],
)
def test_each_failure_says_what_is_wrong(vault: str, path: str, message: str) -> None:
    with pytest.raises(VaultUnavailable, match=message):
        read_vault(access(vault, path=path))


def test_a_token_without_the_right_is_named(vault: str) -> None:
    with pytest.raises(VaultUnavailable, match="VAULT__TOKEN may not read") as caught:
        read_vault(access(vault, token="wr0ng"))
    assert "wr0ng" not in str(caught.value)


def test_a_token_that_no_header_can_carry_is_not_repeated(vault: str) -> None:
    with pytest.raises(VaultUnavailable) as caught:
        read_vault(access(vault, token="ge\nheim"))
    assert "heim" not in str(caught.value)


def test_a_refused_connection_is_an_answer(vault: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(VaultUnavailable, match="refused"):
            read_vault(access(url))


def test_a_server_that_never_ends_its_answer_is_left_at_the_deadline() -> None:
    """It sends a byte now and then, so that no socket's timeout ever passes."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not stop.wait(0.05):
                    connection.sendall(b"x")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        try:
            with pytest.raises(VaultUnavailable, match="no answer within"):
                read_vault(access(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.3))
        finally:
            stop.set()
            thread.join(5)


def test_a_certificate_is_checked_against_the_given_authority(tmp_path: Path) -> None:
    import ssl

    authority, stranger = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    right, wrong = tmp_path / "right.pem", tmp_path / "wrong.pem"
    authority.cert_pem.write_to_path(right)
    stranger.cert_pem.write_to_path(wrong)
    with serving(lambda sock: context.wrap_socket(sock, server_side=True)) as port:
        url = f"https://127.0.0.1:{port}"
        assert read_vault(access(url, cacert=str(right)))["PORT"] == "9000"
        with pytest.raises(VaultUnavailable, match="certificate verify failed"):
            read_vault(access(url, cacert=str(wrong)))
        with pytest.raises(VaultUnavailable, match="cannot be used"):
            read_vault(access(url, cacert="/nowhere.pem"))


def test_settings_come_from_the_secret(vault: str, tmp_path: Path) -> None:
    environ = {"VAULT__ENABLED": "yes", "VAULT__URL": vault, "VAULT__TOKEN": TOKEN}
    result = resolve(environ, tmp_path / "none", None)
    assert result.findings == []
    assert result.settings.integer("PORT") == 9000
    assert result.settings.text("DATABASE__PASSWORD") == "s3cret"
    assert result.settings.flag("HEALTH_AUTH")
    assert result.settings.sources["PORT"] == "vault"
