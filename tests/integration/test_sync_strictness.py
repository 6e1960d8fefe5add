# SPDX-License-Identifier: Apache-2.0
"""What SQLite acknowledged comes home: it refuses at the write what PostgreSQL would refuse."""

import contextlib
import itertools
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError
from sqlalchemy import CheckConstraint, Integer, SmallInteger, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from edgepaas.database.model import KindedModel, new_metadata
from edgepaas.database.types import Numeric, Uuid
from edgepaas.outbox import strictness
from edgepaas.outbox.tables import quoted
from edgepaas.sync.hub.connection import Hub
from tests.support.databases import table_of
from tests.support.forwarding import Everything, TestBox, TestHub, make_hub
from tests.support.postgres_server import PostgresServer
from tests.support.weaken import weakened


class Model(KindedModel, DeclarativeBase):
    """Base of the table below."""

    metadata = new_metadata()


class Part(Model, kind="shared"):
    """A row with every kind of constraint."""

    __tablename__ = "parts"
    __table_args__ = (
        CheckConstraint("count >= 0 AND count < 100", name="few"),
        UniqueConstraint("rack", "place", name="uq_place", postgresql_nulls_not_distinct=True),
    )

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    name: Mapped[str] = mapped_column(String(5), unique=True)
    count: Mapped[int | None] = mapped_column(Integer)
    small: Mapped[int | None] = mapped_column(SmallInteger)
    rack: Mapped[int | None] = mapped_column(Integer)
    place: Mapped[int | None] = mapped_column(Integer)
    price: Mapped[Decimal | None] = mapped_column(Numeric(5, 2))


#: What anybody may write with raw SQL, as SQLite's drivers bind it.
HOSTILE: list[Any] = [
    *(None, "", " ", "a\0b", "word", "x" * 200, "1", "-1", "1.5", "1e3", "nan", "infinity", "t"),
    *(0, 1, -1, 2, 32767, 32768, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63 - 1, -(2**63)),
    *(0.5, 1.0, 1e300, float("inf"), -0.25, 1e20),
    *(b"", b"\0\xff", b"text"),
    *("calm", "wild", "Calm", "{}", "[]", "null", '"x"', "{'a': 1}", '{"a": 1'),
    *("2026-01-31", "2026-02-30", "0000-01-01", "2026-1-1", "20260131", "now", "epoch"),
    *("2026-01-31 12:00:00", "2026-01-31T12:00:00.000001Z", "2026-01-31 12:00:00.123456"),
    *("2026-01-31T25:00:00.000000Z", "2026-01-31T12:00:00.000000", "2026-02-30 12:00:00"),
    *("12:00:00", "12:00:00.123456", "25:00:00", "12:60", "12", "noon"),
    *("00000000-0000-7000-8000-000000000000", "00000000000070008000000000000000"),
    *("00000000-0000-7000-8000-00000000000G", "{00000000-0000-7000-8000-000000000000}"),
    *("1.10", "-1.10", "01.10", "-0.00", "0.00", ".50", "1.", "1.100", "+1.10", "1,10", "1.1.1"),
    *("9999999999.99", "10000000000.00", "0.100000000000", "1234567890123456789.000000000000"),
]


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[TestBox]:
    """A box as the schema stage leaves it."""
    box = TestBox(tmp_path / "strict.db", strict=True)
    yield box
    box.close()


def write_hostile(box: TestBox) -> tuple[int, int]:
    """Try each value in each column, new and changed; return how many were taken, and refused."""
    table = quoted('all "kinds"')
    taken = refused = 0
    box.file.execute("BEGIN IMMEDIATE")  # what is refused is undone alone
    for number, (column, value) in enumerate(
        itertools.product(table_of(Everything).columns, HOSTILE)
    ):
        row = {"wo'rd": f"row {number}", "select": number, column.name: value}
        insert = f"INSERT INTO {table} ({', '.join(map(quoted, row))}) VALUES "
        marks = ", ".join("?" * len(row))
        try:
            box.file.execute(f"{insert} ({marks})", tuple(row.values()))
            taken += 1
            continue
        except sqlite3.IntegrityError:
            refused += 1
        if not column.primary_key:
            box.file.execute(f"{insert} ({marks})", (*tuple(row.values())[:2], None))
            with pytest.raises(sqlite3.IntegrityError):
                box.file.execute(
                    f'UPDATE {table} SET {quoted(column.name)} = ? WHERE "select" = ?',
                    (value, number),
                )
    box.file.execute("COMMIT")
    return taken, refused


def test_whatever_sqlite_takes_postgresql_takes(strict: TestBox, hub: TestHub, link: Hub) -> None:
    taken, refused = write_hostile(strict)
    assert taken > 200
    assert refused > 400
    strict.drain_all(link)
    letters = hub.ask("SELECT message, new FROM sync_dead_letters")
    assert letters == [], "acknowledged, and a dead letter later"
    assert strict.adds_up(hub)["delivered"] == strict.adds_up(hub)["accepted"]


def test_a_build_without_the_rules_is_found_out(tmp_path: Path, link: Hub) -> None:
    with weakened("lenient-sqlite"):
        box = TestBox(tmp_path / "lenient.db", strict=True)
    try:
        columns = '("wo\'rd", "select", small)'
        box.write(f'INSERT INTO "all ""kinds""" {columns} VALUES (\'w\', 1, 4294967296)')
        assert box.drain(link).dead == 1
    finally:
        box.close()


@pytest.fixture(scope="module")
def parts_hub(postgres: PostgresServer) -> TestHub:
    """A hub with the table of parts."""
    return make_hub(postgres, Model.metadata)


ROWS: list[dict[str, Any]] = [
    {"name": "long one"},
    {"name": "\u20ac" * 6},
    {"name": None},
    {"name": "a", "count": -1},
    {"name": "a", "count": 100},
    {"name": "a", "small": 40000},
    {"name": "a", "count": 2**31},
    {"name": "a", "price": "1000.00"},
    {"name": "a", "price": "1.005"},
    {"name": "taken"},
    {"name": "a", "rack": None, "place": None},
    {"name": "a", "rack": 1, "place": None},
]


def make_looser(path: Path) -> None:
    """Make the file as a migration does that leaves out the constraints."""
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute(
            "CREATE TABLE parts (id VARCHAR(36) PRIMARY KEY, name VARCHAR(5), count INTEGER, "
            "small SMALLINT, rack INTEGER, place INTEGER, price TEXT)"
        )


@pytest.mark.parametrize("migrated", [False, True], ids=["as declared", "by a looser migration"])
def test_constraints_hold_on_sqlite_however_its_tables_were_made(
    tmp_path: Path, parts_hub: TestHub, migrated: bool
) -> None:
    """A client's own record of what was refused, against PostgreSQL's for the same rows."""
    path = tmp_path / "parts.db"
    if migrated:
        make_looser(path)
    box = TestBox(path, Model.metadata, strict=True)
    seed = [
        {"name": "taken", "rack": 1},
        {"name": "empty", "count": 99, "small": -32768, "price": "-999.99"},
    ]
    try:
        for row in seed:
            assert attempt(box, parts_hub, row) == (True, True), row
        for row in ROWS:
            assert attempt(box, parts_hub, row) == (False, False), row
        with pytest.raises(sqlite3.IntegrityError, match="takes at most 5 characters"):
            box.write("UPDATE parts SET name = name || '123456'")
        box.file.execute("ROLLBACK")
        box.write("UPDATE parts SET count = 5")
    finally:
        box.close()
        parts_hub.ask("TRUNCATE parts")


def attempt(box: TestBox, hub: TestHub, row: dict[str, Any]) -> tuple[bool, bool]:
    """Insert *row* on both; whether each took it."""
    row = {"id": str(uuid.uuid4()), **row}
    try:
        box.write(
            f"INSERT INTO parts ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
            tuple(row.values()),
        )
        here = True
    except sqlite3.IntegrityError:
        box.file.execute("ROLLBACK")
        here = False
    values = ", ".join("NULL" if v is None else f"'{v}'" for v in row.values())
    try:
        hub.ask(f"INSERT INTO parts ({', '.join(row)}) VALUES ({values}) RETURNING 1")
    except DatabaseError as error:
        assert error.args[0]["C"].startswith(("22", "23")), error
        return here, False
    return here, True


#: Updates of a row that broke a CHECK before that was made, and whether PostgreSQL takes them.
UPDATES = [
    ("name = 'b'", False),  # another column: the whole row is judged
    ("count = count", False),
    ("count = 101", False),
    ("count = NULL, name = 'b'", True),  # unknown is not false
    ("count = 99", True),
    ("count = 99, name = 'c'", True),
]


@pytest.mark.parametrize(("change", "taken"), UPDATES)
def test_an_update_is_judged_by_the_whole_row_where_postgresql_does(
    tmp_path: Path, parts_hub: TestHub, change: str, taken: bool
) -> None:
    """PostgreSQL evaluates each CHECK whatever changes; a stored value is not cast again."""
    row = str(uuid.uuid4())
    make_looser(tmp_path / "parts.db")
    box = TestBox(tmp_path / "parts.db", Model.metadata, strict=True)
    insert = f"INSERT INTO parts (id, name, count) VALUES ('{row}', 'a', 100)"
    box.file.execute("BEGIN IMMEDIATE")
    with strictness.suspended(box.file):
        box.file.execute(insert)
    box.file.execute("COMMIT")
    ((rule,),) = parts_hub.ask(
        "SELECT conname FROM pg_constraint WHERE conrelid = 'parts'::regclass AND contype = 'c' "
        "AND pg_get_constraintdef(oid) LIKE '%count%'"
    )
    ((definition,),) = parts_hub.ask(
        f"SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = '{rule}'"
    )
    parts_hub.ask(f"ALTER TABLE parts DROP CONSTRAINT {rule}")
    try:
        parts_hub.ask(f"{insert} RETURNING 1")
        parts_hub.ask(f"ALTER TABLE parts ADD CONSTRAINT {rule} {definition} NOT VALID")
        update = f"UPDATE parts SET {change} WHERE id = '{row}'"
        assert (_taken(lambda: box.write(update), box), _taken(lambda: parts_hub.ask(update))) == (
            taken,
            taken,
        )
    finally:
        box.close()
        parts_hub.ask("TRUNCATE parts")
        parts_hub.ask(f"ALTER TABLE parts DROP CONSTRAINT IF EXISTS {rule}")
        parts_hub.ask(f"ALTER TABLE parts ADD CONSTRAINT {rule} {definition}")


def _taken(write: Callable[[], object], box: TestBox | None = None) -> bool:
    try:
        write()
    except (sqlite3.IntegrityError, DatabaseError):
        if box is not None:
            box.file.execute("ROLLBACK")
        return False
    return True


def test_what_the_mirror_brings_is_not_judged(strict: TestBox) -> None:
    """A newer release's column may be wider: its rows are PostgreSQL's own."""
    from edgepaas.outbox import capture

    strict.file.execute("BEGIN IMMEDIATE")
    with capture.paused(strict.file):
        strict.file.execute(
            "INSERT INTO places (id, name) VALUES (?, ?)", (str(uuid.uuid4()), "x" * 30)
        )
    strict.file.execute("COMMIT")
    strict.write("UPDATE places SET note = 'changed elsewhere'")
    with pytest.raises(sqlite3.IntegrityError, match="at most 20 characters"):
        strict.write("UPDATE places SET name = name || 'y'")
