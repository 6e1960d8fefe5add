# SPDX-License-Identifier: Apache-2.0
"""One table of facts."""

import uuid
from datetime import datetime

from sqlalchemy import Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from edgepaas.app.models import (
    KindedModel,
    Text,
    UtcDateTime,
    Uuid,
    new_metadata,
    utc_now,
    uuid7,
)


class Model(KindedModel, DeclarativeBase):
    """Base of the second application's tables."""

    metadata = new_metadata()


class Note(Model, kind="facts"):
    """A line that somebody wrote."""

    __tablename__ = "notes"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid7)
    text: Mapped[str] = mapped_column(Text(100))
    written_at: Mapped[datetime] = mapped_column(
        UtcDateTime, default=utc_now, info={"merge": "keep"}
    )


NOTES: Table = Note.metadata.tables[Note.__tablename__]
