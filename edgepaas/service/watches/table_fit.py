# SPDX-License-Identifier: Apache-2.0
"""Tables of PostgreSQL that were altered while it serves: they may not keep what is written.

A column that was narrowed rounds every value, and a table that lost its key takes a row twice;
no statement fails for it. Every few seconds one short text says whether a table was altered at
all; where one was, its columns and key are read and judged (:mod:`edgepaas.outcomes.fit`).
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgepaas.errors import DatabaseError
from edgepaas.outbox.layout import FORWARDED
from edgepaas.outcomes.causes import Refusal
from edgepaas.outcomes.fit import fingerprints_question, fit_question, judge, shapes_of
from edgepaas.timing.periodic_task import PeriodicTask, TaskAlert

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from edgepaas.database import Database

logger = logging.getLogger("edgepaas.service")

#: Seconds between two looks.
LOOK_EVERY = 5.0


class FitWatch:
    """Looks at the tables of *database*, which is PostgreSQL, while it serves."""

    def __init__(
        self,
        database: "Database",
        models: Mapping[str, Any],
        report: Callable[[Sequence[Refusal]], None],
        *,
        rehearse: Callable[[str], Refusal | None] = lambda _table: None,
    ) -> None:
        """*models*: ``tables`` of tables.json. *report* gets the tables that do not fit.

        *rehearse* tries a write to a table whose triggers may remove rows; raises DatabaseError.
        """
        self._database = database
        self._models = models
        self._report = report
        self._rehearse = rehearse
        #: What the tables were like when they were judged last.
        self._judged: str | None = None
        self.task = PeriodicTask(
            "table-fit",
            self.look,
            every=LOOK_EVERY,
            first_after=LOOK_EVERY,
            alert=TaskAlert("Tables that change what is written to them are not found meanwhile."),
        )

    @cached_property
    def _fingerprints(self) -> str:
        return fingerprints_question(self._models)

    def look(self) -> None:
        """Judge the tables if one was altered since they were judged, and report."""
        try:
            with self._database.read() as session:
                connection = session.connection()
                fingerprints = _ask(connection, self._fingerprints)
                if fingerprints == self._judged:
                    return
                answer = _ask(connection, fit_question(self._models))
            unfit = judge(self._models, answer).refusals
            found = (*unfit, *self._swallowing(answer))
        except DatabaseError as error:
            # A lost database has a watch of its own.
            logger.debug("the tables are not looked at: %s", error)
            return
        self._judged = fingerprints
        for one in found:
            logger.warning("%s", one.text)
        self._report(found)

    def _swallowing(self, answer: str) -> Iterator[Refusal]:
        """Give the tables whose triggers remove every row: no statement would fail for it."""
        for name, shape in shapes_of(answer).items():
            # A rehearsal of another table shows nothing, and may be an error in PostgreSQL's log.
            if shape.removing and self._models[name]["kind"] in FORWARDED:
                refusal = self._rehearse(name)
                # What fails is found by the writes themselves.
                if refusal is not None and not refusal.sqlstate:
                    yield refusal


def _ask(connection: "Connection", question: str) -> str:
    # pg8000 looks for its placeholders.
    return str(connection.exec_driver_sql(question.replace("%", "%%")).scalar_one())
