# SPDX-License-Identifier: Apache-2.0
"""The turn of the comparison: whether PostgreSQL went back in time, by all streams of the box."""

from typing import TYPE_CHECKING

from edgepaas.timing.due import Interval

if TYPE_CHECKING:
    from edgepaas.sync.box_file import BoxFile
    from edgepaas.sync.context import SyncContext
    from edgepaas.sync.hub.connection import Hub
    from edgepaas.sync.resend.lost_connections import LostConnections

#: The hub is asked so often, in parts of HEARTBEAT_INTERVAL.
SHARE = 2 / 3


class ComparisonTurn:
    """Compares the marks of both sides."""

    def __init__(
        self,
        context: "SyncContext",
        heartbeat_interval: float,
        connections: "LostConnections",
    ) -> None:
        self.due = Interval(SHARE * heartbeat_interval)
        self._context = context
        self._connections = connections

    def make_due(self) -> None:
        """Have it done at once, as over a new connection."""
        self.due = Interval(self.due.every)
        self._connections.look_closely()

    def take(self, file: "BoxFile | None", hub: "Hub") -> bool:
        """Whether *hub* has all that it confirmed to this box; raises HubError, sqlite3.Error.

        Where it has not, the next batch, or an empty one, sends again what it lost.
        """
        from edgepaas.sync.back_in_time import compare_file, compare_history

        connection = file.connection if file is not None and file.captures else None
        with self._context.stop.abort_on_stop(hub.abort):
            found = [self._connections.compare(hub, connection)]
            if connection is not None:
                found += [compare_history(connection, hub), compare_file(connection, hub)]
        self.due.done()
        return all(found)
