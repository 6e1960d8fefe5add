# SPDX-License-Identifier: Apache-2.0
"""The drainer's turn at handing back: a rehearsal beside the drain, then the steps."""

import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.outbox.ledger import pending
from edgepaas.sync.takeover.rehearsal import Rehearsal, RehearsalFailed

if TYPE_CHECKING:
    from edgepaas.sync.handback import HandBack
    from edgepaas.sync.hub.connection import Hub
    from edgepaas.sync.report import LiveStatus

logger = logging.getLogger("edgepaas.sync")

#: Sends a batch to the hub; calls what it is given when it is about to read the rows.
SendBatch = Callable[[sqlite3.Connection, "Hub", Callable[[], None]], int]


@dataclass(frozen=True)
class TakeoverTurn:
    """What the main thread does once nothing speaks against handing back."""

    handback: "HandBack"
    rehearsal: Rehearsal
    report: "LiveStatus"
    send_batch: SendBatch
    send_heartbeat: Callable[["Hub"], None]

    def take(self, connection: sqlite3.Connection, hub: "Hub") -> None:
        """Begin a rehearsal, or hand back where one has passed.

        Raises TakeoverFailed and what the hub and the file raise; SQLite goes on serving.
        """
        try:
            rehearsed = self.rehearsal.take()
        except RehearsalFailed as error:
            self.handback.refuse(str(error))
            logger.warning("PostgreSQL is not handed back to: %s", error)
            return
        if rehearsed is None:
            self.rehearsal.begin()
            return
        logger.debug("the rehearsal took %.1f s", rehearsed.seconds)

        def drain(before_reading: Callable[[], None]) -> None:
            self.send_batch(connection, hub, before_reading)
            self.report.set_waiting(pending(connection), time.time())

        # The deadline aborts the connection, since a silent server never answers.
        self.handback.attempt(
            connection,
            drain,
            lambda: self.send_heartbeat(hub),
            abort=hub.abort,
            revisions=rehearsed.revisions,
        )
