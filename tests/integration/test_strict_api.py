# SPDX-License-Identifier: Apache-2.0
"""A value that PostgreSQL refuses is the client's error on both databases, in every way in."""

import enum
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from flask import Blueprint, Response, jsonify, request
from flask.testing import FlaskClient
from sqlalchemy import CheckConstraint, DateTime, Integer, String, insert, text
from sqlalchemy import Numeric as PlainNumeric
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from edgepaas.app import Application, Box
from edgepaas.app.facts import append_facts
from edgepaas.app.models import KindedModel, Text, UtcDateTime, Uuid, new_metadata, utc_now, uuid7
from edgepaas.files.paths import Paths
from tests.support.databases import table_of
from tests.support.telemetry_box import open_box


class Grade(enum.Enum):
    """A type of PostgreSQL's own."""

    good = "good"
    bad = "bad"


class Model(KindedModel, DeclarativeBase):
    """Base of the tables below, in SQLAlchemy's own types."""

    metadata = new_metadata()


class Part(Model, kind="shared"):
    """Every constraint that issue after issue found to hold on PostgreSQL alone."""

    __tablename__ = "parts"
    __table_args__ = (CheckConstraint("count >= 0", name="count"),)

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid7)
    name: Mapped[str] = mapped_column(String(20), unique=True)
    count: Mapped[int | None] = mapped_column(Integer)
    price: Mapped[Decimal | None] = mapped_column(PlainNumeric(6, 2))
    grade: Mapped[Grade | None] = mapped_column()
    made: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Seen(Model, kind="facts"):
    """What the append path stores."""

    __tablename__ = "seen"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid7)
    name: Mapped[str] = mapped_column(String(20))
    short: Mapped[str | None] = mapped_column(Text(5))
    count: Mapped[int | None] = mapped_column(Integer)
    price: Mapped[Decimal | None] = mapped_column(PlainNumeric(6, 2))
    at: Mapped[datetime] = mapped_column(UtcDateTime)


def _by_orm(values: dict[str, Any]) -> Callable[[Session], Any]:
    return lambda session: session.add(Part(**values))


def _by_core(values: dict[str, Any]) -> Callable[[Session], Any]:
    return lambda session: session.execute(insert(Part), [values])


def _by_text(values: dict[str, Any]) -> Callable[[Session], Any]:
    row = {"id": str(uuid7()), **values}
    names, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
    statement = text(f"INSERT INTO parts ({names}) VALUES ({marks})")
    return lambda session: session.execute(statement, row)


def parts(box: Box) -> list[Blueprint]:
    """What a view does that believes its client."""
    blueprint = Blueprint("parts", __name__)

    @blueprint.post("/parts/<way>")
    def post(way: str) -> tuple[Response, int]:
        values = request.get_json()
        if way == "append":
            row = {"id": uuid7(), "at": utc_now(), "name": "x", **values}
            append_facts(box.database, table_of(Seen), [row])
        else:
            ways = {"orm": _by_orm, "core": _by_core, "text": _by_text}
            box.database.write(ways[way](values))
        return jsonify({}), 201

    return [blueprint]


APPLICATION = Application(name="parts", models=Model.metadata, blueprints=parts)


@pytest.fixture(params=["sqlite", "postgresql"])
def client(request: pytest.FixtureRequest, paths: Paths) -> Iterator[FlaskClient]:
    """A client of the application on each database."""
    sqlite = request.param == "sqlite"
    url = None if sqlite else str(request.getfixturevalue("postgres_url"))
    with open_box(paths, url, application=APPLICATION) as (app, _box):
        yield app.test_client()


REFUSED: list[tuple[dict[str, Any], int]] = [
    ({"name": "x" * 21}, 422),
    ({"name": "\u20ac" * 21}, 422),
    ({"name": None}, 422),
    ({"name": "taken"}, 409),
    ({"name": "a", "count": -1}, 422),
    ({"name": "a", "count": 2**31}, 422),
    ({"name": "a", "count": -(2**31) - 1}, 422),
    ({"name": "a", "count": 2**63}, 422),
    ({"name": "a", "price": "12345.00"}, 422),
    ({"name": "a", "price": "x"}, 422),
    ({"name": "a", "grade": "middling"}, 422),
]
TAKEN: list[dict[str, Any]] = [
    {"name": "x" * 20, "count": 2**31 - 1, "price": "9999.99", "grade": "good"},
    {"name": "", "count": 0, "price": "-9999.99"},
    {"name": "\u20ac" * 20, "count": None},
]


@pytest.mark.parametrize("way", ["orm", "core", "text"])
def test_a_write_is_refused_alike(client: FlaskClient, way: str) -> None:
    def post(values: dict[str, Any]) -> int:
        answer = client.post(f"/parts/{way}", json=values)
        assert answer.status_code == 201 or answer.get_json()["message"]
        return answer.status_code

    assert [post(values) for values in TAKEN] == [201] * len(TAKEN)
    assert post({"name": "taken"}) == 201
    assert [post(values) for values, _ in REFUSED] == [status for _, status in REFUSED]


def test_an_appended_fact_is_refused_alike(client: FlaskClient) -> None:
    def post(values: dict[str, Any]) -> int:
        return client.post("/parts/append", json=values).status_code

    assert post({"name": "x" * 20, "short": "12345", "count": 5, "price": "1.50"}) == 201
    refused: list[dict[str, Any]] = [
        *({"name": "x" * 21}, {"name": None}, {"short": "123456"}, {"short": "a\0b"}),
        *({"short": "\ud800"}, {"count": 2**31}, {"count": 2**63}, {"price": "10000.00"}),
        *({"price": "1.005"}, {"price": "x"}),
    ]
    assert [post(values) for values in refused] == [422] * len(refused)
