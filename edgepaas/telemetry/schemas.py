# SPDX-License-Identifier: Apache-2.0
"""What the API takes and gives, as marshmallow schemas; /openapi.json is made from them."""

import re
from datetime import datetime
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
    printable,
)
from edgepaas.telemetry.models import (
    CONDITIONS,
    DESCRIPTION_LENGTH,
    NAME_LENGTH,
    SEVERITIES,
    UNIT_LENGTH,
)
from edgepaas.telemetry.times import EXAMPLE, as_utc, format_moment, parse_moment

#: 100 years: what is longer is a typing error, and it stays far inside a 32-bit column.
_LONGEST_SECONDS = 3_155_760_000 // 2

#: What the field demands, in the words of JSON Schema.
_LABELS = {
    "type": "object",
    "maxProperties": 64,
    "propertyNames": {"minLength": 1, "maxLength": 100},
    "additionalProperties": {"type": "string", "maxLength": 500},
    "example": {"room": "boiler"},
}


#: In a query string + is a blank: a moment whose + was not written %2B.
_LOST_PLUS = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d\S*) (\d\d:\d\d)", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


class Moment(ma.fields.DateTime):
    """A date-time of RFC 3339 in the years 1970 to 9999; without a zone it is UTC."""

    #: What the message for a wrong one ends with.
    advice = ""

    def __init__(self, **kwargs: Any) -> None:
        metadata = {"example": EXAMPLE, **kwargs.pop("metadata", {})}
        super().__init__(metadata=metadata, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> datetime:
        try:
            return as_utc(parse_moment(self.meant(value) if isinstance(value, str) else ""))
        except ValueError as error:
            shown = f"'{printable(value)}': " if isinstance(value, str) else ""
            said = str(error) if shown else f"{str(error)[:1].upper()}{str(error)[1:]}"
            raise ma.ValidationError(f"{shown}{said}{self.advice}.") from None

    def meant(self, text: str) -> str:
        """Return the date-time that *text* stands for."""
        return text

    def _serialize(
        self, value: datetime | None, attr: str | None, obj: Any, **kwargs: Any
    ) -> str | None:
        return None if value is None else format_moment(value)


class MomentInAddress(Moment):
    """As above, in a query string: a + may have become a blank; a date is its midnight (UTC)."""

    advice = " (in an address + is written %2B)"

    def meant(self, text: str) -> str:
        """Return the date-time that *text* stands for."""
        if _DATE.fullmatch(text):
            return f"{text}T00:00:00Z"
        found = _LOST_PLUS.fullmatch(text)
        return f"{found[1]}+{found[2]}" if found else text


def _name(**kwargs: Any) -> TextField:
    return TextField(shortest=1, longest=NAME_LENGTH, visible=True, **kwargs)


class DeviceSchema(ma.Schema):
    """Something that posts readings."""

    id = ma.fields.UUID(dump_only=True, metadata={"description": "Derived from the name."})
    name = _name(required=True)
    description = TextField(longest=DESCRIPTION_LENGTH, allow_none=True, load_default=None)
    labels = LabelsField(load_default=dict, metadata=_LABELS)
    created_at = Moment(dump_only=True)
    updated_at = Moment(dump_only=True)


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

    description = TextField(longest=DESCRIPTION_LENGTH, allow_none=True)
    labels = LabelsField(metadata=_LABELS)


class RuleFields(ma.Schema):
    """The fields of a rule."""

    name = _name(required=True)
    device = _name(
        allow_none=True,
        load_default=None,
        metadata={"description": "A device's name; null is any device."},
    )
    metric = _name(required=True)
    condition = ma.fields.String(required=True, validate=ma.validate.OneOf(CONDITIONS))
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
    severity = ma.fields.String(load_default="warning", validate=ma.validate.OneOf(SEVERITIES))
    enabled = BooleanField(load_default=True)


class RuleSchema(RuleFields):
    """When readings raise an alert."""

    id = ma.fields.UUID(dump_only=True)
    created_at = Moment(dump_only=True)
    updated_at = Moment(dump_only=True)


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
    metric = _name(required=True)
    value = NumberField(required=True)
    unit = TextField(longest=UNIT_LENGTH, allow_none=True, load_default=None)
    recorded_at = Moment(metadata={"description": "When it was measured; the default is now."})


class ReadingBatch(ma.Schema):
    """Many readings in an object."""

    readings = ma.fields.List(ma.fields.Nested(ReadingFields), required=True)


class ReadingSchema(ReadingFields):
    """One measured value, as it is stored."""

    device_id = ma.fields.UUID(metadata={"description": "Derived from the device's name."})
    received_at = Moment(metadata={"description": "When the box accepted it."})


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

    name = _name(load_default=None)


class RuleQuery(PageQuery):
    """Which rules."""

    device = _name(load_default=None)
    metric = _name(load_default=None)
    enabled = BooleanField(load_default=None)


class ReadingQuery(PageQuery):
    """Which readings, by the moment at which they were recorded."""

    device = _name(load_default=None)
    metric = _name(load_default=None)
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

    items = ma.fields.List(ma.fields.Nested(DeviceSchema), required=True)


class RulePage(PageFields):
    """Rules in the order in which they were created."""

    items = ma.fields.List(ma.fields.Nested(RuleSchema), required=True)


class ReadingPage(PageFields):
    """Readings in the order in which they were recorded."""

    items = ma.fields.List(ma.fields.Nested(ReadingSchema), required=True)


class CountsSchema(ma.Schema):
    """How much is stored."""

    devices = ma.fields.Integer(required=True)
    rules = ma.fields.Integer(required=True)
    readings = ma.fields.Integer(required=True)
    readings_exact = ma.fields.Boolean(
        required=True,
        metadata={"description": "false: there are more readings than were counted."},
    )


class BoxStatusSchema(ma.Schema):
    """The box's state and what is stored on it."""

    state = ma.fields.String(required=True)
    mode = ma.fields.String(required=True)
    reasons = ma.fields.List(ma.fields.String(), required=True)
    forwarding = ma.fields.Nested(
        ForwardingSchema,
        required=True,
        allow_none=True,
        metadata={"description": "How rows are delivered to PostgreSQL; null where there is none."},
    )
    build = ma.fields.String(required=True)
    counts = ma.fields.Nested(CountsSchema, required=True)
    last_recorded_at = Moment(
        required=True,
        allow_none=True,
        metadata={"description": "The latest reading's moment; null without readings."},
    )
