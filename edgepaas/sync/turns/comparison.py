# SPDX-License-Identifier: Apache-2.0
"""The turn of the comparison: whether PostgreSQL went back in time, by all streams of the box."""

from typing import TYPE_CHECKING

from edgepaas.outbox.resending.recovery_state import note_broken
from edgepaas.timing.due import Interval

if TYPE_CHECKING:
    from edgepaas.sync.box_file import BoxFile
    from edgepaas.sync.context import SyncContext
    from edgepaas.sync.hub.connection import Hub

#: The hub is asked so often, in parts of HEARTBEAT_INTERVAL.
SHARE = 2 / 3


class ComparisonTurn:
    """Compares the marks of both sides."""

    def __init__(self, context: "SyncContext", node_id: str, heartbeat_interval: float) -> None:
        self.due = Interval(SHARE * heartbeat_interval)
        self._context = context
        self._node_id = node_id

    def make_due(self) -> None:
        """Have it done at once, as over a new connection."""
        self.due = Interval(self.due.every)

    def take(self, file: "BoxFile | None", hub: "Hub") -> bool:
        """Whether *hub* has all that it confirmed to this box; raises HubError, sqlite3.Error.

        Where it has not, the next batch, or an empty one, sends again what it lost.
        """
        from edgepaas.sync.back_in_time import compare_connections, compare_file, compare_history

        in_step = True
        with self._context.stop.abort_on_stop(hub.abort):
            acknowledged = compare_connections(self._context.paths, self._node_id, hub)
            if file is not None and file.captures:
                in_step = compare_history(file.connection, hub)
                if not acknowledged:
                    note_broken(file.connection)
                in_step = compare_file(file.connection, hub) and in_step and acknowledged
        self.due.done()
        return in_step
