# SPDX-License-Identifier: Apache-2.0
"""The drainer's status: kept while it runs, written to ``run/sync.json`` when it changes."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgepaas.files.paths import Paths
from edgepaas.sync import status as sync_status
from edgepaas.sync.status import SyncStatus
from edgepaas.timing.moment import rfc3339

#: Seconds after which an unchanged status is written again as a sign of life, and the least
#: time between two writes that differ only in counters.
_RENEW = 5.0
_LEAST = 0.25


@dataclass
class LiveStatus(SyncStatus):
    """The current status; its values are changed in place."""

    def set_waiting(self, rows: int, wall: float) -> None:
        """Set how many rows wait; *wall*: now, in seconds since 1970."""
        self.rows_waiting = rows
        if not rows:
            self.waiting_since = None
        elif self.waiting_since is None:
            self.waiting_since = rfc3339(wall, milliseconds=True)

    def set_ledger(self, counters: Mapping[str, int], wall: float) -> None:
        """Set the counters of the file's ledger."""
        self.ledger = counters
        self.set_waiting(counters["pending"], wall)
        self.dead_letters = counters["dead"]
        self.conflicts = counters["conflicts"]
        self.hub_lost = counters["hub_lost"]

    def record_delivery(self, wall: float) -> None:
        """Record that PostgreSQL has just committed rows."""
        self.last_delivery = rfc3339(wall, milliseconds=True)

    @property
    def urgent(self) -> tuple[Any, ...]:
        """The values whose change is written at once."""
        return self.state, self.reason, self.hub, bool(self.rows_waiting), self.open_dead_letters


@dataclass
class StatusPublisher:
    """Writes *report* when it has changed, and at intervals as a sign of life."""

    paths: Paths
    report: LiveStatus
    wall: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
    _written: dict[str, Any] = field(default_factory=dict)
    _urgent: tuple[Any, ...] = ()
    _at: float = float("-inf")

    def restore(self) -> None:
        """Take over what only an earlier process of this box knows: since when rows wait."""
        before = sync_status.read(self.paths)
        if before is not None and before.node_id == self.report.node_id:
            self.report.waiting_since = before.waiting_since
            self.report.last_delivery = before.last_delivery
            self.report.open_dead_letters = before.open_dead_letters
            self.report.open_conflicts = before.open_conflicts

    def publish(self, *, now: bool = False) -> None:
        """Write the status if it is due; *now*: in any case."""
        values = dict(vars(self.report))
        age = self.clock() - self._at
        due = age >= _RENEW or self.report.urgent != self._urgent
        if not (now or due or (age >= _LEAST and values != self._written)):
            return
        sync_status.write(self.paths, sync_status.stamped(values, self.wall()))
        self._written, self._urgent, self._at = values, self.report.urgent, self.clock()

    def seconds_left(self) -> float:
        """Return the seconds until :meth:`publish` has something to write."""
        age = self.clock() - self._at
        longest = _LEAST if vars(self.report) != self._written else _RENEW
        return max(0.0, longest - age)
