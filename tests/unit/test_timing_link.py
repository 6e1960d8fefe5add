# SPDX-License-Identifier: Apache-2.0
"""The estimate of a link's round trip, and the limits that follow from it."""

import pytest

from edgepaas.decision.link_record import recorded_link
from edgepaas.files.paths import Paths
from edgepaas.pgdriver.wire import _heard
from edgepaas.settings.urls import split_url
from edgepaas.timing.deadline import Scope
from edgepaas.timing.link import LONGEST_ROUND_TRIP, MARGIN, Link


def test_on_a_fast_link_the_fixed_seconds_hold() -> None:
    link = Link()
    assert link.limit(1.5, 10) == 1.5
    link.measured(0.001)
    link.measured(0.001)
    assert link.limit(1.5, 10) == 1.5


def test_on_a_slow_link_the_round_trips_count() -> None:
    link = Link()
    for _ in range(3):
        link.measured(0.6)
    assert link.expected(4) == 4 * 0.6
    assert link.limit(1.5, 10) == 10 * 0.6 * MARGIN


@pytest.mark.parametrize(
    ("connected", "first"), [(0.3, 0.3), (0.0, 0.6), (9.0, 0.3)], ids=["direct", "tunnel", "names"]
)
def test_a_tunnel_does_not_make_a_link_look_twice_as_slow(connected: float, first: float) -> None:
    """It takes the connection at once, and its own is a part of the first answer's time."""
    link = Link()
    for _ in range(2):
        heard = _heard(Scope(30), link, connected)
        heard(first)
        heard(0.3)
    assert link.round_trip == pytest.approx(0.3)


def test_one_late_answer_changes_nothing_and_a_slow_link_shows_with_the_second() -> None:
    link = Link()
    for seconds in (0.01, 0.01, 0.9):
        link.measured(seconds)
    assert link.round_trip == 0.01
    link.measured(0.5)
    assert link.round_trip == 0.5
    for _ in range(8):
        link.measured(0.01)
    assert link.round_trip == 0.01


def test_a_server_that_is_busy_makes_no_limit_endless() -> None:
    link = Link()
    link.measured(30)
    link.measured(40)
    assert link.round_trip == LONGEST_ROUND_TRIP


def test_the_next_process_begins_with_what_was_found(paths: Paths) -> None:
    address = split_url("postgresql://box@hub.example/db")
    first = recorded_link(paths, address)
    assert first.round_trip == 0.0
    first.measured(0.3)
    assert recorded_link(paths, address).round_trip == 0.3
    assert recorded_link(paths, split_url("postgresql://elsewhere/db")).round_trip == 0.0


def test_a_record_that_is_none_is_no_measurement(paths: Paths) -> None:
    paths.link.write_text("garbage")
    assert recorded_link(paths, split_url("postgresql://hub.example/db")).round_trip == 0.0
