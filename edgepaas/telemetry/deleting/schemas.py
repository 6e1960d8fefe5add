# SPDX-License-Identifier: Apache-2.0
"""What the API takes and gives about deleted readings."""

from typing import Any

import marshmallow as ma

from edgepaas.app.api import IntegerField, PageQuery, TextField
from edgepaas.telemetry.models import NAME_LENGTH, REASON_LENGTH
from edgepaas.telemetry.moment_fields import Moment
from edgepaas.telemetry.schemas import PageFields, ReadingFields

_MOST_EXPECTED = 1_000_000


def _name(**kwargs: Any) -> TextField:
    return TextField(shortest=1, longest=NAME_LENGTH, visible=True, **kwargs)


def _reason() -> TextField:
    return TextField(
        shortest=1,
        longest=REASON_LENGTH,
        visible=True,
        required=True,
        metadata={"description": "Why; kept with what is deleted."},
    )


class DeletionRequest(ma.Schema):
    """Which readings are to be deleted, and why."""

    reason = _reason()
    ids = ma.fields.List(
        ma.fields.UUID(),
        required=True,
        validate=ma.validate.Length(min=1),
        metadata={"description": "The readings' ids."},
    )


class SelectionRequest(ma.Schema):
    """Which readings of a device and a metric are to be deleted, and why."""

    reason = _reason()
    device = _name(required=True, metadata={"description": "Readings of this device."})
    metric = _name(required=True, metadata={"description": "Readings of this metric."})
    since = Moment(data_key="from", metadata={"description": "Recorded at this moment or later."})
    until = Moment(data_key="to", metadata={"description": "Recorded before this moment."})
    expected = IntegerField(
        least=0,
        most=_MOST_EXPECTED,
        load_default=None,
        metadata={
            "description": "How many these are; any other number deletes nothing. Without it they "
            "are counted alone."
        },
    )


class DeletedSchema(ma.Schema):
    """What became of a deletion."""

    deleted = ma.fields.Integer(
        required=True, metadata={"description": "Readings that were deleted.", "minimum": 0}
    )
    missing = ma.fields.Integer(
        required=True,
        metadata={"description": "Ids that no reading has, as after a repeat.", "minimum": 0},
    )
    matching = ma.fields.Integer(
        required=True,
        metadata={"description": "Readings that were named or selected.", "minimum": 0},
    )


class DeletionSchema(ReadingFields):
    """A reading that was deleted."""

    id = ma.fields.UUID(metadata={"description": "The deletion's id."})
    reading_id = ma.fields.UUID(metadata={"description": "The id that the reading had."})
    received_at = Moment(metadata={"description": "When the box had accepted the reading."})
    written_by = TextField(
        longest=NAME_LENGTH,
        allow_none=True,
        metadata={"description": "The name of the token that wrote the reading."},
    )
    reading_node = ma.fields.UUID(
        allow_none=True, metadata={"description": "The id of the box that took the reading."}
    )
    deleted_at = Moment(metadata={"description": "When it was deleted."})
    deleted_by = TextField(
        longest=NAME_LENGTH, metadata={"description": "The name of the token that deleted it."}
    )
    token_id = TextField(longest=100, metadata={"description": "The id of that token."})
    node = TextField(longest=36, metadata={"description": "The id of the box that deleted it."})
    reason = TextField(longest=REASON_LENGTH, metadata={"description": "Why it was deleted."})


class DeletionQuery(PageQuery):
    """Which deletions."""

    device = _name(
        load_default=None, metadata={"description": "Readings of this device alone; all without."}
    )
    metric = _name(
        load_default=None, metadata={"description": "Readings of this metric alone; all without."}
    )


class DeletionPage(PageFields):
    """Deleted readings in the order in which they were deleted."""

    items = ma.fields.List(
        ma.fields.Nested(DeletionSchema),
        required=True,
        metadata={"description": "The deletions of this page."},
    )
