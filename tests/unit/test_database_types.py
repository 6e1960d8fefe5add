# SPDX-License-Identifier: Apache-2.0
"""Column types: the same value on both databases, and an early no to what one would refuse."""

import json
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql, sqlite

from edgepaas.database.types import Json, Number, Text, UtcDateTime, Uuid, dump_json

SQLITE = sqlite.dialect()
# SQLAlchemy leaves the constructor of this dialect without annotations.
POSTGRES = postgresql.dialect()  # type: ignore[no-untyped-call]

MOMENTS = st.datetimes(datetime(1000, 1, 2), datetime(9998, 12, 30), timezones=st.timezones())


@given(MOMENTS)
def test_a_time_comes_back_as_it_was_in_utc(moment: datetime) -> None:
    """To the microsecond, whatever zone it was given in."""
    column = UtcDateTime()
    back = column.process_result_value(column.process_bind_param(moment, SQLITE), SQLITE)
    assert back is not None
    # Python calls an hour that occurs twice unequal to every time in another zone.
    assert back == moment.astimezone(UTC)
    assert back.utcoffset() == timedelta(0)


@given(MOMENTS, MOMENTS)
def test_the_text_of_times_sorts_as_the_times_do(one: datetime, other: datetime) -> None:
    """SQLite compares text; cursors and ranges rely on it."""
    column = UtcDateTime()
    texts = [column.process_bind_param(moment, SQLITE) for moment in (one, other)]
    assert (texts[0] < texts[1]) == (one.astimezone(UTC) < other.astimezone(UTC))
    assert len(texts[0]) == len(texts[1]) == 27


def test_a_time_without_a_zone_is_refused() -> None:
    """Nobody could say later which moment it was."""
    with pytest.raises(ValueError, match="no time zone"):
        UtcDateTime().process_bind_param(datetime(2026, 1, 1), SQLITE)


def test_postgresqls_times_come_out_in_utc() -> None:
    """The server answers in the session's zone."""
    theirs = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    ours = UtcDateTime().process_result_value(theirs, POSTGRES)
    assert ours is not None
    assert ours.isoformat() == "2026-01-01T10:00:00+00:00"


def test_a_uuid_is_text_on_sqlite_and_itself_on_postgresql() -> None:
    """36 characters sort as the bytes do."""
    made = uuid.UUID("01234567-89ab-7def-8123-456789abcdef")
    assert Uuid().process_bind_param(made, SQLITE) == str(made)
    assert Uuid().process_bind_param(made, POSTGRES) is made
    assert Uuid().process_result_value(str(made), SQLITE) == made


@pytest.mark.parametrize(
    ("value", "reason"),
    [("a\0b", "NUL"), ("é" * 11, "11 characters"), ("\ud800", "surrogates")],
)
def test_text_that_postgresql_would_refuse_is_refused_now(value: str, reason: str) -> None:
    """Else the row would come back as a dead letter weeks later."""
    with pytest.raises(ValueError, match=reason):
        Text(10).process_bind_param(value, SQLITE)


def test_text_within_its_length_passes_unchanged() -> None:
    """Length counts characters, as PostgreSQL does."""
    for value in ("", "plain", "é" * 10, "\U0001f600" * 10, None):
        assert Text(10).process_bind_param(value, SQLITE) == value
    assert Text().process_bind_param("x" * 100_000, SQLITE) == "x" * 100_000


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    """SQLite would store NULL for NaN."""
    with pytest.raises(ValueError, match="finite"):
        Number().process_bind_param(value, SQLITE)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        lambda inner: st.lists(inner) | st.dictionaries(st.text("ab\\u0"), inner),
    )
)
def test_a_json_document_comes_back_as_it_was(document: Any) -> None:
    """And equal documents are equal text."""
    column = Json()
    stored = column.process_bind_param(document, SQLITE)
    assert column.process_result_value(stored, SQLITE) == document
    if document is not None:
        assert stored == dump_json(json.loads(stored))


@pytest.mark.parametrize(
    "document", [float("nan"), {"a": float("inf")}, {"a": "\0"}, {"\0": 1}, ["\ud800"]]
)
def test_a_json_document_that_jsonb_would_refuse_is_refused_now(document: Any) -> None:
    """NaN, NUL and lone surrogates, at any depth."""
    with pytest.raises(ValueError):
        dump_json(document)


def test_a_backslash_u0000_in_text_is_no_nul() -> None:
    """Only the character itself is refused, not the six that spell it."""
    assert json.loads(dump_json({"a": "\\u0000"})) == {"a": "\\u0000"}
