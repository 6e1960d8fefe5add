# SPDX-License-Identifier: Apache-2.0
"""Reverse proxies on the loopback: a small one, and nginx where it is installed."""

import contextlib
import http.client
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.service_process import free_port, until

_ROOT = Path(__file__).resolve().parents[2]


def documented_nginx() -> str:
    """Return the configuration that docs/operations.md shows."""
    text = (_ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    return text.partition("```nginx\n")[2].partition("```")[0]


@contextlib.contextmanager
def small_proxy(port: int, *, tells: bool) -> Iterator[int]:
    """Hand requests on to *port*; *tells*: with the client's address, else as nginx by default."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kept = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("connection", "host")
            }
            if tells:
                given = self.headers.get("X-Forwarded-For")
                hops = [*([given] if given else []), self.client_address[0]]
                kept["X-Forwarded-For"] = ", ".join(hops)
            behind = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            behind.request(self.command, self.path, body, kept)
            answer = behind.getresponse()
            data = answer.read()
            behind.close()
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = handle_any

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join(60)


@contextlib.contextmanager
def nginx(folder: Path, port: int, *, tells: bool) -> Iterator[int]:
    """Run nginx before *port*, as the documents have it; not *tells*: with its defaults."""
    program = shutil.which("nginx")
    assert program is not None
    own = free_port()
    server = f"server {{ location / {{ proxy_pass http://127.0.0.1:{port}; }} listen 443 ssl; }}"
    lines = documented_nginx() if tells else server
    site = lines.replace("http://127.0.0.1:8080", f"http://127.0.0.1:{port}").replace(
        "listen 443 ssl;", f"listen 127.0.0.1:{own};"
    )
    site = "\n".join(line for line in site.splitlines() if "ssl_certificate" not in line)
    kept = "".join(
        f"{name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log stderr;\nevents {{}}\n"
        f"http {{ access_log off; {kept}\n{site}\n}}\n"
    )
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-c", str(folder / "nginx.conf"), "-e", "stderr"], stderr=log
        )
    try:
        until(lambda: _listens(own), "nginx to listen")
        yield own
    finally:
        process.terminate()
        process.wait(60)


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
