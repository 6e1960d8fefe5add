# SPDX-License-Identifier: Apache-2.0
"""Conditions of the machine: raised when they last, resolved when they are gone, not on a spike."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from edgepaas.alerts.catalogue import NOT_CAPTURED
from edgepaas.alerts.conditions.raised_fingerprints import raised_fingerprints
from edgepaas.files.paths import Paths
from edgepaas.health.checks import CheckResult
from edgepaas.health.system import Measure, SystemReport
from edgepaas.outbox.forwarding_state import Forwarding
from edgepaas.schema.open_problems import record_problem
from edgepaas.service.watches.conditions import (
    CLOCK_FOR,
    LOOK_EVERY,
    MEASURE_FOR,
    WELL_FOR,
    ConditionWatch,
    Hysteresis,
)
from tests.support.boxes import FakeDatabase
from tests.unit.test_health_gate import board_of


@dataclass
class Scene:
    """A machine that looks as it is told to, and what was said of it."""

    cpu: float | None = 10.0
    memory: float | None = 10.0
    disk: float | None = 10.0
    temperature: float | None = None
    clock: bool | None = True
    results: list[CheckResult] = field(default_factory=list)
    rows: Forwarding | None = None
    now: float = 1000.0
    said: list[tuple[str, str, str]] = field(default_factory=list)
    raised_before: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch = ConditionWatch(
            meter=self,
            checks=lambda: self.results,
            forwarding=lambda: self.rows,
            raised_fingerprints=lambda prefix: [
                one for one in self.raised_before if one.startswith(prefix)
            ],
            clock=lambda: self.now,
            alert=self._alert,
            resolve=self._resolve,
        )

    def report(self) -> SystemReport:
        return SystemReport(
            measures=(
                Measure("cpu", self.cpu, "percent", 90),
                Measure("memory", self.memory, "percent", 90),
                Measure("disk", self.disk, "percent", 90),
                Measure("temperature", self.temperature, "celsius", 80),
            ),
            clock_trusted=self.clock,
            clock_message="said by a test",
        )

    def _alert(self, message: str, *, fingerprint: str = "", **_: Any) -> None:
        self.said.append(("raised", fingerprint, message))

    def _resolve(self, message: str, *, fingerprint: str, **_: Any) -> None:
        self.said.append(("resolved", fingerprint, message))

    def pass_by(self, seconds: float) -> list[tuple[str, str]]:
        """Look every few seconds for so long; return what was said in that time."""
        self.said.clear()
        for _ in range(int(seconds / LOOK_EVERY)):
            self.now += LOOK_EVERY
            self.watch.look()
        return [(what, fingerprint) for what, fingerprint, _ in self.said]

    def settle(self) -> None:
        """Let the first verdicts pass: a predecessor's alerts are ended by them."""
        self.pass_by(WELL_FOR + LOOK_EVERY)
        self.said.clear()


@pytest.mark.parametrize("name", ["cpu", "memory", "disk", "temperature"])
def test_a_threshold_is_told_once_it_lasted_and_again_when_it_is_gone_for_good(name: str) -> None:
    scene = Scene(temperature=40.0)
    scene.settle()
    setattr(scene, name, 95.0)
    assert scene.pass_by(MEASURE_FOR[name]) == []
    assert scene.pass_by(LOOK_EVERY) == [("raised", f"system:{name}")]
    message = scene.said[0][2]
    assert "95" in message
    assert f"{name.upper()}_THRESHOLD=" in message
    assert f"for {MEASURE_FOR[name]:.0f} s" in message
    assert scene.pass_by(600) == []
    setattr(scene, name, 20.0)
    assert scene.pass_by(WELL_FOR) == []
    assert scene.pass_by(LOOK_EVERY) == [("resolved", f"system:{name}")]
    assert scene.pass_by(600) == []


def test_a_spike_is_told_to_nobody() -> None:
    scene = Scene()
    scene.settle()
    for _ in range(20):
        scene.cpu = 100.0
        assert scene.pass_by(MEASURE_FOR["cpu"] - LOOK_EVERY) == []
        scene.cpu = 50.0
        assert scene.pass_by(LOOK_EVERY) == []


def test_a_value_about_its_threshold_does_not_flap() -> None:
    scene = Scene(memory=95.0)
    scene.pass_by(MEASURE_FOR["memory"] + LOOK_EVERY)
    for _ in range(20):
        scene.memory = 88.0  # below, not by the margin
        assert scene.pass_by(200) == []
        scene.memory = 91.0
        assert scene.pass_by(200) == []
    scene.memory = 84.0
    assert scene.pass_by(WELL_FOR + LOOK_EVERY) == [("resolved", "system:memory")]


def test_what_the_machine_does_not_tell_changes_nothing() -> None:
    scene = Scene(cpu=None, clock=None)
    said = scene.pass_by(2 * CLOCK_FOR)
    assert {fingerprint for _, fingerprint in said} == {"system:memory", "system:disk"}


def test_a_pause_between_two_looks_proves_nothing() -> None:
    hysteresis = Hysteresis(raise_after=60.0)
    assert hysteresis.update("broken", 0.0) == ""
    assert hysteresis.update("broken", 5000.0) == ""
    assert hysteresis.update("broken", 5001.0) == "raise"


def test_a_clock_without_a_time_source_is_told_after_a_while_not_at_every_boot() -> None:
    scene = Scene(clock=False)
    scene.settle()
    assert scene.pass_by(CLOCK_FOR - WELL_FOR - 2 * LOOK_EVERY) == []
    assert scene.pass_by(2 * LOOK_EVERY) == [("raised", "system:clock")]
    assert "timedatectl" in scene.said[0][2]
    scene.clock = True
    assert scene.pass_by(WELL_FOR + LOOK_EVERY) == [("resolved", "system:clock")]


def result(
    name: str, *, ok: bool, required: bool = True, raised_elsewhere: bool = False
) -> CheckResult:
    return CheckResult(
        name, ok, "said by the check", 0.1, required, raised_elsewhere=raised_elsewhere
    )


def test_a_problem_that_the_schema_stage_raised_is_raised_once(paths: Paths) -> None:
    """One alert of each: the gate's check of the same problem raises no second one."""
    record_problem(paths, "the triggers could not be installed", NOT_CAPTURED)
    assert raised_fingerprints(paths, "") == [NOT_CAPTURED.fingerprint()]
    board = board_of(FakeDatabase(), paths, HEALTH_CACHE="0")
    scene = Scene(results=board.results())
    failed = [found.name for found in scene.results if not found.ok]
    assert failed == ["capture"]
    assert [one for one in scene.pass_by(60) if one[0] == "raised"] == []


def test_a_required_service_that_is_away_is_told_and_an_optional_one_is_not() -> None:
    scene = Scene(
        results=[
            result("service broker", ok=False),
            result("service extra", ok=False, required=False),
            result("spool", ok=False),
            result("database", ok=False, raised_elsewhere=True),
        ]
    )
    said = [one for one in scene.pass_by(60) if one[0] == "raised"]
    assert said == [("raised", "service:broker"), ("raised", "check:spool")]
    assert "said by the check" in scene.said[0][2]
    scene.results = [result("service broker", ok=True), result("spool", ok=True)]
    ended = scene.pass_by(WELL_FOR + LOOK_EVERY)
    assert ended[-2:] == [("resolved", "service:broker"), ("resolved", "check:spool")]


def test_a_service_that_is_listed_no_longer_is_watched_no_longer() -> None:
    scene = Scene(
        results=[result("service broker", ok=False)],
        raised_before=["service:broker", "service:old", "rule:x:y"],
    )
    assert scene.pass_by(LOOK_EVERY) == [("resolved", "service:old")]


def test_a_service_that_starts_ends_what_the_one_before_it_raised() -> None:
    scene = Scene(cpu=20.0)
    assert ("resolved", "system:cpu") in scene.pass_by(WELL_FOR + LOOK_EVERY)


def test_alerts_of_rows_end_when_none_is_left_and_are_raised_by_others() -> None:
    scene = Scene(rows=Forwarding("idle", "ok", 0, dead_letters=3))
    scene.settle()
    assert scene.pass_by(600) == []
    scene.rows = Forwarding("idle", "away", 0)  # nobody counted them
    assert scene.pass_by(600) == []
    scene.rows = Forwarding("idle", "ok", 0)
    assert scene.pass_by(WELL_FOR + LOOK_EVERY) == [("resolved", "sync-dead-letters")]
