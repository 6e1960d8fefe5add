# SPDX-License-Identifier: Apache-2.0
"""Who may stay connected when there is no place for everybody: those who get on with it.

A client that sends a byte now and then, or nothing at all, costs it nothing and the box
a place. So a request has to arrive at some speed, and where all places are taken, the
connection that made no progress for longest gives its place to the next caller.
"""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

#: Places beyond CONNECTION_LIMIT: half of them for callers that wait until somebody is
#: closed for them, the other half for programs of the box itself, such as its probes.
RESERVE = 16
#: Where all places are taken, a connection may be closed after this without progress, in
#: seconds. A caller's first request follows its connection within moments; whoever has
#: been answered, or is well into a body, may be far away or between two requests.
PATIENCE = 0.1
PROVEN_PATIENCE = 0.5
#: A request's head has this long, in seconds; so has each MIN_PROGRESS bytes of its body.
REQUEST_PATIENCE = 10.0
#: A remote address that has more than this part of the places loses some before others do.
FAIR_SHARE = 0.25

_TICK = 1.0
_CROWDED_TICK = 0.05
#: Seconds between two log lines about closed connections.
_LOG_INTERVAL = 60.0

logger = logging.getLogger("edgepaas.service")


class Places:
    """The connections of *listeners*, at most *limit* and RESERVE; for the loop's thread only."""

    def __init__(self, limit: int, listeners: Sequence[Any]) -> None:
        self._limit = limit
        self._listeners = listeners
        self._look_at = 0.0
        self._full_since: float | None = None
        self._closed = 0
        self._log_at = 0.0

    def channels(self) -> list[Any]:
        """Return every open connection."""
        return [c for each in self._listeners for c in list(each.active_channels.values())]

    def tend(self) -> float:
        """Close who must go; returns after how many seconds there may be more to do.

        To be called between two passes of the loop: closing a connection within one
        would let the next that gets its descriptor have its events.
        """
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _TICK
            for channel in self.channels():
                if channel.overdue(now, REQUEST_PATIENCE):
                    channel.cut()
        count = self._count()
        if count <= self._limit:
            self._full_since = None
            return _TICK
        self._make_room(count - self._limit, now)
        if not self._is_full():
            self._full_since = None
        elif self._full_since is None:
            self._full_since = now
        return _CROWDED_TICK

    def accepts(self) -> bool:
        """Whether to take in a caller, if only to see who it is."""
        if not self._is_full():
            return True
        # In a moment somebody may have to go; after that all are known to be at work,
        # and callers of the box itself are not to wait behind those that are turned away.
        patient = self._full_since is None or time.monotonic() - self._full_since < PROVEN_PATIENCE
        return not patient and self._count() < self._limit + RESERVE

    def turns_away(self, host: str) -> bool:
        """Whether a caller from *host* gets no place: all are at work, and it is a remote one."""
        from edgepaas.web.access.locality import is_loopback  # 'serve' has no time for it at first

        return self._is_full() and not is_loopback(host)

    def _count(self) -> int:
        return sum(len(listener.active_channels) for listener in self._listeners)

    def _is_full(self) -> bool:
        return self._count() >= self._limit + RESERVE // 2

    def _make_room(self, needed: int, now: float) -> None:
        channels = self.channels()
        greedy = self._greedy(channels)
        stalled = [
            (_network(channel) in greedy, not channel.proven, channel.stalled_for(now), channel)
            for channel in channels
            if channel.stalled_for(now) >= (PROVEN_PATIENCE if channel.proven else PATIENCE)
        ]
        stalled.sort(key=lambda entry: entry[:3], reverse=True)
        for *_, channel in stalled:
            if needed and not channel.something_to_read():
                channel.cut()
                needed -= 1
                self._closed += 1
        if self._closed and now >= self._log_at:
            self._log_at = now + _LOG_INTERVAL
            logger.warning(
                "CONNECTION_LIMIT=%d is reached; connections closed for want of progress: %d",
                self._limit,
                self._closed,
            )
            self._closed = 0

    def _greedy(self, channels: Sequence[Any]) -> set[str]:
        have = Counter(_network(channel) for channel in channels)
        del have[""]
        return {network for network, count in have.items() if count > self._limit * FAIR_SHARE}


def _network(channel: Any) -> str:
    """Return what a connection's share is counted under; "" on the box: a proxy may be there."""
    from edgepaas.web.access.locality import client_network, is_loopback

    host = channel.addr[0]
    return "" if is_loopback(host) else client_network(host)
