# SPDX-License-Identifier: Apache-2.0
"""Delivering: each change is told once, by the right channel, and nothing is lost or doubled."""

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from edgepaas.alerts import history
from edgepaas.alerts.channels.answers import Answer
from edgepaas.alerts.channels.notification import Notification
from edgepaas.files.paths import Paths
from tests.support.alert_box import (
    BROKEN,
    DOWN,
    REFUSED,
    TAKEN,
    UNCLEAR,
    WEBHOOK,
    AlertBox,
    make_config,
)

DAY = 86400.0


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut leaves is tested elsewhere."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def box(paths: Paths) -> AlertBox:
    return AlertBox(paths)


def test_raised_and_resolved_are_told_with_how_long_it_lasted(box: AlertBox) -> None:
    box.accept("the disk is full", severity="critical", fingerprint="disk")
    box.deliver()
    box.clock.forward(7200)
    box.resolve("disk", "there is room again")
    box.deliver()
    assert box.told == [("raised", "the disk is full"), ("resolved", "there is room again")]
    assert box.taken[1].duration == 7200
    assert box.taken[0].key != box.taken[1].key
    assert {name for name, _ in box.asked} == {"webhook"}


def test_nothing_is_told_twice(box: AlertBox) -> None:
    box.accept(fingerprint="x")
    for _ in range(5):
        box.deliver()
        box.clock.forward(60)
    assert len(box.taken) == 1


def test_the_same_alert_within_the_window_is_one_with_a_count(box: AlertBox) -> None:
    box.accept(fingerprint="x")
    box.deliver()
    for _ in range(50):
        box.clock.forward(10)
        box.accept(fingerprint="x")
        box.deliver()
    assert len(box.taken) == 1
    box.clock.forward(100)
    box.deliver()
    assert [(n.what, n.count, n.new) for n in box.taken] == [("raised", 1, 1), ("still", 51, 50)]


def test_reminders_of_what_is_raised_for_days_become_rare_and_count_exactly(box: AlertBox) -> None:
    raised = 0
    for _ in range(3 * 24 * 4):  # every quarter of an hour, for three days
        box.accept(fingerprint="x")
        raised += 1
        box.deliver()
        box.clock.forward(900)
    assert len(box.taken) < 24
    assert sum(notification.new for notification in box.taken) + box.waiting("x") == raised


def test_what_gets_worse_is_told_at_once(box: AlertBox) -> None:
    box.accept("90 %", fingerprint="disk")
    box.deliver()
    box.accept("99 %", fingerprint="disk", severity="critical")
    box.deliver()
    box.accept("98 %", fingerprint="disk", severity="critical")
    box.deliver()
    assert box.told == [("raised", "90 %"), ("worse", "99 %")]


def test_over_before_anybody_could_be_told_is_one_message(box: AlertBox) -> None:
    box.answers = {"webhook": DOWN, "email": DOWN}
    box.accept("it broke", fingerprint="x")
    box.deliver()
    box.resolve("x")
    box.deliver()
    box.answers = {}
    box.clock.forward(300)
    box.deliver()
    assert box.told == [("passed", "it broke")]
    assert {notification.key for _, notification in box.asked} == {box.taken[0].key}


def test_to_resolve_what_is_not_raised_tells_nobody(box: AlertBox) -> None:
    box.resolve("never")
    box.deliver()
    assert not box.taken
    assert not list(box.spool.folders.conditions.iterdir())


def test_an_event_is_told_and_forgotten(box: AlertBox) -> None:
    box.accept("PostgreSQL serves again", severity="info", fingerprint="handed-back")
    box.accept("no fingerprint")
    box.deliver()
    assert sorted(what for what, _ in box.told) == ["event", "event"]
    box.clock.forward(3600)
    box.deliver()
    assert not list(box.spool.folders.conditions.iterdir())


def test_flapping_is_one_alert_that_says_so_and_one_when_it_settles(box: AlertBox) -> None:
    for number in range(60):
        if number % 2:
            box.resolve("x")
        else:
            box.accept(fingerprint="x")
        box.deliver()
        box.clock.forward(20)
    whats = [what for what, _ in box.told]
    assert whats == ["raised", "resolved", "raised", "resolved", "flapping"]
    box.clock.forward(600)
    box.deliver()
    assert [what for what, _ in box.told][5:] == ["settled"]
    assert sum(notification.new for notification in box.taken) == 30
    box.clock.forward(600)
    box.deliver()
    assert len(box.taken) == 6


def test_a_storm_is_a_handful_of_messages_with_exact_counts(box: AlertBox) -> None:
    for number in range(1000):
        box.accept(f"number {number}", fingerprint=f"f{number % 5}")
        if number % 100 == 0:
            box.deliver()
            box.clock.forward(3)
    box.deliver()
    box.clock.forward(700)
    box.deliver()
    assert len(box.taken) == 10
    for fingerprint in range(5):
        new = [n.new for n in box.taken if n.fingerprint == f"f{fingerprint}"]
        assert sum(new) == 200


class TestChannels:
    def test_falls_through_to_e_mail_and_keeps_the_key(self, box: AlertBox) -> None:
        box.answers["webhook"] = DOWN
        box.accept(fingerprint="x")
        box.deliver()
        assert [name for name, _ in box.asked] == ["webhook", "email"]
        assert box.asked[0][1].key == box.asked[1][1].key
        assert box.told == [("raised", "it broke")]

    def test_a_channel_that_is_down_is_let_be_longer_and_longer(self, box: AlertBox) -> None:
        box.answers = {"webhook": DOWN, "email": DOWN}
        box.accept(fingerprint="x")
        attempts = []
        for second in range(7200):
            before = len(box.asked)
            if second % 5 == 0:
                box.deliver()
            if len(box.asked) > before:
                attempts.append(second)
            box.clock.forward(1)
        pauses = [later - earlier for earlier, later in pairwise(attempts)]
        assert pauses[:5] == [5, 10, 20, 40, 80]
        assert max(pauses) == 900
        assert len(attempts) < 20

    def test_retry_after_is_honoured_across_runs(self, box: AlertBox) -> None:
        box.config = make_config(WEBHOOK)
        box.answers["webhook"] = Answer("later", "429", retry_after=120.0)
        box.accept(fingerprint="x")
        box.deliver()
        box.answers = {}
        box.clock.forward(119)
        box.deliver()
        assert not box.taken
        box.clock.forward(2)
        box.deliver()
        assert box.told == [("raised", "it broke")]

    def test_refused_by_every_channel_is_kept_as_dead_and_not_tried_again(
        self, box: AlertBox
    ) -> None:
        box.answers = {"webhook": REFUSED, "email": REFUSED}
        box.accept(fingerprint="x")
        for _ in range(10):
            box.deliver()
            box.clock.forward(3600)
        # Three times each: a proxy may blame what was sent for a passing fault of its own.
        assert len(box.asked) == 6
        assert len(list(box.spool.folders.dead.iterdir())) == 1
        assert history.read(box.paths)[0]["what"] == "dead"

    def test_one_that_a_receiver_chokes_on_holds_up_no_other(self, box: AlertBox) -> None:
        box.config = make_config(WEBHOOK)

        def choke(notification: Notification) -> Answer:
            return BROKEN if notification.message == "poison" else TAKEN

        box.answers["webhook"] = choke
        box.accept("poison", severity="critical")
        for number in range(10):
            box.accept(f"good {number}")
            box.deliver()
            box.clock.forward(2)
        assert len(box.taken) == 10

    def test_other_settings_close_the_breaker(self, box: AlertBox) -> None:
        box.config = make_config(WEBHOOK)
        box.answers["webhook"] = DOWN
        box.accept(fingerprint="x")
        box.deliver()
        box.answers = {}
        box.config = make_config(replace(WEBHOOK, url="http://other/"))
        box.deliver()
        assert box.told == [("raised", "it broke")]

    def test_without_channels_nobody_is_told_but_the_log(
        self, box: AlertBox, caplog: pytest.LogCaptureFixture
    ) -> None:
        box.config = make_config(channels=())
        box.accept("the disk is full", fingerprint="x", severity="critical")
        box.deliver()
        box.deliver()
        assert not box.asked
        lines = [r for r in caplog.records if "the disk is full" in r.getMessage()]
        assert len(lines) == 1
        assert lines[0].levelname == "CRITICAL"
        assert history.read(box.paths)[0]["what"] == "logged"
        assert box.waiting("x") == 1


class TestAmbiguousAnswers:
    def test_what_may_have_arrived_is_sent_again_as_it_was_under_its_key(
        self, box: AlertBox
    ) -> None:
        box.config = make_config(WEBHOOK)
        box.answers["webhook"] = UNCLEAR
        box.accept("first", fingerprint="x")
        box.deliver()
        box.accept("second", fingerprint="x")
        box.clock.forward(60)
        box.deliver()
        box.answers = {}
        box.clock.forward(60)
        box.deliver()
        box.clock.forward(700)
        box.deliver()
        assert [(n.what, n.message, n.new) for n in box.taken] == [
            ("raised", "first", 1),
            ("still", "second", 1),
        ]
        first = [n for _, n in box.asked if n.key == box.taken[0].key]
        assert len(first) == 3
        assert {(n.message, n.count) for n in first} == {("first", 1)}

    def test_what_certainly_did_not_arrive_is_brought_up_to_date(self, box: AlertBox) -> None:
        box.config = make_config(WEBHOOK)
        box.answers["webhook"] = DOWN
        box.accept("first", fingerprint="x")
        box.deliver()
        box.accept("second", fingerprint="x")
        box.answers = {}
        box.clock.forward(60)
        box.deliver()
        assert [(n.what, n.message, n.new) for n in box.taken] == [("raised", "second", 2)]
        assert "first" in box.taken[0].details

    def test_killed_between_answer_and_note_the_same_key_goes_out_again(
        self, box: AlertBox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        box.accept(fingerprint="x")

        def die(notification: Notification) -> Answer:
            raise KeyboardInterrupt

        box.answers["webhook"] = die
        with pytest.raises(KeyboardInterrupt):
            box.deliver()
        box.accept("again", fingerprint="x")
        box.answers = {}
        box.deliver()
        keys = {n.key for _, n in box.asked}
        assert len(keys) == 1
        assert box.taken[0].message == "it broke"


class TestLongOutages:
    def outage(self, box: AlertBox, days: float) -> None:
        box.answers = {"webhook": DOWN, "email": DOWN}
        end = box.clock().wall + days * DAY
        number = 0
        while box.clock().wall < end:
            box.accept(f"it broke {number}", fingerprint="often")
            if number in (3, 9):
                box.accept(f"once {number}", severity="critical", fingerprint=f"once-{number}")
            box.deliver()
            number += 1
            box.clock.forward(3600)
        box.answers = {}

    def test_a_digest_goes_first_and_then_each_distinct_alert(self, box: AlertBox) -> None:
        self.outage(box, 3)
        box.clock.forward(900)
        box.deliver()
        assert box.taken[0].what == "digest"
        assert "3 d" in box.taken[0].message
        assert "3 alerts (2 critical, 1 warning)" in box.taken[0].message
        assert sorted(n.fingerprint for n in box.taken[1:]) == ["often", "once-3", "once-9"]
        assert sum(n.new for n in box.taken[1:]) == 74
        box.clock.forward(DAY)
        box.deliver()
        assert len(box.taken) == 4

    def test_so_it_is_after_a_power_cut_with_a_clock_that_stands_in_1970(
        self, box: AlertBox
    ) -> None:
        self.outage(box, 1)
        box.clock.reboot(wall=5.0)
        box.deliver()
        assert box.taken[0].what == "digest"
        assert len(box.taken) == 4

    def test_too_many_at_once_come_in_digests_that_name_each(self, box: AlertBox) -> None:
        for number in range(250):
            box.accept(f"cause {number}", fingerprint=f"f{number}")
        box.deliver()
        singles = [n for n in box.taken if n.what == "raised"]
        digests = [n for n in box.taken if n.what == "digest"]
        assert len(singles) == 20
        assert len(digests) == 3
        lines = " ".join(line for n in digests for line in n.details)
        named = {n.message for n in singles} | {
            f"cause {number}" for number in range(250) if f"cause {number} " in lines
        }
        assert len(named) == 250
        assert sum(n.new for n in box.taken) == 250

    def test_a_digest_that_may_have_arrived_is_sent_again_under_its_key(
        self, box: AlertBox
    ) -> None:
        box.config = make_config(WEBHOOK)
        for number in range(60):
            box.accept(f"cause {number}", fingerprint=f"f{number}")

        def unclear_digest(notification: Notification) -> Answer:
            return UNCLEAR if notification.what == "digest" else TAKEN

        box.answers["webhook"] = unclear_digest
        box.deliver()
        box.answers = {}
        box.clock.forward(60)
        box.deliver()
        keys = [n.key for _, n in box.asked if n.what == "digest"]
        assert len(keys) == 2
        assert len(set(keys)) == 1
        assert sum(n.new for n in box.taken) == 60


def forever(box: AlertBox, look: Callable[[], bool], *, most: int = 1000) -> int:
    """Deliver once a minute until *look*; returns the minutes."""
    for minute in range(most):
        if look():
            return minute
        box.deliver()
        box.clock.forward(60)
    raise AssertionError("it never came")


def test_channels_that_come_and_go_lose_nothing_and_double_nothing(box: AlertBox) -> None:
    """Each answer in its turn, ambiguous ones among them, over hundreds of alerts."""
    turns = [TAKEN, UNCLEAR, DOWN, BROKEN, TAKEN, BROKEN, UNCLEAR, DOWN, DOWN, TAKEN, REFUSED]
    counter = iter(range(10**9))
    received: dict[str, Notification] = {}

    def moody(notification: Notification) -> Answer:
        answer = turns[next(counter) % len(turns)]
        if answer.reached:
            known = received.setdefault(notification.key, notification)
            assert (known.what, known.new, known.message) == (
                notification.what,
                notification.new,
                notification.message,
            )
        return answer

    box.answers = {"webhook": moody, "email": moody}
    for number in range(150):
        box.accept(f"number {number}", fingerprint=f"f{number % 7}")
        if number % 11 == 0:
            box.resolve(f"f{number % 7}")
        box.deliver()
        box.clock.forward(30)
    forever(box, lambda: all(box.waiting(f"f{i}") == 0 for i in range(7)))
    dead = sum(e["new"] for e in history.read(box.paths, limit=10**6) if e["what"] == "dead")
    assert sum(n.new for n in received.values()) + dead >= 150
    told = sum(e["new"] for e in history.read(box.paths, limit=10**6) if e["what"] == "delivered")
    assert told + dead == 150
