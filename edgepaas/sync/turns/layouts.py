# SPDX-License-Identifier: Apache-2.0
"""The turn of the layouts: what the hub has to know before a revision drops a column."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgepaas.sync.hub.layouts import LayoutReport, reports_of, send_reports
from edgepaas.timing.due import Interval

if TYPE_CHECKING:
    from edgepaas.sync.box_file import BoxFile
    from edgepaas.sync.context import SyncContext
    from edgepaas.sync.hub.connection import Hub


class LayoutTurn:
    """Reports the box's layouts as often as it sends heartbeats, where they have changed."""

    def __init__(
        self, context: "SyncContext", node_id: str, document: Mapping[str, Any], interval: float
    ) -> None:
        """*document*: run/tables.json; *interval*: seconds between two heartbeats."""
        self.due = Interval(interval)
        self._context = context
        self._node_id = node_id
        self._document = document
        self._sent: tuple[LayoutReport, ...] = ()

    def take(self, file: "BoxFile | None", hub: "Hub") -> None:
        """Report what has changed since the last time; raises HubError, sqlite3.Error."""
        captures = file is not None and file.captures
        found = reports_of(self._document, file.connection if file and captures else None)
        if found != self._sent:
            with self._context.stop.abort_on_stop(hub.abort):
                send_reports(hub, self._node_id, found)
            self._sent = found
        self.due.done()

    def forget(self) -> None:
        """Report everything the next time: it may be another hub, or one that went back."""
        self._sent = ()
        self.due = Interval(self.due.every)
