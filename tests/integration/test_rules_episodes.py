# SPDX-License-Identifier: Apache-2.0
"""The episodes that a box finds are those of the file, on either database, whatever kills it."""

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from edgepaas.app import Box
from edgepaas.database.database import Database
from edgepaas.files.paths import Paths
from edgepaas.telemetry.models import RULE_FEED
from edgepaas.telemetry.rules.feed import RuleCache
from edgepaas.telemetry.rules.follower import Judge, RuleFollower
from edgepaas.telemetry.rules.judging import Received
from edgepaas.telemetry.rules.store import RuleStore
from edgepaas.telemetry.times import EARLIEST
from tests.support.answers import json_of
from tests.support.rule_episodes import (
    Row,
    Told,
    episodes_below,
    gaps,
    posted,
    rows_of,
    running_clock,
)
from tests.support.telemetry_box import open_box

READINGS, RULES = "/api/v1/readings", "/api/v1/rules"


class Killed(Exception):
    """The process ended here."""


class Dice:
    """Kills now and then, in between any two steps."""

    def __init__(self, seed: int, chance: float) -> None:
        self._random, self._chance = random.Random(seed), chance
        self.kills = 0

    def roll(self) -> None:
        if self._random.random() < self._chance:
            self.kills += 1
            raise Killed

    def around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def rolled(*arguments: Any, **named: Any) -> Any:
            self.roll()
            result = work(*arguments, **named)
            self.roll()
            return result

        return rolled


class FrailDatabase:
    """What the follower sees of a database in a process that may end at any step."""

    def __init__(self, database: Database, dice: Dice) -> None:
        self.dialect = database.dialect
        self._database = database
        self._dice = dice

    @contextmanager
    def read(self) -> Iterator[Any]:
        self._dice.roll()
        with self._database.read() as session:
            yield session
        self._dice.roll()

    def write(self, work: Callable[[Any], Any]) -> Any:
        return self._dice.around(self._database.write)(work)


class FrailStore(RuleStore):
    """A store whose process may end at any step."""

    def __init__(self, path: Path, dice: Dice) -> None:
        super().__init__(path)
        self.keep = dice.around(super().keep)  # type: ignore[method-assign]
        self.forget_notice = dice.around(super().forget_notice)  # type: ignore[method-assign]


class FrailFollower:
    """The follower's work, step by step, begun anew in a new process each time it is killed."""

    def __init__(self, box: Box, told: Told, dice: Dice) -> None:
        self._dice = dice
        self._box = replace(
            box,
            database=FrailDatabase(box.database, dice),  # type: ignore[arg-type]
            alert=dice.around(told.alert),
            resolve=dice.around(told.resolve),
        )
        self._follower = follower_of(box)
        self._rules = RuleCache(box.database)
        self._path = box.paths.state / "frail.db"
        self._judge: Judge | None = None
        self._store: RuleStore | None = None

    def look(self) -> None:
        """Look until a look comes to its end; every kill is followed by a new start."""
        while True:
            try:
                if self._judge is None:
                    self._store = FrailStore(self._path, self._dice)
                    self._judge = Judge(
                        self._box, self._rules, self._follower.node, self._store, lambda: 0.0
                    )
                self._judge.look()
            except Killed:
                self.restart()
            else:
                return

    def restart(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store = self._judge = None


def follower_of(box: Box) -> RuleFollower:
    (follower,) = box.workers
    assert isinstance(follower, RuleFollower)
    return follower


@pytest.fixture(params=["sqlite", "postgresql"])
def served(request: pytest.FixtureRequest, paths: Paths) -> Iterator[tuple[FlaskClient, Box]]:
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with open_box(paths, url) as (app, box):
        yield app.test_client(), box


def make_rule(client: FlaskClient, condition: str, **more: Any) -> str:
    body = {"name": f"{condition} rule", "metric": "temperature", "condition": condition, **more}
    answer = client.post(RULES, json=body)
    assert answer.status_code == 201, answer.text
    return str(json_of(answer)["id"])


class BoxClock:
    """The clocks by which a box notes when it takes readings in, set by hand."""

    def __init__(self, box: Box) -> None:
        self.now = EARLIEST
        follower_of(box).received = self

    def __call__(self) -> Received:
        microseconds = (self.now - EARLIEST) // timedelta(microseconds=1)
        return Received("this start", microseconds, microseconds)


def as_received(rows: list[Row], lengths: list[int]) -> list[Row]:
    """Return the rows with the time at which the first one of their batch was due."""
    clock, found, start = running_clock(rows), [], 0
    for length in lengths:
        when = rows[0][0] + timedelta(seconds=clock[start])
        found += [(when, value) for _, value in rows[start : start + length]]
        start += length
    return found


def waiting(box: Box) -> int:
    with box.database.read() as session:
        return len(session.execute(RULE_FEED.select()).all())


def with_three_hours_taken_out(rows: list[Row]) -> list[Row]:
    start = rows[len(rows) * 2 // 5][0]
    end = start + timedelta(hours=3)
    cut = [row for row in rows if not start <= row[0] < end]
    assert len(cut) == len(rows) - 36
    return cut[len(rows) * 7 // 20 : len(rows) * 8 // 15]  # the clock's step back is in it


def test_the_episodes_of_weeks_are_found_exactly_whatever_is_killed_where(
    served: tuple[FlaskClient, Box], machine_file: Path
) -> None:
    """Batches of any size, some sent again, and an end of the process at every kind of step."""
    client, box = served
    dice, told, sizes = Dice(seed=11, chance=0.12), Told(), random.Random(5)
    below = make_rule(client, "below", threshold=60, for_seconds=1800, device="machine")
    absent = make_rule(client, "absent", for_seconds=3600)
    follower = FrailFollower(box, told, dice)
    rows = rows_of(machine_file)
    cut = with_three_hours_taken_out(rows)
    # What comes together has no duration: small batches, as a device sends them.
    bodies = list(batches(posted(rows, "machine"), sizes, (1, 2, 12)))
    seen = as_received(rows, [len(body) for body in bodies])
    whens = iter([seen[sum(map(len, bodies[:at]))][0] for at in range(len(bodies))])
    bodies += batches(posted(cut, "cut"), sizes)
    clock = BoxClock(box)
    for number, body in enumerate(bodies):
        clock.now = next(whens, clock.now)
        sent = {"json": body, "headers": {"Idempotency-Key": f"batch-{number}"}}
        again = sizes.random() < 0.2
        assert client.post(READINGS, **sent).status_code == 201
        if sizes.random() < 0.7:
            follower.look()
        if again:  # the answer was lost
            assert json_of(client.post(READINGS, **sent))["duplicates"] == len(body)
    follower.look()
    expected = episodes_below(seen, 60, 1800)
    assert len(expected) > 5
    assert told.of(below, "machine") == expected
    # Three hours are missing in what the device recorded; the box was never kept waiting.
    assert len(gaps(cut, 3600)) == 1
    assert told.of(absent, "machine") == told.of(absent, "cut") == []
    assert dice.kills > 20
    assert waiting(box) == 0


def test_every_reading_counts_once_whatever_is_killed_where(
    served: tuple[FlaskClient, Box],
) -> None:
    """Each reading turns the condition over: one left out, or judged twice, would show."""
    client, box = served
    dice, told, sizes = Dice(seed=3, chance=0.1), Told(), random.Random(7)
    above = make_rule(client, "above", threshold=0.5)
    follower = FrailFollower(box, told, dice)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    rows = [(start + timedelta(seconds=n), float(n % 2)) for n in range(400)]
    places = iter(range(400))
    clock, whens = BoxClock(box), []
    while taken := list(itertools.islice(places, sizes.choice([1, 2, 3, 20]))):
        clock.now = rows[taken[0]][0]
        whens += [clock.now] * len(taken)
        client.post(READINGS, json=posted([rows[place] for place in taken], "switch"))
        if sizes.random() < 0.7:
            follower.look()
    follower.look()
    over = [*whens[2::2], None]
    assert [since for since, _, _ in told.of(above, "switch")] == whens[1::2]
    assert [end for _, _, end in told.of(above, "switch")] == over
    assert dice.kills > 20


def batches(
    readings: list[Any], sizes: random.Random, some: tuple[int, ...] = ()
) -> Iterator[list[Any]]:
    start = 0
    while start < len(readings):
        size = sizes.choice(some or (1, 2, 12, len(readings) // 75, len(readings) // 9))
        yield readings[start : start + size]
        start += size


def test_of_a_repeat_only_what_is_new_is_judged(served: tuple[FlaskClient, Box]) -> None:
    client, box = served
    told = Told()
    rate = make_rule(client, "rate", threshold=1, metric="level")
    follower = FrailFollower(box, told, Dice(seed=1, chance=0.0))
    ids = [f"00000000-0000-4000-8000-00000000000{n}" for n in range(4)]
    values = [0, 100, 200, 200]
    readings = [
        {
            "id": identity,
            "device": "tank",
            "metric": "level",
            "value": value,
            "recorded_at": f"2024-01-01T00:00:{10 * n:02}Z",
        }
        for n, (identity, value) in enumerate(zip(ids, values, strict=True))
    ]
    clock = BoxClock(box)
    client.post(READINGS, json=readings[:2])
    follower.look()
    clock.now += timedelta(seconds=20)
    answer = client.post(READINGS, json=readings)
    assert (json_of(answer)["accepted"], json_of(answer)["duplicates"]) == (2, 2)
    with box.database.read() as session:
        (row,) = session.execute(RULE_FEED.select()).all()
    assert [identity in row.readings for identity in ids] == [False, False, True, True]
    follower.look()
    ((since, raised, over),) = told.of(rate, "tank")
    assert (since, raised) == (since, since)
    assert over is not None
    assert (over - since).total_seconds() == 20


def test_a_request_that_no_rule_wants_feeds_nothing(served: tuple[FlaskClient, Box]) -> None:
    client, box = served
    reading = {"device": "a", "metric": "temperature", "value": 99}
    client.post(READINGS, json=reading)
    make_rule(client, "above", threshold=90, device="b")
    client.post(READINGS, json=reading)
    client.post(READINGS, json=reading | {"device": "b", "metric": "pressure"})
    assert waiting(box) == 0
    client.post(READINGS, json=reading | {"device": "b"})
    assert waiting(box) == 1


def test_a_reading_that_is_refused_is_judged_by_nobody(served: tuple[FlaskClient, Box]) -> None:
    client, box = served
    make_rule(client, "above", threshold=90)
    identity = "00000000-0000-4000-8000-0000000000aa"
    reading = {"id": identity, "device": "a", "metric": "temperature", "value": 1}
    client.post(READINGS, json=reading)
    assert client.post(READINGS, json=[reading | {"value": 99}]).status_code == 409
    assert waiting(box) == 1


def test_a_rule_that_is_changed_switched_off_or_deleted_resolves_its_alerts(
    served: tuple[FlaskClient, Box],
) -> None:
    client, box = served
    told = Told()
    follower = FrailFollower(box, told, Dice(seed=1, chance=0.0))
    rules = [make_rule(client, "above", threshold=90) for _ in range(4)]

    def post(value: float) -> None:
        client.post(READINGS, json={"device": "a", "metric": "temperature", "value": value})
        follower._rules.forget()
        follower.look()

    def open_ones() -> list[str]:
        return [rule for rule in rules if told.of(rule, "a")[-1][2] is None]

    post(95)
    assert open_ones() == rules
    follower.restart()
    client.patch(f"{RULES}/{rules[0]}", json={"threshold": 99})
    client.patch(f"{RULES}/{rules[1]}", json={"enabled": False})
    client.delete(f"{RULES}/{rules[2]}")
    client.patch(f"{RULES}/{rules[3]}", json={"name": "renamed", "severity": "critical"})
    post(96)
    assert open_ones() == [rules[3]]
    assert "watched no longer" in told.messages[-1]
    post(100)
    assert open_ones() == [rules[0], rules[3]]


def test_on_a_shared_postgresql_each_box_judges_what_it_took_in(
    postgres_url: str, tmp_path: Path
) -> None:
    told = [Told(), Told()]
    boxes = [find(tmp_path / name) for name in ("one", "two")]
    with (
        open_box(boxes[0], postgres_url) as (first, first_box),
        open_box(boxes[1], postgres_url) as (second, second_box),
    ):
        above = make_rule(first.test_client(), "above", threshold=90)
        for app, device in ((first, "a"), (second, "b")):
            reading = {"device": device, "metric": "temperature", "value": 99}
            assert app.test_client().post(READINGS, json=reading).status_code == 201
        for box, heard in zip((first_box, second_box), told, strict=True):
            FrailFollower(box, heard, Dice(seed=1, chance=0.0)).look()
    assert [len(heard.messages) for heard in told] == [1, 1]
    assert told[0].of(above, "a")
    assert told[1].of(above, "b")


def find(home: Path) -> Paths:
    from edgepaas.files.paths import find_paths

    found = find_paths({"EDGEPAAS_HOME": str(home)})
    found.create()
    return found


def test_what_a_lost_postgresql_left_is_not_judged_again_after_the_fallback_took_it(
    postgres_url: str, paths: Paths
) -> None:
    """PostgreSQL had it, could not say so, and the client sent it to SQLite as well."""
    told = Told()
    first = {
        "id": "00000000-0000-4000-8000-0000000000bb",
        "device": "a",
        "metric": "temperature",
        "value": 99,
    }
    cool = {"device": "a", "metric": "temperature", "value": 20}
    with open_box(paths, postgres_url) as (app, _):
        above = make_rule(app.test_client(), "above", threshold=90)
        rule = json_of(app.test_client().get(f"{RULES}/{above}"))
        app.test_client().post(READINGS, json=first)
    with open_box(paths, state="fallback") as (app, box):
        rules = RuleCache(box.database)
        follower = FrailFollower(box, told, Dice(seed=1, chance=0.0))
        with_id = {key: rule[key] for key in ("name", "metric", "condition", "threshold")}
        other = json_of(app.test_client().post(RULES, json=with_id))["id"]
        assert rules.watches()
        app.test_client().post(READINGS, json=[first, cool])
        follower.look()
        assert len(told.of(other, "a")) == 1
        follower.restart()
    with open_box(paths, postgres_url) as (_, box):
        follower = FrailFollower(box, told, Dice(seed=1, chance=0.0))
        follower.look()
        assert waiting(box) == 0
    assert told.of(above, "a") == []
