# SPDX-License-Identifier: Apache-2.0
"""A drill's endpoints: readings in, in ones and in lists; a device's row, changed."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import marshmallow as ma
from sqlalchemy import func, select, update

from edgepaas.app import Box
from edgepaas.app.api import ApiBlueprint, IntegerField, Problem, TextField
from edgepaas.app.append import Append, AppendRequest, AppendRoute
from edgepaas.app.models import name_id, utc_now
from edgepaas.drill.hosted.models import DEVICES, NAME_LENGTH, PADDING_LENGTH, READINGS


class ReadingSchema(ma.Schema):
    """A number that a device sends."""

    device = TextField(
        shortest=1,
        longest=NAME_LENGTH,
        required=True,
        metadata={"description": "The name of the device."},
    )
    value = IntegerField(
        least=1, required=True, metadata={"description": "The number that the device sends."}
    )
    padding = TextField(
        longest=PADDING_LENGTH,
        load_default="",
        metadata={"description": "Text that makes the row larger."},
    )


class CountSchema(ma.Schema):
    """How much is stored here."""

    readings = ma.fields.Integer(
        required=True, metadata={"description": "Readings that are stored here."}
    )


class DeviceSchema(ma.Schema):
    """What can be changed of a device."""

    description = TextField(
        longest=NAME_LENGTH, required=True, metadata={"description": "For people."}
    )


def post_readings(given: Sequence[Mapping[str, Any]], request: AppendRequest) -> Append:
    """Store readings, all of them or none"""
    now = utc_now()
    rows = [
        {**reading, "id": request.identity(position), "received_at": now}
        for position, reading in enumerate(given)
    ]
    devices = [
        {"id": name_id(DEVICES.name, name), "name": name, "description": None}
        for name in sorted({reading["device"] for reading in given})
    ]
    return Append(READINGS, rows, before={DEVICES: devices})


def blueprint(box: Box) -> ApiBlueprint:
    """Return the endpoints on *box*."""
    api = ApiBlueprint("drill", __name__, url_prefix="/drill", description="A drill's devices.")

    AppendRoute("/readings", ReadingSchema(), post_readings, noun="reading").register(
        api, box.database
    )

    @api.route("/readings")
    @api.response(200, CountSchema)
    def count_readings() -> Any:
        """Count what is stored here"""
        with box.database.read() as session:
            number = session.execute(select(func.count()).select_from(READINGS)).scalar_one()
        return {"readings": number}

    @api.route("/devices/<name>", methods=["PUT"])
    @api.arguments(DeviceSchema)
    @api.response(204)
    @api.may_answer(404)
    def describe_device(given: dict[str, Any], name: str) -> None:
        """Change a device's description"""
        identity: uuid.UUID = name_id(DEVICES.name, name)
        statement = update(DEVICES).where(DEVICES.c.id == identity).values(given)
        if not box.database.write(lambda session: session.execute(statement).rowcount):  # type: ignore[attr-defined]
            raise Problem(404, f"There is no device {name}.")

    return api
