# SPDX-License-Identifier: Apache-2.0
"""A journal that cannot be read: waited for a while, then an operator is notified.

What waits in the outbox is delivered meanwhile. What PostgreSQL lost of the journal is not, and
the history of the hub stays broken in the file, so that it is sent when the journal can be read.
"""

import logging
import time
from collections.abc import Callable

from edgepaas.alerts.catalogue import JOURNAL_UNREAD
from edgepaas.outbox.journal.access import JournalUnreadable

logger = logging.getLogger("edgepaas.sync")

#: Seconds for which rows wait for the journal: those that PostgreSQL lost are older.
PATIENCE = 30.0
#: Seconds between two alerts while it lasts.
ALERT_EVERY = 3600.0


class JournalTrouble:
    """Counts how long the journal could not be read; raises the alert, and resolves it."""

    def __init__(
        self, *, patience: float = PATIENCE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._patience = patience
        self._clock = clock
        self._since: float | None = None
        self._alerted_at = float("-inf")
        self._clear = False

    def record_failure(self, error: JournalUnreadable) -> bool:
        """Note *error*; whether it lasts for longer than anything waits for it."""
        now = self._clock()
        if self._since is None:
            self._since = now
            logger.warning("%s", error)
        self._clear = False
        if now - self._since < self._patience:
            return False
        if now - self._alerted_at >= ALERT_EVERY:
            self._alerted_at = now
            JOURNAL_UNREAD.raise_alert(
                f"{error}. What PostgreSQL may have lost of what it had acknowledged is not sent "
                "again; the rows that wait on this box are delivered"
            )
        return True

    def record_success(self) -> None:
        """Note that the journal was read; resolves also the alert of an earlier process."""
        if self._clear:
            return
        self._clear = True
        self._since, self._alerted_at = None, float("-inf")
        JOURNAL_UNREAD.resolve_alert("the journal can be read")
