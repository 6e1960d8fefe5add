# SPDX-License-Identifier: Apache-2.0
"""The way home of the rows, as every surface shows it: how many wait, for what, until when.

Read from ``run/sync.json``, which the drainer writes; cheap enough for every request.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgepaas.files import shapes
from edgepaas.files.records import RecordType, same_fields
from edgepaas.sync import status as sync_status

if TYPE_CHECKING:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.sync.status import SyncStatus

#: Seconds for which the drainer may be away before that is trouble: it starts after the
#: service, and starts again at every decision.
GRACE = 20.0
#: Seconds for which what was read is not read again.
_KEPT = 0.5

#: ``state/acknowledged.json``: up to which count the rows that PostgreSQL lost are known.
ACKNOWLEDGED = RecordType("acknowledged", 2, {"hub_lost": shapes.whole}, {1: same_fields})

_TELL = "'edgepaas sync dead-letters' lists them"


@dataclass(frozen=True)
class Forwarding:
    """What is known of the rows that are to reach PostgreSQL; moments are RFC 3339.

    *dead_letters* and *conflicts* are those that wait for a person, where PostgreSQL said
    so, else those that ever were; *hub_lost* those that nobody has acknowledged.
    """

    #: ``idle``, ``draining``, ``held``, ``blocked``, ``no-hub``; ``unknown`` without a drainer.
    state: str
    #: ``ok``, ``away``, ``misconfigured``, ``schema``; ``unknown`` without a drainer.
    hub: str
    rows_waiting: int
    reason: str = ""
    waiting_since: str | None = None
    last_delivery: str | None = None
    dead_letters: int = 0
    conflicts: int = 0
    hub_lost: int = 0
    hand_back: str = ""
    running: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return it as the routes show it."""
        return asdict(self)

    @property
    def trouble(self) -> tuple[str, ...]:
        """What needs a person, one line each with the way out; any of it is ``degraded``.

        Conflicts are not among it: nothing of them is lost, and boxes that share rows
        have some in every outage. PostgreSQL being away is not, either.
        """
        lines = []
        if not self.running:
            lines.append(
                "edgepaas sync does not run: rows stay on this box; 'systemctl status "
                "edgepaas-sync' says why ('edgepaas up' runs it by itself)"
            )
        elif self.state == "blocked" or self.hub in ("misconfigured", "schema"):
            why = f": {self.reason}" if self.reason else ""
            lines.append(f"rows cannot go to PostgreSQL until somebody acts{why}")
        if self.dead_letters:
            lines.append(f"{_count(self.dead_letters, 'dead letter')}; {_TELL}")
        if self.hub_lost:
            lines.append(
                f"PostgreSQL lost {_count(self.hub_lost, 'row')} that it had confirmed (an older "
                "backup?); once that is dealt with: 'edgepaas sync acknowledge'"
            )
        return tuple(lines)

    @property
    def line(self) -> str:
        """How the rows are, in one line for a person."""
        parts = [f"{_count(self.rows_waiting, 'row')} to be sent" if self.rows_waiting else ""]
        if self.rows_waiting and self.waiting_since:
            parts.append(f"since {self.waiting_since}")
        if self.conflicts:
            parts.append(_count(self.conflicts, "conflict"))
        if self.hand_back:
            parts.append(f"hand-back to PostgreSQL: {self.hand_back}")
        if self.hub == "away":
            parts.append(f"PostgreSQL is away{f' ({self.reason})' if self.reason else ''}")
        return ", ".join(part for part in parts if part) or "nothing waits for PostgreSQL"


class ForwardingWatch:
    """Reads ``run/sync.json`` when asked, at most twice a second; None without a hub."""

    def __init__(
        self,
        paths: "Paths",
        contract: "DatabaseContract",
        *,
        grace: float = GRACE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths = paths
        self._contract = contract
        self._grace = grace
        self._clock = clock
        self._lock = threading.Lock()
        self._fresh_at = clock()
        self._read_at = float("-inf")
        self._known: Forwarding | None = None

    def __call__(self) -> Forwarding | None:
        """Return what is known right now."""
        if not self._contract.hub_url:
            return None
        with self._lock:
            now = self._clock()
            if now - self._read_at >= _KEPT:
                self._read_at = now
                self._known = self._read(now)
            return self._known

    def _read(self, now: float) -> Forwarding:
        status = sync_status.read(self._paths)
        if status is not None and status.fresh:
            self._fresh_at = now
        return forwarding_of(
            status,
            waiting=self._contract.rows_waiting,
            running=now - self._fresh_at < self._grace,
            acknowledged=acknowledged(self._paths),
        )


def current_forwarding(paths: "Paths", contract: "DatabaseContract") -> Forwarding | None:
    """Return what ``run/sync.json`` says at this moment, without any grace; None without a hub."""
    return ForwardingWatch(paths, contract, grace=0.0)()


def forwarding_of(
    status: "SyncStatus | None", *, waiting: int, running: bool, acknowledged: int = 0
) -> Forwarding:
    """Return what the drainer's *status* means; *waiting* is what the decision counted.

    A drainer that is not there has left its last counts, but knows nothing of PostgreSQL.
    """
    if status is None:
        return Forwarding("unknown", "unknown", waiting, running=running)
    fresh = status.fresh
    return Forwarding(
        state=status.state if fresh else "unknown",
        hub=status.hub if fresh else "unknown",
        rows_waiting=status.rows_waiting,
        reason=status.reason if fresh else "",
        waiting_since=status.waiting_since,
        last_delivery=status.last_delivery,
        dead_letters=_open(status.open_dead_letters, status.dead_letters),
        conflicts=_open(status.open_conflicts, status.conflicts),
        hub_lost=max(0, status.hub_lost - acknowledged),
        hand_back=status.handback if fresh else "",
        running=running or fresh,
    )


def acknowledged(paths: "Paths") -> int:
    """Return how many rows that the hub lost an operator has acknowledged."""
    try:
        found = ACKNOWLEDGED.read_or_set_aside(paths.acknowledged)
    except OSError:
        found = None
    # Not acknowledged is the side to err on.
    return 0 if found is None else int(found["hub_lost"])


def acknowledge(paths: "Paths", hub_lost: int) -> None:
    """Remember that somebody knows of *hub_lost* rows; raises OSError."""
    ACKNOWLEDGED.write(paths.acknowledged, {"hub_lost": hub_lost})


def _open(counted: int | None, ever: int) -> int:
    return ever if counted is None else counted


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
