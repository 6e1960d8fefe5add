# SPDX-License-Identifier: Apache-2.0
"""The turn of the mirror: one pass over the shared tables, now and then."""

import logging
import time
from typing import TYPE_CHECKING

from edgepaas.sync.mirror.ordered_rows import HistoryBroken, MirrorPostponed
from edgepaas.sync.status import Mirrored
from edgepaas.timing.due import Interval
from edgepaas.timing.moment import rfc3339

if TYPE_CHECKING:
    from edgepaas.sync.box_file import BoxFile
    from edgepaas.sync.hub.connection import Hub
    from edgepaas.sync.mirror.mirror import Mirror
    from edgepaas.sync.report import LiveStatus
    from edgepaas.sync.shutdown import StopRequest

logger = logging.getLogger("edgepaas.sync")

#: A pass takes no more than this share of the time.
_SHARE = 0.05


class MirrorTurn:
    """Runs *mirror* every *interval* seconds, less often where a pass takes long."""

    def __init__(
        self, mirror: "Mirror", interval: float, report: "LiveStatus", stop: "StopRequest"
    ) -> None:
        self.due = Interval(interval)
        self._mirror = mirror
        self._report = report
        self._stop = stop

    def take(self, file: "BoxFile", hub: "Hub") -> bool:
        """Run one pass, which may find that it has to wait; raises HubError, sqlite3.Error.

        Returns False where the hub went back in time: what it lost is to be sent first.
        """
        began = time.monotonic()
        try:
            with self._stop.abort_on_stop(hub.abort):
                result = self._mirror.run(file.connection, hub)
        except MirrorPostponed as error:
            logger.info("the mirror waits: %s", error)
            self.due.done()
            return not isinstance(error, HistoryBroken)
        self.due.done(longer=(time.monotonic() - began) / _SHARE)
        if result.written or result.deleted:
            logger.info("mirrored %d rows, deleted %d", result.written, result.deleted)
        if result.uncaptured:
            logger.warning(
                "%d shared rows were changed on this box past capture: they are left as they are "
                "for the audit", result.uncaptured,
            )  # fmt: skip
        self._report.mirror = Mirrored(rfc3339(time.time(), milliseconds=True), result.rows)
        return True
