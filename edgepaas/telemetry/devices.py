# SPDX-License-Identifier: Apache-2.0
"""``/api/v1/devices``: what posts readings, by name; every box derives the same id from it."""

import operator
import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from edgepaas.app import Box
from edgepaas.app.api import ApiBlueprint, Problem, current_caller
from edgepaas.app.facts import insert_new
from edgepaas.app.models import utc_now
from edgepaas.telemetry import rows
from edgepaas.telemetry.allowance import Allowance
from edgepaas.telemetry.changing.record import ChangeRecord
from edgepaas.telemetry.intake import device_id
from edgepaas.telemetry.models import DEVICES
from edgepaas.telemetry.pages import PagedList
from edgepaas.telemetry.schemas import (
    DeviceChangeSchema,
    DevicePage,
    DeviceQuery,
    DeviceSchema,
)

#: The list, as DevicePage describes it.
_LIST = PagedList(DEVICES, "created_at", DeviceSchema(), {"name": ("name", operator.eq)})

#: How the API's description names the parameter of a path.
_PATH = [{"in": "path", "name": "device_id", "description": "The device's id."}]


def devices_blueprint(box: Box, allowed: Allowance) -> ApiBlueprint:
    """Return the devices' endpoints on *box*; *allowed* says how many a caller may name."""
    api = ApiBlueprint(
        "devices", __name__, url_prefix="/api/v1/devices", description="What posts readings."
    )
    database = box.database

    @api.route("", methods=["POST"])
    @api.arguments(DeviceSchema)
    @api.response(201, DeviceSchema)
    @api.may_answer(409)
    def create_device(given: dict[str, Any]) -> Any:
        """Register a device before its first reading does"""
        allowed.take(current_caller().id, [given["name"]])
        return _create(box, given)

    @api.route("")
    @api.answers_query(DeviceQuery, DevicePage)
    @api.may_answer(409)
    def list_devices(query: dict[str, Any]) -> str:
        """List devices in the order in which they were first seen"""
        return _LIST.answer(box, query)

    @api.route("/<uuid:device_id>", parameters=_PATH)
    @api.response(200, DeviceSchema)
    @api.may_answer(404)
    def get_device(device_id: uuid.UUID) -> Any:
        """Return one device"""
        return rows.get(database, DEVICES, device_id)

    @api.route("/<uuid:device_id>", methods=["PATCH"], parameters=_PATH)
    @api.arguments(DeviceChangeSchema)
    @api.response(200, DeviceSchema)
    @api.may_answer(404)
    def change_device(changes: dict[str, Any], device_id: uuid.UUID) -> Any:
        """Change the given fields of a device"""
        record = ChangeRecord.of_request(box)
        return rows.change(database, DEVICES, device_id, lambda stored: changes, record)

    @api.route("/<uuid:device_id>", methods=["DELETE"], parameters=_PATH)
    @api.response(204)
    @api.may_answer(404)
    def delete_device(device_id: uuid.UUID) -> None:
        """Delete a device; its readings stay, and its next one registers it again"""
        rows.delete_row(database, DEVICES, device_id, ChangeRecord.of_request(box))

    return api


def _create(box: Box, given: Mapping[str, Any]) -> Mapping[str, Any]:
    now = utc_now()
    identity = device_id(given["name"])
    row = {**given, "id": identity, "created_at": now, "updated_at": now}
    record = ChangeRecord.of_request(box)

    def work(session: Session) -> bool:
        if not insert_new(session, DEVICES, [row]):
            return False
        record.created(session, DEVICES, row)
        return True

    if not box.database.write(work):
        raise Problem(
            409,
            f"There is a device of this name already: PATCH /api/v1/devices/{identity} changes it.",
            details=[{"path": "name", "message": "There is a device of this name already."}],
        )
    return row
