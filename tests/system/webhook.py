# SPDX-License-Identifier: Apache-2.0
"""Somebody who is told things by HTTP, on the hub's host."""

import http.server
import threading
import time

from tests.system.hub import Hub
from tests.system.network import HUB


class Webhook:
    """Takes what boxes post, on the hub's host."""

    def __init__(self, hub: Hub) -> None:
        taken = self.taken = []  # type: list[str]

        class Taking(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                taken.append(self.rfile.read(length).decode())
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = hub.wire.hub.call(lambda: http.server.ThreadingHTTPServer((HUB, 0), Taking))
        self.url = f"http://{HUB}:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def wait_for(self, text: str, limit: float = 60.0) -> str:
        """Wait until something was posted with *text* in it; returns that."""
        deadline = time.monotonic() + limit
        while True:
            for body in list(self.taken):
                if text in body:
                    return body
            assert time.monotonic() < deadline, f"nobody told of {text!r}: {self.taken[-5:]}"
            time.sleep(0.1)

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
