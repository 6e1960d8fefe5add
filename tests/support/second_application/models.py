# SPDX-License-Identifier: Apache-2.0
"""One table of facts."""

import uuid
from datetime import datetime

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from edgepaas.database.ids import uuid7
from edgepaas.database.model import KindedModel, new_metadata
from edgepaas.database.types import Text, UtcDateTime, Uuid, utc_now


class Model(KindedModel, DeclarativeBase):
    """Base of the second application's tables."""

    metadata = new_metadata()


class Note(Model, kind="facts"):
    """A line that somebody wrote."""

    __tablename__ = "notes"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid7)
    text: Mapped[str] = mapped_column(Text(100))
    written_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
