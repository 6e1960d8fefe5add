# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL went back in time: looked for every few seconds, and when a mark did not move."""

import logging
from typing import TYPE_CHECKING

from edgepaas.errors import DatabaseError
from edgepaas.marks.keeper import COMPARE_EVERY
from edgepaas.timing.periodic_task import PeriodicTask, TaskAlert

if TYPE_CHECKING:
    from edgepaas.database.postgresql.database import ServerDatabase
    from edgepaas.health.state import StateBoard
    from edgepaas.marks.keeper import MarkKeeper

logger = logging.getLogger("edgepaas.service")

#: Under which changes that are not captured are held against the box.
_CAPTURE = "hub-capture"


class MarkWatch:
    """Compares the marks of *database*, which *keeper* keeps, while PostgreSQL serves."""

    def __init__(
        self,
        database: "ServerDatabase",
        keeper: "MarkKeeper",
        state: "StateBoard | None" = None,
    ) -> None:
        """*state*: where changes that are not captured are held against the box."""
        self._database = database
        self._keeper = keeper
        self._state = state
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
            return
        if self._state is None:
            return
        why_not = "" if self._keeper.companion is None else self._keeper.companion.why_not
        if why_not and self._keeper.journal is not None:
            self._state.note(_CAPTURE, f"PostgreSQL captures no changes: {why_not}")
        else:
            self._state.withdraw(_CAPTURE)
