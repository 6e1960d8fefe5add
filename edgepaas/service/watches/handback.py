# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL takes over: the drainer leaves a file, and the service ends for a new decision.

A fence whose drainer died is lifted here as well, once it has expired: no write would pass
until the next start.
"""

import logging
import sqlite3
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.decision.rehearsal_record import fresh_rehearsal
from edgepaas.errors import EXIT_DECIDE_AGAIN, EdgePaaSError
from edgepaas.outbox import fence
from edgepaas.service.shutdown import Control, Ending
from edgepaas.sync.handback import hand_back_requested
from edgepaas.timing.periodic_task import PeriodicTask, TaskAlert

if TYPE_CHECKING:
    from pathlib import Path

    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths

#: Seconds between two looks for the file: writes wait meanwhile.
LOOK_EVERY = 0.1
#: Seconds between two looks at the fence.
_FENCE_EVERY = 1.0
#: Seconds that open requests have: they only read, and the takeover has its own bound
#: (edgepaas.sync.handback.TAKEOVER_TIMEOUT).
PATIENCE = 5.0
_BUSY_TIMEOUT = 1.0

logger = logging.getLogger("edgepaas.service")


class HandBackWatch:
    """Watches while SQLite serves and there is a hub."""

    def __init__(
        self,
        contract: "DatabaseContract",
        paths: "Paths",
        control: Control,
        patience: float,
        *,
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        """*patience*: seconds that open requests may take when the service stops.

        *announce* is called when a rehearsal has passed, and the service is about to end.
        """
        self._announce = announce
        self._rehearsal_seen = _version_of(paths.rehearsal)
        self._contract = contract
        self._paths = paths
        self._control = control
        self._patience = min(patience, PATIENCE)
        self._looked = float("-inf")
        self._connection: sqlite3.Connection | None = None

    def task(self) -> PeriodicTask | None:
        """Return the task that watches; None where PostgreSQL has nothing to take over."""
        if not (self._contract.sqlite_active and self._contract.hub_url):
            return None
        return PeriodicTask(
            "hand-back",
            self.look,
            every=LOOK_EVERY,
            first_after=LOOK_EVERY,
            release=self._close,
            alert=TaskAlert(
                "PostgreSQL cannot take over meanwhile, and a fence that was left may stop writes."
            ),
        )

    def look(self) -> None:
        """End the service when it is handed back; every second, lift a fence that expired."""
        if self.is_handed_back():
            reason = "PostgreSQL takes over: no row waits, the chain decides again"
            self._control.end(Ending(EXIT_DECIDE_AGAIN, reason, self._patience))
            return
        self._look_for_rehearsal()
        if time.monotonic() - self._looked < _FENCE_EVERY:
            return
        self._looked = time.monotonic()
        try:
            if self._connection is None:
                self._connection = self._open()
            lift_expired(self._connection)
        except (sqlite3.Error, EdgePaaSError) as error:
            # The database has watches of its own; the fence is looked at again.
            logger.debug("the fence cannot be read: %s", error)

    def _look_for_rehearsal(self) -> None:
        found = _version_of(self._paths.rehearsal)
        if found == self._rehearsal_seen:
            return
        self._rehearsal_seen = found
        if fresh_rehearsal(self._paths, self._contract.hub_url) is not None:
            self._announce()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def is_handed_back(self) -> bool:
        """Whether the drainer handed back the decision that this service runs on."""
        return self._paths.hand_back.exists() and hand_back_requested(
            self._paths, self._contract.generation
        )

    def _open(self) -> sqlite3.Connection:
        return open_sqlite(self._contract.sqlite_path, busy_timeout=_BUSY_TIMEOUT)


def _version_of(path: "Path") -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def lift_expired(connection: sqlite3.Connection) -> bool:
    """Lift a fence that has expired; returns whether there was one. Raises sqlite3.Error."""
    if not fence.lift_if_expired(connection):
        return False
    logger.warning("writes pass again: the fence of a drainer that is gone has expired")
    return True
