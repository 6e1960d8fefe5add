# SPDX-License-Identifier: Apache-2.0
"""What the hub's triggers captured becomes what SQLite would hold."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from edgepaas.database.column_kinds import ColumnKind
from edgepaas.outbox.hub_capture import decoding, triggers
from edgepaas.outbox.hub_capture.decoding import decode, split_row
from edgepaas.outbox.journal.entries import Change
from edgepaas.outbox.layout import Column, Layout


def layout(*columns: tuple[str, str], key: str = "id") -> Layout:
    found = tuple(Column(name, kind, "", nullable=True) for name, kind in columns)
    return Layout(0, "t", "shared", found, (key,), "")


PAIR = {"t": layout(("id", "INTEGER"), ("v", "TEXT"))}


def captured(*statements: Any) -> str:
    """As the hub's function returns it: what each statement did, after a comma."""
    return "".join("," + json.dumps(list(one)) for one in statements)


def one(kind: str, text: str) -> Any:
    """The stored form of the value that PostgreSQL writes as *text*."""
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '""') + '"'
    rows = captured(("t", ["id", "v"], [f"(1,{quoted})"], None))
    (change,) = decode(rows, {"t": layout(("id", "INTEGER"), ("v", kind))})
    return change.values[1]


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("(1,a)", ["1", "a"]),
        ("(,)", [None, None]),
        ('("",)', ["", None]),
        ("(x)", ["x"]),
        ("()", [None]),
        ('("a,b","(c)")', ["a,b", "(c)"]),
        ('("say ""hi""","back\\\\slash")', ['say "hi"', "back\\slash"]),
        ('("\n\t ",NULL)', ["\n\t ", "NULL"]),
        ('(ä,"☃ 雪")', ["ä", "☃ 雪"]),
    ],
)
def test_the_fields_of_a_row_are_told_apart(text: str, fields: list[str | None]) -> None:
    assert split_row(text) == fields


@pytest.mark.parametrize(
    ("kind", "text", "stored"),
    [
        ("BOOLEAN", "t", 1),
        ("BOOLEAN", "f", 0),
        ("BIGINT", "-9223372036854775808", -9223372036854775808),
        ("DOUBLE PRECISION", "0.30000000000000004", 0.1 + 0.2),
        ("DOUBLE PRECISION", "5e-324", 5e-324),
        ("DOUBLE PRECISION", "Infinity", float("inf")),
        ("BYTEA", "\\x00ff", b"\x00\xff"),
        ("BYTEA", "\\x", b""),
        ("JSONB", '{"b": 1, "a": [null, 1.50]}', '{"a":[null,1.5],"b":1}'),
        ("JSONB", "null", "null"),
        ("JSONB", '"ä"', '"ä"'),
        ("TIMESTAMP WITH TIME ZONE", "2026-01-31 12:00:00+00", "2026-01-31T12:00:00.000000Z"),
        ("TIMESTAMP WITH TIME ZONE", "2026-01-31 12:00:00.5+00", "2026-01-31T12:00:00.500000Z"),
        ("TIMESTAMP WITH TIME ZONE", "infinity", "infinity"),
        ("TIMESTAMP WITH TIME ZONE", "0044-03-15 12:00:00+00 BC", "0044-03-15 12:00:00+00 BC"),
        ("TIMESTAMP WITHOUT TIME ZONE", "2026-01-31 12:00:00.000001", "2026-01-31 12:00:00.000001"),
        ("TIME WITHOUT TIME ZONE", "12:00:00", "12:00:00.000000"),
        ("UUID", "1b4e28ba-2fa1-41d2-883f-0016d3cca427", "1b4e28ba-2fa1-41d2-883f-0016d3cca427"),
        ("DATE", "2026-01-31", "2026-01-31"),
        ("VARCHAR(20)", "", ""),
        ("INTEGER", "no number, the hub has another type", "no number, the hub has another type"),
    ],
)
def test_a_value_is_what_sqlite_would_hold(kind: str, text: str, stored: object) -> None:
    found = one(kind, text)
    assert found == stored and type(found) is type(stored)


def test_the_sign_of_zero_is_kept() -> None:
    assert str(one("DOUBLE PRECISION", "-0")) == "-0.0"


def test_every_kind_of_column_is_read() -> None:
    assert set(decoding._READERS) == set(ColumnKind)


def test_columns_are_found_by_their_names() -> None:
    """The hub's table may have another order of columns, and columns that the box lacks."""
    rows = captured(("t", ["new", "v", "id"], ["(9,x,1)"], None))
    assert decode(rows, PAIR) == [Change("t", "I", (1, "x"))]


def test_nothing_captured_is_no_change() -> None:
    assert decode(None, PAIR) == decode("", PAIR) == []


def test_updates_are_paired_by_their_key_whatever_their_order() -> None:
    rows = captured(("t", ["id", "v"], ["(2,b2)", "(1,a2)"], ["(1,a)", "(2,b)"]))
    assert decode(rows, PAIR) == [
        Change("t", "U", (1, "a2", 1, "a")),
        Change("t", "U", (2, "b2", 2, "b")),
    ]


def test_an_update_of_the_key_is_a_delete_and_an_insert() -> None:
    rows = captured(("t", ["id", "v"], ["(3,a)"], ["(1,a)"]))
    assert decode(rows, PAIR) == [
        Change("t", "D", (1, "a")),
        Change("t", "I", (3, "a")),
    ]


def test_two_keys_that_change_places_are_two_updates() -> None:
    rows = captured(("t", ["id", "v"], ["(2,a)", "(1,b)"], ["(1,a)", "(2,b)"]))
    assert decode(rows, PAIR) == [
        Change("t", "U", (1, "b", 1, "a")),
        Change("t", "U", (2, "a", 2, "b")),
    ]


def test_a_row_that_a_cascade_changed_twice_keeps_both_changes() -> None:
    rows = captured(("t", ["id", "v"], ["(1,b)", "(1,c)"], ["(1,a)", "(1,b)"]))
    assert decode(rows, PAIR) == [
        Change("t", "U", (1, "b", 1, "a")),
        Change("t", "U", (1, "c", 1, "b")),
    ]


def test_statements_follow_each_other_in_their_order() -> None:
    rows = captured(
        ("t", ["id", "v"], ["(1,a)"], None),
        ("t", ["id", "v"], None, ["(1,a)"]),
        ("t", ["id", "v"], ["(1,b)"], None),
    )
    assert [change.op for change in decode(rows, PAIR)] == ["I", "D", "I"]


def test_a_table_that_the_box_does_not_forward_is_left_out() -> None:
    assert decode(captured(("other", ["id"], ["(1)"], None)), PAIR) == []


def test_a_row_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="2 values for 1"):
        decode(captured(("t", ["id"], ["(1,2)"], None)), PAIR)


def test_the_migration_makes_the_functions_that_the_box_would_make() -> None:
    """Alembic's script stands for itself; the two texts are one."""
    script = Path(triggers.__file__).parents[3] / "alembic/platform/versions/0003_capture.py"
    values = runpy.run_path(str(script))
    assert (values["CAPTURE"], values["CAPTURED"]) == triggers.FUNCTIONS
