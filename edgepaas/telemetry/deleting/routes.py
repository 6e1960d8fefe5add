# SPDX-License-Identifier: Apache-2.0
"""``/api/v1/readings/deletions``: readings deleted by an operator, with who and why.

A deletion is itself a fact: it holds what was deleted, is stored in the transaction that
deletes, and reaches PostgreSQL in the same one.
"""

import operator
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from edgepaas.app import Box
from edgepaas.app.api import ApiBlueprint, Caller, Problem, current_caller
from edgepaas.app.facts import Row, delete_facts, insert_new
from edgepaas.app.models import utc_now, uuid7
from edgepaas.telemetry.deleting.schemas import (
    DeletedSchema,
    DeletionPage,
    DeletionQuery,
    DeletionRequest,
    DeletionSchema,
    SelectionRequest,
)
from edgepaas.telemetry.limits import READINGS_MAX
from edgepaas.telemetry.models import READING_DELETIONS, READINGS
from edgepaas.telemetry.pages import PagedList

_LIST = PagedList(
    READING_DELETIONS,
    "deleted_at",
    DeletionSchema(),
    {
        "device": ("device", operator.eq),
        "metric": ("metric", operator.eq),
    },
)
#: Keys of one statement.
_PAGE = 500
_COPIED = ("device", "metric", "value", "unit", "recorded_at", "received_at", "written_by")


def add_deletions(api: ApiBlueprint, box: Box) -> None:
    """Add the endpoints below the readings' blueprint *api*."""
    most = box.settings.integer(READINGS_MAX.name)

    def carry_out(given: Mapping[str, Any]) -> dict[str, int]:
        return box.database.write(_Deletion(given, current_caller(), box.node_id, most).carry_out)

    @api.route("/deletions", methods=["POST"])
    @api.arguments(DeletionRequest)
    @api.response(201, DeletedSchema)
    def delete_readings(given: dict[str, Any]) -> Any:
        """Delete readings for good, by their ids

        Who deletes and why is kept with what was deleted, here and on PostgreSQL. A repeat
        deletes nothing more.
        """
        return carry_out(given)

    @api.route("/deletions/selected", methods=["POST"])
    @api.arguments(SelectionRequest)
    @api.response(201, DeletedSchema)
    @api.may_answer(409)
    def delete_selected_readings(given: dict[str, Any]) -> Any:
        """Delete the readings of a device and a metric between two moments, for good

        `expected` has to be how many they are, so that nobody deletes more than was looked at:
        409 says the number. Without it they are counted, and none is deleted.
        """
        return carry_out(given)

    @api.route("/deletions")
    @api.answers_query(DeletionQuery, DeletionPage)
    @api.may_answer(409)
    def list_deletions(query: dict[str, Any]) -> str:
        """List deleted readings in the order in which they were deleted"""
        return _LIST.answer(box, query)


class _Deletion:
    """One request to delete: which readings, by whom and why."""

    def __init__(self, given: Mapping[str, Any], caller: Caller, node_id: str, most: int) -> None:
        self._given, self._caller, self._node_id, self._most = given, caller, node_id, most

    def carry_out(self, session: Session) -> dict[str, int]:
        """Delete, and keep what was deleted; return the answer. Raises Problem 409, 413."""
        wanted: list[uuid.UUID] = list(dict.fromkeys(self._given.get("ids", ())))
        found = self._named(session, wanted) if wanted else self._selected(session)
        counted = not wanted and self._given["expected"] is None
        if found and not counted:
            now = utc_now()
            insert_new(session, READING_DELETIONS, [self._record(row, now) for row in found])
            identities = [row["id"] for row in found]
            delete_facts(session, READINGS, identities, node_id=self._node_id)
        return {
            "deleted": 0 if counted else len(found),
            "missing": max(len(wanted) - len(found), 0),
            "matching": len(found),
        }

    def _named(self, session: Session, wanted: Sequence[uuid.UUID]) -> list[Row]:
        if len(wanted) > self._most:
            raise self._too_many()
        found: list[Row] = []
        for start in range(0, len(wanted), _PAGE):
            found += self._rows(session, [READINGS.c.id.in_(wanted[start : start + _PAGE])])
        return found

    def _selected(self, session: Session) -> list[Row]:
        given = self._given
        conditions: list[ColumnElement[bool]] = [
            READINGS.c.device == given["device"],
            READINGS.c.metric == given["metric"],
        ]
        if given.get("since") is not None:
            conditions.append(READINGS.c.recorded_at >= given["since"])
        if given.get("until") is not None:
            conditions.append(READINGS.c.recorded_at < given["until"])
        found = self._rows(session, conditions)
        if len(found) > self._most:
            raise self._too_many()
        if given["expected"] not in (None, len(found)):
            said = f"{len(found)} readings match, and {given['expected']} are expected"
            raise Problem(
                409,
                f"{said}; nothing was deleted.",
                details=[{"path": "expected", "message": f"{len(found)} readings match."}],
            )
        return found

    def _rows(self, session: Session, conditions: Sequence[ColumnElement[bool]]) -> list[Row]:
        statement = select(READINGS).where(*conditions).limit(self._most + 1).with_for_update()
        return [dict(row) for row in session.execute(statement).mappings()]

    def _record(self, row: Row, now: Any) -> Row:
        return {
            "id": uuid7(),
            "reading_id": row["id"],
            **{name: row[name] for name in _COPIED},
            "reading_node": row["node"],
            "deleted_at": now,
            "deleted_by": self._caller.name,
            "token_id": self._caller.id,
            "node": self._node_id,
            "reason": self._given["reason"],
        }

    def _too_many(self) -> Problem:
        return Problem(
            413,
            f"More than {self._most} readings ({READINGS_MAX.name}) at once; delete them in parts, "
            "by from and to.",
        )
