# SPDX-License-Identifier: Apache-2.0
"""One vocabulary of states: the highest word that holds, and why."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from edgepaas.files.paths import Paths
from edgepaas.health.checks import CheckResult
from edgepaas.health.state import STATES, Facts, StateBoard, box_state
from tests.support.boxes import contract


def failed(name: str, consequence: Any) -> CheckResult:
    return CheckResult(name, False, f"{name} is bad", 0.0, True, consequence)


@pytest.mark.parametrize("mode", ["standalone", "local-first", "primary", "fallback", "draining"])
def test_without_trouble_the_state_is_what_the_decision_said(paths: Paths, mode: str) -> None:
    """The decision's word is the box's word."""
    state = box_state(contract(paths, db_state=mode), "running", Facts())
    assert (state.state, state.mode, state.reasons) == (mode, mode, ("no DATABASE_URL",))


def test_of_several_states_the_highest_is_shown_and_every_reason_named(paths: Paths) -> None:
    """full before degraded before fallback, with the reason of each."""
    decided = contract(paths, db_state="fallback", reason="refused")
    both = Facts(full=("no room",), degraded=("redis away",))
    state = box_state(decided, "running", both)
    assert (state.state, state.mode) == ("full", "fallback")
    assert state.reasons == ("no room", "redis away", "refused")
    assert box_state(decided, "running", Facts(degraded=("x",))).state == "degraded"


@pytest.mark.parametrize("phase", ["starting", "stopping"])
def test_a_box_that_starts_or_stops_says_that_first(paths: Paths, phase: Any) -> None:
    """No other word matters then."""
    state = box_state(contract(paths), phase, Facts(full=("no room",)))
    assert state.state == phase


def test_every_word_is_in_the_vocabulary_in_order() -> None:
    """The order is the design's."""
    assert STATES[:4] == ("starting", "stopping", "full", "degraded")
    assert STATES[-1] == "standalone"


def test_a_board_starts_as_starting_and_follows_its_phase(paths: Paths) -> None:
    """The service moves the phase; the state follows, with the moment it changed."""
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    board = StateBoard(contract(paths), now=lambda: now[0])
    assert board.state().state == "starting"
    now[0] += timedelta(seconds=5)
    board.phase = "running"
    now[0] += timedelta(seconds=5)
    state = board.state()
    assert state.state == "standalone"
    assert state.since == datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC)


def test_a_failed_check_and_a_noted_reason_degrade_until_they_are_gone(paths: Paths) -> None:
    """Findings come from the checks' latest results and from whoever noted one."""
    found: list[CheckResult] = []
    board = StateBoard(contract(paths), latest=lambda: found)
    board.phase = "running"
    found.append(failed("disk", "full"))
    found.append(failed("redis", ""))
    board.note("clock", "the clock is wrong")
    state = board.state()
    assert state.state == "full"
    assert state.reasons == ("disk: disk is bad", "the clock is wrong")
    found.clear()
    assert board.state().state == "degraded"
    board.withdraw("clock")
    board.withdraw("clock")
    assert board.state().state == "standalone"
