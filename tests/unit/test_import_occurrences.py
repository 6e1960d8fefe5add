# SPDX-License-Identifier: Apache-2.0
"""Equal readings of a file are told apart whatever their order, and in little memory."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepaas.telemetry.importer.reader.occurrences import Occurrences

START = datetime(2026, 1, 1, tzinfo=UTC)


def numbered(rows: list[tuple[int, float]], most: int) -> tuple[list[int], int]:
    found = Occurrences(most)
    moments = [START + timedelta(seconds=second) for second, _ in rows]
    for moment in moments:
        found.note(moment)
    numbers = [
        found.number(0, moment, value) for moment, (_, value) in zip(moments, rows, strict=True)
    ]
    return numbers, found.held


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from([1.0, 2.0])), max_size=60),
    st.sampled_from([0, 3, 1000]),
    st.sampled_from([None, False, True]),
)
def test_each_reading_has_the_number_that_counting_gives(
    rows: list[tuple[int, float]], most: int, newest_first: bool | None
) -> None:
    if newest_first is not None:
        rows = sorted(rows, reverse=newest_first, key=lambda row: row[0])
    seen: Counter[tuple[int, float]] = Counter()
    expected = []
    for row in rows:
        expected.append(seen[row])
        seen[row] += 1
    assert numbered(rows, most)[0] == expected


@pytest.mark.parametrize("step", [1, -1])
def test_a_file_in_order_is_not_remembered(step: int) -> None:
    rows = [(5000 + step * (place // 2), float(place % 2)) for place in range(5000)]
    assert numbered(rows, 100)[1] <= 2


def test_a_few_rows_out_of_order_are_a_few_to_remember() -> None:
    rows = [(place - 700 * (place % 500 == 499), 1.0) for place in range(5000)]
    numbers, held = numbered(rows, 100)
    assert sum(numbers) == 9
    assert held <= 30
