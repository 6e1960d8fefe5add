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
    UNKNOWN,
    ActiveRule,
    ConditionChange,
    Received,
    Series,
    advance,
    fall_silent,
)
from edgepaas.telemetry.times import EARLIEST
from tests.support.rule_episodes import Row, episodes_below
from tests.support.search import tries

MINUTE = 60


def watch(condition: str, threshold: float = 0.0, for_seconds: int = 0, **more: Any) -> ActiveRule:
    values = {"id": "r", "name": "a rule", "device": None, "metric": "m", "severity": "warning"}
    return ActiveRule(
        condition=condition, threshold=threshold, for_seconds=for_seconds, **(values | more)
    )


def at(seconds: float, boot: str = "b") -> Received:
    """The box took it in *seconds* after its start; the wall clock began with that."""
    return Received(boot, round(seconds * SECOND), round(seconds * SECOND))


def judged(
    rule: ActiveRule, *readings: tuple[float, float]
) -> list[tuple[bool, float | None, float]]:
    """Feed (seconds, value); return (raised, since, at) of each flip, in seconds."""
    return by_both_clocks(rule, *((seconds, seconds, value) for seconds, value in readings))


def by_both_clocks(
    rule: ActiveRule, *readings: tuple[float, float, float]
) -> list[tuple[bool, float | None, float]]:
    """Feed (seconds of the box, seconds of the device, value)."""
    series, found = Series(), []
    for box, device, value in readings:
        for flip in advance(rule, series, round(device * SECOND), value, at(box)):
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


@pytest.mark.parametrize(
    "device",
    [
        (7.0, 1.8e9, 1.8e9 + 1, 1.8e9 + 2),  # 1970, then its clock is set
        (0.0, 4.07e9, 10.0, 20.0),  # one of 2099
        (7.0, 7.0, 7.0, 7.0),  # it stands
        (1000.0, 50.0, 99.0, 3.0),  # it steps back
        (-5.0, -4.0, 10.0**10, -1.0),
    ],
)
def test_a_devices_clock_has_no_say_in_durations(device: tuple[float, ...]) -> None:
    rule = watch("above", 5, for_seconds=100)
    quick = [(second, moment, 6.0) for second, moment in enumerate(device)]
    assert by_both_clocks(rule, *quick) == []
    slow = [(40.0 * place, moment, 6.0) for place, moment in enumerate(device)]
    assert by_both_clocks(rule, *slow) == [(True, 0, 120)]


def test_readings_that_come_together_hold_from_when_they_came() -> None:
    rule = watch("above", 5, for_seconds=100)
    hour = [(1000.0, 60.0 * minute, 6.0) for minute in range(60)]
    assert by_both_clocks(rule, *hour) == []
    assert by_both_clocks(rule, *hour, (1100.0, 3600.0, 6.0)) == [(True, 1000, 1100)]


def test_no_time_passes_where_no_clock_of_the_box_saw_it() -> None:
    """A restart of the box, a clock that goes back, and what an earlier release stored."""
    rule, series = watch("above", 5, for_seconds=100), Series()
    for received in (at(0), at(60), at(5000, "other"), at(4000, "other"), UNKNOWN, at(9000)):
        assert list(advance(rule, series, 0, 6.0, received)) == []
    assert series.held == 60 * SECOND


def test_a_wall_clock_that_is_set_makes_no_duration() -> None:
    rule, series = watch("above", 5, for_seconds=100), Series()
    assert not list(advance(rule, series, 0, 6.0, Received("b", 0, 7 * SECOND)))
    assert not list(advance(rule, series, 0, 6.0, Received("b", SECOND, 1_800_000_000 * SECOND)))
    (change,) = advance(rule, series, 0, 6.0, Received("b", 100 * SECOND, 1_800_000_099 * SECOND))
    assert change.lasted == 100 * SECOND


def test_a_rate_holds_up_and_down_and_lasts_until_the_value_calms() -> None:
    rule = watch("rate", 1.0)
    readings = [(0, 10), (10, 19), (20, 31), (30, 19), (40, 19)]
    assert judged(rule, *readings) == [(True, 20, 20), (False, 20, 40)]


def test_a_rate_needs_time_between_two_readings() -> None:
    rule = watch("rate", 1.0)
    together = [(0, 10), (0, 1000), (-5, 5000), (0, 5001)]
    assert by_both_clocks(rule, *((0, second, value) for second, value in together)) == []
    assert judged(rule, (0, 0), (1, 5), (1, 9), (2, 9)) == [(True, 1, 1), (False, 1, 2)]
    assert judged(rule, (0, -1.7e308), (1, 1.7e308)) == [(True, 1, 1)]


def test_a_rate_is_by_the_devices_clock_and_by_the_boxs_where_that_stands() -> None:
    rule = watch("rate", 1.0)
    batch = [(0.0, 60.0 * n, 50.0 * n) for n in range(5)]
    assert by_both_clocks(rule, *batch) == []
    stands = [(0.0, 7.0, 0.0), (10.0, 7.0, 9.0), (20.0, 7.0, 30.0)]
    assert by_both_clocks(rule, *stands) == [(True, 20, 20)]


def test_a_rate_that_has_to_last_lasts() -> None:
    rule = watch("rate", 1.0, for_seconds=20)
    assert judged(rule, (0, 0), (10, 20), (20, 40), (30, 60), (40, 60)) == [
        (True, 10, 30),
        (False, 10, 40),
    ]


def test_a_gap_between_moments_is_no_silence() -> None:
    """Of a device, or of a file that is imported: the box was not waiting for it."""
    rule = watch("absent", for_seconds=3600)
    assert judged(rule, (0, 1), (3600, 1), (7201, 1)) == []
    assert by_both_clocks(rule, (0, 0, 1), (1, 4e9, 1), (2, 20, 1)) == []


def test_silence_is_told_by_the_time_of_listening_and_over_with_the_next_reading() -> None:
    rule, series = watch("absent", for_seconds=60), Series()
    assert list(advance(rule, series, 4_070_000_000 * SECOND, 1.0, at(5))) == []
    series.ready_seconds = 100.0
    assert list(fall_silent(rule, series, 159.9)) == []
    assert list(fall_silent(rule, series, 160.0)) == [ConditionChange(True, 5 * SECOND, None)]
    assert list(fall_silent(rule, series, 500.0)) == []
    assert list(advance(rule, series, 900 * SECOND, 2.0, at(900), ready_seconds=500.0)) == [
        ConditionChange(False, 5 * SECOND, 900 * SECOND, 2.0, 400 * SECOND)
    ]
    assert not series.raised


@given(
    st.lists(
        st.tuples(
            st.integers(0, 4000),
            st.integers(-(10**9), 10**9),
            st.sampled_from([50.0, 59.0, 60.0, 61.0]),
        ),
        max_size=60,
    )
)
@settings(max_examples=tries(50), deadline=None)
def test_episodes_are_those_that_another_way_of_counting_finds(steps: list[Any]) -> None:
    """Whatever the devices' clocks say."""
    moment, rows, devices = EARLIEST + timedelta(days=365), [], []
    for step, device, value in steps:
        moment += timedelta(seconds=step)
        rows.append((moment, value))
        devices.append(device)
    if not rows:
        return
    found = found_in(watch("below", 60, 30 * MINUTE), rows, devices)
    assert found == episodes_below(rows, 60, 1800)


def found_in(rule: ActiveRule, rows: list[Row], devices: list[int]) -> list[Any]:
    """Judge *rows* with a state that is written down and read again after each of them."""
    state, found = astuple(Series()), []
    for (moment, value), device in zip(rows, devices, strict=True):
        series = Series(*state)
        microseconds = (moment - EARLIEST) // timedelta(microseconds=1)
        received = Received("b", microseconds, microseconds)
        for flip in advance(rule, series, device, value, received):
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
            ConditionChange(False, 0, 90 * SECOND, 0.25, 90 * SECOND),
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
