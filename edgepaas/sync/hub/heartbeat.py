# SPDX-License-Identifier: Apache-2.0
"""One heartbeat: this box's row in the hub's ``nodes``, and what the hub answers to it."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.alerts.catalogue import NODE_TWICE

if TYPE_CHECKING:
    from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")

_READ = (
    "SELECT extract(epoch FROM clock_timestamp())::float8, "
    "(SELECT boot_id FROM nodes WHERE node_id = $1::uuid), "
    "(SELECT count(*) FROM sync_dead_letters WHERE node_id = $1::uuid AND state = 'waiting'), "
    "(SELECT count(*) FROM sync_conflicts WHERE node_id = $1::uuid AND state = 'open')"
)
_WRITE = """
INSERT INTO nodes AS n (node_id, name, version, build, state, rows_waiting, oldest_waiting,
  clock_offset, boot_id, first_seen, last_seen)
VALUES ($1::uuid, $2, $3, $4, $5, $6::bigint, $7::timestamptz, $8::float8, $9, now(), now())
ON CONFLICT (node_id) DO UPDATE SET name = excluded.name, version = excluded.version,
  build = excluded.build, state = excluded.state, rows_waiting = excluded.rows_waiting,
  oldest_waiting = excluded.oldest_waiting, clock_offset = excluded.clock_offset,
  boot_id = excluded.boot_id, last_seen = excluded.last_seen"""


#: After so many heartbeats in a row without one of another box, the node id is unique again.
CHECKS_ALONE = 10


@dataclass(frozen=True)
class LocalNode:
    """The identity of this box while the process runs; ``boot_id`` is that of the current boot."""

    node_id: str
    name: str
    version: str
    build: str
    boot_id: str


@dataclass(frozen=True)
class NodeState:
    """The box's state, how many rows wait, and since when (RFC 3339)."""

    state: str
    rows_waiting: int
    waiting_since: str | None


class Heartbeat:
    """Sends heartbeats, and detects another box with the same node id.

    *interval*: seconds between two heartbeats; some are sent earlier.
    """

    def __init__(
        self,
        node: LocalNode,
        interval: float,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._interval = interval
        self._wall = wall
        self._clock = clock
        self._sent_one = False
        self._foreign_boots: dict[str, int] = {}
        #: How many checks in a row, an interval apart, found no other box, and when the last was.
        self._checks_alone = 0
        self._checked_at = float("-inf")
        #: The hub's clock less ours, in seconds, at the last heartbeat.
        self.clock_offset: float | None = None
        #: This box's dead letters and conflicts that wait for an operator; None: not known yet.
        self.open_dead_letters: int | None = None
        self.open_conflicts: int | None = None

    def send(self, hub: "Hub", state: NodeState) -> None:
        """Write the row, committed; raises what *hub* raises."""
        wall, began = self._wall(), self._clock()
        ((hub_time, boot_id, letters, conflicts),) = hub.query(_READ, self._node.node_id)
        hub.link.measured(self._clock() - began)
        self.open_dead_letters, self.open_conflicts = int(letters), int(conflicts)
        # The middle between request and answer; the duration by the monotonic clock.
        self.clock_offset = round(hub_time - (wall + (self._clock() - began) / 2), 3)
        self._detect_duplicate_node(boot_id)
        hub.query(
            _WRITE,
            self._node.node_id,
            self._node.name,
            self._node.version,
            self._node.build,
            state.state,
            state.rows_waiting,
            state.waiting_since,
            self.clock_offset,
            self._node.boot_id,
        )
        self._sent_one = True

    def _detect_duplicate_node(self, found: str | None) -> None:
        """Raise an alert when another boot id writes under our node id while we do.

        Before our first heartbeat it is our own previous boot. Seen only once, it may come
        from a hub restored from a backup; a second box writes again. The alert, also that of
        an earlier process, is resolved when no other box was seen for a while.
        """
        if not self._sent_one or not found or found == self._node.boot_id:
            self._count_check_alone()
            return
        self._checks_alone = 0
        self._foreign_boots[found] = self._foreign_boots.get(found, 0) + 1
        logger.warning("another process sends as node %s, boot id %s", self._node.node_id, found)
        if self._foreign_boots[found] == 2:
            NODE_TWICE.raise_alert(
                f"two boxes use the node id {self._node.node_id}: a card or a state folder "
                f"was copied"
            )

    def _count_check_alone(self) -> None:
        now = self._clock()
        # Counted and not timed: another box may be cut off together with this one.
        if now - self._checked_at < self._interval / 2:
            return
        self._checked_at = now
        self._checks_alone += 1
        if self._checks_alone == CHECKS_ALONE:
            self._foreign_boots.clear()
            NODE_TWICE.resolve_alert(
                f"no other box has used the node id {self._node.node_id} for "
                f"{CHECKS_ALONE} heartbeats"
            )
