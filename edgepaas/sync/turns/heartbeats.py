# SPDX-License-Identifier: Apache-2.0
"""The turn of the heartbeat: this box's row on PostgreSQL, which proves a write there as well."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgepaas.errors import EXIT_DONE
from edgepaas.timing.due import Interval

if TYPE_CHECKING:
    from edgepaas.sync.hub.connection import Hub
    from edgepaas.sync.hub.heartbeat_sender import HeartbeatSender
    from edgepaas.sync.shutdown import StopRequest


class HeartbeatTurn:
    """Sends a heartbeat every *interval* seconds, and when the state has changed."""

    def __init__(
        self,
        sender: "HeartbeatSender",
        interval: float,
        stop: "StopRequest",
        *,
        sent: Callable[[], None],
    ) -> None:
        """*sent* is called after each heartbeat: PostgreSQL has committed a write."""
        self.due = Interval(interval)
        self._sender = sender
        self._stop = stop
        self._sent = sent

    @property
    def is_due(self) -> bool:
        """Whether one is to be sent now."""
        return self.due.left <= 0 or self._sender.state_changed()

    def make_due(self) -> None:
        """Have one sent at once, as over a new connection."""
        self.due = Interval(self.due.every)

    def take(self, hub: "Hub", *, alone: bool = False) -> None:
        """Send one; *alone*: whatever else is to be sent waits. Raises HubError."""
        with self._stop.abort_on_stop(hub.abort):
            self._sender.send(hub, alone=alone)
        self.due.done()
        self._sent()

    def take_last(self, hub: "Hub") -> None:
        """Report the state in which the service stops; raises nothing of the hub's.

        With a status other than EXIT_DONE this process is started again, and reports then.
        """
        if self._stop.status != EXIT_DONE:
            return
        with self._stop.abort_on_stop(hub.abort):
            self._sender.send_final(hub)
