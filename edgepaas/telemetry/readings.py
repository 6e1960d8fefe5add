# SPDX-License-Identifier: Apache-2.0
"""``/api/v1/readings``: one, many or a stream of readings in; pages of them out."""

import operator
import uuid
from typing import Any

from sqlalchemy import select

from edgepaas.app import Box
from edgepaas.app.api import ApiBlueprint, Problem
from edgepaas.telemetry.allowance import Allowance
from edgepaas.telemetry.deleting.routes import add_deletions
from edgepaas.telemetry.intake import ReadingIntake
from edgepaas.telemetry.models import READINGS
from edgepaas.telemetry.pages import PagedList
from edgepaas.telemetry.rules.follower import RuleFollower
from edgepaas.telemetry.schemas import ReadingPage, ReadingQuery, ReadingSchema

#: The list, as ReadingPage describes it.
_LIST = PagedList(
    READINGS,
    "recorded_at",
    ReadingSchema(),
    {
        "device": ("device", operator.eq),
        "metric": ("metric", operator.eq),
        "written_by": ("written_by", operator.eq),
        "node": ("node", operator.eq),
        "since": ("recorded_at", operator.ge),
        "until": ("recorded_at", operator.lt),
    },
    item_order=(
        *("id", "device", "device_id", "metric", "value", "unit"),
        *("recorded_at", "received_at", "written_by", "node"),
    ),
    page_order=("items", "next_cursor", "partial"),
)

#: How the API's description names the parameter of a path.
_PATH = [{"in": "path", "name": "reading_id", "description": "The reading's id."}]


def readings_blueprint(box: Box, rules: RuleFollower, devices: Allowance) -> ApiBlueprint:
    """Return the readings' endpoints on *box*; *rules* judge what is stored.

    *devices* says for how many devices a caller speaks.
    """
    api = ApiBlueprint(
        "readings", __name__, url_prefix="/api/v1/readings", description="Measured values."
    )
    ReadingIntake(box, rules, devices).route.register(api, box.database)
    add_deletions(api, box)

    @api.route("")
    @api.answers_query(ReadingQuery, ReadingPage)
    @api.may_answer(409)
    def list_readings(query: dict[str, Any]) -> str:
        """List readings in the order in which they were recorded"""
        return _LIST.answer(box, query)

    @api.route("/<uuid:reading_id>", parameters=_PATH)
    @api.response(200, ReadingSchema)
    @api.may_answer(404)
    def get_reading(reading_id: uuid.UUID) -> Any:
        """Return one reading"""
        statement = select(READINGS).where(READINGS.c.id == reading_id)
        with box.database.read() as session:
            row = session.execute(statement).mappings().one_or_none()
        if row is None:
            raise Problem(404, f"There is no reading {reading_id}.")
        return row

    return api
