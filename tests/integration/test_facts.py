# SPDX-License-Identifier: Apache-2.0
"""``edgepaas.app.facts`` on both databases: each fact once, all of a call or nothing."""

import math
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Integer,
    LargeBinary,
    Numeric,
    String,
    Table,
    func,
    select,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from edgepaas.app import Application, Box
from edgepaas.app.facts import (
    Appended,
    FactsDiffer,
    Row,
    append_facts,
    ids_in_own_file,
    insert_new,
    rows_by_id,
)
from edgepaas.app.models import (
    Json,
    KindedModel,
    Number,
    Text,
    UtcDateTime,
    Uuid,
    name_id,
    new_metadata,
    uuid7,
)
from edgepaas.database.column_kinds import ColumnKind, column_kind
from edgepaas.files.paths import Paths
from tests.support.databases import table_of
from tests.support.forwarding import Everything, Mood
from tests.support.telemetry_box import open_box

MORNING = datetime(2024, 5, 1, 6, tzinfo=UTC)


class Model(KindedModel, DeclarativeBase):
    """Base of these tests' tables."""

    metadata = new_metadata()


class Source(Model, kind="shared"):
    """What events come from."""

    __tablename__ = "sources"
    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    name: Mapped[str] = mapped_column(Text(50))


class Event(Model, kind="facts"):
    """Something that happened; ``at`` is ``seen_at`` where nothing else was given."""

    __tablename__ = "events"
    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid7)
    what: Mapped[str] = mapped_column(Text(50))
    at: Mapped[datetime] = mapped_column(UtcDateTime, info={"filled_from": "seen_at"})
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime, info={"merge": "keep"})


class Tag(Model, kind="facts"):
    """A fact with a value that no other one has."""

    __tablename__ = "tags"
    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid7)
    code: Mapped[str] = mapped_column(Text(50), unique=True)


class Queued(Model, kind="local"):
    """Events that are to be worked on, in order."""

    __tablename__ = "queued"
    seq: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True
    )
    event: Mapped[uuid.UUID] = mapped_column(Uuid)


class Kinds(Model, kind="facts"):
    """A column of every type that is forwarded."""

    __tablename__ = "kinds"
    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid7)
    other: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    text: Mapped[str | None] = mapped_column(Text())
    short: Mapped[str | None] = mapped_column(String(20))
    small: Mapped[int | None] = mapped_column(Integer)
    big: Mapped[int | None] = mapped_column(BigInteger)
    real: Mapped[float | None] = mapped_column()
    number: Mapped[float | None] = mapped_column(Number)
    flag: Mapped[bool | None] = mapped_column(Boolean)
    blob: Mapped[bytes | None] = mapped_column(LargeBinary)
    doc: Mapped[dict[str, Any] | None] = mapped_column(Json)
    plain: Mapped[Any] = mapped_column(JSON, nullable=True)
    moment: Mapped[datetime | None] = mapped_column(UtcDateTime)
    local: Mapped[datetime | None] = mapped_column()
    day: Mapped[date | None] = mapped_column()
    hour: Mapped[time | None] = mapped_column()
    mood: Mapped[Mood | None] = mapped_column()
    price: Mapped[Decimal | None] = mapped_column(Numeric(12, 2))
    zoned: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    ident: Mapped[uuid.UUID | None] = mapped_column()


class Stay(Model, kind="local"):
    """Types that are not forwarded, in a table that never leaves the box."""

    __tablename__ = "stays"
    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid7)
    price: Mapped[Decimal | None] = mapped_column(Numeric(12, 2))
    lasted: Mapped[timedelta | None] = mapped_column()
    ident: Mapped[uuid.UUID | None] = mapped_column()


class Pair(Model, kind="local"):
    """A table whose key is not one Uuid."""

    __tablename__ = "pairs"
    one: Mapped[int] = mapped_column(Integer, primary_key=True)
    two: Mapped[int] = mapped_column(Integer, primary_key=True)


EVENTS, SOURCES, QUEUED = (Model.metadata.tables[name] for name in ("events", "sources", "queued"))
APPLICATION = Application(name="events", models=Model.metadata, wsgi=lambda box: lambda e, s: [])


@pytest.fixture(params=["sqlite", "postgresql"])
def box(request: pytest.FixtureRequest, paths: Paths) -> Iterator[Box]:
    """A box whose database holds the tables above."""
    sqlite = request.param == "sqlite"
    url = None if sqlite else str(request.getfixturevalue("postgres_url"))
    with open_box(paths, url, application=APPLICATION) as (_app, found):
        yield found


def event(what: str, *, at: datetime | None = None, seen: int = 0, **columns: Any) -> Row:
    """Return a row that was seen *seen* seconds after six; *at* as given, or filled in."""
    seen_at = MORNING + timedelta(seconds=seen)
    return {"id": uuid7(), "what": what, "at": at or seen_at, "seen_at": seen_at, **columns}


def queueing(asked: list[set[uuid.UUID]]) -> Callable[[Collection[uuid.UUID]], Mapping[Table, Any]]:
    """Return what queues every new event, and notes what it was asked."""

    def following(new: Collection[uuid.UUID]) -> Mapping[Table, Sequence[Row]]:
        asked.append(set(new))
        return {QUEUED: [{"event": identity} for identity in new]}

    return following


def count(box: Box, table: Table) -> int:
    with box.database.read() as session:
        return session.execute(select(func.count()).select_from(table)).scalar_one()


def test_new_facts_are_stored_and_counted(box: Box) -> None:
    """And a thousand of them in one call."""
    rows = [event(f"e{number}") for number in range(1000)]
    assert append_facts(box.database, EVENTS, rows) == Appended(1000, 0)
    assert append_facts(box.database, EVENTS, []) == Appended(0, 0)
    with box.database.read() as session:
        stored = session.execute(select(EVENTS).order_by(EVENTS.c.id)).mappings().all()
    assert [dict(row) for row in stored] == sorted(rows, key=lambda row: str(row["id"]))


def test_a_repeat_is_a_duplicate_in_the_table_and_within_a_call(box: Box) -> None:
    first, second, third = event("a"), event("b"), event("c")
    assert append_facts(box.database, EVENTS, [first, second, first]) == Appended(2, 1)
    assert append_facts(box.database, EVENTS, [second, third]) == Appended(1, 1)
    assert count(box, EVENTS) == 3


def test_a_value_that_another_fact_has_is_a_conflict_and_no_outage(box: Box) -> None:
    """A client that is told to try again would do so for ever."""
    tags = table_of(Tag)
    first: Row = {"id": uuid7(), "code": "a"}
    assert append_facts(box.database, tags, [first]) == Appended(1, 0)
    again: list[Row] = [{"id": uuid7(), "code": "b"}, first, {"id": uuid7(), "code": "a"}]
    with pytest.raises(FactsDiffer, match="unique value of another row") as caught:
        append_facts(box.database, tags, again)
    assert (caught.value.positions, caught.value.taken) == ((2,), True)
    assert count(box, tags) == 1


def test_other_content_under_the_same_key_stores_nothing_and_names_the_rows(box: Box) -> None:
    first = event("a")
    append_facts(box.database, EVENTS, [first])
    rows = [event("new"), {**first, "what": "b"}, event("newer")]
    with pytest.raises(FactsDiffer) as caught:
        append_facts(box.database, EVENTS, rows, before={SOURCES: [source("s")]})
    assert caught.value.positions == (1,)
    assert (count(box, EVENTS), count(box, SOURCES)) == (1, 0)
    twice = event("x")
    with pytest.raises(FactsDiffer) as caught:
        append_facts(box.database, EVENTS, [event("y"), twice, {**twice, "what": "z"}])
    assert caught.value.positions == (2,)
    assert count(box, EVENTS) == 1


def test_what_the_box_filled_in_is_no_content(box: Box) -> None:
    """Sent again, a fact without a moment is the same; with another moment it is not."""
    filled = event("a")
    given = event("b", at=MORNING - timedelta(hours=1))
    append_facts(box.database, EVENTS, [filled, given])
    later = [{**filled, "at": MORNING + timedelta(1), "seen_at": MORNING + timedelta(1)}]
    assert append_facts(box.database, EVENTS, later) == Appended(0, 1)
    assert append_facts(
        box.database, EVENTS, [{**given, "seen_at": MORNING + timedelta(2)}]
    ) == Appended(0, 1)
    with pytest.raises(FactsDiffer):
        append_facts(box.database, EVENTS, [{**given, "at": MORNING - timedelta(hours=2)}])


def source(name: str) -> Row:
    return {"id": name_id("sources", name), "name": name}


def test_rows_before_are_made_where_they_are_missing_and_keep_what_they_hold(box: Box) -> None:
    append_facts(box.database, EVENTS, [event("a")], before={SOURCES: [source("s"), source("t")]})
    renamed = {**source("s"), "name": "renamed"}
    append_facts(box.database, EVENTS, [event("b")], before={SOURCES: [renamed, source("u")]})
    with box.database.read() as session:
        names = session.execute(select(SOURCES.c.name)).scalars().all()
    assert sorted(names) == ["s", "t", "u"]


def test_rows_that_follow_are_stored_for_new_facts_alone_and_in_order(box: Box) -> None:
    asked: list[set[uuid.UUID]] = []
    first = [event(f"e{number}") for number in range(5)]
    append_facts(box.database, EVENTS, first, stamp="seen_at", following=queueing(asked))
    second = [event("n", seen=1), *({**row, "seen_at": MORNING + timedelta(1)} for row in first)]
    second[0] = {**second[0], "seen_at": MORNING + timedelta(1)}
    third = append_facts(box.database, EVENTS, second, stamp="seen_at", following=queueing(asked))
    assert third == Appended(1, 5)
    repeated = append_facts(
        box.database,
        EVENTS,
        [{**row, "seen_at": MORNING + timedelta(2)} for row in second],
        stamp="seen_at",
        following=queueing(asked),
    )
    assert repeated == Appended(0, 6)
    # Where COMMIT travels with the rows, it is asked for all of them before they are sent.
    assert [len(new) for new in asked if len(new) < 6] == [5, 1]
    with box.database.read() as session:
        queued = session.execute(select(QUEUED.c.event).order_by(QUEUED.c.seq)).scalars().all()
    assert queued == [*(row["id"] for row in first), second[0]["id"]]


def test_a_call_that_cannot_be_is_refused_before_anything_is_written(box: Box) -> None:
    with pytest.raises(ValueError, match="need a stamp"):
        append_facts(box.database, EVENTS, [event("a")], following=queueing([]))
    with pytest.raises(TypeError, match="the key of pairs is not one column of type Uuid"):
        append_facts(box.database, Model.metadata.tables["pairs"], [{"one": 1, "two": 2}])
    assert count(box, EVENTS) == 0


def test_what_a_column_refuses_undoes_the_whole_call(box: Box) -> None:
    """On SQLite the column's type refuses it, on PostgreSQL the server does."""
    with pytest.raises((ValueError, StatementError)):
        append_facts(box.database, EVENTS, [event("x" * 51)], before={SOURCES: [source("s")]})
    assert (count(box, EVENTS), count(box, SOURCES)) == (0, 0)


EMPTY: Row = {
    column.name: None for column in table_of(Kinds).columns if column.name not in ("id", "plain")
}
KINDS: list[Row] = [
    {
        "other": uuid.UUID(int=1),
        "text": "a\\x00 'b' \"c\"\n\u00e9\U0001f600",
        "short": "",
        "small": -(2**31),
        "big": 2**63 - 1,
        "real": 0.1 + 0.2,
        "number": 5e-324,
        "flag": True,
        "blob": bytes(range(256)),
        "doc": {"b": [1, None, 1.5], "a": {"\u00e9": "x"}},
        "plain": None,
        "moment": datetime(2024, 2, 29, 23, 59, 59, 999999, timezone(timedelta(hours=5.5))),
        "local": datetime(1, 1, 1, 0, 0, 0, 1),
        "day": date(1, 1, 1),
        "hour": time(23, 59, 59, 999999),
        "mood": Mood.wild,
        "price": Decimal("-9999999999.99"),
        "zoned": datetime(2024, 2, 29, 23, 59, 59, 999999, timezone(timedelta(hours=-5.5))),
        "ident": uuid.UUID(int=7),
    },
    {
        **EMPTY,
        "big": -(2**63),
        "real": -0.0,
        "number": -0.0,
        "flag": False,
        "blob": b"",
        "doc": {},
        "plain": {"a": [-1, "1"]},
        "moment": datetime(9999, 12, 31, tzinfo=UTC),
        "local": datetime(9999, 12, 31, 23, 59, 59, 999999),
        "day": date(9999, 12, 31),
        "hour": time(0),
        "price": Decimal("0.10"),
    },
    {**EMPTY, "real": math.inf, "number": 1.7976931348623157e308, "plain": "text"},
    {**EMPTY, "plain": 0},
]


def bits(values: Row) -> Row:
    """Return *values* with floats in hexadecimal: the two zeros are equal, and are not."""
    return {n: v.hex() if isinstance(v, float) else v for n, v in values.items()}


@pytest.mark.parametrize("row", KINDS, ids=lambda row: str(row["plain"]))
def test_a_value_of_every_type_that_is_forwarded_is_stored_to_the_bit(box: Box, row: Row) -> None:
    """And sent again it is the same fact."""
    table = table_of(Kinds)
    given = {"id": uuid7(), **row}
    assert append_facts(box.database, table, [given]) == Appended(1, 0)
    with box.database.read() as session:
        stored = dict(session.execute(select(table)).mappings().one())
    sqlite = box.database.dialect == "sqlite"  # which has no negative zero
    expected = {n: v + 0.0 if sqlite and isinstance(v, float) else v for n, v in given.items()}
    assert bits(stored) == bits(expected)
    assert append_facts(box.database, table, [given]) == Appended(0, 1)
    with box.database.read() as session:
        nulls = session.execute(select(func.count(table.c.plain))).scalar_one()
    assert nulls == 1, "None in a column of SQLAlchemy's JSON is the document null, not NULL"


def test_the_table_of_every_type_has_every_type() -> None:
    """Also those that the tests of delivery send."""
    columns = table_of(Kinds).columns
    assert {type(c.type) for c in table_of(Everything).columns} <= {type(c.type) for c in columns}
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    assert {column_kind(str(c.type.compile(dialect))) for c in columns} == set(ColumnKind)


def test_a_type_that_is_not_forwarded_may_stand_in_a_local_table(box: Box) -> None:
    table = table_of(Stay)
    row = {
        "id": uuid7(),
        "price": Decimal("1234.50"),
        "lasted": timedelta(days=2, seconds=3, microseconds=4),
        "ident": uuid.UUID(int=7),
    }
    empty = {"id": uuid7(), "price": None, "lasted": None, "ident": None}
    assert box.database.write(lambda session: insert_new(session, table, [row, empty])) == 2
    found = rows_of(box, table)
    assert found == {row["id"]: row, empty["id"]: empty}


def rows_of(box: Box, table: Table) -> dict[Any, Row]:
    with box.database.read() as session:
        return {row["id"]: dict(row) for row in session.execute(select(table)).mappings()}


@pytest.mark.parametrize(
    ("name", "value"), [("number", math.nan), ("moment", datetime(2024, 5, 1)), ("text", "a\0b")]
)
def test_a_value_that_its_type_refuses_is_refused_on_both(box: Box, name: str, value: Any) -> None:
    """On SQLite SQLAlchemy hands the ValueError on within its own."""
    row = {"id": uuid7(), **EMPTY, "plain": 0, name: value}
    with pytest.raises((ValueError, StatementError)):
        append_facts(box.database, table_of(Kinds), [row])
    assert count(box, table_of(Kinds)) == 0


def test_rows_are_inserted_where_they_are_missing_and_looked_up_by_key(box: Box) -> None:
    rows = [source(f"s{number}") for number in range(3)]
    assert box.database.write(lambda session: insert_new(session, SOURCES, rows[:2])) == 2
    assert box.database.write(lambda session: insert_new(session, SOURCES, rows)) == 1
    wanted = [row["id"] for row in rows] + [uuid7()]
    with box.database.read() as session:
        found = rows_by_id(session, SOURCES, wanted, ["name"])
    assert found == {row["id"]: row for row in rows}


def test_the_boxs_own_file_can_be_asked_whichever_database_serves(box: Box) -> None:
    rows = [event("a"), event("b")]
    append_facts(box.database, EVENTS, rows)
    wanted = [row["id"] for row in rows] + [uuid7()]
    found = ids_in_own_file(box, EVENTS, wanted)
    in_file = box.database.dialect == "sqlite"  # beside PostgreSQL there is no file yet
    assert found == (frozenset(wanted[:2]) if in_file else frozenset())
