# SPDX-License-Identifier: Apache-2.0
"""Readings that come in another way than HTTP: what a worker of the application calls."""

import uuid
from typing import Any

import pytest
from sqlalchemy import func, select

from edgepaas.app import Box
from edgepaas.app.api import NotPlain, Problem, parse_json
from edgepaas.app.append import AppendRequest
from edgepaas.app.facts import Appended
from edgepaas.files.paths import Paths
from edgepaas.telemetry.allowance import Allowance
from edgepaas.telemetry.intake import ReadingIntake
from edgepaas.telemetry.models import READINGS, RULE_FEED, RULES
from edgepaas.telemetry.rules.follower import RuleFollower
from tests.support.telemetry_box import open_box

READING = '{"device": "press-1", "metric": "temperature", "value": 71.5}'


def count(box: Box, table: Any) -> int:
    with box.database.read() as session:
        return session.execute(select(func.count()).select_from(table)).scalar_one()


def test_a_message_is_validated_stored_once_and_wakes_the_rules(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_box(paths, READINGS_MAX="2") as (app, box):
        rule = {"name": "hot", "metric": "temperature", "condition": "above", "threshold": 70}
        assert app.test_client().post("/api/v1/rules", json=rule).status_code == 201
        assert count(box, RULES) == 1
        (follower,) = box.workers
        assert isinstance(follower, RuleFollower)
        woken: list[int] = []
        monkeypatch.setattr(follower, "wake", lambda: woken.append(count(box, RULE_FEED)))
        intake = ReadingIntake(box, follower, Allowance(1000, "DEVICES_PER_TOKEN", "devices"))

        assert intake.take(parse_json(READING), caller="broker", key="m-1") == Appended(1, 0)
        assert woken == [1], "woken once there is something to judge"
        assert intake.take(parse_json(READING), caller="broker", key="m-1") == Appended(0, 1)
        assert intake.take([parse_json(READING)] * 2, caller="other", key="m-1") == Appended(2, 0)
        assert len(woken) == 2

        refused = {
            413: [parse_json(READING)] * 3,
            422: {"device": "press-1", "metric": "temperature", "value": "warm"},
            409: {"device": "press-2", "metric": "temperature", "value": 71.5},
        }
        for status, body in refused.items():
            with pytest.raises(Problem) as caught:
                intake.take(body, caller="broker", key="m-1")
            assert caught.value.status == status
        assert count(box, READINGS) == 3


def test_what_may_not_wait_never_reads_the_rules(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where they become old between two looks: every connection would wait."""
    with open_box(paths) as (_, box):
        (follower,) = box.workers
        assert isinstance(follower, RuleFollower)
        follower.rules.watches()
        moments = [follower.rules._read_at + 1.0]
        monkeypatch.setattr(
            follower.rules, "_clock", lambda: moments.pop() if moments else float("inf")
        )

        def read() -> Any:
            pytest.fail("the database is read")

        monkeypatch.setattr(box.database, "read", read)
        intake = ReadingIntake(box, follower, Allowance(1000, "DEVICES_PER_TOKEN", "devices"))
        readings = intake.route.parse(parse_json(READING))
        request = AppendRequest("token", at_once=True)
        assert isinstance(intake.post_readings(readings, request).rows[0]["id"], uuid.UUID)
        with pytest.raises(NotPlain):
            intake.post_readings(readings, request)
