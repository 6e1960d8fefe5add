# SPDX-License-Identifier: Apache-2.0
"""The turn of the comparison: whether PostgreSQL went back in time, by all streams of the box."""

from typing import TYPE_CHECKING

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

    def take(self, file: "BoxFile | None", hub: "Hub") -> bool:
        """Whether *hub* has all that it confirmed of *file*'s stream; raises HubError.

        Where it has not, the next batch, or an empty one, finds what is to be sent again.
        """
        from edgepaas.sync.back_in_time import compare_connections, compare_file

        in_step = True
        with self._context.stop.abort_on_stop(hub.abort):
            if file is not None and file.captures:
                in_step = compare_file(file.connection, hub)
            compare_connections(self._context.paths, self._node_id, hub)
        self.due.done()
        return in_step
