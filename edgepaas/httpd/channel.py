# SPDX-License-Identifier: Apache-2.0
"""One connection: Waitress' channel, with answers that a drain and a refused body can end well."""

import contextlib
import os
import socket
import time
from typing import Any

from edgepaas.apikit.problems import PROBLEMS, Problem, too_long
from edgepaas.httpd.protocol import MIN_PROGRESS, Parser
from edgepaas.httpd.waitress_adapter import (
    AdaptedChannel,
    AdaptedErrorTask,
    AdaptedTask,
    ClientDisconnected,
    LoopDispatcher,
    LoopMap,
)

#: How long, and how much, a client that was refused may still send before it is cut off.
LINGER_SECONDS = 2.0
LINGER_BYTES = 64 * 1024 * 1024
#: Clients that are rejected, and may still send like that, at the same time.
MOST_LINGERING = 64

_REASONS = {408: "Request Timeout", 503: "Service Unavailable"}


#: Where an application finds the outcome of an append that was run without a worker
#: (edgepaas.app.append.OUTCOME).
_OUTCOME = "edgepaas.append_outcome"


class Task(AdaptedTask):
    """A request that the application answers."""

    def build_response_header(self) -> bytes:
        """Return the answer's head; called by a worker."""
        # An application may not say so itself (PEP 3333).
        if self.channel.ends_with_drain():
            self.request.headers["CONNECTION"] = "close"
        return bytes(super().build_response_header())

    def get_environment(self) -> dict[str, Any]:
        """Return the WSGI environment; called by a worker."""
        environ: dict[str, Any] = super().get_environment()
        outcome, self.channel.append_outcome = self.channel.append_outcome, None
        if outcome is not None:
            environ[_OUTCOME] = outcome
        return environ


class RefusedTask(AdaptedErrorTask):
    """A request that never reaches the application, answered with the one error body."""

    def execute(self) -> None:
        """Write the answer; called by a worker."""
        refusal = self.request.error
        _, default = PROBLEMS.get(refusal.code, ("", ""))
        message = default if refusal.code == 500 else str(refusal.body)
        problem = (
            too_long(self.channel.adj.max_request_body_size)
            if refusal.code == 413
            else Problem(refusal.code, message or default)
        )
        problem = getattr(refusal, "problem", problem)
        self.response_headers += problem.headers.items()
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


class Channel(AdaptedChannel):
    """A connection that measures its progress, and can be given up with an answer."""

    task_class = Task
    error_task_class = RefusedTask
    #: Whether the client may not have read its answer while it still sends.
    linger = False
    #: The request whose answer has begun, so that no other answer may be sent; under
    #: ``outbuf_lock``.
    _answered: Any = None
    #: Whether the first request is an append that no worker has; under ``requests_lock``.
    appending = False
    #: How the append in the first request ended, for the worker that words it.
    append_outcome: BaseException | None = None
    #: Whether the client has finished sending while a request of its was in work.
    _heard_all = False
    #: Whether a request was answered, or MIN_PROGRESS of a body has arrived.
    proven = False
    #: Whether nothing was sent since the connection began, or since the last answer.
    _rested = True
    #: Bytes that the client's side took since that last counted as progress; under ``outbuf_lock``.
    _taken = 0
    #: Whether the next request, which was sent ahead, waits until the answers before it are
    #: sent; under ``outbuf_lock``.
    _held = False
    #: What the client counts under (:mod:`edgepaas.httpd.connection_limits`); None: not known yet.
    network: str | None = None
    #: The Authorization header of the last request that was answered.
    authorization: str | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._moved = self._last_heard = time.monotonic()
        super().__init__(*arguments, **options)

    def parser_class(self, adjustments: Any) -> Parser:
        """Return what takes in the next request."""
        parser = Parser(adjustments)
        parser.limits, parser.address = self.server.limits, self.addr[0]
        return parser

    def received(self, data: bytes) -> bool:
        """Take in what the client sent (the loop's thread)."""
        self._last_heard = time.monotonic()
        # Once for each request: blank lines begin one as often as a client likes.
        if self._rested:
            self._rested = False
            self._moved = self._last_heard
        taken = bool(super().received(data))
        # Not with the head: most bodies come along with it, and the guard sees them whole.
        if self.request is not None and self.request.ask():
            self._refuse_body()
        if self.request is not None and self.request.progressed():
            self._moved = self._last_heard
            self.proven = self.proven or self.request.body_bytes_received >= MIN_PROGRESS
        return taken

    def _refuse_body(self) -> None:
        with self.requests_lock:
            self.requests.append(self.request)
            self.request = None
            if len(self.requests) == 1:
                self.server.add_task(self)

    def service(self) -> None:
        """Answer the next request (a worker's thread)."""
        self._note_authorization()
        try:
            super().service()
        finally:
            self._moved = self._last_heard = time.monotonic()
            self._rested = self.proven = True

    def readable(self) -> bool:
        """Whether to read on (the loop's thread).

        While the writer has the request, too: else it would have to wake the loop each time.
        """
        if not self.appending:
            waits = self.request is not None and self.request.headers_finished
            if waits and self.server.limits.refusal is None:
                return False  # who may send a body is not known yet
            return bool(super().readable())
        ahead = len(self.requests) > 1 or self._heard_all
        return not (ahead or self.total_outbufs_len or self.will_close or self.close_when_flushed)

    def handle_read(self) -> None:
        """Read what has arrived (the loop's thread)."""
        if self.requests and self._has_heard_all():
            self._heard_all = True  # the connection ends after the answer
        else:
            super().handle_read()

    def answer(self, data: bytes, *, close: bool) -> bool:
        """Answer the first request with *data* without a worker (the writer's thread, as a rule).

        Whether the loop has to be woken: to send the rest, to close, or to take the request
        that the client had sent ahead.
        """
        self._note_authorization()
        with contextlib.suppress(ClientDisconnected):
            if rest := self._send_now(data):
                self.write_soon(rest)
        self._moved = self._last_heard = time.monotonic()
        self._rested = self.proven = True
        with self.requests_lock:
            ahead = self.finish_request(close=close)
            self.appending = False
        if ahead:
            self.server.trigger.pull_trigger(self._resume)
        unsent = self.total_outbufs_len or self.will_close or close
        return self.connected and bool(unsent or self._heard_all)

    def _send_now(self, data: bytes) -> bytes:
        """Send of *data* what the socket takes at once, past the buffers; return the rest.

        An answer of one line fits into any socket's buffer but a dead client's.
        """
        with self.outbuf_lock:
            if not self.connected or self.total_outbufs_len or self.socket is None:
                return data
            self._answered = next(iter(self.requests), None)
            try:
                return data[self.send(data, do_close=False) :]
            except OSError:
                return data  # the way through the buffers knows what it means

    def _note_authorization(self) -> None:
        if self.requests:
            self.authorization = self.requests[0].headers.get("AUTHORIZATION")

    def hold_back(self) -> bool:
        """Whether the next request has to wait: the client has not read the answers before it.

        The loop hands it on when they are sent. Else a client that reads nothing would have
        its answers kept by the box, as many as it asks for, and a worker wait for it.
        """
        with self.outbuf_lock:
            self._held = bool(self.total_outbufs_len) and self.connected
            return self._held

    def handle_write(self) -> None:
        """Send what waits, and hand on a request that was held back (the loop's thread)."""
        super().handle_write()
        with self.outbuf_lock:
            resumes = self._held and not self.total_outbufs_len
            if resumes:
                self._held = False
        if resumes:
            self._resume()

    def leave_to_workers(self) -> None:
        """Have a worker answer the request that the writer has."""
        self.appending = False

    def _resume(self) -> None:
        """Take the next request, which was sent ahead, as if it came now (the loop's thread)."""
        with self.requests_lock:
            if self.connected and self.requests and not self.appending:
                self.server.add_task(self)

    def _has_heard_all(self) -> bool:
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"")
        except OSError:
            return False  # the loop meets it again when it reads

    def closes_after_answer(self) -> bool:
        """Whether the connection ends with the answer to the first request."""
        if self.ends_with_drain():
            return True
        requests = self.requests
        return bool(requests) and requests[0].headers.get("CONNECTION", "").lower() == "close"

    def ends_with_drain(self) -> bool:
        """Whether the server drains; what was sent ahead on the connection is answered first."""
        return bool(self.server.draining) and len(self.requests) <= 1

    def write_soon(self, data: Any) -> int:
        """Queue part of an answer (a worker's thread)."""
        with self.outbuf_lock:
            self._answered = next(iter(self.requests), None)
            if not self.total_outbufs_len:
                self._moved = time.monotonic()  # what came before was not for the client to do
            return int(super().write_soon(data))

    def send(self, data: bytes, do_close: bool = True) -> int:
        """Send some of *data*; returns how many bytes the client's side took."""
        sent = int(super().send(data, do_close))
        self._taken += sent
        if sent and (self._taken >= MIN_PROGRESS or sent >= self.total_outbufs_len):
            self._taken = 0
            self._moved = time.monotonic()
        return sent

    def stalled_seconds(self, now: float) -> float:
        """Return the seconds without progress of the client; 0 while a worker has the request."""
        return 0.0 if self.at_work() else now - self._moved

    def overdue(self, now: float, patience: float) -> bool:
        """Whether a request that has begun is arriving too slowly; *patience* in seconds."""
        arriving = self.request is not None and not self.requests and not self.total_outbufs_len
        return arriving and now - self._moved > patience and not self.has_unread_data()

    def does_not_read(self, now: float, patience: float) -> bool:
        """Whether the client takes an answer too slowly; a worker may wait until it does."""
        return bool(self.total_outbufs_len) and now - self._moved > patience

    def at_work(self) -> bool:
        """Whether a request is in work, or waits for a worker, and no answer waits to be read."""
        return bool(self.requests) and not self.total_outbufs_len

    def cut(self) -> None:
        """Close the connection; a request that has begun gets 408 (the loop's thread)."""
        if self.request is not None and not self.requests and not self.total_outbufs_len:
            _send_problem(self.socket, Problem(408))
        self.handle_close()

    def idle_seconds(self, now: float) -> float:
        """Return the seconds since the last request or answer; 0 while there is one."""
        busy = self.requests or self.total_outbufs_len or self.will_close or self.close_when_flushed
        if busy or self.has_unread_data():
            return 0.0
        if self.request is not None and not self.request.headers_finished:
            return (now - self._last_heard) / 4  # a slow client's headers: four times the patience
        return 0.0 if self.request is not None else now - self._last_heard

    def give_up(self) -> bool:
        """Cut the connection; whether a request was in work, which gets 503 if it can."""
        with self.outbuf_lock:
            request = next(iter(self.requests), None)
            self.connected = False  # the worker's next write ends its task
            if request not in (None, self._answered) and self.socket is not None:
                message = "The service stopped before this was done."
                _send_problem(self.socket, Problem(503, message, retry_after=2))
        self.handle_close()
        return request is not None

    def handle_close(self) -> None:
        """Close the connection; one that was refused may still send for a moment.

        Closing a socket with unread data makes the kernel reset the connection, and
        the client loses the answer with the reason (RFC 9112, 9.6).
        """
        if self.linger and self.connected and not self.total_outbufs_len and self.socket:
            self.linger = False
            _Lingering(self.give_away_socket(), self.loop_map())
        super().handle_close()

    def has_unread_data(self) -> bool:
        """Whether the client sent what was not received yet."""
        if self.socket is None:
            return False
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False  # nothing there, or the connection is gone


def reject_connection(sock: socket.socket, loop_map: LoopMap) -> None:
    """Answer 503 to a client beyond the limit, and close its connection."""
    sock.setblocking(False)
    _send_problem(sock, Problem(503, "Too many connections are open; try again.", retry_after=2))
    if sum(isinstance(each, _Lingering) for each in loop_map.values()) < MOST_LINGERING:
        _Lingering(sock, loop_map)
    else:
        sock.close()


def _send_problem(sock: socket.socket, problem: Problem) -> None:
    """Answer with *problem* at once, as far as the socket takes it."""
    request_id = os.urandom(8).hex()
    body = problem.encoded(request_id)
    lines = [
        f"HTTP/1.1 {problem.status} {_REASONS[problem.status]}",
        *(f"{name}: {value}" for name, value in problem.headers.items()),
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"X-Request-ID: {request_id}",
    ]
    with contextlib.suppress(OSError):  # the client may be gone by now
        sock.send("\r\n".join([*lines, "", ""]).encode("ascii") + body)


class _Lingering(LoopDispatcher):
    """Reads and discards what a refused client still sends, so that it reads its response."""

    def __init__(self, sock: socket.socket, loop_map: LoopMap) -> None:
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
