# SPDX-License-Identifier: Apache-2.0
"""What the API gives about changes of devices and rules."""

import json
from typing import Any

import marshmallow as ma

from edgepaas.app.api import PageQuery, PlainDumper, TextField
from edgepaas.telemetry.models import ACTIONS, KINDS, NAME_LENGTH
from edgepaas.telemetry.moment_fields import Moment
from edgepaas.telemetry.schemas import PageFields


class Fields(ma.fields.Dict):
    """Fields of a row by their names; given, never taken."""

    def plain_dumper(self) -> PlainDumper:
        """Return what writes them; SQLite has them as JSON's text."""
        return _dump_fields


def _dump_fields(value: Any) -> str:
    return json.dumps(json.loads(value) if type(value) is str else value, separators=(",", ":"))


class ChangeSchema(ma.Schema):
    """A change of a device or a rule."""

    id = ma.fields.UUID(metadata={"description": "The change's id."})
    kind = ma.fields.String(
        validate=ma.validate.OneOf(KINDS), metadata={"description": "What was changed."}
    )
    row_id = ma.fields.UUID(metadata={"description": "The id of the device or the rule."})
    name = TextField(longest=NAME_LENGTH, metadata={"description": "Its name, after the change."})
    action = ma.fields.String(
        validate=ma.validate.OneOf(ACTIONS), metadata={"description": "What was done."}
    )
    old = Fields(
        allow_none=True,
        metadata={"description": "The fields that changed, as they were; null: it was created."},
    )
    new = Fields(
        allow_none=True,
        metadata={"description": "The fields that changed, as they are; null: it was deleted."},
    )
    changed_at = Moment(metadata={"description": "When it was changed, by the box's clock."})
    changed_by = TextField(
        longest=NAME_LENGTH, metadata={"description": "The name of the token that changed it."}
    )
    token_id = TextField(longest=100, metadata={"description": "The id of that token."})
    node = ma.fields.UUID(
        allow_none=True, metadata={"description": "The id of the box that changed it."}
    )


class ChangeQuery(PageQuery):
    """Which changes."""

    kind = ma.fields.String(
        load_default=None,
        validate=ma.validate.OneOf(KINDS),
        metadata={"description": "Changes of devices, or of rules; all without it."},
    )
    row_id = ma.fields.UUID(
        load_default=None,
        metadata={"description": "Changes of the device or rule of this id; all without it."},
    )
    changed_by = TextField(
        shortest=1,
        longest=NAME_LENGTH,
        load_default=None,
        metadata={"description": "Changes by the token of this name; all without it."},
    )


class ChangePage(PageFields):
    """Changes in the order in which they were made."""

    items = ma.fields.List(
        ma.fields.Nested(ChangeSchema),
        required=True,
        metadata={"description": "The changes of this page."},
    )
