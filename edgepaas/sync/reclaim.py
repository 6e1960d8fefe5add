# SPDX-License-Identifier: Apache-2.0
"""Deleting from the box what PostgreSQL confirmed more than RETENTION ago."""

import logging
import sqlite3

from edgepaas.outbox.resending import fact_copies
from edgepaas.outbox.space.retention import reclaim
from edgepaas.timing.due import Interval

#: Seconds between two attempts while there is nothing to delete, and rows of one transaction.
INTERVAL = 60.0
ROWS_AT_ONCE = 2000
#: Seconds by which the two clocks may differ where ages are counted in days.
MAX_CLOCK_OFFSET = 3600.0

logger = logging.getLogger("edgepaas.sync")


class Reclaimer:
    """Deletes old delivered rows, a part at a time; :attr:`due` is when the next part is."""

    def __init__(self, older_than: float) -> None:
        """*older_than*: RETENTION, in seconds."""
        self._older_than = older_than
        self.due = Interval(INTERVAL)
        self.due.done()

    def run(self, connection: sqlite3.Connection, clock_offset: float | None) -> bool:
        """Delete some; returns whether any rows were deleted, and more may be left.

        *clock_offset*: PostgreSQL's clock less ours, in seconds. Where they differ too much
        nothing is deleted: by a clock that jumped years ahead every row would be old. The
        disk budget makes room whatever the clock shows. Raises sqlite3.Error.
        """
        if abs(clock_offset or 0.0) > MAX_CLOCK_OFFSET:
            logger.warning("nothing is reclaimed: PostgreSQL's clock and ours do not agree")
            self.due.done()
            return False
        try:
            copies = fact_copies.reclaim(
                connection, older_than=self._older_than, limit=ROWS_AT_ONCE
            )
            # The second gives the room of both back to the disk.
            reclaimed = reclaim(connection, older_than=self._older_than, limit=ROWS_AT_ONCE)
        except sqlite3.IntegrityError as error:  # e.g. a trigger that forbids the deletion
            logger.warning("rows that were delivered long ago cannot be deleted: %s", error)
            self.due.done()
            return False
        if not reclaimed.rows and not copies:
            self.due.done()
            return False
        logger.info(
            "reclaimed %d delivered rows and %d copies, %d bytes",
            reclaimed.rows, copies, reclaimed.bytes,
        )  # fmt: skip
        return True
