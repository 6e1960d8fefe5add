# SPDX-License-Identifier: Apache-2.0
"""Kinds of tables: said once, on the model, and held to."""

import uuid

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from edgepaas.database.model import check_metadata, new_model_base
from edgepaas.database.types import Uuid
from edgepaas.schema.table_contract import describe
from edgepaas.telemetry.models import Device, Model, Reading, Rule
from tests.support.databases import table_of


def _base() -> type[DeclarativeBase]:
    base: type[DeclarativeBase] = new_model_base()
    return base


def test_each_application_has_a_metadata_of_its_own() -> None:
    """Two applications in one process do not see each other's tables."""
    assert _base().metadata is not _base().metadata


def test_telemetrys_tables_have_their_kinds() -> None:
    """Readings are facts; devices and rules are shared."""
    check_metadata(Model.metadata)
    kinds = [table_of(model).info["kind"] for model in (Reading, Device, Rule)]
    assert kinds == ["facts", "shared", "shared"]


def test_a_model_without_a_kind_is_refused() -> None:
    """Whether rows leave the box is nothing to forget."""
    base = _base()
    with pytest.raises(TypeError, match="things has no kind"):

        class Thing(base):  # type: ignore[misc, valid-type]
            __tablename__ = "things"
            id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)


def test_a_serial_key_is_refused_unless_the_table_is_local() -> None:
    """Two boxes would both give out number one."""
    base = _base()
    with pytest.raises(TypeError, match=r"counts\.id is a serial key"):

        class Count(base, kind="facts"):  # type: ignore[misc, valid-type, call-arg]
            __tablename__ = "counts"
            id: Mapped[int] = mapped_column(primary_key=True)

    class Local(base, kind="local"):  # type: ignore[misc, valid-type, call-arg]
        __tablename__ = "locals"
        id: Mapped[int] = mapped_column(primary_key=True)


def test_a_number_that_the_application_gives_may_be_a_key() -> None:
    """Only what the database would count is refused."""
    base = _base()

    class Year(base, kind="shared"):  # type: ignore[misc, valid-type, call-arg]
        __tablename__ = "years"
        year: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)

    check_metadata(base.metadata)
    assert list(describe(base.metadata)) == ["years"]


def test_a_core_table_says_its_kind_in_info() -> None:
    """Tables need no class."""
    metadata = MetaData()
    Table("a", metadata, Column("id", Uuid, primary_key=True), info={"kind": "facts"})
    check_metadata(metadata)
    Table("b", metadata, Column("id", Uuid, primary_key=True))
    with pytest.raises(TypeError, match="b has no kind"):
        check_metadata(metadata)


def test_facts_point_to_no_shared_table() -> None:
    """On the hub a fact may come before the row that it points to."""
    metadata = MetaData()
    Table("devices", metadata, Column("id", Uuid, primary_key=True), info={"kind": "shared"})
    Table(
        "readings",
        metadata,
        Column("id", Uuid, primary_key=True),
        Column("device", ForeignKey("devices.id")),
        info={"kind": "facts"},
    )
    with pytest.raises(TypeError, match=r"readings\.device is a foreign key"):
        check_metadata(metadata)
