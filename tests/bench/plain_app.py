# SPDX-License-Identifier: Apache-2.0
"""What the service is measured against: Flask, Waitress and SQLAlchemy, one commit a request.

Written as their tutorials have it, with the same durability (WAL, synchronous=FULL),
the same number of threads and the same columns.

    python -m tests.bench.plain_app PORT DATABASE
"""

import logging
import sys
import uuid
from datetime import UTC, datetime

import sqlalchemy as sa
import waitress
from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    """The plain application's own models."""


class Reading(Base):
    """One reading, as telemetry has it."""

    __tablename__ = "readings"
    __table_args__ = (sa.Index("by_device", "device", "metric", "recorded_at", "id"),)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    device: Mapped[str] = mapped_column(sa.String(200))
    metric: Mapped[str] = mapped_column(sa.String(200))
    value: Mapped[float]
    unit: Mapped[str | None] = mapped_column(sa.String(50))
    recorded_at: Mapped[datetime] = mapped_column(index=True)
    received_at: Mapped[datetime]


def create_app(database: str) -> Flask:
    """Return the application on the SQLite file *database*."""
    engine = sa.create_engine(f"sqlite:///{database}")

    @sa.event.listens_for(engine, "connect")
    def durable(connection: object, _record: object) -> None:
        cursor = connection.cursor()  # type: ignore[attr-defined]
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")

    Base.metadata.create_all(engine)
    app = Flask(__name__)

    @app.get("/health/live")
    def live() -> ResponseReturnValue:
        return jsonify(status="ok")

    @app.post("/api/v1/readings")
    def create() -> ResponseReturnValue:
        body = request.get_json()
        now = datetime.now(UTC)
        with Session(engine) as session:
            for item in body if isinstance(body, list) else [body]:
                session.add(Reading(**item, recorded_at=now, received_at=now))
            session.commit()
        return jsonify(accepted=len(body) if isinstance(body, list) else 1), 201

    @app.get("/api/v1/readings")
    def read() -> ResponseReturnValue:
        limit = int(request.args.get("limit", 100))
        with Session(engine) as session:
            rows = session.scalars(
                sa.select(Reading).order_by(Reading.recorded_at, Reading.id).limit(limit)
            )
            return jsonify(
                items=[
                    {
                        "id": str(row.id),
                        "device": row.device,
                        "metric": row.metric,
                        "value": row.value,
                        "unit": row.unit,
                        "recorded_at": row.recorded_at.isoformat(),
                    }
                    for row in rows
                ]
            )

    return app


if __name__ == "__main__":
    # The service silences this line, too: one a request would be what is measured.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    waitress.serve(
        create_app(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), threads=4, _quiet=True
    )
