# SPDX-License-Identifier: Apache-2.0
"""A column type that is known on one side is known on all of them."""

import ast
import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.types import TypeDecorator, TypeEngine

from edgepaas.database import column_kinds, types
from edgepaas.database.column_kinds import ColumnKind, column_kind
from edgepaas.database.exact_columns import inexact_reason
from edgepaas.outbox import layout
from edgepaas.sync.delivery import values
from edgepaas.sync.mirror.stored_values import stored_column
from tests.support.databases import table_of
from tests.support.forwarding import Everything

SQLITE = sqlite.dialect()
POSTGRES = postgresql.dialect()  # type: ignore[no-untyped-call]

COLUMNS = list(table_of(Everything).columns)


def own_types() -> list[type[TypeDecorator[Any]]]:
    """The types that the platform offers to models."""
    return [
        found
        for _, found in inspect.getmembers(types, inspect.isclass)
        if issubclass(found, TypeDecorator) and found.__module__ == types.__name__
    ]


def name_on_postgres(kind: TypeEngine[Any]) -> str:
    return str(kind.compile(POSTGRES))


def test_every_type_of_ours_is_sent_both_ways_by_the_tests() -> None:
    """``Everything`` has a column of it."""
    there = {type(column.type) for column in COLUMNS}
    assert not set(own_types()) - there - {types.Number}
    assert column_kind(name_on_postgres(types.Number())) is ColumnKind.FLOAT


def test_every_kind_is_sent_both_ways_by_the_tests() -> None:
    assert {column_kind(name_on_postgres(column.type)) for column in COLUMNS} == set(ColumnKind)


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.key)
def test_a_type_is_known_to_each_side(column: Column[Any]) -> None:
    """Models may have it, delivery takes what SQLite stores of it, the mirror reads it back."""
    assert inexact_reason(column) == ""
    described = layout.Column(
        name=column.name,
        type=name_on_postgres(column.type),
        storage=str(column.type.compile(SQLITE)),
        nullable=True,
    )
    stored = stored_column(described)
    assert stored.name == column.name
    if column_kind(described.type) is ColumnKind.BYTES:
        assert values.array([b"\xff"], is_bytea=True) == rb'{"\\xff"}'
    else:
        with pytest.raises(values.UnsendableValue):
            values.array([b"\xff"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("DOUBLE PRECISION", ColumnKind.FLOAT),
        ("NUMERIC(10, 2)", ColumnKind.DECIMAL),
        ("TIMESTAMP WITH TIME ZONE", ColumnKind.MOMENT),
        ("TIMESTAMP WITHOUT TIME ZONE", ColumnKind.LOCAL_TIME),
        ("TIME WITHOUT TIME ZONE", ColumnKind.TIME_OF_DAY),
        ("JSONB", ColumnKind.JSON),
        ("JSONPATH", ColumnKind.TEXT),
        ("bytea", ColumnKind.BYTES),
        ("BYTEA[]", ColumnKind.TEXT),
        ("VARCHAR(20)", ColumnKind.TEXT),
        ("UUID", ColumnKind.TEXT),
        ("DATE", ColumnKind.TEXT),
        ("mood", ColumnKind.TEXT),
    ],
)
def test_a_kind_is_known_by_postgresqls_name(name: str, kind: ColumnKind) -> None:
    assert column_kind(name) is kind


@pytest.mark.parametrize("kind", ColumnKind)
def test_each_kind_has_a_name_and_a_form_in_the_mirror(kind: ColumnKind) -> None:
    named = {kind: start for start, kind in column_kinds._NAMES}
    name = named.get(kind, "TEXT")
    assert stored_column(layout.Column("c", name, "TEXT", nullable=True)).select


def test_the_places_that_are_named_are_there() -> None:
    """The docstring is the list that a reader follows."""
    text = column_kinds.__doc__ or ""
    named = [word.split("`")[1] for word in text.split(":mod:")[1:]]
    assert len(named) == 12
    for module in named:
        assert import_module(module)
    root = Path(__file__).resolve().parents[2]
    tree = ast.parse((root / "tests/support/forwarding.py").read_text(encoding="utf-8"))
    assert any(isinstance(node, ast.ClassDef) and node.name == "Everything" for node in tree.body)
