# SPDX-License-Identifier: Apache-2.0
"""Handing back from SQLite to PostgreSQL: when it may happen, and its steps.

1. A rehearsal finds PostgreSQL good over the path that will serve. ``run/rehearsal`` says so,
   and the next service may connect.
2. The fence is committed: from now on no forwarded table of the file accepts a write.
3. The rows that still wait are sent, within FENCE_DEADLINE; where none do, PostgreSQL commits
   another write.
4. The fence is extended for the time that the boot chain needs, and the hold is cleared.
5. ``run/hand-back`` names the decision that has ended: the service exits with 75.

The process may be killed after any step: either SQLite still serves, or PostgreSQL is chosen
and no row waits. A fence whose process is gone is lifted by the next drainer, by the service
once it has expired, and by the schema stage where SQLite is chosen again.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from edgepaas.decision import losses
from edgepaas.decision.hold import clear_hold, read_hold
from edgepaas.decision.rehearsal_record import note_rehearsal
from edgepaas.errors import EdgePaaSError
from edgepaas.files import shapes
from edgepaas.files.atomic import remove_durably, write_atomic
from edgepaas.files.records import RecordType, same_fields
from edgepaas.outbox import fence
from edgepaas.outbox.ledger import pending
from edgepaas.outbox.tables import transaction
from edgepaas.sync.takeover.drain_time import DrainTime
from edgepaas.timing.backoff import pause_after
from edgepaas.timing.link import LOGIN_TRIPS
from edgepaas.timing.moment import current_moment

if TYPE_CHECKING:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.settings import Settings

logger = logging.getLogger("edgepaas.sync")

#: Seconds for the service to exit before the fence is lifted again: five for its open requests,
#: the rest for the boot chain to reach its decision.
TAKEOVER_TIMEOUT = 15.0
#: Seconds beyond FENCE_DEADLINE after which a fence has expired.
_MARGIN = 2.0
#: Round trips behind the fence, where all goes well: two batches and a heartbeat.
_FENCE_TRIPS = 8
#: The longest back-off after failed attempts, in seconds.
_LONGEST_WAIT = 900.0

#: Sends a batch; calls what it is given when it is about to read the rows.
Drain = Callable[[Callable[[], None]], None]

#: ``run/hand-back``.
RECORD = RecordType("hand-back", 2, {"generation": shapes.text}, {1: same_fields})


class TakeoverFailed(EdgePaaSError):
    """PostgreSQL did not take over; SQLite goes on serving, and writes are accepted again."""


class HandBack:
    """Decides when PostgreSQL may serve again, and performs the steps; for the main thread.

    ``wanted`` only where SQLite serves as the fallback: not in ``local-first``, not without a
    hub.
    """

    def __init__(
        self,
        contract: "DatabaseContract",
        settings: "Settings",
        paths: "Paths",
        *,
        drain_time: DrainTime | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*drain_time*: how fast rows have been delivered."""
        self.wanted = contract.sqlite_active and contract.db_state in ("fallback", "draining")
        self._generation = contract.generation
        self._hub_url = contract.hub_url
        self._drain_time = drain_time or DrainTime()
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
        self._refusal = ""

    @property
    def in_progress(self) -> bool:
        """Whether the service was asked to exit, and has not yet."""
        return self._written_at is not None

    @property
    def fence_deadline(self) -> float:
        """Seconds for which writes may be refused while the rest is sent.

        FENCE_DEADLINE, or what two batches and a write take over a slow link.
        """
        return self._drain_time.link.limit(self._deadline, _FENCE_TRIPS)

    def record_hub_write(self) -> None:
        """Record that PostgreSQL has just committed a write."""
        if self._good_since is None:
            self._good_since = self._clock()

    def record_hub_failure(self) -> None:
        """Record that PostgreSQL failed: HANDBACK_AFTER starts again."""
        self._good_since = None

    def seconds_left(self) -> float:
        """Return the seconds until the next action may be due; infinity: none is expected."""
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
        return next(self._reasons(rows_waiting), None)

    def status_text(self, rows_waiting: int) -> str:
        """Return the hand-back's line in the status; empty where nothing is to be handed back."""
        return (self.blocked_reason(rows_waiting) or "now") if self.wanted else ""

    def _reasons(self, rows_waiting: int) -> Iterator[str]:
        if self.in_progress:
            yield "in progress"
        if self._good_since is None:
            yield "PostgreSQL accepts no writes"
        moment = current_moment()
        hold = read_hold(self._paths.postgres_hold, moment)
        left = self.seconds_left()
        if hold is not None and hold.remaining > left:
            yield f"in {hold.remaining:.0f} s: PostgreSQL is on hold: {hold.reason}"
        if left > 0:
            yield f"in {left:.0f} s{self._refusal}"
        if rows_waiting > self._rows and not self._soon_sent(rows_waiting):
            yield f"{rows_waiting} rows wait, more than HANDBACK_ROWS={self._rows}"
        flapping = losses.seconds_until_return(self._paths, moment, self._per_hour)
        if flapping > 0:
            yield f"in {flapping:.0f} s: PostgreSQL came back {self._per_hour} times in an hour"

    def _soon_sent(self, rows_waiting: int) -> bool:
        """Whether so many rows are sent within half of the time that the fence may stand.

        Where devices write all the time, what was written during one batch always waits.
        """
        expected = self._drain_time.expected(rows_waiting)
        return expected is not None and expected <= self.fence_deadline / 2

    def refuse(self, reason: str) -> None:
        """Back off: a rehearsal found that PostgreSQL would not serve."""
        self._refusal = f": {reason}"
        self._back_off()

    def attempt(
        self,
        connection: sqlite3.Connection,
        drain: Drain,
        test_write: Callable[[], None],
        *,
        abort: Callable[[], None] = lambda: None,
        revisions: Sequence[str] = (),
    ) -> None:
        """Perform the steps after the rehearsal, which found *revisions*.

        *drain* sends a batch, and calls what it is given when it is about to read its rows;
        *test_write* has PostgreSQL commit a write. Both have to raise once *abort* was called,
        from another thread, at the fence's deadline. Raises TakeoverFailed, or what they
        raised; the fence is lifted then, and SQLite goes on serving.
        """
        standing = _StandingFence(connection, self.fence_deadline, abort, self._clock)
        try:
            drain(standing.put)
            standing.put()  # where there was nothing to be read
            while pending(connection):
                standing.check("the rest was not sent")
                drain(standing.put)
            if not standing.rows:
                test_write()
            standing.check("it was not done")
            self._extend_fence(connection)
            losses.record_return(self._paths, current_moment())
            clear_hold(self._paths.postgres_hold)
            self._written_at = self._clock()
            self.announce(revisions)
            write_atomic(self._paths.hand_back, RECORD.render({"generation": self._generation}))
        except TakeoverFailed:
            self.cancel(connection)
            raise
        except BaseException:  # no back-off: HANDBACK_AFTER starts again with the failure
            self._lift(connection)
            raise
        finally:
            standing.stop_watching()
        self._refusal = ""
        logger.info("PostgreSQL takes over: no row waits, the service is asked to exit")

    @property
    def connecting_time(self) -> float:
        """Seconds that the next service takes to connect: the round trips of a login."""
        return self._drain_time.link.expected(LOGIN_TRIPS)

    def announce(self, revisions: Sequence[str]) -> None:
        """Say that PostgreSQL was just found good, at *revisions*; raises OSError."""
        if revisions:
            note_rehearsal(self._paths, self._hub_url, revisions)

    def enforce_deadline(self, connection: sqlite3.Connection) -> None:
        """Cancel the hand-back if the service did not exit within TAKEOVER_TIMEOUT."""
        if self.in_progress and self.seconds_left() <= 0:
            self.cancel(connection)
            logger.warning(
                "the service did not exit within %g s after it was asked to for a hand-back",
                TAKEOVER_TIMEOUT,
            )

    def cancel(self, connection: sqlite3.Connection) -> None:
        """Let SQLite go on serving, and back off; never raises sqlite3.Error.

        Each attempt makes writes wait, so one that fails is not repeated soon.
        """
        self._back_off()
        self._lift(connection)

    def _back_off(self) -> None:
        self._failures += 1
        first = max(self._after, 1.0)
        wait = pause_after(self._failures, first=first, longest=_LONGEST_WAIT)
        self._not_before = self._clock() + wait

    def _lift(self, connection: sqlite3.Connection) -> None:
        """Undo every step. A fence that cannot be lifted now expires; the service lifts it."""
        self._written_at = None
        for path in (self._paths.hand_back, self._paths.rehearsal):
            with suppress(OSError):
                remove_durably(path)
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            fence.lift(connection)
        except sqlite3.Error as error:
            logger.error("the fence cannot be lifted now and expires by itself: %s", error)

    def _extend_fence(self, connection: sqlite3.Connection) -> None:
        """Extend the fence to TAKEOVER_TIMEOUT, if it has stood without a gap until now."""
        with transaction(connection):
            found = fence.fenced(connection)
            if found is None or pending(connection):
                raise TakeoverFailed("the fence was lifted meanwhile, and rows were written")
            fence.put(connection, TAKEOVER_TIMEOUT)


class _StandingFence:
    """The fence of one attempt: put once, when the rest is about to be read."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        deadline: float,
        abort: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """*abort* is called in another thread *deadline* seconds after the fence was put."""
        self._connection = connection
        self._deadline = deadline
        self._clock = clock
        self._until = float("inf")
        self._timer = threading.Timer(deadline, abort)
        self._timer.daemon = True
        #: How many rows waited when it was put.
        self.rows = 0

    def put(self) -> None:
        """Put it, unless it stands; raises sqlite3.Error."""
        if self._until < float("inf"):
            return
        self._until = self._clock() + self._deadline
        self._timer.start()
        fence.put(self._connection, self._deadline + _MARGIN)
        self.rows = pending(self._connection)

    def check(self, what: str) -> None:
        """Raise TakeoverFailed when the time is up."""
        if self._clock() >= self._until:
            raise TakeoverFailed(f"{what} within FENCE_DEADLINE={self._deadline:g} s")

    def stop_watching(self) -> None:
        """Have nothing aborted any more."""
        self._timer.cancel()


def lift_leftover_fence(
    connection: sqlite3.Connection, paths: "Paths", contract: "DatabaseContract"
) -> None:
    """Lift the fence that a killed drainer left; raises sqlite3.Error.

    A hand-back in progress is left alone: its service has yet to exit. It expires as well.
    """
    found = fence.fenced(connection)
    requested = hand_back_requested(paths, contract.generation)
    if found is None or (requested and not found.expired and contract.sqlite_active):
        return
    logger.warning("lifting the fence of an earlier process: writes are accepted again")
    if requested:
        with suppress(OSError):
            remove_durably(paths.hand_back)
    fence.lift(connection)


def hand_back_requested(paths: "Paths", generation: str) -> bool:
    """Whether the service of the decision *generation* was asked to exit for a hand-back."""
    found = RECORD.read_or_none(paths.hand_back)
    return found is not None and found["generation"] == generation
