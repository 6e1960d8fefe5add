# SPDX-License-Identifier: Apache-2.0
"""What the API takes and gives, as marshmallow schemas; /openapi.json is made from them."""

from typing import Any

import marshmallow as ma

from edgepaas.app.api import (
    BooleanField,
    ForwardingSchema,
    IntegerField,
    LabelsField,
    NumberField,
    PageQuery,
    TextField,
)
from edgepaas.telemetry.models import (
    CONDITIONS,
    DESCRIPTION_LENGTH,
    NAME_LENGTH,
    SEVERITIES,
    UNIT_LENGTH,
)
from edgepaas.telemetry.moment_fields import Moment, MomentInAddress

#: 100 years: what is longer is a typing error, and it stays far inside a 32-bit column.
_LONGEST_SECONDS = 3_155_760_000 // 2

#: What the field demands, in the words of JSON Schema.
_LABELS = {
    "description": "Names and values of the application's choice.",
    "type": "object",
    "maxProperties": 64,
    "propertyNames": {"minLength": 1, "maxLength": 100},
    "additionalProperties": {"type": "string", "maxLength": 500},
    "example": {"room": "boiler"},
}


def _name(**kwargs: Any) -> TextField:
    return TextField(shortest=1, longest=NAME_LENGTH, visible=True, **kwargs)


class DeviceSchema(ma.Schema):
    """Something that posts readings."""

    id = ma.fields.UUID(dump_only=True, metadata={"description": "Derived from the name."})
    name = _name(
        required=True, metadata={"description": "Identifies the device; cannot be changed."}
    )
    description = TextField(
        longest=DESCRIPTION_LENGTH,
        allow_none=True,
        load_default=None,
        metadata={"description": "For people."},
    )
    labels = LabelsField(load_default=dict, metadata=_LABELS)
    created_at = Moment(dump_only=True, metadata={"description": "When the device was first seen."})
    updated_at = Moment(
        dump_only=True, metadata={"description": "When the device was last changed."}
    )


class DeviceChangeSchema(ma.Schema):
    """What can be changed of a device; its id is made of its name."""

    @ma.pre_load
    def refuse_identity(self, data: Any, **_: Any) -> Any:
        """Refuse a name, with the reason."""
        if isinstance(data, dict) and "name" in data:
            raise ma.ValidationError(
                "Cannot be changed: a device's id is made of its name. Make another device.",
                field_name="name",
            )
        return data

    description = TextField(
        longest=DESCRIPTION_LENGTH, allow_none=True, metadata={"description": "For people."}
    )
    labels = LabelsField(metadata=_LABELS)


class RuleFields(ma.Schema):
    """The fields of a rule."""

    name = _name(required=True, metadata={"description": "For people; stands in the alert."})
    device = _name(
        allow_none=True,
        load_default=None,
        metadata={"description": "A device's name; null is any device."},
    )
    metric = _name(required=True, metadata={"description": "The metric whose readings are judged."})
    condition = ma.fields.String(
        required=True,
        validate=ma.validate.OneOf(CONDITIONS),
        metadata={
            "description": "above or below: of the threshold; rate: the value changes faster than "
            "the threshold; absent: no reading comes."
        },
    )
    threshold = NumberField(
        allow_none=True,
        load_default=None,
        metadata={
            "description": "Limit of the value, or of its change per second, up or down, for "
            "'rate'; not for 'absent'."
        },
    )
    for_seconds = IntegerField(
        least=0,
        most=_LONGEST_SECONDS,
        load_default=0,
        metadata={
            "description": "Seconds that it has to hold; for 'absent', seconds without a reading."
        },
    )
    severity = ma.fields.String(
        load_default="warning",
        validate=ma.validate.OneOf(SEVERITIES),
        metadata={"description": "The severity of the alert."},
    )
    enabled = BooleanField(
        load_default=True, metadata={"description": "Whether readings are judged by this rule."}
    )


class RuleSchema(RuleFields):
    """When readings raise an alert."""

    id = ma.fields.UUID(dump_only=True, metadata={"description": "Made by the box."})
    created_at = Moment(dump_only=True, metadata={"description": "When the rule was created."})
    updated_at = Moment(dump_only=True, metadata={"description": "When the rule was last changed."})


class RuleChangeSchema(RuleFields):
    """What can be changed of a rule; loaded with partial=True."""


class ReadingFields(ma.Schema):
    """One measured value, as a device posts it."""

    id = ma.fields.UUID(
        metadata={
            "description": "Idempotency: a repeat with the same id stores nothing twice. A reading "
            "without one gets it derived from token, Idempotency-Key and position."
        }
    )
    device = _name(required=True, metadata={"description": "Registers itself when it is new."})
    metric = _name(required=True, metadata={"description": "What was measured, e.g. temperature."})
    value = NumberField(required=True, metadata={"description": "The measured value, in the unit."})
    unit = TextField(
        longest=UNIT_LENGTH,
        allow_none=True,
        load_default=None,
        metadata={"description": "The unit of the value, e.g. °C; null: none was given."},
    )
    recorded_at = Moment(metadata={"description": "When it was measured; the default is now."})


class ReadingBatch(ma.Schema):
    """Many readings in an object."""

    readings = ma.fields.List(
        ma.fields.Nested(ReadingFields),
        required=True,
        metadata={"description": "The readings to store, all of them or none."},
    )


class ReadingSchema(ReadingFields):
    """One measured value, as it is stored."""

    device_id = ma.fields.UUID(metadata={"description": "Derived from the device's name."})
    received_at = Moment(metadata={"description": "When the box accepted it."})
    written_by = TextField(
        longest=NAME_LENGTH,
        allow_none=True,
        metadata={"description": "The name of the token that wrote it first; null: not known."},
    )
    node = ma.fields.UUID(
        allow_none=True,
        metadata={"description": "The id of the box that took it; null: not known."},
    )


class AcceptedSchema(ma.Schema):
    """What became of the readings that were posted; all of them are durable."""

    accepted = ma.fields.Integer(
        required=True, metadata={"description": "New readings.", "minimum": 0}
    )
    duplicates = ma.fields.Integer(
        required=True, metadata={"description": "Readings that were there already.", "minimum": 0}
    )


class DeviceQuery(PageQuery):
    """Which devices."""

    name = _name(
        load_default=None,
        metadata={"description": "The device of this name alone; all without it."},
    )


class RuleQuery(PageQuery):
    """Which rules."""

    device = _name(
        load_default=None, metadata={"description": "Rules of this device alone; all without it."}
    )
    metric = _name(
        load_default=None, metadata={"description": "Rules of this metric alone; all without it."}
    )
    enabled = BooleanField(
        load_default=None,
        metadata={"description": "Rules that are, or are not, enabled; all without it."},
    )


class ReadingQuery(PageQuery):
    """Which readings, by the moment at which they were recorded."""

    device = _name(
        load_default=None,
        metadata={"description": "Readings of this device alone; all without it."},
    )
    metric = _name(
        load_default=None,
        metadata={"description": "Readings of this metric alone; all without it."},
    )
    written_by = TextField(
        shortest=1,
        longest=NAME_LENGTH,
        load_default=None,
        metadata={"description": "Written by the token of this name; all without it."},
    )
    node = ma.fields.UUID(
        load_default=None,
        metadata={"description": "Taken by the box of this id; all without it."},
    )
    since = MomentInAddress(
        data_key="from",
        load_default=None,
        metadata={
            "description": "Recorded at this moment or later; + is written %2B, a date is 0:00 UTC."
        },
    )
    until = MomentInAddress(
        data_key="to",
        load_default=None,
        metadata={
            "description": "Recorded before this moment; + is written %2B, a date is 0:00 UTC."
        },
    )


class PageFields(ma.Schema):
    """What every list answers beside its items."""

    next_cursor = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Give it as cursor for the next page; null on the last one."},
    )
    may_lack_rows = ma.fields.Boolean(
        data_key="partial",
        attribute="partial",
        metadata={"description": "true while rows may be missing that only PostgreSQL has."},
    )


class DevicePage(PageFields):
    """Devices in the order in which they were first seen."""

    items = ma.fields.List(
        ma.fields.Nested(DeviceSchema),
        required=True,
        metadata={"description": "The devices of this page."},
    )


class RulePage(PageFields):
    """Rules in the order in which they were created."""

    items = ma.fields.List(
        ma.fields.Nested(RuleSchema),
        required=True,
        metadata={"description": "The rules of this page."},
    )


class ReadingPage(PageFields):
    """Readings in the order in which they were recorded."""

    items = ma.fields.List(
        ma.fields.Nested(ReadingSchema),
        required=True,
        metadata={"description": "The readings of this page."},
    )


class CountsSchema(ma.Schema):
    """How much is stored."""

    devices = ma.fields.Integer(
        required=True, metadata={"description": "Devices that are stored here."}
    )
    rules = ma.fields.Integer(
        required=True, metadata={"description": "Rules that are stored here."}
    )
    readings = ma.fields.Integer(
        required=True,
        metadata={"description": "Readings that are stored here; counted up to a limit."},
    )
    readings_exact = ma.fields.Boolean(
        required=True,
        metadata={"description": "false: there are more readings than were counted."},
    )


class BoxStatusSchema(ma.Schema):
    """The box's state and what is stored on it."""

    state = ma.fields.String(
        required=True, metadata={"description": "The state of the box, as in /health/ready."}
    )
    mode = ma.fields.String(
        required=True, metadata={"description": "Which databases serve, e.g. primary or fallback."}
    )
    reasons = ma.fields.List(
        ma.fields.String(),
        required=True,
        metadata={"description": "Why the box is in this state and this mode."},
    )
    forwarding = ma.fields.Nested(
        ForwardingSchema,
        required=True,
        allow_none=True,
        metadata={"description": "How rows are delivered to PostgreSQL; null where there is none."},
    )
    build = ma.fields.String(required=True, metadata={"description": "The build that runs."})
    counts = ma.fields.Nested(
        CountsSchema, required=True, metadata={"description": "How much is stored here."}
    )
    last_recorded_at = Moment(
        required=True,
        allow_none=True,
        metadata={"description": "The latest reading's moment; null without readings."},
    )
