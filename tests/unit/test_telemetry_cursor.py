# SPDX-License-Identifier: Apache-2.0
"""Moments and cursors: what goes out comes back the same, and nothing else comes in."""

import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepaas.telemetry.cursor import BadCursor, Cursor
from edgepaas.telemetry.times import as_utc, format_moment, parse_moment

moments = st.datetimes(
    min_value=datetime(1970, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.just(UTC)
)


@given(moments, st.uuids(), st.booleans())
def test_a_cursor_comes_back_the_same(moment: datetime, identity: uuid.UUID, whole: bool) -> None:
    text = Cursor(moment, identity, whole).encode()
    assert len(text) == 34
    assert Cursor.decode(text) == Cursor(moment, identity, whole)


def test_a_cursor_of_the_first_releases_is_one_of_a_whole_list() -> None:
    old = "AQAGF2aL3dgAEjRWeBI0VngSNFZ4EjRWeA"
    assert Cursor.decode(old).whole


@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]{34}", fullmatch=True))
def test_any_other_text_is_a_bad_cursor_or_a_moment_in_range(text: str) -> None:
    try:
        cursor = Cursor.decode(text)
    except BadCursor:
        return
    assert 1970 <= cursor.moment.year <= 9999


@given(moments)
def test_a_moment_is_written_and_read_alike(moment: datetime) -> None:
    assert as_utc(parse_moment(format_moment(moment))) == moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-05-01T12:30:00Z", datetime(2024, 5, 1, 12, 30, tzinfo=UTC)),
        ("2024-05-01t12:30:00z", datetime(2024, 5, 1, 12, 30, tzinfo=UTC)),
        ("2024-05-01 12:30", datetime(2024, 5, 1, 12, 30, tzinfo=UTC)),
        ("2024-05-01T14:30:00+02:00", datetime(2024, 5, 1, 12, 30, tzinfo=UTC)),
        (
            "2024-05-01T12:30:00.1234567Z",
            datetime(2024, 5, 1, 12, 30, 0, 123456, tzinfo=UTC),
        ),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_rfc_3339_is_understood(text: str, moment: datetime) -> None:
    assert as_utc(parse_moment(text)) == moment


@pytest.mark.parametrize(
    "text",
    ["", "now", "2024", "20240501T123000Z", "2024-W18-3", "2024-05-01", "12:30:00", "1714566600",
     "2024-13-01T00:00:00Z", "2024-05-01T24:00:01Z", "2024-05-01T12:30:60Z",
     "\u0662024-05-01T12:30:00Z",
     "2024-05-01T12:30:00+99:00", "2024-05-01T12:30:00Z\n", "1969-12-31T23:59:59Z",
     "1970-01-01T00:00:00+00:01", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"date|years"):
        as_utc(parse_moment(text))


def test_a_moment_in_another_zone_is_written_in_utc() -> None:
    moment = datetime(2024, 5, 1, 14, 30, 0, 250_000, tzinfo=timezone(timedelta(hours=2)))
    assert format_moment(moment) == "2024-05-01T12:30:00.25Z"
