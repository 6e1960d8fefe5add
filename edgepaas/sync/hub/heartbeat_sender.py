# SPDX-License-Identifier: Apache-2.0
"""Sends this box's heartbeat to the hub, and reads the list of all boxes with some of them."""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgepaas.errors import EdgePaaSError
from edgepaas.files.published_state import read_published_state
from edgepaas.sync.errors import HubError
from edgepaas.sync.hub.fleet import HEARTBEATS_PER_FLEET_READ, write_fleet
from edgepaas.sync.hub.heartbeat import Heartbeat, LocalNode, NodeState
from edgepaas.timing.due import Interval

if TYPE_CHECKING:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.sync.hub.connection import Hub
    from edgepaas.sync.report import LiveStatus

#: Minimum seconds between heartbeats that are sent early because the state changed.
MIN_INTERVAL = 2.0
#: Seconds for which a stopping drainer waits for the service to publish ``stopping``; well
#: within what an orderly stop may take (edgepaas.sync.shutdown).
STOPPING_WAIT = 0.2

logger = logging.getLogger("edgepaas.sync")


class HeartbeatSender:
    """Sends heartbeats; what PostgreSQL knows of this box goes into *report*."""

    def __init__(
        self,
        node: LocalNode,
        paths: "Paths",
        contract: "DatabaseContract",
        report: "LiveStatus",
        interval: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*interval*: seconds between two heartbeats."""
        self._heartbeat = Heartbeat(node, interval)
        self._paths = paths
        self._contract = contract
        self._report = report
        self._clock = clock
        self._state_version: tuple[int, int] | None = None
        self._sent_at = float("-inf")
        self._fleet_due = Interval(HEARTBEATS_PER_FLEET_READ * interval)

    def send(self, hub: "Hub", *, alone: bool = False) -> None:
        """Send a heartbeat; unless *alone*, also read the list of boxes when that is due.

        The list is read only where SQLite serves. Raises what *hub* raises.
        """
        report, heartbeat = self._report, self._heartbeat
        self._sent_at, self._state_version = self._clock(), self._read_state_version()
        heartbeat.send(hub, NodeState(self.node_state(), report.rows_waiting, report.waiting_since))
        report.clock_offset = heartbeat.clock_offset
        report.open_dead_letters = heartbeat.open_dead_letters
        report.open_conflicts = heartbeat.open_conflicts
        if self._contract.sqlite_active and not alone and self._fleet_due.left <= 0:
            self._write_fleet(hub)

    def _write_fleet(self, hub: "Hub") -> None:
        """Read the boxes; not with each heartbeat, as hundreds cost much on a metered link."""
        self._fleet_due.done()
        try:
            write_fleet(hub, self._paths, self._contract.generation)
        except HubError as error:
            if hub.broken:
                raise
            logger.warning("the list of boxes cannot be read: %s", error)

    def send_final(self, hub: "Hub") -> None:
        """Send the last heartbeat before the process exits; a failure is only logged.

        The service is usually stopped at the same moment and gets STOPPING_WAIT to publish it.
        """
        until = self._clock() + STOPPING_WAIT
        while self.node_state() != "stopping" and self._clock() < until:
            time.sleep(0.01)
        try:
            self.send(hub, alone=True)
        except (EdgePaaSError, OSError) as error:
            logger.debug("the last heartbeat was not delivered: %s", error)

    def state_changed(self) -> bool:
        """Whether the service published another state since a :meth:`send` MIN_INTERVAL ago."""
        return (
            self._clock() - self._sent_at >= MIN_INTERVAL
            and self._read_state_version() != self._state_version
        )

    def node_state(self) -> str:
        """Return the box's state: the one that the service published, or the decision's.

        What a process that is gone published counts only if it was ``stopping``. A heartbeat
        reaches a hub that is back: what the service still calls ``fallback`` is ``draining``.
        """
        published = read_published_state(self._paths)
        if published is not None and (published.running or published.state == "stopping"):
            state = published.state
        else:
            state = str(self._contract.db_state)
        return "draining" if state == "fallback" else state

    def _read_state_version(self) -> tuple[int, int] | None:
        try:
            status = self._paths.published_state.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns
