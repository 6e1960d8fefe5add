# SPDX-License-Identifier: Apache-2.0
"""Handing back to PostgreSQL: when, and the steps, each of which may be the last one done.

1. The fence, committed: from now on no forwarded table of the file takes a write.
2. What still waits is sent, within FENCE_DEADLINE, and PostgreSQL takes one more write.
3. The fence is put anew for the time that the chain needs, the hold is cleared.
4. ``run/hand-back`` names the decision that is over: the service ends with 75.

Killed after any of them, the box is on SQLite, or PostgreSQL is chosen with an empty queue.
A fence without its drainer is lifted by the next one, by the service once it has expired,
and by the schema stage where SQLite is chosen again.
"""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from edgepaas.decision import losses
from edgepaas.decision.hold import clear_hold, read_hold
from edgepaas.errors import EdgePaaSError
from edgepaas.files import shapes
from edgepaas.files.atomic import remove_durably, write_atomic
from edgepaas.files.records import RecordType, same_fields
from edgepaas.outbox import fence
from edgepaas.outbox.stream import pending
from edgepaas.outbox.tables import transaction
from edgepaas.timing.backoff import pause_after
from edgepaas.timing.moment import current_moment

if TYPE_CHECKING:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.settings import Settings

logger = logging.getLogger("edgepaas.sync")

#: Seconds that the service has to end, before the fence is lifted again: its open requests
#: have five of them, the chain comes to its decision in the rest.
TAKEOVER_TIMEOUT = 15.0
#: Seconds beyond FENCE_DEADLINE after which a fence counts as left behind.
_MARGIN = 2.0
#: The longest wait after attempts that failed, in seconds.
_LONGEST_WAIT = 900.0

#: ``run/hand-back``.
RECORD = RecordType("hand-back", 2, {"generation": shapes.text}, {1: same_fields})


class TakeoverFailed(EdgePaaSError):
    """PostgreSQL was not handed back to; SQLite serves on, and writes pass again."""


class HandBack:
    """When PostgreSQL may serve again, and how it comes to that. The main thread's.

    Only where SQLite serves in its place: not in ``local-first``, not without a hub.
    """

    def __init__(
        self,
        contract: "DatabaseContract",
        settings: "Settings",
        paths: "Paths",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wanted = contract.sqlite_active and contract.db_state in ("fallback", "draining")
        self._generation = contract.generation
        self._paths = paths
        self._clock = clock
        self._after = settings.number("HANDBACK_AFTER")
        self._rows = settings.integer("HANDBACK_ROWS")
        self._per_hour = settings.integer("HANDBACK_PER_HOUR")
        self._deadline = settings.number("FENCE_DEADLINE")
        self._good_since: float | None = None
        self._failures = 0
        self._not_before = float("-inf")
        self._written_at: float | None = None

    @property
    def in_progress(self) -> bool:
        """Whether the service was told to end, and has not yet."""
        return self._written_at is not None

    @property
    def fence_deadline(self) -> float:
        """Seconds that writes may wait for the rest to be sent."""
        return self._deadline

    def record_hub_write(self) -> None:
        """Take note that PostgreSQL has just committed a write."""
        if self._good_since is None:
            self._good_since = self._clock()

    def record_hub_failure(self) -> None:
        """Take note that PostgreSQL failed: its time begins anew."""
        self._good_since = None

    def seconds_left(self) -> float:
        """Return in how many seconds there may be something to do; infinity: not by itself."""
        now = self._clock()
        if self._written_at is not None:
            return max(0.0, self._written_at + TAKEOVER_TIMEOUT - now)
        if not self.wanted or self._good_since is None:
            return float("inf")
        return max(0.0, self._good_since + self._after - now, self._not_before - now)

    def blocked_reason(self, rows_waiting: int) -> str | None:
        """Return why PostgreSQL is not handed back to now, e.g. ``in 12 s``; None: it can be."""
        if not self.wanted:
            return "SQLite does not serve in PostgreSQL's place"
        return next(self._obstacles(rows_waiting), None)

    def status_text(self, rows_waiting: int) -> str:
        """Return the hand-back's line in the status; empty where nothing is to be handed back."""
        return (self.blocked_reason(rows_waiting) or "now") if self.wanted else ""

    def _obstacles(self, rows_waiting: int) -> Iterator[str]:
        if self.in_progress:
            yield "under way"
        if self._good_since is None:
            yield "PostgreSQL does not take writes"
        moment = current_moment()
        hold = read_hold(self._paths.postgres_hold, moment)
        left = self.seconds_left()
        if hold is not None and hold.remaining > left:
            yield f"in {hold.remaining:.0f} s: PostgreSQL is on hold: {hold.reason}"
        if left > 0:
            yield f"in {left:.0f} s"
        if rows_waiting > self._rows:
            yield f"{rows_waiting} rows wait, HANDBACK_ROWS={self._rows} may"
        flapping = losses.seconds_until_return(self._paths, moment, self._per_hour)
        if flapping > 0:
            yield f"in {flapping:.0f} s: PostgreSQL came back {self._per_hour} times in an hour"

    def attempt(
        self,
        connection: sqlite3.Connection,
        drain: Callable[[], None],
        prove: Callable[[], None],
    ) -> None:
        """Do the steps. *drain* sends what waits, *prove* has PostgreSQL commit a write.

        Both are to raise when the fence's deadline cuts them short. Raises TakeoverFailed
        (SQLite serves on), or what they raised; the fence is lifted then.
        """
        until = self._clock() + self._deadline
        fence.put(connection, self._deadline + _MARGIN)
        try:
            while pending(connection):
                if self._clock() >= until:
                    raise TakeoverFailed(
                        f"the rest was not sent within FENCE_DEADLINE={self._deadline:g} s"
                    )
                drain()
            prove()
            if self._clock() >= until:
                raise TakeoverFailed(f"it took longer than FENCE_DEADLINE={self._deadline:g} s")
            self._extend_fence(connection)
            losses.note_return(self._paths, current_moment())
            clear_hold(self._paths.postgres_hold)
            self._written_at = self._clock()
            write_atomic(self._paths.hand_back, RECORD.render({"generation": self._generation}))
        except TakeoverFailed:
            self.cancel(connection)
            raise
        except BaseException:  # PostgreSQL's time begins anew; no more is held against it
            self._lift(connection)
            raise
        logger.info("PostgreSQL takes over: nothing waits any more, the service is told to end")

    def enforce_deadline(self, connection: sqlite3.Connection) -> None:
        """Take the hand-back back when the service did not end in its time."""
        if self.in_progress and self.seconds_left() <= 0:
            self.cancel(connection)
            logger.warning(
                "the service did not end within %g s of being told that PostgreSQL takes over",
                TAKEOVER_TIMEOUT,
            )

    def cancel(self, connection: sqlite3.Connection) -> None:
        """Let SQLite serve on, and wait longer before the next attempt; never raises sqlite3.Error.

        Each attempt has writes wait, which a PostgreSQL that is too slow must not cost often.
        """
        self._failures += 1
        first = max(self._after, 1.0)
        wait = pause_after(self._failures, first=first, longest=_LONGEST_WAIT)
        self._not_before = self._clock() + wait
        self._lift(connection)

    def _lift(self, connection: sqlite3.Connection) -> None:
        """Take everything back. A fence that cannot be lifted now expires, for the service."""
        self._written_at = None
        with suppress(OSError):
            remove_durably(self._paths.hand_back)
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            fence.lift(connection)
        except sqlite3.Error as error:
            logger.error("the fence cannot be lifted, it expires by itself: %s", error)

    def _extend_fence(self, connection: sqlite3.Connection) -> None:
        """Put the fence for the chain's time, if it has stood without a gap until now."""
        with transaction(connection):
            found = fence.fenced(connection)
            if found is None or pending(connection):
                raise TakeoverFailed("the fence was lifted meanwhile, and writes came in")
            fence.put(connection, TAKEOVER_TIMEOUT)


def lift_leftover_fence(
    connection: sqlite3.Connection, paths: "Paths", contract: "DatabaseContract"
) -> None:
    """Lift what a drainer that was killed left behind; raises sqlite3.Error.

    Not a hand-back that is under way: its service has yet to end. It expires like any other.
    """
    found = fence.fenced(connection)
    told = hand_back_requested(paths, contract.generation)
    if found is None or (told and not found.expired and contract.sqlite_active):
        return
    logger.warning("a fence that was left behind is lifted: writes pass again")
    if told:
        with suppress(OSError):
            remove_durably(paths.hand_back)
    fence.lift(connection)


def hand_back_requested(paths: "Paths", generation: str) -> bool:
    """Whether the decision *generation* is over because PostgreSQL takes over."""
    found = RECORD.read_or_none(paths.hand_back)
    return found is not None and found["generation"] == generation
