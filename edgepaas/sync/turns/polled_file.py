# SPDX-License-Identifier: Apache-2.0
"""The SQLite file as the drainer has it open, and whether rows may wait in it."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgepaas.decision.waiting import rows_waiting
from edgepaas.outbox import fence, ledger
from edgepaas.outbox.stream import read_stream
from edgepaas.outbox.versions import UnknownOutbox
from edgepaas.sync.box_file import BoxFile, open_box_file
from edgepaas.sync.handback import lift_leftover_fence
from edgepaas.timing.due import Interval

if TYPE_CHECKING:
    from edgepaas.sync.context import SyncContext
    from edgepaas.sync.report import LiveStatus

#: Seconds between two polls for writers that send no wake-up. Where PostgreSQL serves, only
#: scripts write to the file.
POLL_INTERVAL = 1.0
POLL_INTERVAL_IN_PRIMARY = 5.0


class PolledFile:
    """The file, opened when there is one, and looked at for writers that announce nothing."""

    def __init__(
        self, context: "SyncContext", report: "LiveStatus", *, opened: Callable[[], None]
    ) -> None:
        """*opened* is called when it was looked for, to be opened anew."""
        self.current: BoxFile | None = None
        #: Whether rows may wait that have not been looked at.
        self.dirty = True
        self.due = Interval(
            POLL_INTERVAL if context.contract.sqlite_active else POLL_INTERVAL_IN_PRIMARY
        )
        self._context = context
        self._report = report
        self._opened = opened

    @property
    def captures(self) -> bool:
        """Whether it is open, and what is written to it is captured."""
        return self.current is not None and self.current.captures

    def poll(self, *, handing_back: bool) -> BoxFile | None:
        """Return the file, open; polls for other writers when that is due.

        Raises UnknownOutbox, sqlite3.Error, OSError.
        """
        if self.current is None and (self.dirty or self.due.left <= 0):
            self.due.done()
            self.current = self._open()
            if self.current is not None and self.current.captures:
                lift_leftover_fence(
                    self.current.connection, self._context.paths, self._context.contract
                )
            self.dirty = self.current is not None
            self._opened()
        elif self.current is not None and self.due.left <= 0:
            self.due.done()
            self.dirty = self.current.changed() or self.dirty
            if not handing_back and self.current.captures:
                fence.lift_if_expired(self.current.connection)
        return self.current

    def read_ledger(self, file: BoxFile) -> None:
        """Report how many rows wait in *file*."""
        if not file.captures:
            self._report.set_waiting(0, time.time())
            return
        stream = read_stream(file.connection)
        self._report.set_ledger(ledger.read(file.connection), time.time())
        self._report.stream_id = stream.stream_id if stream is not None else ""

    def count_waiting(self, *, handing_back: bool) -> None:
        """While the hub is unreachable: count the rows that wait, with each poll."""
        if self.due.left <= 0 and (file := self.poll(handing_back=handing_back)) is not None:
            self.read_ledger(file)

    def close(self) -> None:
        """Close it; the next poll opens it again."""
        file, self.current = self.current, None
        if file is not None:
            file.close()

    def _open(self) -> BoxFile | None:
        """Open the file; counts the rows in one of a newer release, which is refused."""
        path, paths = self._context.contract.sqlite_path, self._context.paths
        try:
            return open_box_file(path, paths)
        except UnknownOutbox:
            found = rows_waiting(path, paths.database_lock)
            if found.readable:
                self._report.set_waiting(found.rows, time.time())
            raise
