# SPDX-License-Identifier: Apache-2.0
"""Which connections stay open: those that make progress, and no more of one client than its share.

A connection on which a byte arrives now and then, or nothing at all, costs its client
nothing. So a request has to arrive, and its answer to be read, at some speed, and where the
limit is reached, the connection that made no progress for longest is closed for the next client.

Requests that make progress cost a client next to nothing either: one address that has shown no
token holds at most CONNECTIONS_PER_CLIENT connections, whatever it does on them. A loopback
address, behind which a proxy may be that nobody named, leaves the share of one client to others;
the proxies of TRUSTED_PROXIES, which speak for many clients, and Unix sockets have no such limit.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from edgepaas.apikit.problems import Problem

#: Connections beyond CONNECTION_LIMIT: half of them for clients that wait until another
#: connection is closed, the other half for programs of the box itself, such as its probes.
RESERVE = 16
#: Where the limit is reached, a connection may be closed after so many seconds without
#: progress. A new client sends its first request within moments; a client that was answered,
#: or has sent much of a body (PROVEN_PATIENCE), may be far away or between two requests.
PATIENCE = 0.1
PROVEN_PATIENCE = 0.5
#: Seconds within which a request's head has to arrive, and each MIN_PROGRESS bytes of its body.
REQUEST_PATIENCE = 10.0
#: Where connections have to be closed, those of a remote address that holds more than this
#: fraction of them come first.
FAIR_SHARE = 0.25
#: Seconds within which a client has to take each MIN_PROGRESS bytes of an answer, or its rest.
ANSWER_PATIENCE = 10.0

_TICK = 1.0
_CROWDED_TICK = 0.05
#: Seconds between two log lines about closed connections.
_LOG_INTERVAL = 60.0

logger = logging.getLogger("edgepaas.service")


class ConnectionLimits:
    """Keeps the connections of *listeners* below *limit* and RESERVE; for the loop's thread."""

    def __init__(self, limit: int, share: int, listeners: Sequence[Any]) -> None:
        self._limit = limit
        self._share = share
        #: How a request is refused of which the body is still to come, by its parser and the
        #: client's address. None: that is not known yet, and no body is read meanwhile.
        self.refusal: Callable[[Any, str], Problem | None] | None = lambda request, address: None
        #: Whether an Authorization header holds a valid token, once tokens can be looked up.
        self.knows: Callable[[str], bool] = lambda authorization: False
        #: Whether an address is one of TRUSTED_PROXIES.
        self.is_proxy: Callable[[str], bool] = lambda address: False
        self._listeners = listeners
        self._look_at = 0.0
        self._full_since: float | None = None
        self._closed = 0
        self._log_at = 0.0
        self._closed_of: Counter[str] = Counter()
        self._log_shares_at = 0.0

    def channels(self) -> list[Any]:
        """Return every open connection."""
        return [c for each in self._listeners for c in list(each.active_channels.values())]

    def enforce(self) -> float:
        """Close what must be closed; returns the seconds until there may be more to do.

        To be called between two passes of the loop: closing a connection within one
        would let the next that gets its descriptor have its events.
        """
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _TICK
            for channel in self.channels():
                late = channel.overdue(now, REQUEST_PATIENCE)
                if late or channel.does_not_read(now, ANSWER_PATIENCE):
                    channel.cut()
        crowded = self._keep_shares(now)
        count = self._count()
        if count <= self._limit:
            self._full_since = None
            return _CROWDED_TICK if crowded else _TICK
        self._make_room(count - self._limit, now)
        if not self._is_full():
            self._full_since = None
        elif self._full_since is None:
            self._full_since = now
        return _CROWDED_TICK

    def accepts(self) -> bool:
        """Whether to accept the next connection, if only to learn where it comes from."""
        if not self._is_full():
            return True
        # A connection may be closed in a moment; after that all are known to be at work, and
        # clients on the box itself are not to wait behind those that are rejected.
        patient = self._full_since is None or time.monotonic() - self._full_since < PROVEN_PATIENCE
        return not patient and self._count() < self._limit + RESERVE

    def rejects(self, host: str) -> bool:
        """Whether a connection from *host* is rejected.

        Too many are *host*'s own, or it is remote and all others are at work.
        """
        network = self._network(host)
        if not network:
            return False
        if self._is_full() and not _is_loopback(network):
            return True
        return len(self._strangers(network)) >= self._share_of(network) + RESERVE // 2

    def _keep_shares(self, now: float) -> bool:
        """Close what networks hold beyond their share; whether one still does."""
        if self._count() <= self._share:
            return False
        crowded = False
        held = Counter(self._network_of(channel) for channel in self.channels())
        for network, count in held.items():
            if not network or count <= self._share_of(network):
                continue
            strangers = self._strangers(network)
            beyond = len(strangers) - self._share_of(network)
            strangers.sort(key=lambda channel: channel.stalled_seconds(now), reverse=True)
            for channel in strangers[: max(0, beyond)]:
                if channel.at_work():
                    crowded = True
                else:
                    channel.cut()
                    self._closed_of[network] += 1
        self._log_shares(now)
        return crowded

    def _share_of(self, network: str) -> int:
        if _is_loopback(network):
            return max(self._share, self._limit - self._share)
        return self._share

    def _strangers(self, network: str) -> list[Any]:
        """Return the connections of *network* on which no valid token was shown."""
        return [
            channel
            for channel in self.channels()
            if self._network_of(channel) == network
            and not (channel.authorization and self.knows(channel.authorization))
        ]

    def _network_of(self, channel: Any) -> str:
        if channel.network is None:
            channel.network = self._network(channel.addr[0])
        return str(channel.network)

    def _network(self, host: str) -> str:
        """Return the network that a connection counts for; "" where it has no share."""
        from edgepaas.web.access.locality import client_network

        # 'serve' has no time for the import at first.
        is_socket_file = host in ("", "localhost")
        return "" if is_socket_file or self.is_proxy(host) else client_network(host)

    def _log_shares(self, now: float) -> None:
        if self._closed_of and now >= self._log_shares_at:
            self._log_shares_at = now + _LOG_INTERVAL
            network, count = self._closed_of.most_common(1)[0]
            logger.warning(
                "CONNECTIONS_PER_CLIENT=%d: %d connections too many were closed, most of them"
                " (%d) of %s",
                self._share,
                self._closed_of.total(),
                count,
                network,
            )
            self._closed_of.clear()

    def _count(self) -> int:
        return sum(len(listener.active_channels) for listener in self._listeners)

    def _is_full(self) -> bool:
        return self._count() >= self._limit + RESERVE // 2

    def _make_room(self, needed: int, now: float) -> None:
        channels = self.channels()
        greedy = self._greedy(channels)
        stalled = [
            (
                self._network_of(channel) in greedy,
                not channel.proven,
                channel.stalled_seconds(now),
                channel,
            )
            for channel in channels
            if channel.stalled_seconds(now) >= (PROVEN_PATIENCE if channel.proven else PATIENCE)
        ]
        stalled.sort(key=lambda entry: entry[:3], reverse=True)
        for *_, channel in stalled:
            if needed and not channel.has_unread_data():
                channel.cut()
                needed -= 1
                self._closed += 1
        if self._closed and now >= self._log_at:
            self._log_at = now + _LOG_INTERVAL
            logger.warning(
                "CONNECTION_LIMIT=%d is reached; %d connections that made no progress were closed",
                self._limit,
                self._closed,
            )
            self._closed = 0

    def _greedy(self, channels: Sequence[Any]) -> set[str]:
        have = Counter(self._network_of(channel) for channel in channels)
        return {
            network
            for network, count in have.items()
            if network and count > self._limit * FAIR_SHARE and not _is_loopback(network)
        }


def _is_loopback(network: str) -> bool:
    from edgepaas.web.access.locality import is_loopback

    return is_loopback(network)
