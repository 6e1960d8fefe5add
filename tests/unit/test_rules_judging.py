# SPDX-License-Identifier: Apache-2.0
"""What a rule makes of readings, one after the other."""

from dataclasses import astuple
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepaas.telemetry.rules.alert_texts import sentence, span
from edgepaas.telemetry.rules.judging import (
    SECOND,
    ActiveRule,
    ConditionChange,
    Series,
    advance,
    fall_silent,
)
from edgepaas.telemetry.times import EARLIEST
from tests.support.rule_episodes import Row, episodes_below, gaps
from tests.support.search import tries

MINUTE = 60


def watch(condition: str, threshold: float = 0.0, for_seconds: int = 0, **more: Any) -> ActiveRule:
    values = {"id": "r", "name": "a rule", "device": None, "metric": "m", "severity": "warning"}
    return ActiveRule(
        condition=condition, threshold=threshold, for_seconds=for_seconds, **(values | more)
    )


def judged(
    rule: ActiveRule, *readings: tuple[float, float]
) -> list[tuple[bool, float | None, float]]:
    """Feed (seconds, value); return (raised, since, at) of each flip, in seconds."""
    series, found = Series(), []
    for seconds, value in readings:
        for flip in advance(rule, series, round(seconds * SECOND), value):
            since = None if flip.since is None else flip.since / SECOND
            assert flip.at is not None
            found.append((flip.raised, since, flip.at / SECOND))
    return found


def test_a_threshold_is_raised_once_it_held_for_its_duration_and_over_when_it_does_not() -> None:
    rule = watch("below", 60, for_seconds=30)
    readings = [(0, 61), (10, 59), (20, 58), (39, 57), (40, 56), (50, 55), (60, 60), (70, 59)]
    assert judged(rule, *readings) == [(True, 10, 40), (False, 10, 60)]


def test_one_reading_is_enough_without_a_duration_and_the_threshold_itself_is_not_beyond() -> None:
    assert judged(watch("above", 5), (0, 5), (1, 5.1), (2, 5.0)) == [(True, 1, 1), (False, 1, 2)]
    assert judged(watch("below", 5), (0, 5), (1, 4.9)) == [(True, 1, 1)]


def test_a_spike_back_begins_the_duration_anew() -> None:
    rule = watch("above", 5, for_seconds=20)
    assert judged(rule, (0, 6), (15, 6), (16, 5), (17, 6), (30, 6), (37, 6)) == [(True, 17, 37)]


def test_a_clock_that_steps_back_adds_no_time_and_takes_none() -> None:
    rule = watch("above", 5, for_seconds=100)
    back = [(1000, 6), (1050, 6), (50, 6), (90, 6), (99, 6), (101, 6)]
    assert judged(rule, *back) == [(True, 1000, 101)]


def test_a_reading_that_comes_late_adds_no_time() -> None:
    rule = watch("above", 5, for_seconds=100)
    assert judged(rule, (1000, 6), (1010, 6), (100, 6), (1020, 6), (1090, 6)) == []
    late = [(1000, 6), (1010, 6), (100, 6), (1020, 6), (1090, 6), (1100, 6)]
    assert judged(rule, *late) == [(True, 1000, 1100)]


def test_one_moment_from_a_far_future_does_not_deafen_a_rule() -> None:
    rule = watch("above", 5, for_seconds=100)
    far = [(0, 1), (10**10, 1), (20, 6), (70, 6), (120, 6), (130, 1)]
    assert judged(rule, *far) == [(True, 20, 120), (False, 20, 130)]


def test_a_rate_holds_up_and_down_and_lasts_until_the_value_calms() -> None:
    rule = watch("rate", 1.0)
    readings = [(0, 10), (10, 19), (20, 31), (30, 19), (40, 19)]
    assert judged(rule, *readings) == [(True, 20, 20), (False, 20, 40)]


def test_a_rate_needs_time_between_two_readings() -> None:
    rule = watch("rate", 1.0)
    assert judged(rule, (0, 10), (0, 1000), (-5, 5000), (0, 5001)) == []
    assert judged(rule, (0, 0), (1, 5), (1, 9), (2, 9)) == [(True, 1, 1), (False, 1, 2)]
    assert judged(rule, (0, -1.7e308), (1, 1.7e308)) == [(True, 1, 1)]


def test_a_rate_that_has_to_last_lasts() -> None:
    rule = watch("rate", 1.0, for_seconds=20)
    assert judged(rule, (0, 0), (10, 20), (20, 40), (30, 60), (40, 60)) == [
        (True, 10, 30),
        (False, 10, 40),
    ]


def test_a_gap_is_an_episode_even_when_it_is_over_before_anybody_noticed() -> None:
    rule = watch("absent", for_seconds=3600)
    assert judged(rule, (0, 1), (3600, 1), (7201, 1)) == [(True, 3600, 7201), (False, 3600, 7201)]
    # The clock steps back by an hour: there is no gap on either side of the step.
    assert judged(rule, (0, 1), (3600, 1), (300, 1), (3600, 1), (3900, 1)) == []


def test_silence_is_told_by_the_time_of_listening_and_over_with_the_next_reading() -> None:
    rule, series = watch("absent", for_seconds=60), Series()
    assert list(advance(rule, series, 5 * SECOND, 1.0)) == []
    series.ready_seconds = 100.0
    assert list(fall_silent(rule, series, 159.9)) == []
    assert list(fall_silent(rule, series, 160.0)) == [ConditionChange(True, 5 * SECOND, None)]
    assert list(fall_silent(rule, series, 500.0)) == []
    assert list(advance(rule, series, 900 * SECOND, 2.0)) == [
        ConditionChange(False, 5 * SECOND, 900 * SECOND, 2.0)
    ]
    assert not series.raised


@given(
    st.lists(
        st.tuples(st.integers(-4000, 4000), st.sampled_from([50.0, 59.0, 60.0, 61.0])), max_size=60
    )
)
@settings(max_examples=tries(50), deadline=None)
def test_episodes_are_those_that_another_way_of_counting_finds(steps: list[Any]) -> None:
    moment, rows = EARLIEST + timedelta(days=365), []
    for step, value in steps:
        moment += timedelta(seconds=step)
        rows.append((moment, value))
    if not rows:
        return
    assert found_in(watch("below", 60, 30 * MINUTE), rows) == episodes_below(rows, 60, 1800)
    assert found_in(watch("absent", 0, 60 * MINUTE), rows) == gaps(rows, 3600)


def found_in(rule: ActiveRule, rows: list[Row]) -> list[Any]:
    """Judge *rows* with a state that is written down and read again after each of them."""
    state, found = astuple(Series()), []
    for moment, value in rows:
        series = Series(*state)
        microseconds = (moment - EARLIEST) // timedelta(microseconds=1)
        for flip in advance(rule, series, microseconds, value):
            assert flip.since is not None
            if flip.raised:
                since = EARLIEST + timedelta(microseconds=flip.since)
                found.append([since, moment, None])
            else:
                found[-1][2] = moment
        state = astuple(series)
    return [tuple(one) for one in found]


@pytest.mark.parametrize(
    ("rule", "flip", "said"),
    [
        (
            watch("below", 60, 1800),
            ConditionChange(True, 0, 1800 * SECOND, 58.25),
            "press: m is below 60 for 30 min, since 1970-01-01T00:00:00Z; 58.25 at "
            "1970-01-01T00:30:00Z (rule 'a rule'): look at press; GET /api/v1/rules/r is the rule",
        ),
        (
            watch("above", 0.5),
            ConditionChange(False, 0, 90 * SECOND, 0.25),
            "press: m is above 0.5 no longer, as it was since 1970-01-01T00:00:00Z, after "
            "1 min 30 s; 0.25 at 1970-01-01T00:01:30Z (rule 'a rule')",
        ),
        (
            watch("absent", for_seconds=3600),
            ConditionChange(True, None, None),
            "press: no reading of m for 1 h: none that the rule knows of (rule 'a rule'): look at "
            "press; GET /api/v1/rules/r is the rule",
        ),
        (
            watch("rate", 0.125),
            ConditionChange(True, 0, SECOND, 9.0),
            "press: m changes by more than 0.125 a second, since 1970-01-01T00:00:00Z; 9 at "
            "1970-01-01T00:00:01Z (rule 'a rule'): look at press; GET /api/v1/rules/r is the rule",
        ),
    ],
)
def test_an_alert_says_what_happened_since_when_and_what_to_do(
    rule: ActiveRule, flip: ConditionChange, said: str
) -> None:
    assert sentence(rule, "press", flip) == said


def test_a_span_is_told_in_its_two_largest_units() -> None:
    told = [span(seconds) for seconds in (0, 0.4, 61, 5400, 90_061)]
    assert told == ["0 s", "0 s", "1 min 1 s", "1 h 30 min", "1 d 1 h"]
