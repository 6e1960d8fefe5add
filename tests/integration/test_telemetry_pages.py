# SPDX-License-Identifier: Apache-2.0
"""Lists are written by a compiled encoder: byte by byte as marshmallow and Flask would."""

import math
import random
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import marshmallow as ma
import pytest
from flask import Flask
from sqlalchemy import bindparam, column, select

from edgepaas.app import Box
from edgepaas.app.api import LabelsField, NumberField, TextField, compile_encoder
from edgepaas.app.facts import insert_new
from edgepaas.app.models import PlainSelect, uuid7
from edgepaas.errors import DatabaseUnavailable
from edgepaas.files.paths import Paths
from edgepaas.telemetry.models import DEVICES, READINGS, RULES
from edgepaas.telemetry.schemas import DevicePage, ReadingPage, ReadingSchema, RulePage
from tests.support.telemetry_box import open_box

MORNING = datetime(2024, 5, 1, 6, tzinfo=UTC)
ROWS = 60


@pytest.fixture(params=["sqlite", "postgresql"])
def served(request: pytest.FixtureRequest, paths: Paths) -> Iterator[tuple[Flask, Box]]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    with open_box(paths, url) as both:
        yield both


def moments(draw: random.Random) -> datetime:
    return MORNING + timedelta(
        seconds=draw.randrange(9_000),
        microseconds=draw.choice([0, 1, 250_000, 123_450, 999_999, draw.randrange(1_000_000)]),
    )


def texts(draw: random.Random, longest: int) -> str:
    some = ['"', "\\", "\n", "\x7f", "\u2028", "°", "温", "\U0001f525", "</script>", "a", " ", "{}"]
    return "x" + "".join(draw.choices(some, k=draw.randrange(longest)))


def numbers(draw: random.Random) -> float:
    some = [0.0, -0.0, 1.0, 1e16, 1e-7, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, -2.5e-9]
    return draw.choice([*some, math.ldexp(draw.random() - 0.5, draw.randrange(-300, 300))])


def readings(draw: random.Random) -> list[dict[str, Any]]:
    return [
        {
            "id": uuid7(),
            "device_id": uuid.UUID(int=draw.getrandbits(128)),
            "device": draw.choice(["press-1", texts(draw, 9)]),
            "metric": texts(draw, 5),
            "value": numbers(draw),
            "unit": draw.choice([None, "", "°C", texts(draw, 5)]),
            "recorded_at": moments(draw),
            "received_at": moments(draw),
        }
        for _ in range(ROWS)
    ]


def devices(draw: random.Random) -> list[dict[str, Any]]:
    return [
        {
            "id": uuid7(),
            "name": f"{number} {texts(draw, 9)}",
            "description": draw.choice([None, "", texts(draw, 30)]),
            "labels": {texts(draw, 3): texts(draw, 5) for _ in range(draw.randrange(4))},
            "created_at": moments(draw),
            "updated_at": moments(draw),
        }
        for number in range(ROWS)
    ]


def rules(draw: random.Random) -> list[dict[str, Any]]:
    return [
        {
            "id": uuid7(),
            "name": texts(draw, 9),
            "device": draw.choice([None, texts(draw, 9)]),
            "metric": texts(draw, 9),
            "condition": draw.choice(["above", "absent"]),
            "threshold": draw.choice([None, numbers(draw)]),
            "for_seconds": draw.randrange(1_000_000),
            "severity": "info",
            "enabled": draw.random() < 0.5,
            "created_at": moments(draw),
            "updated_at": moments(draw),
        }
        for _ in range(ROWS)
    ]


LISTS = {
    "readings": (READINGS, readings, ReadingPage, "recorded_at"),
    "devices": (DEVICES, devices, DevicePage, "created_at"),
    "rules": (RULES, rules, RulePage, "created_at"),
}


def expected(app: Flask, box: Box, name: str, cursor: str | None, *, limit: int, skip: int) -> Any:
    """Return the page as marshmallow dumps and Flask writes the rows that SQLAlchemy reads."""
    table, _, page, moment = LISTS[name]
    statement = select(table).order_by(table.c[moment], table.c.id)
    with box.database.read() as session:
        rows = session.execute(statement.offset(skip).limit(limit)).mappings().all()
    dumped = page().dump({"items": rows, "next_cursor": cursor})
    if name == "readings":  # whose device_id has its place beside the device
        order = ("id", "device", "device_id", "metric", "value", "unit", "recorded_at")
        dumped["items"] = [
            {**{key: item[key] for key in order}, **item} for item in dumped["items"]
        ]
        dumped = {"items": dumped["items"], "next_cursor": dumped["next_cursor"]}
    return (app.json.dumps(dumped, separators=(",", ":")) + "\n").encode()


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_written_to_the_byte_as_its_schema_dumps_it(
    served: tuple[Flask, Box], name: str
) -> None:
    app, box = served
    table, make, *_ = LISTS[name]
    rows = make(random.Random(name))
    box.database.write(lambda session: insert_new(session, table, rows))
    client = app.test_client()
    cursor, skip = "", 0
    while skip < ROWS:
        answer = client.get(f"/api/v1/{name}?limit=25{cursor}")
        assert answer.status_code == 200
        assert answer.content_type == "application/json"
        following = answer.get_json()["next_cursor"]
        assert answer.data == expected(app, box, name, following, limit=25, skip=skip)
        skip += len(answer.get_json()["items"])
        assert (following is None) == (skip == ROWS)
        cursor = f"&cursor={following}"
    assert skip == ROWS


FILTERS = [
    *("device=press-1", "metric=t", "device=press-1&metric=t", "device=none"),
    *("from=2024-05-01T06:00:10Z", "to=2024-05-01T06:00:10Z"),
    "device=press-2&from=2024-05-01T06:00:05Z&to=2024-05-01T06:00:30Z&limit=3",
]


@pytest.mark.parametrize("query", FILTERS)
def test_a_filter_gives_what_it_says_and_goes_on_with_its_cursor(
    served: tuple[Flask, Box], query: str
) -> None:
    app, box = served
    rows = [
        {
            "id": uuid7(),
            "device_id": uuid.UUID(int=n),
            "device": f"press-{n % 2 + 1}",
            "metric": "tu"[n % 3 == 0],
            "value": float(n),
            "unit": None,
            "recorded_at": MORNING + timedelta(seconds=n),
            "received_at": MORNING,
        }
        for n in range(40)
    ]
    box.database.write(lambda session: insert_new(session, READINGS, rows))
    wanted = [one["value"] for one in rows if matches(one, query)]
    client, found, cursor = app.test_client(), [], ""
    for _ in range(50):
        page = client.get(f"/api/v1/readings?{query}{cursor}").get_json()
        found += [item["value"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert found == wanted


def matches(row: Mapping[str, Any], query: str) -> bool:
    given = dict(part.split("=") for part in query.split("&"))
    return (
        all(row[name] == given.get(name, row[name]) for name in ("device", "metric"))
        and ("from" not in given or row["recorded_at"] >= datetime.fromisoformat(given["from"]))
        and ("to" not in given or row["recorded_at"] < datetime.fromisoformat(given["to"]))
    )


def test_a_page_says_that_rows_may_be_missing(paths: Paths) -> None:
    with open_box(paths, state="fallback") as (app, _):
        for name in LISTS:
            page = app.test_client().get(f"/api/v1/{name}").get_json()
            assert page == {"items": [], "next_cursor": None, "partial": True}


def test_rows_are_fetched_with_values_of_their_columns_types(served: tuple[Flask, Box]) -> None:
    _, box = served
    rows = readings(random.Random(7))
    box.database.write(lambda session: insert_new(session, READINGS, rows))
    columns = READINGS.c
    query = PlainSelect(
        select(column("value"))
        .select_from(READINGS)
        .where(columns.id == bindparam("id", type_=columns.id.type))
        .where(columns.recorded_at == bindparam("at", type_=columns.recorded_at.type))
    )
    for row in rows[:5]:
        found = box.database.fetch(query, {"id": row["id"], "at": row["recorded_at"]})
        assert found == [(row["value"],)]
    assert box.database.fetch(query, {"id": uuid.UUID(int=0), "at": MORNING}) == []


def test_a_fetch_of_what_is_not_there_is_the_drivers_error_and_harms_nothing(
    served: tuple[Flask, Box],
) -> None:
    _, box = served
    missing = PlainSelect(select(column("nothing")).select_from(READINGS))
    for _ in range(20):  # more than there are connections
        with pytest.raises((sqlite3.OperationalError, DatabaseUnavailable), match="nothing"):
            box.database.fetch(missing, {})
    there = PlainSelect(select(column("id")).select_from(READINGS))
    assert box.database.fetch(there, {}) == []


# -- what cannot be compiled is refused when the application is made --


class Odd(ma.fields.Field[Any]):
    """A field that says nothing of how a stored value is written."""


class Louder(TextField):
    """A field that writes otherwise than the class that it derives from."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return f"{value}!"


class Hooked(ma.Schema):
    """A schema with a method."""

    name = TextField(longest=5)

    @ma.post_dump
    def shout(self, data: Any, **_: Any) -> Any:
        return data


@pytest.mark.parametrize(
    "schema",
    [
        ma.Schema.from_dict({"a": Odd()})(),
        ma.Schema.from_dict({"a": Louder(longest=5)})(),
        Hooked(),
    ],
)
def test_a_schema_that_cannot_be_compiled_is_refused(schema: ma.Schema) -> None:
    with pytest.raises(TypeError):
        compile_encoder(schema)


@pytest.mark.parametrize("order", [("id",), ("id", "device"), ("value",) * 8])
def test_an_order_names_every_field_once(order: Sequence[str]) -> None:
    with pytest.raises(TypeError):
        compile_encoder(ReadingSchema(), order=order)


def test_names_and_nulls_are_written_as_the_schema_says() -> None:
    schema = ma.Schema.from_dict(
        {
            "text": TextField(longest=5, data_key='a"b'),
            "number": NumberField(attribute="n"),
            "labels": LabelsField(),
        }
    )()
    encoder = compile_encoder(schema)
    assert encoder.names == ("text", "n", "labels")
    assert encoder.object(("é", None, {})) == '{"a\\"b":"\\u00e9","number":null,"labels":{}}'
    assert encoder.array([]) == "[]"
