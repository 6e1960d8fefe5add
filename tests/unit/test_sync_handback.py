# SPDX-License-Identifier: Apache-2.0
"""Handing back: when it may be, the order of its steps, and what is left when one fails."""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from edgepaas.decision.contract import DatabaseContract
from edgepaas.decision.hold import read_hold, write_hold
from edgepaas.decision.losses import record_return
from edgepaas.decision.rehearsal_record import fresh_rehearsal
from edgepaas.files.paths import Paths
from edgepaas.outbox import fence
from edgepaas.outbox.ledger import pending
from edgepaas.outbox.stream import Counts, confirm, read_stream
from edgepaas.settings import Settings
from edgepaas.sync import handback
from edgepaas.sync.errors import HubUnreachable
from edgepaas.sync.handback import TAKEOVER_TIMEOUT, HandBack, TakeoverFailed, lift_leftover_fence
from edgepaas.sync.takeover.drain_time import DrainTime
from edgepaas.timing.link import Link
from edgepaas.timing.moment import current_moment
from tests.support.boxes import contract
from tests.support.outbox import captured_file


class Clock:
    """A clock that goes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FallbackBox:
    """A box in ``fallback`` and its hand-back."""

    def __init__(self, paths: Paths, connection: sqlite3.Connection) -> None:
        self.paths, self.connection, self.clock = paths, connection, Clock()
        self.contract = fallback(paths)
        self.settings = Settings.of(HANDBACK_AFTER="30", HANDBACK_ROWS="10", FENCE_DEADLINE="3")
        self.handback = HandBack(self.contract, self.settings, paths, clock=self.clock)
        self.steps: list[str] = []

    def write(self) -> None:
        """Write a row, as the service does."""
        self.connection.execute("INSERT INTO facts (id) VALUES (hex(randomblob(8)))")

    def drain(self, before_reading: Callable[[], None]) -> None:
        """Send what waits."""
        before_reading()
        self.steps.append("drain")
        stream = read_stream(self.connection)
        assert stream is not None
        confirm(self.connection, "b", stream.last_seq, Counts(stream.last_seq))

    def prove(self) -> None:
        """Have PostgreSQL commit a write."""
        assert fence.fenced(self.connection) is not None
        self.steps.append("prove")

    def attempt(self) -> None:
        """Do the steps."""
        self.handback.attempt(self.connection, self.drain, self.prove)

    def writes_pass(self) -> bool:
        """Whether the file takes a write."""
        try:
            self.write()
        except sqlite3.IntegrityError as error:
            assert fence.FENCED in str(error)
            return False
        return True


def fallback(paths: Paths, state: str = "fallback", **changes: Any) -> DatabaseContract:
    """The decision of a box whose PostgreSQL is away."""
    return contract(paths, db_state=state, hub_url="postgresql://hub/db", **changes)


@pytest.fixture
def box(paths: Paths) -> Iterator[FallbackBox]:
    """A box, its file captured."""
    with captured_file(paths.sqlite) as connection:
        yield FallbackBox(paths, connection)


def test_it_waits_until_postgres_has_been_good_for_long_enough(box: FallbackBox) -> None:
    assert box.handback.status_text(0) == "PostgreSQL accepts no writes"
    box.handback.record_hub_write()
    box.clock.now += 10
    box.handback.record_hub_write()
    assert box.handback.status_text(0) == box.handback.blocked_reason(0) == "in 20 s"
    assert box.handback.seconds_left() == 20
    box.clock.now += 20
    assert box.handback.status_text(0) == "now"
    assert box.handback.blocked_reason(0) is None


def test_a_failure_begins_its_time_anew(box: FallbackBox) -> None:
    box.handback.record_hub_write()
    box.clock.now += 29
    box.handback.record_hub_failure()
    box.handback.record_hub_write()
    assert box.handback.status_text(0) == "in 30 s"


def test_a_hold_is_honoured(box: FallbackBox) -> None:
    box.handback.record_hub_write()
    box.clock.now += 30
    write_hold(box.paths.postgres_hold, "it is read-only", 60)
    assert "on hold: it is read-only" in box.handback.status_text(0)


def test_too_many_waiting_rows_keep_it_on_sqlite(box: FallbackBox) -> None:
    box.handback.record_hub_write()
    box.clock.now += 30
    assert box.handback.status_text(10) == "now"
    assert "HANDBACK_ROWS=10" in box.handback.status_text(11)


def test_coming_back_too_often_is_flapping(box: FallbackBox) -> None:
    box.handback.record_hub_write()
    box.clock.now += 30
    for _ in range(6):
        assert box.handback.status_text(0) == "now"
        record_return(box.paths, current_moment())
    assert "came back 6 times in an hour" in box.handback.status_text(0)


@pytest.mark.parametrize(("state", "sqlite"), [("local-first", True), ("primary", False)])
def test_only_a_box_in_fallback_hands_back(paths: Paths, state: str, sqlite: bool) -> None:
    decided = fallback(paths, state)
    if not sqlite:
        decided = replace(decided, database_url=decided.hub_url)
    one = HandBack(decided, Settings.of(), paths)
    one.record_hub_write()
    assert one.status_text(0) == ""
    assert one.blocked_reason(0)
    assert one.seconds_left() == float("inf")


def test_the_rest_is_sent_behind_the_fence_before_the_service_is_asked_to_exit(
    box: FallbackBox,
) -> None:
    write_hold(box.paths.postgres_hold, "over in a moment", 60)
    box.write()
    box.attempt()
    assert box.steps == ["drain"]
    assert pending(box.connection) == 0
    assert not box.writes_pass()
    assert read_hold(box.paths.postgres_hold) is None
    assert json.loads(box.paths.hand_back.read_text())["generation"] == "1"
    assert box.handback.in_progress
    standing = fence.fenced(box.connection)
    assert standing is not None
    assert standing.remaining > TAKEOVER_TIMEOUT - 2


def test_a_rest_that_takes_too_long_lets_sqlite_serve_on(box: FallbackBox) -> None:
    box.write()

    def slow(before_reading: Callable[[], None]) -> None:
        before_reading()
        box.clock.now += 2

    with pytest.raises(TakeoverFailed, match="FENCE_DEADLINE=3"):
        box.handback.attempt(box.connection, slow, box.prove)
    assert box.writes_pass()
    assert not box.paths.hand_back.exists()


def test_the_pause_after_failures_gets_longer(box: FallbackBox) -> None:
    """Each attempt makes writes wait; a PostgreSQL that cannot do it must not cost that often."""
    box.handback.record_hub_write()
    waits = []
    for _ in range(3):
        box.clock.now += 1000
        with pytest.raises(TakeoverFailed):
            box.handback.attempt(box.connection, box.drain, slow_clock(box))
        waits.append(box.handback.seconds_left())
    assert waits == [30, 60, 120]


def slow_clock(box: FallbackBox) -> Any:
    """A proof that takes longer than the fence may stand."""

    def prove() -> None:
        box.clock.now += 10

    return prove


STEPS = ("drain", "prove", "_extend_fence", "clear_hold", "write_atomic")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [HubUnreachable("gone"), sqlite3.OperationalError("busy")])
def test_an_error_at_any_step_lifts_the_fence(
    box: FallbackBox, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    if step != "prove":
        box.write()
    fail_at(box, monkeypatch, step, error)
    with pytest.raises(type(error)):
        box.attempt()
    assert box.writes_pass()
    assert not box.paths.hand_back.exists()


@pytest.mark.parametrize("step", STEPS)
def test_a_drainer_killed_at_any_step_leaves_what_the_next_one_clears(
    box: FallbackBox, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Nothing of it runs any more, not even what lifts the fence."""
    if step != "prove":
        box.write()
    fail_at(box, monkeypatch, step, RuntimeError("killed"))
    monkeypatch.setattr(HandBack, "_lift", lambda *_: None)
    with pytest.raises(RuntimeError):
        box.attempt()
    if box.connection.in_transaction:
        box.connection.execute("ROLLBACK")
    assert not box.writes_pass()
    lift_leftover_fence(box.connection, box.paths, box.contract)
    assert box.writes_pass()
    assert not box.paths.hand_back.exists()


def fail_at(box: FallbackBox, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception) -> None:
    """Have *step* raise *error*."""

    def fail(*arguments: Any, **__: Any) -> None:
        if step == "drain":
            arguments[0]()
        raise error

    if step in ("drain", "prove"):
        monkeypatch.setattr(box, step, fail)
    elif step == "_extend_fence":
        monkeypatch.setattr(HandBack, step, fail)
    else:
        monkeypatch.setattr(handback, step, fail)


def test_a_fence_that_was_lifted_meanwhile_is_no_fence(box: FallbackBox) -> None:
    """The service lifts an expired one; a write that came in then has to be delivered first."""

    def lifted() -> None:
        fence.lift(box.connection)
        box.write()

    with pytest.raises(TakeoverFailed, match="lifted meanwhile"):
        box.handback.attempt(box.connection, box.drain, lifted)
    assert box.writes_pass()


def test_a_service_that_does_not_end_gets_its_writes_back(box: FallbackBox) -> None:
    box.attempt()
    box.clock.now += TAKEOVER_TIMEOUT - 1
    box.handback.enforce_deadline(box.connection)
    assert not box.writes_pass()
    box.clock.now += 2
    box.handback.enforce_deadline(box.connection)
    assert box.writes_pass()
    assert not box.paths.hand_back.exists()
    assert not box.handback.in_progress


def test_the_next_drainer_leaves_a_hand_back_that_is_under_way_alone(box: FallbackBox) -> None:
    """Killed after the service was told: it is about to end, and nothing may wait then."""
    box.attempt()
    lift_leftover_fence(box.connection, box.paths, box.contract)
    assert not box.writes_pass()
    assert box.paths.hand_back.exists()


def test_the_fence_of_a_decision_that_is_over_is_lifted(box: FallbackBox) -> None:
    box.attempt()
    lift_leftover_fence(box.connection, box.paths, replace(box.contract, generation="2"))
    assert box.writes_pass()


def test_a_hand_back_counts_towards_flapping(box: FallbackBox) -> None:
    for _ in range(6):
        box.attempt()
        box.handback.cancel(box.connection)
    box.handback.record_hub_write()
    box.clock.now += 10_000
    assert "came back 6 times" in box.handback.status_text(0)


def test_where_nothing_waits_postgres_has_to_commit_another_write(box: FallbackBox) -> None:
    box.attempt()
    assert box.steps == ["drain", "prove"]


def test_the_fence_stands_only_from_the_reading_of_the_rest_on(box: FallbackBox) -> None:
    """Writes pass while the stream is being locked, which takes a round trip."""
    passed: list[bool] = []

    def drain(before_reading: Callable[[], None]) -> None:
        passed.append(box.writes_pass())
        before_reading()
        passed.append(box.writes_pass())
        box.drain(lambda: None)

    box.handback.attempt(box.connection, drain, box.prove)
    assert passed == [True, False]


def test_the_deadline_aborts_what_hangs_behind_the_fence(box: FallbackBox) -> None:
    box.settings = Settings.of(FENCE_DEADLINE="0.1")
    box.handback = HandBack(box.contract, box.settings, box.paths, clock=box.clock)
    aborted = threading.Event()

    def hangs(before_reading: Callable[[], None]) -> None:
        before_reading()
        assert aborted.wait(60)
        raise HubUnreachable("aborted")

    with pytest.raises(HubUnreachable):
        box.handback.attempt(box.connection, hangs, box.prove, abort=aborted.set)
    assert box.writes_pass()


def test_rows_that_keep_coming_do_not_keep_it_from_handing_back(box: FallbackBox) -> None:
    """At 300 rows a second and 200 ms a round trip, 180 wait after each batch."""
    link = Link(0.2)
    drain_time = DrainTime(link)
    one = HandBack(box.contract, box.settings, box.paths, drain_time=drain_time, clock=box.clock)
    one.record_hub_write()
    box.clock.now += 30
    assert "HANDBACK_ROWS=10" in one.status_text(180)
    drain_time.record(180, 0.65)
    assert one.status_text(180) == "now"
    assert "HANDBACK_ROWS=10" in one.status_text(20_000)


def test_over_a_slow_link_the_fence_may_stand_for_its_round_trips(box: FallbackBox) -> None:
    slow = DrainTime(Link(0.6))
    one = HandBack(box.contract, box.settings, box.paths, drain_time=slow)
    assert box.handback.fence_deadline == 3.0
    assert one.fence_deadline > 3.0


def test_a_rehearsal_that_failed_backs_off_and_says_why(box: FallbackBox) -> None:
    box.handback.record_hub_write()
    waits = []
    for _ in range(3):
        box.clock.now += 1000
        assert box.handback.blocked_reason(0) is None
        box.handback.refuse("it takes no writes")
        waits.append(box.handback.seconds_left())
    assert waits == [30, 60, 120]
    assert box.handback.status_text(0) == "in 120 s: it takes no writes"


def test_what_the_rehearsal_found_is_left_for_the_next_stages(box: FallbackBox) -> None:
    now = current_moment()
    url = box.contract.hub_url
    box.handback.attempt(
        box.connection, box.drain, box.prove, revisions=["alembic_version_telemetry 0002"]
    )
    assert fresh_rehearsal(box.paths, url) == frozenset({"alembic_version_telemetry 0002"})
    assert fresh_rehearsal(box.paths, f"{url}2") is None
    later = replace(now, since_boot=now.since_boot + 1000, wall=now.wall + 1000)
    assert fresh_rehearsal(box.paths, url, later) is None
    assert fresh_rehearsal(box.paths, url, replace(now, boot_id="another")) is None
