# SPDX-License-Identifier: Apache-2.0
"""Work under a deadline: its result, its error, or the end of waiting."""

import threading
from itertools import count

import pytest

from edgepaas.timing.deadline import OutOfTime, Scope, within

LIMIT = 10.0


def test_the_result_and_the_error_of_the_work_come_through() -> None:
    """As if it had been called."""
    assert within(LIMIT, lambda scope: 42) == 42
    with pytest.raises(ZeroDivisionError):
        within(LIMIT, lambda scope: 1 // 0)


def test_work_that_blocks_is_left_behind_and_its_stage_named() -> None:
    """What it returns in the end is discarded, once."""
    go_on, discarded = threading.Event(), threading.Event()

    def work(scope: Scope) -> str:
        scope.enter("waiting for nothing")
        go_on.wait(LIMIT)
        return "late"

    with pytest.raises(OutOfTime) as caught:
        within(0.05, work, discard=lambda result: discarded.set())
    assert caught.value.stage == "waiting for nothing"
    assert not discarded.is_set()
    go_on.set()
    assert discarded.wait(LIMIT)


def test_work_that_goes_on_notices_that_its_time_is_up() -> None:
    """The next stage is not entered."""
    noticed = threading.Event()

    def work(scope: Scope) -> None:
        try:
            for number in count():
                scope.enter(f"stage {number}")
        except OutOfTime:
            noticed.set()
            raise

    with pytest.raises(OutOfTime):
        within(0.05, work)
    assert noticed.wait(LIMIT)


def test_the_time_left_is_never_zero() -> None:
    """A socket would take 0 for non-blocking."""
    scope = Scope(LIMIT)
    assert 0 < scope.enter("x") <= LIMIT
    with pytest.raises(OutOfTime):
        Scope(0.0).enter("x")
