# SPDX-License-Identifier: Apache-2.0
"""The turn of the hub's schema: a revision that waits for rows is tried again by itself."""

import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgepaas.schema.hub_conditions import HubConditions, read_hub_conditions
from edgepaas.sync.hub.schema_upgrade import HubSchemaUpgrade, SchemaBlocked

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths
    from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")

#: Seconds until a revision that waits is tried again: other boxes send their rows meanwhile.
REVISION_RETRY = 600.0
#: Seconds until it is looked whether somebody has added what this box's role may not.
RIGHTS_RETRY = 3600.0


class SchemaTurn:
    """Runs ``edgepaas schema --hub`` again while something holds up the hub's schema.

    At once when the rows that waited here are gone. Nothing costs anything where nothing does.
    """

    def __init__(
        self,
        paths: "Paths",
        schema: HubSchemaUpgrade,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths = paths
        self._schema = schema
        self._clock = clock
        self._looked: float | None = None
        self._open = HubConditions()
        self._had_rows = True

    def left(self, rows_waiting: int) -> float:
        """Return the seconds until it is due; infinity where nothing is held up.

        *rows_waiting*: those of this box.
        """
        if self._looked is None:
            self._look()
        if not self._open or self._looked is None:
            return math.inf
        if self._open.waiting and self._had_rows and not rows_waiting:
            return 0.0
        every = REVISION_RETRY if self._open.waiting else RIGHTS_RETRY
        return max(0.0, self._looked + every - self._clock())

    def take(self, hub: "Hub", rows_waiting: int) -> None:
        """Try again; raises HubUnreachable, Stopped.

        What fails now leaves the hub as it was, and rows are delivered as before.
        """
        try:
            self._schema.run()
        except SchemaBlocked as error:
            logger.warning("PostgreSQL's schema stays as it is: %s", error)
        hub.forget_tables()
        self._had_rows = rows_waiting > 0
        self._look()

    def forget(self) -> None:
        """Look again at what holds it up: the run for this connection may have changed that.

        Rows may have waited then; they go home before the first look.
        """
        self._looked, self._had_rows = None, True

    def _look(self) -> None:
        self._looked = self._clock()
        self._open = read_hub_conditions(self._paths)
