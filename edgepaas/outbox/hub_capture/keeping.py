# SPDX-License-Identifier: Apache-2.0
"""Captured changes on their way into the journal, between COMMIT's answer and the client's."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgepaas.errors import DatabaseBusy, DatabaseError

if TYPE_CHECKING:
    from edgepaas.marks.journaling import StreamJournal
    from edgepaas.outbox.hub_capture.rider import WrittenTransaction

#: Seconds for which nothing is committed after the journal could not be written: the next
#: transaction would be stored on PostgreSQL, and could not be acknowledged either.
PAUSE = 2.0


class JournaledChanges:
    """Keeps captured changes in the journal that *journal* returns, None where there is none."""

    def __init__(
        self,
        journal: "Callable[[], StreamJournal | None]",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._failure: DatabaseError | None = None
        self._failed_at = 0.0

    @property
    def works(self) -> bool:
        """Whether there is a journal to keep anything in."""
        return self._journal() is not None

    def next_order(self) -> int:
        """Return the next number; raises why nothing can be kept, and then nothing is committed."""
        failure = self._failure
        if failure is not None and self._clock() - self._failed_at < PAUSE:
            raise type(failure)(str(failure))
        journal = self._journal()
        if journal is None:
            raise DatabaseBusy("the journal was closed; nothing was written")
        return journal.next_order()

    def keep(self, written: "WrittenTransaction") -> None:
        """Write *written*, which PostgreSQL has; raises DatabaseFull, DatabaseBusy."""
        journal = self._journal()
        try:
            if journal is None:
                raise DatabaseBusy("the journal was closed")
            stream_id, mark = written.position
            journal.record(stream_id, mark, written.changes, order=written.order)
        except DatabaseError as error:
            self._failure = error
            self._failed_at = self._clock()
            raise type(error)(
                f"PostgreSQL has stored the write, which is not acknowledged since it cannot be "
                f"kept on the box as well: {str(error).removesuffix('; nothing was written')}"
            ) from error
        self._failure = None
