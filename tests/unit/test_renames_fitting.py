# SPDX-License-Identifier: Apache-2.0
"""Which values fit into another type, which types are narrower, and the way over revisions."""

import pytest

from edgepaas.outbox.revisions.changes import Names, RevisionChanges, read_changes
from edgepaas.outbox.revisions.record import RevisionRecord, record_of, way_to_hub
from edgepaas.schema.renames.fitting import fits, is_narrower


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (None, "SMALLINT", True),
        ("abc", "VARCHAR(3)", True),
        ("abcd", "character varying(3)", False),
        (32767, "SMALLINT", True),
        (32768, "SMALLINT", False),
        (1.5, "INTEGER", False),
        (0.1, "REAL", False),
        (0.5, "REAL", True),
        (12345.6, "NUMERIC(6, 1)", True),
        (1.25, "NUMERIC(6, 1)", False),
        (123456, "NUMERIC(6, 1)", False),
        ("x", "DOUBLE PRECISION", False),
        ("6a1c7a0e-7b0b-4a8e-8f6e-3a4a6f5d2c1b", "UUID", True),
        ("none", "UUID", False),
        (2, "BOOLEAN", False),
        (b"\x00", "TEXT", False),
        ("anything", "tsvector", True),
    ],
)
def test_a_value_fits_where_the_type_holds_it_unchanged(
    value: object, kind: str, expected: bool
) -> None:
    assert fits(value, kind) is expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("integer", "bigint", False),
        ("bigint", "integer", True),
        ("character varying(20)", "character varying(200)", False),
        ("character varying(20)", "character varying(3)", True),
        ("character varying", "character varying(3)", True),
        ("character varying(20)", "text", False),
        ("text", "character varying(20)", True),
        ("double precision", "real", True),
        ("numeric", "numeric(6,1)", True),
        ("numeric(6,1)", "numeric(8,2)", False),
        ("numeric(6,1)", "numeric(6,2)", True),
        ("text", "integer", True),
    ],
)
def test_a_type_is_narrower_where_it_may_not_take_every_value(
    old: str, new: str, expected: bool
) -> None:
    assert is_narrower(old, new) is expected


RENAMED = RevisionChanges("2", columns={"t": {"a": "b"}})
MOVED = RevisionChanges("3", {"t": "u"}, {"t": {"b": "d"}}, gone_columns={"t": frozenset({"c"})})
BOX = RevisionRecord((RevisionChanges("1"), RENAMED, MOVED), 3)


def test_names_follow_every_revision_and_lead_back() -> None:
    names = Names.of("t", ("a", "c"))
    there = names.after(way_to_hub("1", BOX, RevisionRecord()))
    assert there == Names("u", {"a": "d", "c": None})
    behind = RevisionRecord((RevisionChanges("1"),), 1)
    back = Names.of("u", ("d",)).after(way_to_hub("3", behind, BOX))
    assert back == Names("t", {"d": "a"})


def test_what_the_hub_did_not_observe_is_known_by_the_box() -> None:
    unobserved = RevisionChanges("2", observed=False)
    hub = RevisionRecord((RevisionChanges("1"), unobserved), 2)
    assert way_to_hub("1", hub, BOX) == (RENAMED,)
    assert way_to_hub("1", hub, RevisionRecord()) == (unobserved,)


def test_a_record_is_read_as_it_was_written_and_of_one_chain() -> None:
    rows = [(1, "old", "9", None), (2, "shop", "1", None), (3, "shop", "3", MOVED.as_text())]
    found = record_of(rows)
    assert (found.position, found.head) == (3, "3")
    assert found.entries == (RevisionChanges("1", observed=False), MOVED)
    with pytest.raises(ValueError, match="cannot be read"):
        read_changes("1", "{}")
