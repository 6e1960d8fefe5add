# SPDX-License-Identifier: Apache-2.0
"""The forwarding state of this box as it is now (:mod:`edgepaas.outbox.forwarding_state`).

Read from ``run/sync.json``, which the drainer writes; cheap enough for every request. How many
rows wait is counted in the file itself where no drainer says it: one that is dead, masked or not
yet there would else report for ever what it saw last, or nothing.
"""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgepaas.decision.waiting import rows_waiting
from edgepaas.marks.record import lost_rows
from edgepaas.outbox.forwarding_state import Forwarding
from edgepaas.sync import status as sync_status
from edgepaas.sync.losses.acknowledge import acknowledged_lost

if TYPE_CHECKING:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.sync.status import SyncStatus

#: Seconds for which the drainer may be away before that is trouble: it starts after the
#: service, and starts again at every decision.
GRACE = 20.0
#: Seconds for which what was read is not read again.
_KEPT = 0.5
#: Seconds for which what was counted in the file is not counted again.
_COUNT_KEPT = 5.0


class ForwardingWatch:
    """Reads ``run/sync.json`` when asked, at most twice a second; None without a hub."""

    def __init__(
        self,
        paths: "Paths",
        contract: "DatabaseContract",
        *,
        grace: float = GRACE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths = paths
        self._contract = contract
        self._grace = grace
        self._clock = clock
        self._lock = threading.Lock()
        self._fresh_at = clock()
        self._read_at = float("-inf")
        self._known: Forwarding | None = None
        self._counted_at = float("-inf")
        self._counted: int | None = None

    def __call__(self) -> Forwarding | None:
        """Return what is known right now."""
        if not self._contract.hub_url:
            return None
        with self._lock:
            now = self._clock()
            if now - self._read_at >= _KEPT:
                self._read_at = now
                self._known = self._read(now)
            return self._known

    def _read(self, now: float) -> Forwarding:
        status = sync_status.read(self._paths)
        if status is not None and status.fresh:
            self._fresh_at = now
        fresh = status is not None and status.fresh
        return forwarding_of(
            status,
            waiting=self._contract.rows_waiting,
            counted=None if fresh else self._count(now),
            running=now - self._fresh_at < self._grace,
            acknowledged=acknowledged_lost(self._paths),
            lost_while_serving=lost_rows(self._paths),
        )

    def _count(self, now: float) -> int | None:
        """Return how many rows of the file wait; None where it cannot be read."""
        if now - self._counted_at >= _COUNT_KEPT:
            found = rows_waiting(self._contract.sqlite_path)
            self._counted_at, self._counted = now, found.rows if found.readable else None
        return self._counted


def current_forwarding(paths: "Paths", contract: "DatabaseContract") -> Forwarding | None:
    """Return what ``run/sync.json`` says at this moment, without any grace; None without a hub."""
    return ForwardingWatch(paths, contract, grace=0.0)()


def forwarding_of(
    status: "SyncStatus | None",
    *,
    waiting: int,
    running: bool,
    counted: int | None = None,
    acknowledged: int = 0,
    lost_while_serving: int = 0,
) -> Forwarding:
    """Return what the drainer's *status* means; *waiting* is what the decision counted.

    *counted*: what waits in the file now, where the status is out of date; None: not known.
    *lost_while_serving*: rows that PostgreSQL acknowledged while it served, and lost. A
    drainer that is not there has left its last counts, but knows nothing of PostgreSQL.
    """
    if status is None:
        lost = max(0, lost_while_serving - acknowledged)
        rows = waiting if counted is None else counted
        return Forwarding(rows_waiting=rows, running=running, hub_lost=lost)
    fresh = status.fresh
    return Forwarding(
        state=status.state if fresh else "unknown",
        hub=status.hub if fresh else "unknown",
        server=status.server if fresh else "",
        rows_waiting=status.rows_waiting if counted is None else counted,
        reason=status.reason if fresh else "",
        waiting_since=status.waiting_since,
        last_delivery=status.last_delivery,
        dead_letters=_open(status.open_dead_letters, status.dead_letters),
        conflicts=_open(status.open_conflicts, status.conflicts),
        hub_lost=max(0, status.hub_lost + lost_while_serving - acknowledged),
        hand_back=status.hand_back if fresh else "",
        running=running or fresh,
    )


def _open(counted: int | None, ever: int) -> int:
    return ever if counted is None else counted
