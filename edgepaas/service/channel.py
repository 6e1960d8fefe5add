"""One connection: Waitress' channel, with answers that a drain and a refused body can end well."""

import contextlib
import os
import socket
import time
from typing import Any

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.task import ErrorTask, WSGITask

from edgepaas.web.problems import PROBLEMS, Problem
from edgepaas.web.protocol import Parser

#: How long, and how much, a client that was refused may still send before it is cut off.
LINGER_SECONDS = 2.0
LINGER_BYTES = 64 * 1024 * 1024


def close_while_draining(task: Any) -> None:
    """Have *task*'s answer say ``Connection: close`` (an application may not, PEP 3333)."""
    # Requests that were sent ahead on the same connection are answered first.
    if task.channel.server.draining and len(task.channel.requests) <= 1:
        task.request.headers["CONNECTION"] = "close"


class Task(WSGITask):  # type: ignore[misc]
    """A request that the application answers."""

    def build_response_header(self) -> bytes:
        """Return the answer's head; called by a worker."""
        close_while_draining(self)
        return bytes(super().build_response_header())


class RefusedTask(ErrorTask):  # type: ignore[misc]
    """A request that never reaches the application, answered with the one error body."""

    def execute(self) -> None:
        """Write the answer; called by a worker."""
        refusal = self.request.error
        _, default = PROBLEMS.get(refusal.code, ("", ""))
        said = default if refusal.code in (413, 500) else str(refusal.body)
        problem = Problem(refusal.code, said or default)
        request_id = os.urandom(8).hex()
        body = problem.encoded(request_id)
        self.status = f"{refusal.code} {refusal.reason}"
        self.response_headers += [
            ("Content-Type", "application/json"),
            ("X-Request-ID", request_id),
        ]
        self.set_close_on_finish()
        self.content_length = len(body)
        self.channel.linger = True
        self.write(body)


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection that can say how long it has been silent, and be given up with an answer."""

    task_class = Task
    parser_class = Parser
    error_task_class = RefusedTask
    #: Whether the client may not have read its answer while it still sends.
    linger = False
    socket: Any
    _answering = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._last_heard = time.monotonic()
        super().__init__(*arguments, **options)

    def received(self, data: bytes) -> bool:
        """Take in what the client sent (the loop's thread)."""
        self._last_heard = time.monotonic()
        return bool(super().received(data))

    def service(self) -> None:
        """Answer the next request (a worker's thread)."""
        self._answering = False
        try:
            super().service()
        finally:
            self._last_heard = time.monotonic()

    def write_soon(self, data: Any) -> int:
        """Queue part of an answer (a worker's thread)."""
        with self.outbuf_lock:
            self._answering = True
            return int(super().write_soon(data))

    def quiet_for(self, now: float) -> float:
        """Return for how many seconds nothing has been asked or answered; 0 while anything is."""
        busy = self.requests or self.total_outbufs_len or self.will_close or self.close_when_flushed
        if busy or self._something_to_read():
            return 0.0
        if self.request is not None and not self.request.headers_finished:
            return (now - self._last_heard) / 4  # a slow client's headers: four times the patience
        return 0.0 if self.request is not None else now - self._last_heard

    def give_up(self) -> bool:
        """Cut the connection; whether a request was in work, which gets 503 if it can."""
        with self.outbuf_lock:
            waiting = bool(self.requests)
            self.connected = False  # the worker's next write ends its task
            if waiting and not self._answering and self.socket is not None:
                problem = Problem(503, "The service stopped before this was done.", retry_after=2)
                body = problem.encoded("-")
                head = (
                    "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n"
                    f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                    f"Retry-After: {problem.headers['Retry-After']}\r\n\r\n"
                )
                with contextlib.suppress(OSError):  # the client may be gone by now
                    self.socket.send(head.encode("ascii") + body)
        self.handle_close()
        return waiting

    def handle_close(self) -> None:
        """Close the connection; one that was refused may still send for a moment.

        Closing a socket with unread data makes the kernel reset the connection, and
        the client loses the answer that says why (RFC 9112, 9.6).
        """
        if self.linger and self.connected and not self.total_outbufs_len and self.socket:
            self.linger = False
            sock = self.socket
            self.del_channel()
            self.socket = None
            _Lingering(sock, self._map)
        super().handle_close()

    def _something_to_read(self) -> bool:
        if self.socket is None:
            return False
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False  # nothing there, or the connection is gone


class _Lingering(wasyncore.dispatcher):  # type: ignore[misc]
    """Reads and forgets what a refused client still sends, so that it reads its answer."""

    def __init__(self, sock: socket.socket, loop_map: dict[int, Any]) -> None:
        self._until = time.monotonic() + LINGER_SECONDS
        self._left = LINGER_BYTES
        super().__init__(sock, map=loop_map)
        self.connected = True
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()

    def readable(self) -> bool:
        if time.monotonic() > self._until or self._left <= 0:
            self.close()
            return False
        return True

    def writable(self) -> bool:
        return False

    def handle_read(self) -> None:
        self._left -= len(self.recv(65536))

    def handle_close(self) -> None:
        self.close()
