# SPDX-License-Identifier: Apache-2.0
"""What a model may declare: names, merge rules, and types that come home as they were."""

from typing import Any

import pytest
from sqlalchemy import (
    ARRAY,
    CHAR,
    DECIMAL,
    JSON,
    REAL,
    BigInteger,
    Boolean,
    Column,
    Computed,
    Date,
    DateTime,
    Double,
    Enum,
    Float,
    ForeignKey,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Table,
    Time,
)
from sqlalchemy import Text as PlainText
from sqlalchemy import Uuid as PlainUuid
from sqlalchemy.orm import mapped_column

from edgepaas.database.model import check_metadata, new_metadata, new_model_base
from edgepaas.database.types import Json, Number, Text, UtcDateTime, Uuid
from edgepaas.database.types import Numeric as ExactNumeric
from edgepaas.outbox.layout import forwarded_layouts
from edgepaas.schema.table_contract import describe
from edgepaas.telemetry.models import Model as Telemetry


def check(*columns: Column[Any], name: str = "things", kind: str = "shared") -> MetaData:
    """Declare a table and have it checked; returns its metadata."""
    metadata = new_metadata()
    Table(name, metadata, Column("id", Uuid, primary_key=True), *columns, info={"kind": kind})
    check_metadata(metadata)
    return metadata


@pytest.mark.parametrize(
    "name", ["outbox", "Outbox", "outbox_x", "sync_streams", "nodes", "edgepaas_version"]
)
@pytest.mark.parametrize("kind", ["facts", "local"])
def test_a_name_of_the_platform_is_refused(name: str, kind: str) -> None:
    with pytest.raises(TypeError, match=f"{name} belongs to the platform: choose one"):
        check(name=name, kind=kind)


@pytest.mark.parametrize("name", ["outboxes", "node", "synced", "alerts"])
def test_a_name_that_only_looks_like_one_is_taken(name: str) -> None:
    assert list(describe(check(name=name))) == [name]


INEXACT: dict[str, tuple[Any, str]] = {
    "plain decimal": (Numeric(), r"Numeric\(12, 2\)"),
    "decimal as a float": (Numeric(10, 2, asdecimal=False), "Number"),
    "our decimal": (ExactNumeric(), r"Numeric\(12, 2\)"),
    "padded text": (CHAR(5), "Text"),
    "32 bits": (REAL(), "Number"),
    "24 bits": (Float(24), "Number"),
    "time of day with zone": (Time(timezone=True), "UtcDateTime"),
    "interval": (Interval(), "Number"),
    "array": (ARRAY(Integer), "Json"),
}


@pytest.mark.parametrize("name", INEXACT)
def test_a_type_that_would_change_on_its_way_is_refused(name: str) -> None:
    """Where it is forwarded; a local table may have it."""
    kind, way_out = INEXACT[name]
    with pytest.raises(TypeError, match=f"things.x cannot be forwarded exactly: .*{way_out}"):
        check(Column("x", kind))
    assert "x" in check(Column("x", kind), kind="local").tables["things"].columns


@pytest.mark.parametrize(
    "kind",
    [
        *(Text(5), Number(), UtcDateTime(), Uuid(), Json()),
        *(Integer(), BigInteger(), SmallInteger(), Boolean(), Float(), Float(53), Double()),
        *(String(5), PlainText(), PlainUuid(), LargeBinary(), JSON(), Date(), DateTime(), Time()),
        *(ExactNumeric(12, 2), Numeric(10, 2), DECIMAL(10), DateTime(timezone=True)),
        Enum("a", "b", name="letters"),
    ],
    ids=repr,
)
def test_a_type_that_comes_home_as_it_was_is_taken(kind: Any) -> None:
    (column,) = describe(check(Column("x", kind)))["things"]["columns"][1:]
    assert column["name"] == "x"


def test_a_table_may_point_to_one_that_is_declared_after_it() -> None:
    """Its column has no type until then."""
    model = new_model_base()  # made at run time: no type for mypy to check against

    class Child(model, kind="shared"):  # type: ignore[call-arg, misc, valid-type]
        __tablename__ = "children"
        id = mapped_column(Uuid, primary_key=True)
        parent = mapped_column(ForeignKey("parents.id"))

    class Parent(model, kind="shared"):  # type: ignore[call-arg, misc, valid-type]
        __tablename__ = "parents"
        id = mapped_column(Uuid, primary_key=True)

    check_metadata(model.metadata)
    assert list(describe(model.metadata)) == ["parents", "children"]


def test_a_column_that_the_database_computes_is_refused() -> None:
    with pytest.raises(TypeError, match=r"things\.x cannot be forwarded exactly"):
        check(Column("x", Integer, Computed("1 + 1")))


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"merge": "newest"}, "merge='newest': it is one of least, greatest, keep, add"),
        ({"filled_from": "y"}, "filled_from='y': name another column of things"),
        ({"filled_from": "x"}, "filled_from='x': name another column"),
    ],
)
def test_a_rule_that_there_is_none_of_is_refused(info: dict[str, str], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        check(Column("x", Integer, info=info))


def test_a_key_is_never_merged() -> None:
    metadata = new_metadata()
    key = Column("id", Uuid, primary_key=True, info={"merge": "keep"})
    Table("things", metadata, key, info={"kind": "shared"})
    with pytest.raises(TypeError, match="a key is never merged"):
        check_metadata(metadata)


def test_the_telemetry_tables_say_how_their_stamps_merge() -> None:
    """All the way into the layouts that the drainer reads."""
    check_metadata(Telemetry.metadata)
    layouts = forwarded_layouts({"revision": ["r"], "tables": describe(Telemetry.metadata)})
    rules = {
        f"{layout.table}.{column.name}": column.merge or column.filled_from
        for layout in layouts
        for column in layout.columns
        if column.merge or column.filled_from
    }
    assert rules == {
        "devices.created_at": "least",
        "devices.updated_at": "greatest",
        "rules.created_at": "least",
        "rules.updated_at": "greatest",
        "readings.recorded_at": "received_at",
        "readings.received_at": "keep",
        "readings.written_by": "keep",
        "readings.node": "keep",
    }
