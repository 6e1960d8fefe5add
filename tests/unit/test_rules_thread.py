# SPDX-License-Identifier: Apache-2.0
"""The thread that judges what was stored: it outlives whatever it finds in its own file."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from edgepaas.app import Box
from edgepaas.files.paths import Paths
from edgepaas.telemetry.rules import follower as module
from edgepaas.telemetry.rules.follower import RuleFollower
from edgepaas.telemetry.rules.judging import ActiveRule
from edgepaas.telemetry.rules.store import RuleStore
from tests.support.service_process import until
from tests.support.telemetry_box import open_box

_WATCH = '["r", "n", null, "m", "above", 1.0, 0, "warning"]'
_STATE = "[1, 2.0, 3, 4.0, 5, 6, true, 8.0]"


@pytest.fixture
def box(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    monkeypatch.setattr(module, "PACE", 0.01)
    monkeypatch.setattr(module, "TICK", 0.05)
    with open_box(paths) as (_, found):
        yield found


def follower_of(box: Box) -> RuleFollower:
    (follower,) = box.workers
    assert isinstance(follower, RuleFollower)
    return follower


def store_file(box: Box) -> Path:
    path = box.paths.state / "rules" / "rules.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(RuleStore(path)):
        return path


def test_what_reading_its_file_raises_does_not_end_the_thread_for_good(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = follower_of(box)
    with monkeypatch.context() as broken:
        broken.setattr(RuleStore, "load", lambda _: ActiveRule(*range(9)))
        follower.start()
        until(box.tasks.problems, "the problem", limit=10)
        assert "the thread rules fails again and again: TypeError" in box.tasks.problems()[0]
        assert any(t.name == "rules" and t.is_alive() for t in threading.enumerate())
    until(lambda: follower.task.works, "the rules to be judged", limit=10)
    assert not box.tasks.problems()
    follower.stop(10)
    assert not follower.task.alive


@pytest.mark.parametrize(
    ("watch", "state"),
    [
        (_WATCH[:-1] + ', "a ninth"]', _STATE),
        (_WATCH, _STATE[:-1] + ", 9]"),
        (_WATCH.replace("1.0", '"1.0"'), _STATE),
        ("{}", "null"),
        ("not JSON", "[]"),
    ],
)
def test_a_row_of_another_form_is_set_aside_and_the_rules_are_judged(
    box: Box, watch: str, state: str
) -> None:
    path = store_file(box)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO series VALUES ('r', 'd', ?, ?)", (watch, state))
        connection.commit()
    follower = follower_of(box)
    follower.start()
    until(lambda: follower.task.works, "the rules to be judged", limit=10)
    assert follower.task.failures == 0
    follower.stop(10)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM series").fetchone() == (0,)


def test_what_is_set_aside_is_an_event_of_the_application(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file as a whole, and rows of its successor: without a fingerprint nothing stays open."""
    raised: list[tuple[str, dict[str, str]]] = []
    follower = follower_of(box)
    recorded = replace(box, alert=lambda message, **named: raised.append((message, named)))
    monkeypatch.setattr(follower, "_box", recorded)
    path = store_file(box)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO series (rule, device, watch, state) VALUES ('r', 'd', '{}', '{}')"
        )
    follower._run()
    follower._release()
    path.write_bytes(b"this is no database" * 1000)
    follower._run()
    follower._release()
    rows, whole = raised
    assert rows[0].startswith(f"1 row of series in {path} cannot be used")
    assert f"it was set aside as {path}.set-aside-1" in whole[0]
    assert [named for _, named in raised] == [{"severity": "warning", "origin": "rules"}] * 2
