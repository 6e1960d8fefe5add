"""Waitress on sockets that are ours to give back: the loop, its lanes, and an orderly end."""

import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer, UnixWSGIServer

from edgepaas.service.channel import Channel
from edgepaas.service.dispatch import GatedDispatcher
from edgepaas.service.listen import BACKLOG

#: Connections beyond CONNECTION_LIMIT that are accepted, so that a probe still gets through.
RESERVE = 16
#: A kept-alive connection that has been silent for so long may be closed while draining, in
#: seconds: its next request may be on its way, and closing then would lose it.
QUIET = 0.5
#: Where the limit is reached, the connection that has been silent for at least this goes first.
EVICT_AFTER = 5.0
_TICK = 1.0
_DRAIN_TICK = 0.05


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
        request_max_bytes: int,
    ) -> None:
        self._map: dict[int, Any] = {}
        self.dispatcher = GatedDispatcher(threads, parking=connection_limit)
        # Waitress counts its own descriptors (listener and trigger) as connections.
        adjustments = Adjustments(
            sockets=list(sockets),
            threads=threads,
            connection_limit=connection_limit + RESERVE + 2 * len(sockets),
            max_request_body_size=request_max_bytes,
            backlog=BACKLOG,
            asyncore_use_poll=True,
            ident="edgepaas",
            # Nothing trusts these headers, but that they are there says that a proxy
            # hands on somebody else's request (edgepaas.web.locality).
            clear_untrusted_proxy_headers=False,
        )
        self._listeners = [self._listener(sock, application, adjustments) for sock in sockets]

    def _listener(self, sock: socket.socket, application: Any, adjustments: Adjustments) -> Any:
        kind = UnixListener if sock.family == socket.AF_UNIX else TcpListener
        return kind(
            application,
            self._map,
            True,
            sock,
            dispatcher=self.dispatcher,
            adj=adjustments,
            bind_socket=False,
            sockinfo=(sock.family, sock.type, sock.proto, sock.getsockname()),
        )

    def run(self, ended: Callable[[], bool]) -> None:
        """Serve until *ended* says so; it is asked after each event and each second."""
        while not ended():
            wasyncore.poll2(_TICK, self._map)

    def wake(self) -> None:
        """Have the loop ask its question now; from any thread, or a signal handler."""
        self._listeners[0].pull_trigger()

    def watch(self, watcher: Any) -> None:
        """Add one of the dispatchers of Waitress' loop to it; before :meth:`run`."""
        watcher._map = self._map
        watcher.add_channel(self._map)

    def probe(self, timeout: float) -> bool:
        """Whether the loop and both lanes did a no-op within *timeout* seconds."""
        asked: list[Any] = []
        self._listeners[0].trigger.pull_trigger(lambda: asked.extend(self.dispatcher.ask_all()))
        deadline = time.monotonic() + timeout
        while not asked and time.monotonic() < deadline:
            time.sleep(0.01)
        return bool(asked) and all(
            evidence.wait(max(0.0, deadline - time.monotonic())) for evidence in asked
        )

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._channels())

    def drain(self, over: Callable[[], bool], *, accept_waiting: bool) -> int:
        """Stop accepting, answer what is open, close; returns how many requests were given up.

        With *accept_waiting*, callers in the kernel's queue are still taken in: nobody
        else would serve them when the socket is ours alone. Each answer says
        ``Connection: close``; a silent connection is closed after QUIET seconds. What
        has no answer once *over* says so gets 503, so that the client knows.
        """
        for listener in self._listeners:
            listener.draining = True
            if accept_waiting:
                _accept_waiting(listener)
            # Not listener.close(): workers still wake the loop through its trigger.
            wasyncore.dispatcher.close(listener)
        while self._channels() and not over():
            for channel in self._channels():
                if channel.quiet_for(time.monotonic()) > QUIET:
                    channel.will_close = True
            wasyncore.poll2(_DRAIN_TICK, self._map)
        return sum(bool(channel.give_up()) for channel in self._channels())

    def close(self) -> None:
        """Stop the threads (a hung one is left behind) and close everything."""
        self.dispatcher.shutdown(timeout=0.5)
        for listener in self._listeners:
            listener.trigger.close()
        wasyncore.close_all(self._map, ignore_all=True)

    def _channels(self) -> list[Any]:
        return [c for listener in self._listeners for c in list(listener.active_channels.values())]


class _Listening:
    """What both kinds of listening socket have in common; mixed in before Waitress' own."""

    channel_class = Channel
    #: Whether answers are to say ``Connection: close``.
    draining = False

    def readable(self) -> bool:
        """Whether to accept; makes room where the limit is reached (the loop's thread)."""
        accepting = bool(super().readable())  # type: ignore[misc]
        _make_room(self)
        return accepting


class TcpListener(_Listening, TcpWSGIServer):  # type: ignore[misc]
    """A listening TCP socket."""


class UnixListener(_Listening, UnixWSGIServer):  # type: ignore[misc]
    """A listening Unix socket."""


def _make_room(listener: Any) -> None:
    """Close the connection that has been silent the longest, if any has been for EVICT_AFTER."""
    if not listener.in_connection_overflow or listener.draining:
        return
    now = time.monotonic()
    channels = listener.active_channels.values()
    silent = max(channels, key=lambda channel: channel.quiet_for(now), default=None)
    if silent is not None and silent.quiet_for(now) > EVICT_AFTER:
        silent.will_close = True


def _accept_waiting(listener: Any) -> None:
    for _ in range(BACKLOG):
        before = len(listener.active_channels)
        listener.handle_accept()
        if len(listener.active_channels) == before:
            return
