# SPDX-License-Identifier: Apache-2.0
"""The box's entry among the hub's ``nodes``: that it lives, how it is, and how its clock goes."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.alerts.catalogue import NODE_TWICE

if TYPE_CHECKING:
    from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")

_LOOK = (
    "SELECT extract(epoch FROM clock_timestamp())::float8, "
    "(SELECT boot_id FROM nodes WHERE node_id = $1::uuid), "
    "(SELECT count(*) FROM sync_dead_letters WHERE node_id = $1::uuid AND state = 'waiting'), "
    "(SELECT count(*) FROM sync_conflicts WHERE node_id = $1::uuid AND state = 'open')"
)
_BEAT = """
INSERT INTO nodes AS n (node_id, name, version, build, state, rows_waiting, oldest_waiting,
  clock_offset, boot_id, first_seen, last_seen)
VALUES ($1::uuid, $2, $3, $4, $5, $6::bigint, $7::timestamptz, $8::float8, $9, now(), now())
ON CONFLICT (node_id) DO UPDATE SET name = excluded.name, version = excluded.version,
  build = excluded.build, state = excluded.state, rows_waiting = excluded.rows_waiting,
  oldest_waiting = excluded.oldest_waiting, clock_offset = excluded.clock_offset,
  boot_id = excluded.boot_id, last_seen = excluded.last_seen"""


#: So many heartbeats in a row without another box's, and this one is alone under its id.
LOOKS_ALONE = 10


@dataclass(frozen=True)
class LocalNode:
    """What does not change while this process runs; ``boot_id`` is the box's present start."""

    node_id: str
    name: str
    version: str
    build: str
    boot_id: str


@dataclass(frozen=True)
class NodeState:
    """What changes: the state's word, the rows that wait and (RFC 3339) since when."""

    state: str
    rows_waiting: int
    waiting_since: str | None


class Heartbeat:
    """Sends heartbeats, and finds out whether another box sends some under the same node id.

    *interval*: seconds between two heartbeats; some may come sooner.
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
        self._said = False
        self._others: dict[str, int] = {}
        #: How many looks in a row, an interval apart, have found no other box, and the last one.
        self._looks_alone = 0
        self._looked_at = float("-inf")
        #: The hub's clock less ours, in seconds, as of the last beat.
        self.clock_offset: float | None = None
        #: This box's dead letters and conflicts that wait for a person; None: not known yet.
        self.open_dead_letters: int | None = None
        self.open_conflicts: int | None = None

    def send(self, hub: "Hub", condition: NodeState) -> None:
        """Write the entry, committed; raises what *hub* raises."""
        wall, began = self._wall(), self._clock()
        ((there, boot_id, letters, conflicts),) = hub.query(_LOOK, self._node.node_id)
        self.open_dead_letters, self.open_conflicts = int(letters), int(conflicts)
        # Half-way between question and answer, by the clock that nobody sets.
        self.clock_offset = round(there - (wall + (self._clock() - began) / 2), 3)
        self._detect_duplicate_node(boot_id)
        hub.query(
            _BEAT,
            self._node.node_id,
            self._node.name,
            self._node.version,
            self._node.build,
            condition.state,
            condition.rows_waiting,
            condition.waiting_since,
            self.clock_offset,
            self._node.boot_id,
        )
        self._said = True

    def _detect_duplicate_node(self, found: str | None) -> None:
        """Raise an alert when another start of a box writes under our id while we do.

        The one found first is our own last one. One that comes once after ours may be that
        of a hub restored from a backup; a box that lives comes again. The alert is resolved,
        also one of a process before this one, when no other box was seen for a while.
        """
        if not self._said or not found or found == self._node.boot_id:
            self._count_look_alone()
            return
        self._looks_alone = 0
        self._others[found] = self._others.get(found, 0) + 1
        logger.warning("node %s was seen with another boot id, %s", self._node.node_id, found)
        if self._others[found] == 2:
            NODE_TWICE.raise_alert(
                f"two boxes send under the node id {self._node.node_id}: a card or a state folder "
                f"was copied"
            )

    def _count_look_alone(self) -> None:
        now = self._clock()
        # A box that is cut off together with this one comes back with it: time alone proves
        # nothing.
        if now - self._looked_at < self._interval / 2:
            return
        self._looked_at = now
        self._looks_alone += 1
        if self._looks_alone == LOOKS_ALONE:
            self._others.clear()
            NODE_TWICE.resolve_alert(
                f"no other box has sent under the node id {self._node.node_id} for "
                f"{LOOKS_ALONE} heartbeats"
            )
