# SPDX-License-Identifier: Apache-2.0
"""What is used of Waitress' insides, in one place; no other module imports Waitress.

Waitress documents ``serve()``. A server that starts to listen before the application is
there, that drains, and that gives each client its share of the connections is built from its
parts, so what is used of them stands here, typed, with what it means.
``tests/unit/test_adapter_waitress.py`` fails when a new version changes any of it. The upper
bound in ``pyproject.toml`` is the first version that was not tested.

Two kinds of threads: the loop's, which reads and writes sockets, and workers, which run
requests. What each method is called by is said with it.

Imports Waitress and the standard library alone: liveness is answered before anything else is
there.
"""

import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.buffers import OverflowableBuffer
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError, TransferEncodingNotImplemented
from waitress.receiver import FixedStreamReceiver
from waitress.server import TcpWSGIServer, UnixWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask
from waitress.utilities import BadRequest, RequestEntityTooLarge, build_http_date

__all__ = [
    "AdaptedChannel",
    "AdaptedDispatcher",
    "AdaptedErrorTask",
    "AdaptedParser",
    "AdaptedTask",
    "Adjustments",
    "BadRequest",
    "ClientDisconnected",
    "LoopDispatcher",
    "LoopFile",
    "LoopMap",
    "ParsingError",
    "RequestEntityTooLarge",
    "TcpWSGIServer",
    "TransferEncodingNotImplemented",
    "UnixWSGIServer",
    "body_of",
    "build_http_date",
    "close_all",
    "is_bare_request",
    "join_loop",
    "loop_map_of",
    "new_listener",
    "run_once",
    "stop_accepting",
]

#: What is polled, by file descriptor; one for each server.
LoopMap = dict[int, Any]


#: What ``parse_header`` sets, beside ``headers``, ``body_rcv``, and what a coding makes it set.
_HEAD = (
    *("first_line", "request_uri", "command", "version", "url_scheme", "content_length"),
    *("proxy_scheme", "proxy_netloc", "path", "query", "fragment"),
    *("connection_close", "expect_continue"),
)


class AdaptedParser(HTTPRequestParser):  # type: ignore[misc]  # waitress has no types
    """One request as it arrives.

    Overridden: ``parse_header(header_plus)``, which raises ParsingError (answered with 400)
    or TransferEncodingNotImplemented (501); ``received(data)``, which returns how many of
    the bytes belong to this request.
    """

    #: The server's settings.
    adj: Any
    #: Whether the request is whole, or refused.
    completed: bool
    chunked: bool
    #: Names in upper case, with underscores.
    headers: dict[str, str]
    headers_finished: bool
    body_bytes_received: int
    #: The body's receiver; a chunked one has ``chunk_remainder``, ``control_line``, ``trailer``.
    body_rcv: Any
    #: Whether the client waits for "100 Continue".
    expect_continue: bool
    #: Why it is refused: ``code``, ``reason``, ``body``; None if it is not.
    error: Any
    command: str
    #: ``1.0`` or ``1.1``.
    version: str
    #: The address' parts; *path* is decoded, and scheme and authority are empty as a rule.
    path: str
    query: str
    fragment: str
    proxy_scheme: str
    proxy_netloc: str
    #: What Content-Length announced.
    content_length: int
    connection_close: bool

    def parsed_head(self) -> dict[str, Any]:
        """Return what ``parse_header`` made of a head without a transfer coding."""
        return {**{name: getattr(self, name) for name in _HEAD}, "headers": dict(self.headers)}

    def adopt_head(self, known: dict[str, Any]) -> None:
        """Be as ``parse_header`` makes it of the head that *known* was returned for."""
        self.__dict__.update(known)
        self.headers = dict(known["headers"])
        if self.content_length > 0:
            buffer = OverflowableBuffer(self.adj.inbuf_overflow)
            self.body_rcv = FixedStreamReceiver(self.content_length, buffer)


class AdaptedTask(WSGITask):  # type: ignore[misc]
    """A request in work; overridden: ``build_response_header()``, ``get_environment()``.

    Both are called by a worker.
    """

    channel: Any
    request: AdaptedParser


class AdaptedErrorTask(ErrorTask):  # type: ignore[misc]
    """A refused request in work; overridden: ``execute()``, by a worker.

    Used: ``set_close_on_finish()`` and ``write(data)``, which sends the head first.
    """

    channel: Any
    request: AdaptedParser
    status: str
    response_headers: list[tuple[str, str]]
    content_length: int | None


class AdaptedChannel(HTTPChannel):  # type: ignore[misc]
    """A connection.

    Overridden: ``received(data)``, ``readable()``, ``handle_read()``, ``handle_close()`` (the
    loop's thread), ``service()``, ``write_soon(data)`` (a worker's), ``send(data,
    do_close=True)`` (either, under ``outbuf_lock``); ``task_class``, ``parser_class``,
    ``error_task_class``.
    """

    server: Any
    adj: Any
    #: The client's address, as accept() gave it, after the listener's ``fix_addr``.
    addr: Any
    socket: Any
    #: False once either side has closed; what a worker writes then ends its task.
    connected: bool
    #: The request that is arriving, None between two of them.
    request: Any
    #: The whole requests; the first one is in work until it is answered.
    requests: list[Any]
    #: Bytes of answers that wait to be sent; under ``outbuf_lock``.
    total_outbufs_len: int
    outbuf_lock: threading.Condition
    #: Set, the loop closes the connection at its next pass.
    will_close: bool
    #: Set, it does so once the answers are sent.
    close_when_flushed: bool
    #: Guards ``requests`` and ``request``. The loop holds it while it calls ``add_task``.
    requests_lock: threading.Lock

    def loop_map(self) -> LoopMap:
        """Return the loop's map in which the connection is."""
        return loop_map_of(self)

    def give_away_socket(self) -> socket.socket:
        """Take the connection out of the loop and return its socket, which stays open."""
        sock: socket.socket = self.socket
        self.del_channel()
        self.socket = None
        return sock

    def finish_request(self, *, close: bool) -> bool:
        """Do what ``service()`` does after the answer to the first request was written.

        With *close* the connection ends once that is sent. Returns whether another request is
        there, which the caller then hands on. With ``requests_lock`` held.
        """
        if close:
            self.close_when_flushed = True
            for request in self.requests:
                request.close()
            self.requests = []
        elif self.requests:
            self.requests.pop(0).close()
            if not self.requests and self._invites_a_body():
                self.send_continue()
        return bool(self.requests) and self.connected

    def _invites_a_body(self) -> bool:
        request = self.request
        return bool(
            self.connected
            and request is not None
            and request.expect_continue
            and request.headers_finished
            and not self.sent_continue
        )


class AdaptedDispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]
    """The worker threads; a task's ``service()`` is called by one of them.

    Overridden: ``add_task(task)``, ``start_new_thread(target, thread_no)``,
    ``shutdown(cancel_pending=True, timeout=5)``, which calls ``cancel()`` of what is left.
    Used: ``set_thread_count(count)``.
    """

    #: Guards everything below.
    lock: Any
    queue: deque[Any]
    #: Notified when something was put into the queue.
    queue_cv: threading.Condition
    #: Threads that are at work.
    active_count: int


class LoopDispatcher(wasyncore.dispatcher):  # type: ignore[misc]
    """Anything with a socket that the loop polls.

    Overridden: ``readable()``, ``writable()``, ``handle_read()``, ``handle_close()``. Used:
    ``recv(size)``, which calls ``handle_close()`` at the end of the data; ``close()``.
    """

    connected: bool


class LoopFile(wasyncore.file_dispatcher):  # type: ignore[misc]
    """The same for a file descriptor, of which it makes a duplicate."""

    @property
    def is_open(self) -> bool:
        """Whether the duplicate is open."""
        return self._fileno is not None


def new_listener(
    kind: type,
    application: Callable[..., Any],
    loop_map: LoopMap,
    sock: socket.socket,
    *,
    dispatcher: AdaptedDispatcher,
    adjustments: Adjustments,
) -> Any:
    """Return a *kind* (of TcpWSGIServer or UnixWSGIServer) that accepts on the bound *sock*.

    Used of it: ``active_channels`` (by descriptor), ``accept()``, ``set_socket_options(sock)``,
    ``fix_addr(address)``, ``adj``, ``channel_class``, ``readable()``, ``pull_trigger()`` and
    ``trigger`` with ``pull_trigger(work)`` and ``close()``: *work* is done by the loop.
    """
    return kind(
        application,
        loop_map,
        True,
        sock,
        dispatcher=dispatcher,
        adj=adjustments,
        bind_socket=False,
        sockinfo=(sock.family, sock.type, sock.proto, sock.getsockname()),
    )


def is_bare_request(request: AdaptedParser, longest: int) -> bool:
    """Whether *request* is an HTTP/1.1 POST to a bare path, of at most *longest* bytes."""
    return bool(
        request.command == "POST"
        and request.version == "1.1"
        and 0 < request.content_length <= longest
        and not request.chunked
        and not (request.query or request.fragment)
        and not (request.proxy_scheme or request.proxy_netloc)
    )


def body_of(request: AdaptedParser) -> bytes:
    """Return the body of a whole *request*, and leave it where it is."""
    body: bytes = request.body_rcv.getbuf().get()
    return body


def loop_map_of(dispatcher: Any) -> LoopMap:
    """Return the map of the loop that *dispatcher* is in."""
    found: LoopMap = dispatcher._map
    return found


def join_loop(dispatcher: Any, loop_map: LoopMap) -> None:
    """Have the loop of *loop_map* poll *dispatcher* as well."""
    dispatcher._map = loop_map
    dispatcher.add_channel(loop_map)


def run_once(loop_map: LoopMap, timeout: float) -> None:
    """Wait up to *timeout* seconds for something to do, and do all there is (the loop)."""
    wasyncore.poll2(timeout, loop_map)


def stop_accepting(listener: Any) -> None:
    """Close the listening socket; workers can still wake the loop through the trigger."""
    wasyncore.dispatcher.close(listener)


def close_all(loop_map: LoopMap) -> None:
    """Close everything that the loop polls, whatever that raises."""
    wasyncore.close_all(loop_map, ignore_all=True)
