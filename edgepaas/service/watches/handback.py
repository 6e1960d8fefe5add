# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL takes over: the drainer says so by a file, and the service ends for a new decision.

Here as well: a fence whose drainer died is lifted once it has expired, or no write would
pass until somebody came by.
"""

import contextlib
import logging
import sqlite3
import threading
import time
from typing import TYPE_CHECKING

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.errors import EXIT_DECIDE_AGAIN, EdgePaaSError
from edgepaas.outbox import fence
from edgepaas.service.shutdown import Control, Ending
from edgepaas.sync.handback import hand_back_requested

if TYPE_CHECKING:
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
    """Watches while SQLite serves and there is a hub; a thread of its own."""

    def __init__(
        self, contract: "DatabaseContract", paths: "Paths", control: Control, patience: float
    ) -> None:
        """*patience*: seconds that open requests may take when the service stops."""
        self._contract = contract
        self._paths = paths
        self._control = control
        self._patience = min(patience, PATIENCE)
        self._looked = float("-inf")

    def start(self) -> None:
        """Begin to watch, where there is something to watch for."""
        if self._contract.sqlite_active and self._contract.hub_url:
            threading.Thread(target=self._run, name="hand-back", daemon=True).start()

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            connection: sqlite3.Connection | None = None
            while not self._control.wait(LOOK_EVERY):
                if self.told():
                    reason = "PostgreSQL takes over: no row waits, the chain decides again"
                    self._control.end(Ending(EXIT_DECIDE_AGAIN, reason, self._patience))
                    return
                if time.monotonic() - self._looked < _FENCE_EVERY:
                    continue
                self._looked = time.monotonic()
                try:
                    if connection is None:
                        connection = stack.enter_context(contextlib.closing(self._open()))
                    lift_expired(connection)
                except (sqlite3.Error, EdgePaaSError) as error:
                    # The database has watches of its own; the fence is looked at again.
                    logger.debug("the fence cannot be looked at: %s", error)

    def told(self) -> bool:
        """Whether the drainer handed the decision that this service runs on back."""
        return self._paths.hand_back.exists() and hand_back_requested(
            self._paths, self._contract.generation
        )

    def _open(self) -> sqlite3.Connection:
        return open_sqlite(self._contract.sqlite_path, busy_timeout=_BUSY_TIMEOUT)


def lift_expired(connection: sqlite3.Connection) -> bool:
    """Lift a fence whose time is over, and say so; raises sqlite3.Error."""
    if not fence.lift_if_expired(connection):
        return False
    logger.warning("writes pass again: the fence of a drainer that is gone has expired")
    return True
