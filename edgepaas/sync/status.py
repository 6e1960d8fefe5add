# SPDX-License-Identifier: Apache-2.0
"""``run/sync.json``: the status of forwarding, written by the drainer, read by all others.

Standard library only: health, service and the command line read it without a driver.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from edgepaas.files import shapes
from edgepaas.files.paths import Paths
from edgepaas.files.records import RecordType
from edgepaas.outbox.forwarding_state import DeliveryState
from edgepaas.timing.moment import current_moment, rfc3339

#: idle: nothing waits; draining: rows are on their way; held: they wait for PostgreSQL;
#: blocked: they wait for an operator; no-hub: there is no PostgreSQL to send them to.
SyncState = Literal["idle", "draining", "held", "blocked", "no-hub"]
#: What PostgreSQL looked like at the last attempt.
HubState = Literal["ok", "away", "misconfigured", "schema", "error"]

#: Seconds after which a status that is not renewed is out of date.
STALE_AFTER = 30.0

logger = logging.getLogger("edgepaas.sync")


@dataclass(frozen=True)
class Mirrored:
    """The last complete pass of the mirror: when (RFC 3339), and the rows of the shared tables."""

    at: str
    rows: int


@dataclass
class SyncStatus(DeliveryState):
    """What the drainer of this box knows; times are RFC 3339 in UTC.

    Here *dead_letters*, *conflicts* and *hub_lost* count over the life of the file, from its
    ledger.
    """

    state: SyncState = "idle"
    hub: HubState = "away"
    #: Those of this box that wait for a person, as PostgreSQL said last; None: it never did.
    open_dead_letters: int | None = None
    open_conflicts: int | None = None
    mirror: Mirrored | None = None
    #: PostgreSQL's clock less the box's, in seconds; None while unknown.
    clock_offset: float | None = None
    node_id: str = ""
    stream_id: str = ""
    #: Every counter of the file's ledger, by name.
    ledger: Mapping[str, int] = field(default_factory=dict)
    #: DB_GENERATION of the decision that the drainer works on.
    generation: str = ""
    pid: int = 0
    updated: str = ""
    #: Seconds since the boot at ``updated``, so that a wall clock that is set makes nothing stale.
    updated_since_boot: float = 0.0

    @property
    def age(self) -> float:
        """Seconds since it was written (suspension counts)."""
        return max(0.0, current_moment().since_boot - self.updated_since_boot)

    @property
    def fresh(self) -> bool:
        """Whether it is up to date and the drainer that wrote it still runs."""
        return self.age <= STALE_AFTER and _alive(self.pid)

    def values(self) -> dict[str, Any]:
        """Return what the file holds."""
        return asdict(self)


#: ``run/sync.json``: the fields of :class:`SyncStatus`. One of another build is ignored.
RECORD = RecordType(
    "sync-status",
    3,
    {
        "state": shapes.one_of(*get_args(SyncState)),
        "reason": shapes.text,
        "hub": shapes.one_of(*get_args(HubState)),
        "server": shapes.text,
        "rows_waiting": shapes.whole,
        "waiting_since": shapes.optional(shapes.text),
        "last_delivery": shapes.optional(shapes.text),
        "dead_letters": shapes.whole,
        "conflicts": shapes.whole,
        "hub_lost": shapes.whole,
        "open_dead_letters": shapes.optional(shapes.whole),
        "open_conflicts": shapes.optional(shapes.whole),
        "hand_back": shapes.text,
        "mirror": shapes.optional(shapes.object_of({"at": shapes.text, "rows": shapes.whole})),
        "clock_offset": shapes.optional(shapes.number),
        "node_id": shapes.text,
        "stream_id": shapes.text,
        "ledger": shapes.map_of(shapes.whole),
        "generation": shapes.text,
        "pid": shapes.whole,
        "updated": shapes.text,
        "updated_since_boot": shapes.number,
    },
)


def read(paths: Paths) -> SyncStatus | None:
    """Return the last status written; None when there is none, or it is unreadable.

    Check ``fresh`` before using it: a drainer that was killed leaves its last one.
    """
    found = RECORD.read_or_none(paths.sync_status)
    if found is None:
        return None
    mirror = found["mirror"]
    return SyncStatus(**{**found, "mirror": None if mirror is None else Mirrored(**mirror)})


def write(paths: Paths, status: SyncStatus) -> bool:
    """Write *status* atomically; False when that fails.

    It is not synced. A full disk must not stop the drainer, so a failure is only logged.
    """
    try:
        RECORD.write_unsynced(paths.sync_status, status.values())
    except OSError as error:
        logger.warning("%s cannot be written: %s", paths.sync_status, error)
        return False
    return True


def stamped(status: Mapping[str, Any], wall: float) -> SyncStatus:
    """Return the status of the values *status*, written now (*wall*: seconds since 1970)."""
    return SyncStatus(
        **{
            **status,
            "pid": os.getpid(),
            "updated": rfc3339(wall, milliseconds=True),
            "updated_since_boot": round(current_moment().since_boot, 3),
        }
    )


def _alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it runs as another user
    return True
