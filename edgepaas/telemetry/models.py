# SPDX-License-Identifier: Apache-2.0
"""The telemetry application's tables: devices, rules, and the readings that devices post."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Index, Integer, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from edgepaas.app.models import (
    Json,
    KindedModel,
    Number,
    Text,
    UtcDateTime,
    Uuid,
    new_metadata,
    utc_now,
    uuid7,
)

NAME_LENGTH = 200
UNIT_LENGTH = 50
DESCRIPTION_LENGTH = 2000
REASON_LENGTH = 500
ACTIONS = ("create", "change", "delete")
KINDS = ("device", "rule")
CONDITIONS = ("above", "below", "absent", "rate")
SEVERITIES = ("info", "warning", "critical")

#: The largest 64-bit float; infinity and NaN compare greater on PostgreSQL, and SQLite
#: turns NaN into NULL, so one CHECK keeps both databases finite.
_FINITE = "{0} BETWEEN -1.7976931348623157e308 AND 1.7976931348623157e308"

#: How PostgreSQL merges a time of a row that several boxes wrote (edgepaas.database.model).
_EARLIEST = {"merge": "least"}
_LATEST = {"merge": "greatest"}
_FIRST_SEEN = {"merge": "keep"}


class Model(KindedModel, DeclarativeBase):
    """Base of the telemetry tables."""

    metadata = new_metadata()


class Device(Model, kind="shared"):
    """Something that posts readings; ``id`` is ``name_id("devices", name)``."""

    __tablename__ = "devices"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    name: Mapped[str] = mapped_column(Text(NAME_LENGTH), unique=True)
    description: Mapped[str | None] = mapped_column(Text(DESCRIPTION_LENGTH))
    labels: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, info=_EARLIEST)
    updated_at: Mapped[datetime] = mapped_column(
        UtcDateTime, default=utc_now, onupdate=utc_now, info=_LATEST
    )


class Rule(Model, kind="shared"):
    """When readings of ``metric`` (of one ``device`` by name, or of any) raise an alert."""

    __tablename__ = "rules"
    __table_args__ = (
        CheckConstraint(f"condition IN {CONDITIONS}", name="condition"),
        CheckConstraint(f"severity IN {SEVERITIES}", name="severity"),
        CheckConstraint("for_seconds >= 0", name="for_seconds"),
        CheckConstraint(_FINITE.format("threshold"), name="threshold_finite"),
    )

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid7)
    name: Mapped[str] = mapped_column(Text(NAME_LENGTH))
    device: Mapped[str | None] = mapped_column(Text(NAME_LENGTH))
    metric: Mapped[str] = mapped_column(Text(NAME_LENGTH))
    condition: Mapped[str] = mapped_column(Text(20))
    threshold: Mapped[float | None] = mapped_column(Number)
    for_seconds: Mapped[int] = mapped_column(Integer, default=0)
    severity: Mapped[str] = mapped_column(Text(20), default="warning")
    enabled: Mapped[bool] = mapped_column(Boolean, default=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, info=_EARLIEST)
    updated_at: Mapped[datetime] = mapped_column(
        UtcDateTime, default=utc_now, onupdate=utc_now, info=_LATEST
    )


class Reading(Model, kind="facts"):
    """One measured value.

    It names its device in words beside ``device_id``, and no foreign key: on the hub a
    fact stands alone, and deleting a device deletes no fact.
    """

    __tablename__ = "readings"
    __table_args__ = (
        CheckConstraint(_FINITE.format("value"), name="value_finite"),
        Index(None, "device", "metric", "recorded_at", "id"),
        Index(None, "recorded_at", "id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid7)
    device_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    device: Mapped[str] = mapped_column(Text(NAME_LENGTH))
    metric: Mapped[str] = mapped_column(Text(NAME_LENGTH))
    value: Mapped[float] = mapped_column(Number)
    unit: Mapped[str | None] = mapped_column(Text(UNIT_LENGTH))
    #: A client that gives no moment and repeats on the other database means the same reading.
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime, info={"filled_from": "received_at"})
    received_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, info=_FIRST_SEEN)
    #: Whose token it was, and which box took it: whoever sends the same again changes neither.
    #: NULL in rows from before these columns, and from boxes that do not know them yet.
    written_by: Mapped[str | None] = mapped_column(Text(NAME_LENGTH), info=_FIRST_SEEN)
    node: Mapped[uuid.UUID | None] = mapped_column(Uuid, info=_FIRST_SEEN)


class ReadingDeletion(Model, kind="facts"):
    """A reading that an operator deleted: what it was, who deleted it, where and why."""

    __tablename__ = "reading_deletions"
    __table_args__ = (
        CheckConstraint(_FINITE.format("value"), name="value_finite"),
        Index(None, "deleted_at", "id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid7)
    reading_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    device: Mapped[str] = mapped_column(Text(NAME_LENGTH))
    metric: Mapped[str] = mapped_column(Text(NAME_LENGTH))
    value: Mapped[float] = mapped_column(Number)
    unit: Mapped[str | None] = mapped_column(Text(UNIT_LENGTH))
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime)
    received_at: Mapped[datetime] = mapped_column(UtcDateTime)
    deleted_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    deleted_by: Mapped[str] = mapped_column(Text(NAME_LENGTH))
    token_id: Mapped[str] = mapped_column(Text(100))
    node: Mapped[str] = mapped_column(Text(36))
    reason: Mapped[str] = mapped_column(Text(REASON_LENGTH))
    written_by: Mapped[str | None] = mapped_column(Text(NAME_LENGTH))
    reading_node: Mapped[uuid.UUID | None] = mapped_column(Uuid)


class Change(Model, kind="facts"):
    """A change of a device or a rule by a client: what, by whom and on which box.

    ``old`` and ``new`` hold the fields that changed: a row that was created has no ``old``, one
    that was deleted no ``new``. A device that its first reading registered has none of these;
    the reading says who.
    """

    __tablename__ = "changes"
    __table_args__ = (
        CheckConstraint(f"kind IN {KINDS}", name="kind"),
        CheckConstraint(f"action IN {ACTIONS}", name="action"),
        Index(None, "changed_at", "id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid7)
    kind: Mapped[str] = mapped_column(Text(20))
    row_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    name: Mapped[str] = mapped_column(Text(NAME_LENGTH))
    action: Mapped[str] = mapped_column(Text(20))
    old: Mapped[dict[str, Any] | None] = mapped_column(Json)
    new: Mapped[dict[str, Any] | None] = mapped_column(Json)
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    changed_by: Mapped[str] = mapped_column(Text(NAME_LENGTH))
    token_id: Mapped[str] = mapped_column(Text(100))
    node: Mapped[uuid.UUID | None] = mapped_column(Uuid)


class RuleFeed(Model, kind="local"):
    """Readings on their way to the rules, stored in the transaction that stores them.

    A row holds those of one request, or up to a thousand of them, in their order, and is
    deleted once the rules of the box ``node`` have judged them: on a PostgreSQL that many
    boxes share each judges what it took in itself.
    """

    __tablename__ = "rule_feed"
    __table_args__ = (Index(None, "node", "seq"),)

    seq: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True
    )
    batch: Mapped[uuid.UUID] = mapped_column(Uuid)
    node: Mapped[str] = mapped_column(Text(36))
    readings: Mapped[str] = mapped_column(Text())


DEVICES: Table = Device.metadata.tables[Device.__tablename__]
RULES: Table = Rule.metadata.tables[Rule.__tablename__]
READINGS: Table = Reading.metadata.tables[Reading.__tablename__]
READING_DELETIONS: Table = Reading.metadata.tables[ReadingDeletion.__tablename__]
CHANGES: Table = Change.metadata.tables[Change.__tablename__]
RULE_FEED: Table = RuleFeed.metadata.tables[RuleFeed.__tablename__]
