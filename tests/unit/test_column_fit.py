# SPDX-License-Identifier: Apache-2.0
"""Which types of PostgreSQL keep every value of a declared type as it is."""

import pytest
from sqlalchemy.dialects import postgresql

from edgepaas.outcomes.column_fit import SqlType, column_misfit, parse_type
from tests.support.forwarding import Model


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("VARCHAR(20)", SqlType("character varying", (20,))),
        ("character varying(20)", SqlType("character varying", (20,))),
        ("NUMERIC(6, 1)", SqlType("numeric", (6, 1))),
        ("numeric(6,-2)", SqlType("numeric", (6, -2))),
        ("FLOAT", SqlType("double precision")),
        ("FLOAT(53)", SqlType("double precision")),
        ("FLOAT(24)", SqlType("real")),
        ("timestamp(3) with time zone", SqlType("timestamp with time zone", (3,))),
        ("TIMESTAMP WITHOUT TIME ZONE", SqlType("timestamp without time zone")),
        ("Mood", SqlType("mood")),
    ],
)
def test_a_type_is_read_however_it_is_written(text: str, found: SqlType) -> None:
    assert parse_type(text) == found


@pytest.mark.parametrize(
    ("declared", "there"),
    [
        ("DOUBLE PRECISION", "double precision"),
        ("VARCHAR(20)", "character varying(20)"),
        ("VARCHAR(20)", "character varying(21)"),
        ("VARCHAR(20)", "character varying"),
        ("VARCHAR(20)", "text"),
        ("TEXT", "character varying"),
        ("INTEGER", "bigint"),
        ("INTEGER", "numeric(10,0)"),
        ("INTEGER", "double precision"),
        ("SMALLINT", "real"),
        ("NUMERIC(6, 2)", "numeric"),
        ("NUMERIC(6, 2)", "numeric(8,3)"),
        ("NUMERIC(6)", "numeric(6,0)"),
        ("JSONB", "json"),
        ("TIMESTAMP WITH TIME ZONE", "timestamp(6) with time zone"),
        ("TIMESTAMP(3) WITH TIME ZONE", "timestamp(4) with time zone"),
        ("UUID", "uuid"),
        ("mood", "mood"),
        ("INET", "some.thing"),
    ],
)
def test_a_type_that_takes_more_fits(declared: str, there: str) -> None:
    assert column_misfit(declared, there) == ""


ROUNDED = "values would be rounded"
OTHER = "values would be refused or changed"


@pytest.mark.parametrize(
    ("declared", "there", "becomes"),
    [
        ("DOUBLE PRECISION", "real", ROUNDED),
        ("DOUBLE PRECISION", "numeric(6,1)", ROUNDED),
        ("DOUBLE PRECISION", "numeric", ROUNDED),
        ("DOUBLE PRECISION", "integer", ROUNDED),
        ("DOUBLE PRECISION", "text", OTHER),
        ("INTEGER", "smallint", "larger numbers would be refused"),
        ("INTEGER", "numeric(9,0)", "larger numbers would be refused"),
        ("INTEGER", "real", ROUNDED),
        ("BIGINT", "double precision", ROUNDED),
        ("BIGINT", "text", OTHER),
        ("VARCHAR(20)", "character varying(19)", "longer texts would be refused"),
        ("TEXT", "character varying(19)", "longer texts would be refused"),
        ("VARCHAR(20)", "character(20)", "texts would be padded or cut"),
        ("VARCHAR(20)", "bytea", OTHER),
        ("NUMERIC(6, 2)", "numeric(6,1)", ROUNDED),
        ("NUMERIC(6, 2)", "numeric(6,3)", "larger numbers would be refused"),
        ("NUMERIC", "numeric(30,10)", ROUNDED),
        ("NUMERIC(6, 2)", "double precision", ROUNDED),
        ("TIMESTAMP WITH TIME ZONE", "timestamp(0) with time zone", ROUNDED),
        ("TIMESTAMP WITH TIME ZONE", "timestamp without time zone", OTHER),
        ("TIMESTAMP WITHOUT TIME ZONE", "date", OTHER),
        ("TIME WITHOUT TIME ZONE", "time(3) without time zone", ROUNDED),
        ("UUID", "text", OTHER),
        ("BOOLEAN", "integer", OTHER),
        ("BYTEA", "text", OTHER),
        ("JSONB", "text", OTHER),
        ("DATE", "timestamp without time zone", OTHER),
    ],
)
def test_a_type_that_takes_less_says_what_would_become_of_values(
    declared: str, there: str, becomes: str
) -> None:
    assert column_misfit(declared, there) == becomes


def test_each_type_that_can_be_forwarded_fits_itself() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for column in Model.metadata.tables['all "kinds"'].columns:
        declared = column.type.compile(dialect)
        assert column_misfit(declared, declared) == ""
