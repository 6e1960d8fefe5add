# SPDX-License-Identifier: Apache-2.0
"""What the drainer says of itself: gathered as it goes, written to ``run/sync.json``."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgepaas.files.paths import Paths
from edgepaas.sync import status as sync_status
from edgepaas.sync.status import SyncStatus
from edgepaas.timing.moment import rfc3339

#: Seconds after which the status is written although nothing in it has changed, and the
#: least time between two that only count on.
_RENEW = 5.0
_LEAST = 0.25


@dataclass
class LiveStatus(SyncStatus):
    """The status as it becomes: its values are changed in place."""

    def set_waiting(self, rows: int, wall: float) -> None:
        """Take note of how many rows wait, and since when."""
        self.rows_waiting = rows
        if not rows:
            self.waiting_since = None
        elif self.waiting_since is None:
            self.waiting_since = rfc3339(wall, milliseconds=True)

    def set_ledger(self, counters: Mapping[str, int], wall: float) -> None:
        """Take note of what the file's ledger says."""
        self.ledger = counters
        self.set_waiting(counters["pending"], wall)
        self.dead_letters = counters["dead"]
        self.conflicts = counters["conflicts"]
        self.hub_lost = counters["hub_lost"]

    def record_delivery(self, wall: float) -> None:
        """Take note that PostgreSQL has just committed rows."""
        self.last_delivery = rfc3339(wall, milliseconds=True)

    @property
    def urgent(self) -> tuple[Any, ...]:
        """What is written at once when it changes."""
        return self.state, self.reason, self.hub, bool(self.rows_waiting), self.open_dead_letters


@dataclass
class StatusPublisher:
    """Writes *report* when it has changed, and now and then as a sign of life."""

    paths: Paths
    report: LiveStatus
    wall: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
    _written: dict[str, Any] = field(default_factory=dict)
    _urgent: tuple[Any, ...] = ()
    _at: float = float("-inf")

    def restore(self) -> None:
        """Go on from what an earlier drainer of this box said: since when rows wait."""
        before = sync_status.read(self.paths)
        if before is not None and before.node_id == self.report.node_id:
            self.report.waiting_since = before.waiting_since
            self.report.last_delivery = before.last_delivery
            self.report.open_dead_letters = before.open_dead_letters
            self.report.open_conflicts = before.open_conflicts

    def publish(self, *, now: bool = False) -> None:
        """Write the status if it is time to; *now*: whatever it says."""
        values = dict(vars(self.report))
        age = self.clock() - self._at
        due = age >= _RENEW or self.report.urgent != self._urgent
        if not (now or due or (age >= _LEAST and values != self._written)):
            return
        sync_status.write(self.paths, sync_status.stamped(values, self.wall()))
        self._written, self._urgent, self._at = values, self.report.urgent, self.clock()

    def seconds_left(self) -> float:
        """Return in how many seconds :meth:`publish` has something to do."""
        age = self.clock() - self._at
        longest = _LEAST if vars(self.report) != self._written else _RENEW
        return max(0.0, longest - age)
