# SPDX-License-Identifier: Apache-2.0
"""How long a round trip to PostgreSQL takes, and the time limits that follow from it.

What bounds a wait is measured in round trips of this link: three seconds are plenty over a
local network and too few for the login over a satellite. :class:`Link` is fed with what
connections and pings measured. Its limits never fall below the fixed number of seconds that
holds on a fast link.
"""

from collections import deque
from collections.abc import Callable

#: A longer round trip counts as this long, in seconds: a server that answers later than that
#: is busy, and waiting longer for it would make a loss go unnoticed.
LONGEST_ROUND_TRIP = 1.0
#: So many measurements are looked at. The estimate is the second longest of them: a single
#: late answer changes nothing, and a link that has become slow shows with its second one.
_KEPT = 8
#: How much longer than estimated a round trip may take, by jitter and a busy server.
MARGIN = 1.5

#: Round trips of a login: TCP 1, TLS 2 (its request, the handshake of TLS 1.3), then startup
#: and two of SCRAM, and one for the session's settings
#: (https://www.postgresql.org/docs/current/protocol-flow.html).
LOGIN_TRIPS = 7
#: Those of the decision's attempt: a login, a question, and the logins of further connections.
ATTEMPT_TRIPS = 10


class Link:
    """An estimate of one link's round trip, in seconds; thread-safe.

    *round_trip*: what an earlier process found. *on_change* is called with a new estimate, by
    the thread that measured it.
    """

    def __init__(
        self, round_trip: float = 0.0, *, on_change: Callable[[float], None] | None = None
    ) -> None:
        known = [clamped(round_trip)] * 2 if round_trip > 0 else []
        self._measured: deque[float] = deque(known, maxlen=_KEPT)
        self._on_change = on_change

    @property
    def round_trip(self) -> float:
        """The estimate; 0.0 while nothing has been measured."""
        longest = sorted(self._measured.copy(), reverse=True)[:2]
        return longest[-1] if longest else 0.0

    def measured(self, seconds: float) -> None:
        """Take a round trip that took *seconds* into the estimate."""
        before = self.round_trip
        self._measured.append(clamped(seconds))
        found = self.round_trip
        if self._on_change is not None and found != before:
            self._on_change(found)

    def limit(self, least: float, trips: float) -> float:
        """Return the seconds that *trips* round trips may take: *least* on a fast link."""
        return max(least, self.expected(trips) * MARGIN)

    def expected(self, trips: float) -> float:
        """Return the seconds that *trips* round trips are expected to take."""
        return trips * self.round_trip


def clamped(seconds: float) -> float:
    """Return *seconds* as a round trip counts: not negative, at most LONGEST_ROUND_TRIP."""
    return min(max(seconds, 0.0), LONGEST_ROUND_TRIP)
