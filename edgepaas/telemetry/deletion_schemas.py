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


class DeletionRequest(ma.Schema):
    """Which readings are to be deleted, and why."""

    reason = TextField(
        shortest=1,
        longest=REASON_LENGTH,
        visible=True,
        required=True,
        metadata={"description": "Why; kept for ever with what is deleted."},
    )
    ids = ma.fields.List(
        ma.fields.UUID(),
        validate=ma.validate.Length(min=1),
        metadata={"description": "The readings' ids; or a device and a metric."},
    )
    device = _name(metadata={"description": "Readings of this device."})
    metric = _name(metadata={"description": "Readings of this metric."})
    since = Moment(data_key="from", metadata={"description": "Recorded at this moment or later."})
    until = Moment(data_key="to", metadata={"description": "Recorded before this moment."})
    expected = IntegerField(
        least=0,
        most=_MOST_EXPECTED,
        metadata={"description": "How many readings of the device and the metric these are."},
    )

    @ma.validates_schema
    def check(self, data: dict[str, Any], **_: Any) -> None:
        """Refuse ids beside a selection, and half a selection."""
        others = [
            name for name in ("device", "metric", "since", "until", "expected") if name in data
        ]
        if "ids" in data:
            if others:
                raise ma.ValidationError("Give ids, or a device and a metric, and not both.", "ids")
            return
        for name in ("device", "metric", "expected"):
            if name not in data:
                raise ma.ValidationError("Required where no ids are given.", name)


class DeletedSchema(ma.Schema):
    """What became of a deletion."""

    deleted = ma.fields.Integer(
        required=True, metadata={"description": "Readings that are deleted now.", "minimum": 0}
    )


class DeletionSchema(ReadingFields):
    """A reading that was deleted."""

    id = ma.fields.UUID(metadata={"description": "The deletion's id."})
    reading_id = ma.fields.UUID(metadata={"description": "The id that the reading had."})
    received_at = Moment(metadata={"description": "When the box had accepted the reading."})
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
