# SPDX-License-Identifier: Apache-2.0
"""The turn of reclaiming: deleting what was delivered long ago."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgepaas.sync.reclaim import Reclaimer
from edgepaas.timing.due import Interval

if TYPE_CHECKING:
    from edgepaas.sync.box_file import BoxFile
    from edgepaas.sync.hub.connection import Hub
    from edgepaas.sync.report import LiveStatus
    from edgepaas.sync.turns.heartbeats import HeartbeatTurn


class ReclaimTurn:
    """Reclaims by a clock that the hub has just confirmed."""

    def __init__(
        self,
        reclaimer: Reclaimer,
        heartbeat: "HeartbeatTurn",
        report: "LiveStatus",
        *,
        reclaimed: Callable[[], None],
    ) -> None:
        """*reclaimed* is called where rows of the application were deleted."""
        self._reclaimer = reclaimer
        self._heartbeat = heartbeat
        self._report = report
        self._reclaimed = reclaimed

    @property
    def due(self) -> Interval:
        """When it is due."""
        return self._reclaimer.due

    def take(self, file: "BoxFile", hub: "Hub") -> None:
        """Compare the clocks, then reclaim; raises HubError, sqlite3.Error."""
        self._heartbeat.take(hub, alone=True)  # it compares the clocks
        if self._reclaimer.run(file.connection, self._report.clock_offset):
            self._reclaimed()
