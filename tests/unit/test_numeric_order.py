# SPDX-License-Identifier: Apache-2.0
"""Decimal numbers on SQLite: exact, sorted as numbers, through migrations in any of its ways."""

import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    Integer,
    MetaData,
    Table,
    create_engine,
    func,
    insert,
    select,
)
from sqlalchemy import Numeric as PlainNumeric
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.pool import NullPool

from edgepaas.app import Application
from edgepaas.database.model import check_metadata, new_metadata
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.database.sqlite.numeric_order import compare
from edgepaas.database.types import Numeric, Uuid
from edgepaas.errors import ValueRefused
from edgepaas.files.paths import Paths
from edgepaas.schema.chain import chain_of
from edgepaas.schema.errors import SchemaError
from edgepaas.schema.migrations import write_revision
from tests.support.chains import (
    bring,
    connected,
    migrations_folder,
    upgrade_body,
)
from tests.support.chains import (
    write_revision as write_script,
)
from tests.support.weaken import weakened

DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, places=4) | st.sampled_from(
    [Decimal(text) for text in ("0", "-0.0", "0.0001", "-0.0001", "9" * 30, "-" + "9" * 30)]
)


@given(DECIMALS, DECIMALS)
def test_text_is_compared_as_the_numbers_that_it_says(one: Decimal, other: Decimal) -> None:
    wanted = (one > other) - (one < other)
    assert compare(f"{one:f}", f"{other:f}") == wanted
    assert compare(f"{one:.6f}", f"{other:f}") == wanted, "trailing zeros mean nothing"


@given(st.lists(st.text(alphabet="0123456789.-x ", max_size=6)))
def test_whatever_the_text_is_it_has_one_order(texts: list[str]) -> None:
    """An index over it would be damaged otherwise."""
    for one in texts:
        for other in texts:
            assert compare(one, other) == -compare(other, one)
            for third in texts:
                if compare(one, other) <= 0 and compare(other, third) <= 0:
                    assert compare(one, third) <= 0


METADATA = MetaData()
PRICES = Table(
    "prices",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("price", Numeric(12, 2), CheckConstraint("price >= -5"), unique=True),
)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Connection]:
    """A file with prices."""
    path = tmp_path / "prices.db"
    engine = create_engine(
        "sqlite://", creator=lambda: open_sqlite(path, create=True), poolclass=NullPool
    )
    METADATA.create_all(engine)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def test_prices_come_back_exactly_and_in_order(file: Connection) -> None:
    given_prices = ["9.99", "10", "-1.5", "9999999999.99", "0.10", "-1.49", "0"]
    file.execute(insert(PRICES), [{"price": Decimal(text)} for text in given_prices])
    price = PRICES.c.price
    found = [str(one) for one in file.scalars(select(price).order_by(price))]
    assert found == ["-1.50", "-1.49", "0.00", "0.10", "9.99", "10.00", "9999999999.99"]
    assert file.scalar(select(func.max(price))) == Decimal("9999999999.99")
    above = select(func.count()).where(price > Decimal("9.985"), price < 1e3)
    assert file.scalar(above) == 2
    assert file.scalars(select(PRICES.c.id).where(price == Decimal("10.0"))).all() == [2]
    with pytest.raises(IntegrityError):
        file.execute(insert(PRICES), {"price": 10})
    with pytest.raises(IntegrityError, match="CHECK"):
        file.execute(insert(PRICES), {"price": -6})


def exact_and_in_order(path: Path) -> bool:
    """Whether two prices that differ in their 19th digit are read back so, in their order."""
    metadata = MetaData()
    table = Table("fine", metadata, Column("price", Numeric(30, 12)))
    engine = create_engine(
        "sqlite://", creator=lambda: open_sqlite(path, create=True), poolclass=NullPool
    )
    metadata.create_all(engine)
    wanted = [Decimal(f"{whole}.100000000001") for whole in (9, 12345678901, 12345678902)]
    with engine.begin() as connection:
        connection.execute(insert(table), [{"price": price} for price in reversed(wanted)])
        found = connection.scalars(select(table.c.price).order_by(table.c.price)).all()
    engine.dispose()
    return found == wanted


def test_a_build_that_rounds_is_found_out(tmp_path: Path) -> None:
    assert exact_and_in_order(tmp_path / "exact.db")
    with weakened("rounded-decimals"):
        assert not exact_and_in_order(tmp_path / "rounded.db")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Decimal("0.005"), "more than 2 after the point"),
        (Decimal("10000000000"), "more than 10 digits before the point"),
        (Decimal("1E+999999"), "more than 10 digits"),
        (Decimal("nan"), "not a finite number"),
        (float("inf"), "not a finite number"),
        ("a lot", "no decimal number"),
    ],
)
def test_what_postgresql_would_round_or_refuse_is_refused(
    file: Connection, value: object, reason: str
) -> None:
    with pytest.raises(StatementError, match=reason) as caught:
        file.execute(insert(PRICES), {"price": value})
    assert isinstance(caught.value.orig, ValueRefused)


def test_a_program_that_does_not_know_the_order_is_told_so(
    file: Connection, tmp_path: Path
) -> None:
    """An error, and no wrong answer."""
    file.commit()
    with sqlite3.connect(tmp_path / "prices.db") as foreign:
        assert foreign.execute("SELECT price FROM prices").fetchall() == []
        with pytest.raises(sqlite3.OperationalError, match="edgepaas_numeric"):
            foreign.execute("SELECT price FROM prices ORDER BY price")


def goods(*, second: bool) -> MetaData:
    """Models that say SQLAlchemy's own Numeric."""
    metadata = new_metadata()
    columns: list[Column[Any]] = [
        Column("id", Uuid, primary_key=True),
        Column("price", PlainNumeric(12, 2)),
    ]
    if second:
        columns += [Column("cost", PlainNumeric(20, 4)), Column("note", Integer)]
    Table("goods", metadata, *columns, info={"kind": "shared"})
    check_metadata(metadata)
    return metadata


FIRST = upgrade_body(
    'op.create_table("goods", sa.Column("id", sa.String(36), primary_key=True), '
    'sa.Column("price", sa.Numeric(12, 2)))'
)
SECOND = upgrade_body(
    'with op.batch_alter_table("goods", recreate="always") as batch:',
    '    batch.add_column(sa.Column("note", sa.Integer))',
    'op.add_column("goods", sa.Column("cost", sa.DECIMAL(20, 4)))',
)


def test_migrations_that_say_numeric_store_it_exactly(paths: Paths, tmp_path: Path) -> None:
    """Created, copied by batch mode, added in place; autogenerate finds nothing to do."""
    folder = migrations_folder(tmp_path / "goods", [])
    write_script(folder, "0001", None, FIRST)

    def build(*, second: bool) -> Application:
        return Application(
            name="goods",
            models=lambda: goods(second=second),
            migrations=folder,
            blueprints=lambda _box: [],
        )

    bring(paths, build(second=False))
    price = "'12345678901.10'"
    with connected(paths.sqlite) as connection:
        with pytest.raises(sqlite3.IntegrityError, match=r"goods\.price takes decimal numbers"):
            connection.execute(f"INSERT INTO goods VALUES ('{UUID}', {price})")
        connection.execute(f"INSERT INTO goods VALUES ('{UUID}', '1234567890.10')")
    write_script(folder, "0002", "0001", SECOND)
    bring(paths, build(second=True))
    with connected(paths.sqlite) as connection:
        connection.execute("UPDATE goods SET cost = '1234567890123456.1000'")
        connection.execute(f"INSERT INTO goods (id, price) VALUES ('{UUID[:-1]}1', '9.00')")
        rows = connection.execute("SELECT price, cost FROM goods ORDER BY price").fetchall()
    assert rows == [("9.00", None), ("1234567890.10", "1234567890123456.1000")]
    with pytest.raises(SchemaError, match="nothing to write"):
        write_revision(chain_of(build(second=True)), goods(second=True), "more", tmp_path)


UUID = "00000000-0000-7000-8000-000000000000"
