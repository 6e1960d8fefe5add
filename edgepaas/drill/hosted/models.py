# SPDX-License-Identifier: Apache-2.0
"""A drill's tables: numbers that devices send, and the devices' own rows."""

import uuid
from datetime import datetime

from sqlalchemy import BigInteger, Index, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from edgepaas.app.models import KindedModel, Text, UtcDateTime, Uuid, new_metadata

NAME_LENGTH = 50
PADDING_LENGTH = 400


class Model(KindedModel, DeclarativeBase):
    """Base of a drill's tables."""

    metadata = new_metadata()


class DrillDevice(Model, kind="shared"):
    """A device; what it says of itself changes."""

    __tablename__ = "drill_devices"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    name: Mapped[str] = mapped_column(Text(NAME_LENGTH), unique=True)
    description: Mapped[str | None] = mapped_column(Text(NAME_LENGTH))


class DrillReading(Model, kind="facts"):
    """A number that a device sent."""

    __tablename__ = "drill_readings"
    __table_args__ = (Index(None, "device", "value"),)

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    device: Mapped[str] = mapped_column(Text(NAME_LENGTH))
    value: Mapped[int] = mapped_column(BigInteger)
    #: Takes room, as what real devices send does.
    padding: Mapped[str] = mapped_column(Text(PADDING_LENGTH))
    received_at: Mapped[datetime] = mapped_column(UtcDateTime, info={"merge": "keep"})


DEVICES: Table = DrillDevice.metadata.tables[DrillDevice.__tablename__]
READINGS: Table = DrillReading.metadata.tables[DrillReading.__tablename__]
