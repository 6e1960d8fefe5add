# SPDX-License-Identifier: Apache-2.0
"""Waitress on listening sockets that are handed in: the loop, its threads, an orderly end."""

import logging
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from edgepaas.apikit.problems import Problem
from edgepaas.httpd.channel import Channel, reject_connection
from edgepaas.httpd.connection_limits import ConnectionLimits
from edgepaas.httpd.dispatch import RequestDispatcher
from edgepaas.httpd.listen import BACKLOG, plain_address
from edgepaas.httpd.loop_appends import LoopAppends
from edgepaas.httpd.startup_responder import RETRY_AFTER
from edgepaas.httpd.waitress_adapter import (
    Adjustments,
    LoopMap,
    TcpWSGIServer,
    UnixWSGIServer,
    close_all,
    join_loop,
    loop_map_of,
    new_listener,
    run_once,
    stop_accepting,
)

if TYPE_CHECKING:
    from edgepaas.web.access.entrance import Entrance
    from edgepaas.web.plain_appends import PlainAppends

#: A kept-alive connection that has been silent for so long may be closed while draining, in
#: seconds: its next request may be on its way, and closing then would lose it.
QUIET = 0.5
_DRAIN_TICK = 0.05
#: The header ``Server``.
_IDENT = "edgepaas"

logger = logging.getLogger("edgepaas.service")


class HTTPServer:
    """One or more listening sockets, served by worker threads, run by the calling thread.

    *application* is WSGI; the gate of ``dispatcher`` is shut at first. Sizes are in
    bytes. The sockets are taken over and closed by :meth:`drain`.
    """

    def __init__(
        self,
        application: Callable[..., Iterable[bytes]],
        sockets: Sequence[socket.socket],
        *,
        threads: int,
        connection_limit: int,
        connections_per_client: int,
        request_max_bytes: int,
    ) -> None:
        self._loop_map: LoopMap = {}
        self.dispatcher = RequestDispatcher(threads, parking=connection_limit)
        adjustments = Adjustments(
            sockets=list(sockets),
            threads=threads,
            connection_limit=sys.maxsize,  # ConnectionLimits keeps it
            max_request_body_size=request_max_bytes,
            backlog=BACKLOG,
            asyncore_use_poll=True,
            ident=_IDENT,
            # Nothing trusts these headers, but their presence shows that a proxy forwards
            # the request of another client (edgepaas.web.access.locality).
            clear_untrusted_proxy_headers=False,
        )
        self._listeners = [self._listener(sock, application, adjustments) for sock in sockets]
        self._limits = ConnectionLimits(connection_limit, connections_per_client, self._listeners)
        for listener in self._listeners:
            listener.limits = self._limits

    def _listener(self, sock: socket.socket, application: Any, adjustments: Adjustments) -> Any:
        kind = UnixListener if sock.family == socket.AF_UNIX else TcpListener
        return new_listener(
            kind,
            application,
            self._loop_map,
            sock,
            dispatcher=self.dispatcher,
            adjustments=adjustments,
        )

    def run(self, ended: Callable[[], bool]) -> None:
        """Serve until *ended* returns True; it is called after each event and each second."""
        while not ended():
            self._run_once(self._limits.enforce())

    def hold_bodies(self) -> None:
        """Read no further body until :meth:`use_entrance` says whose may come."""
        self._limits.refusal = None

    def use_entrance(self, entrance: "Entrance") -> None:
        """Have *entrance* decide whose bodies are read, and whose connections are limited."""
        self._limits.refusal = entrance.refusal
        self._limits.knows = entrance.knows
        self._limits.is_proxy = entrance.is_proxy
        self.wake()

    def refuse_waiting(self) -> None:
        """Answer 503 to what waits for the application: there will be none."""
        if self._limits.refusal is None:
            self._limits.refusal = lambda request, address: Problem(503, retry_after=RETRY_AFTER)
            self.wake()
        self.dispatcher.refuse_parked()

    def take_appends(self, appends: "PlainAppends", is_open: Callable[[], bool]) -> None:
        """Have plain *appends* answered without a worker, as long as *is_open* says so."""
        self.dispatcher.appends = LoopAppends(
            appends,
            ident=_IDENT,
            is_open=is_open,
            hand_over=self.dispatcher.add_to_workers,
            wake=self.wake,
        )

    def _run_once(self, timeout: float) -> None:
        appends = self.dispatcher.appends
        if appends is None:
            run_once(self._loop_map, timeout)
            return
        appends.begin_pass()
        run_once(self._loop_map, timeout)
        gathered = 0
        while appends.gathers(gathered):
            gathered = appends.gathered()
            run_once(self._loop_map, 0)
        appends.end_pass()

    def wake(self) -> None:
        """Have the loop call *ended* now; callable from any thread and from a signal handler."""
        self._listeners[0].pull_trigger()

    def watch(self, watcher: Any) -> None:
        """Add one of the dispatchers of Waitress' loop to it; before :meth:`run`."""
        join_loop(watcher, self._loop_map)

    def probe(self, timeout: float) -> bool:
        """Whether the loop and both pools of threads ran a no-op within *timeout* seconds."""
        asked: list[Any] = []
        self._listeners[0].trigger.pull_trigger(lambda: asked.extend(self.dispatcher.queue_noops()))
        deadline = time.monotonic() + timeout
        while not asked and time.monotonic() < deadline:
            time.sleep(0.01)
        return bool(asked) and all(
            noop.wait(max(0.0, deadline - time.monotonic())) for noop in asked
        )

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._limits.channels())

    def drain(self, over: Callable[[], bool], *, accept_waiting: bool) -> int:
        """Stop accepting, answer what is open, close; returns how many requests were given up.

        With *accept_waiting*, connections in the kernel's queue are still accepted: no other
        process would serve them when the socket is ours alone. Each answer has
        ``Connection: close``; a silent connection is closed after QUIET seconds. What
        has no answer when *over* returns True gets 503, so that the client knows.
        """
        for listener in self._listeners:
            listener.draining = True
            if accept_waiting:
                _accept_waiting(listener)
            stop_accepting(listener)
        channels = self._limits.channels
        while channels() and not over():
            for channel in channels():
                if channel.idle_seconds(time.monotonic()) > QUIET:
                    channel.will_close = True
            self._run_once(_DRAIN_TICK)
        return sum(bool(channel.give_up()) for channel in channels())

    def close(self, *, hung: bool = False) -> None:
        """Stop the threads (one that hangs is left behind, *hung*: at once), close everything."""
        self.dispatcher.shutdown(timeout=0.0 if hung else 0.5)
        for listener in self._listeners:
            listener.trigger.close()
        close_all(self._loop_map)


class _Listening:
    """What both kinds of listening socket have in common; mixed in before Waitress' own."""

    channel_class = Channel
    #: Whether each response carries ``Connection: close``.
    draining = False
    limits: ConnectionLimits

    def readable(self) -> bool:
        """Whether to accept (the loop's thread)."""
        return bool(super().readable()) and self.limits.accepts()  # type: ignore[misc]

    def handle_accept(self) -> None:
        """Accept one connection, or reject it."""
        listener: Any = self
        try:
            accepted = listener.accept()
            if accepted is None:
                return
            sock, address = accepted
            listener.set_socket_options(sock)
        except OSError as error:  # it is gone again, or there are no descriptors left
            logger.warning("a connection could not be accepted: %s", error)
            return
        address = plain_address(listener.fix_addr(address))
        if not self.draining and self.limits.rejects(address[0]):
            reject_connection(sock, loop_map_of(listener))
        else:
            self.channel_class(self, sock, address, listener.adj, map=loop_map_of(listener))


class TcpListener(_Listening, TcpWSGIServer):  # type: ignore[misc]
    """A listening TCP socket."""


class UnixListener(_Listening, UnixWSGIServer):  # type: ignore[misc]
    """A listening Unix socket."""


def _accept_waiting(listener: Any) -> None:
    for _ in range(BACKLOG):
        before = len(listener.active_channels)
        listener.handle_accept()
        if len(listener.active_channels) == before:
            return
