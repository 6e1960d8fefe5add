# SPDX-License-Identifier: Apache-2.0
"""Checks are bounded, cached and never pile up."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from edgepaas.errors import DatabaseUnavailable
from edgepaas.health.checks import Check, CheckFailed, HealthBoard


class Clock:
    """A monotonic clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Counter:
    """A probe that counts how often it ran."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self) -> str:
        self.runs += 1
        return f"run {self.runs}"


def test_a_passing_check_says_what_its_probe_said() -> None:
    """The line is for a person, the time for a graph."""
    result = HealthBoard([Check("a", lambda: "all well")]).result("a")
    assert (result.ok, result.message, result.required, result.ready) == (
        True,
        "all well",
        True,
        True,
    )
    assert result.seconds >= 0
    assert set(result.as_dict()) == {"name", "ok", "required", "message", "seconds"}


def test_a_result_is_kept_for_a_moment_and_then_asked_anew() -> None:
    """A storm of questions is one probe."""
    clock, probe = Clock(), Counter()
    board = HealthBoard([Check("a", probe)], cache_seconds=1.5, clock=clock)
    for _ in range(5):
        board.results()
    assert probe.runs == 1
    clock.now += 1.6
    assert board.result("a").message == "run 2"


def test_a_check_may_keep_its_result_for_longer_than_the_board() -> None:
    """What changes rarely, or costs much, is asked rarely."""
    clock, often, rarely = Clock(), Counter(), Counter()
    checks = [Check("often", often), Check("rarely", rarely, keep=30)]
    board = HealthBoard(checks, cache_seconds=1, clock=clock)
    for _ in range(4):
        board.results()
        clock.now += 5
    assert (often.runs, rarely.runs) == (4, 1)


def test_forgetting_asks_everything_anew() -> None:
    """After a change that is known, no old result is shown."""
    probe = Counter()
    board = HealthBoard([Check("a", probe)], cache_seconds=1000)
    board.results()
    board.forget()
    assert board.result("a").message == "run 2"


def test_a_hanging_check_is_answered_for_and_holds_one_thread_only() -> None:
    """A database that hangs cannot hang a probe, nor eat the threads."""
    release, started = threading.Event(), Counter()

    def hang() -> str:
        started()
        release.wait(30)
        return "late"

    board = HealthBoard([Check("a", hang)], cache_seconds=0, timeout=0.05)
    try:
        first = board.result("a")
        assert not first.ok
        assert "no answer within 0.05 s" in first.message
        for _ in range(20):
            assert not board.result("a").ok
        assert started.runs == 1
    finally:
        release.set()
    deadline = time.monotonic() + 10
    while not board.latest()[0].ok and time.monotonic() < deadline:
        time.sleep(0.01)
    assert board.latest()[0].message == "late", "what the probe found in the end is not lost"


def test_while_a_probe_hangs_later_questions_do_not_wait_again() -> None:
    """A probe storm on a hanging database does not hold the health pool."""
    release = threading.Event()
    board = HealthBoard([Check("a", lambda: str(release.wait(30)))], cache_seconds=0, timeout=0.2)
    try:
        board.result("a")
        began = time.monotonic()
        for _ in range(50):
            board.result("a")
        assert time.monotonic() - began < 5  # fifty full waits would be ten seconds
    finally:
        release.set()


def test_many_who_ask_at_once_share_one_probe() -> None:
    """Single flight: the second question waits for the first one's answer."""
    release, probe = threading.Event(), Counter()

    def slow() -> str:
        release.wait(10)
        return probe()

    board = HealthBoard([Check("a", slow)], cache_seconds=60, timeout=10)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(board.result, "a") for _ in range(8)]
        release.set()
        assert {answer.result().message for answer in asked} == {"run 1"}


def test_checks_run_side_by_side() -> None:
    """Three checks that wait for each other all pass: none is run after another."""
    barrier = threading.Barrier(3)

    def meet() -> str:
        barrier.wait(10)
        return "met"

    board = HealthBoard([Check(name, meet) for name in "abc"], timeout=15)
    assert [result.ok for result in board.results()] == [True, True, True]


def test_what_is_known_is_shown_without_probing() -> None:
    """STATUS= and the page show the latest results and cost nothing."""
    probe = Counter()
    board = HealthBoard([Check("a", probe), Check("b", probe)])
    assert board.latest() == []
    board.result("b")
    assert [result.name for result in board.latest()] == ["b"]
    assert probe.runs == 1


def test_an_expected_failure_is_a_line_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A database that is away is no bug."""

    def away() -> str:
        raise DatabaseUnavailable("refused")

    result = HealthBoard([Check("a", away)]).result("a")
    assert (result.ok, result.message, result.consequence) == (False, "refused", "degraded")
    assert not result.ready
    assert not [record for record in caplog.records if record.exc_info]


def test_a_bug_in_a_probe_is_a_failed_check_with_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing that a probe does ends the board, not even SystemExit."""

    def bug() -> str:
        raise ZeroDivisionError

    def leave() -> str:
        raise SystemExit(3)

    board = HealthBoard([Check("bug", bug), Check("leave", leave)])
    assert [result.ok for result in board.results()] == [False, False]
    assert board.latest()[0].message == "ZeroDivisionError"
    assert any(record.exc_info for record in caplog.records)


def test_an_optional_check_that_fails_changes_nothing_but_its_own_line() -> None:
    """An optional service that is away degrades nobody."""

    def away() -> str:
        raise CheckFailed("refused")

    result = HealthBoard([Check("a", away, required=False)]).result("a")
    assert (result.ok, result.ready, result.consequence) == (False, True, "")


def test_a_full_disk_leaves_the_box_ready() -> None:
    """A finding may say that traffic is welcome all the same."""

    def full() -> str:
        raise CheckFailed("no room", consequence="full", ready=True)

    result = HealthBoard([Check("disk", full)]).result("disk")
    assert (result.ok, result.ready, result.consequence) == (False, True, "full")


def test_a_secret_in_a_finding_is_masked() -> None:
    """Drivers put addresses into their messages."""

    def away() -> str:
        raise OSError("cannot reach postgresql://edge:hunter2secret@db/x")

    assert "hunter2secret" not in HealthBoard([Check("a", away)]).result("a").message


def test_a_change_of_a_result_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The log shows when a check began to fail, not that it still does."""
    failing = [True]

    def sometimes() -> str:
        if failing[0]:
            raise CheckFailed("away")
        return "back"

    board = HealthBoard([Check("a", sometimes)], cache_seconds=0)
    with caplog.at_level(logging.INFO, logger="edgepaas.health"):
        for _ in range(3):
            board.results()
        failing[0] = False
        for _ in range(3):
            board.results()
    assert [r.getMessage() for r in caplog.records] == ["check a: ok: back"]


def test_asking_for_an_unknown_check_is_a_key_error() -> None:
    """A mistyped name is a bug, not a failing check."""
    with pytest.raises(KeyError):
        HealthBoard([]).result("nothing")
