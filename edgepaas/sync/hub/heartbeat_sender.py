# SPDX-License-Identifier: Apache-2.0
"""What the drainer tells the hub of its box now and then, and what it is told of the others."""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgepaas.errors import EdgePaaSError
from edgepaas.files.published_state import read_word
from edgepaas.sync.errors import HubError
from edgepaas.sync.hub.fleet import HEARTBEATS_PER_FLEET_READ, write_fleet
from edgepaas.sync.hub.heartbeat import Heartbeat, LocalNode, NodeState
from edgepaas.timing.due import Due

if TYPE_CHECKING:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.sync.hub.connection import Hub
    from edgepaas.sync.report import LiveStatus

#: Seconds between two words of the service that are told before the next heartbeat is due.
MIN_INTERVAL = 2.0
#: Seconds for which a drainer that ends waits for the service's word that it stops; well
#: within what an end in order may take (edgepaas.sync.shutdown).
STOPPING_WAIT = 0.2

logger = logging.getLogger("edgepaas.sync")


class HeartbeatSender:
    """The box among the others; what PostgreSQL says of it goes into *report*."""

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
        self._seen: tuple[int, int] | None = None
        self._at = float("-inf")
        self._fleet = Due(HEARTBEATS_PER_FLEET_READ * interval)

    def send(self, hub: "Hub", *, alone: bool = False) -> None:
        """Send the heartbeat and, unless *alone*, ask for the boxes where SQLite serves.

        Raises what *hub* raises.
        """
        report, heartbeat = self._report, self._heartbeat
        self._at, self._seen = self._clock(), self._version()
        heartbeat.send(hub, NodeState(self.node_state(), report.rows_waiting, report.waiting_since))
        report.clock_offset = heartbeat.clock_offset
        report.open_dead_letters = heartbeat.open_dead_letters
        report.open_conflicts = heartbeat.open_conflicts
        if self._contract.sqlite_active and not alone and self._fleet.left <= 0:
            self._keep_fleet(hub)

    def _keep_fleet(self, hub: "Hub") -> None:
        """Ask for the boxes, rarely: hundreds of them are a load for a line that is paid for."""
        self._fleet.done()
        try:
            write_fleet(hub, self._paths, self._contract.generation)
        except HubError as error:
            if hub.broken:
                raise
            logger.warning("the other boxes cannot be listed: %s", error)

    def send_final(self, hub: "Hub") -> None:
        """Send the last heartbeat; a hub that does not take it is left alone.

        The service is mostly told to end at the same moment: it has a moment to say so.
        """
        until = self._clock() + STOPPING_WAIT
        while self.node_state() != "stopping" and self._clock() < until:
            time.sleep(0.01)
        try:
            self.send(hub, alone=True)
        except (EdgePaaSError, OSError) as error:
            logger.debug("the hub was not told of the end: %s", error)

    def state_changed(self) -> bool:
        """Whether the service has said another word since :meth:`tell`, a while ago."""
        return self._clock() - self._at >= MIN_INTERVAL and self._version() != self._seen

    def node_state(self) -> str:
        """Return the word for the box's state: the service's, or what was decided.

        That of a service which is gone holds only where it said that it stops. Whoever is
        told knows that PostgreSQL is back: what is still ``fallback`` to the service is
        ``draining``.
        """
        said = read_word(self._paths)
        if said is not None and (said.living or said.word == "stopping"):
            word = said.word
        else:
            word = str(self._contract.db_state)
        return "draining" if word == "fallback" else word

    def _version(self) -> tuple[int, int] | None:
        try:
            status = self._paths.state_word.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns
