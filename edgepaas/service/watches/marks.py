# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL went back in time: looked for every few seconds, and when a mark did not move."""

import logging
from typing import TYPE_CHECKING

from edgepaas.errors import DatabaseError
from edgepaas.marks.keeper import COMPARE_EVERY
from edgepaas.timing.periodic_task import PeriodicTask, TaskAlert

if TYPE_CHECKING:
    from edgepaas.database.postgresql.database import ServerDatabase
    from edgepaas.marks.keeper import MarkKeeper

logger = logging.getLogger("edgepaas.service")


class MarkWatch:
    """Compares the marks of *database*, which *keeper* keeps, while PostgreSQL serves."""

    def __init__(self, database: "ServerDatabase", keeper: "MarkKeeper") -> None:
        self._database = database
        self.task = PeriodicTask(
            "marks",
            self._look,
            every=COMPARE_EVERY,
            first_after=COMPARE_EVERY,
            alert=TaskAlert("Rows that PostgreSQL loses are not found meanwhile."),
        )
        keeper.suspect = self.task.wake

    def _look(self) -> None:
        try:
            self._database.compare_marks()
        except DatabaseError as error:
            # A lost database has a watch of its own, and each new connection compares.
            logger.debug("the marks are not compared: %s", error)
