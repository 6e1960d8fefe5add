# SPDX-License-Identifier: Apache-2.0
"""Rules in a real service that is killed with SIGKILL, and the thread that judges them."""

import contextlib
import itertools
import json
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient

from edgepaas.alerts.conditions.raised_fingerprints import raised_fingerprints
from edgepaas.alerts.spool.accept import Spool
from edgepaas.app import Box
from edgepaas.files.paths import Paths
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from edgepaas.telemetry import application as telemetry
from edgepaas.telemetry.rules.feed import RuleCache
from edgepaas.telemetry.rules.follower import TICK, Judge, RuleFollower
from edgepaas.telemetry.rules.judging import Received
from edgepaas.telemetry.rules.store import RuleStore
from edgepaas.telemetry.times import EARLIEST
from tests.support.answers import json_of
from tests.support.rule_episodes import Told, posted
from tests.support.service_process import (
    Process,
    child_environ,
    edgepaas,
    free_port,
    until,
    wait_until_ready,
    write_env_contract,
)
from tests.support.telemetry_box import contract_for, open_box

READINGS, RULES = "/api/v1/readings", "/api/v1/rules"
START = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def served(paths: Paths) -> Iterator[tuple[FlaskClient, Box, Told]]:
    """A box on SQLite whose alerts are heard."""
    told = Told()
    with open_box(paths) as (app, box):
        box.alert, box.resolve = told.alert, told.resolve
        yield app.test_client(), box, told


def follower_of(box: Box) -> RuleFollower:
    (follower,) = box.workers
    assert isinstance(follower, RuleFollower)
    return follower


def make_rule(client: FlaskClient, condition: str, **more: Any) -> str:
    body = {"name": "a rule", "metric": "temperature", "condition": condition, **more}
    answer = client.post(RULES, json=body)
    assert answer.status_code == 201, answer.text
    return str(json_of(answer)["id"])


def test_readings_are_judged_soon_after_they_were_stored(
    served: tuple[FlaskClient, Box, Told],
) -> None:
    client, box, told = served
    follower = follower_of(box)
    follower.start()
    try:
        above = make_rule(client, "above", threshold=90)
        client.post(READINGS, json={"device": "a", "metric": "temperature", "value": 99})
        until(lambda: told.of(above, "a"), "the alert", limit=10)
        client.post(READINGS, json={"device": "a", "metric": "temperature", "value": 20})
        until(lambda: told.of(above, "a")[0][2], "its end", limit=10)
        ((since, raised, over),) = told.of(above, "a")
        assert over is not None
        assert since <= raised <= over
    finally:
        follower.stop(10)


def test_what_is_stored_when_the_box_stops_is_judged_before_it_ends(
    served: tuple[FlaskClient, Box, Told],
) -> None:
    client, box, told = served
    above = make_rule(client, "above", threshold=90)
    follower_of(box).start()
    client.post(READINGS, json={"device": "a", "metric": "temperature", "value": 99})
    follower_of(box).stop(10)
    assert len(told.of(above, "a")) == 1


def test_of_two_services_on_the_same_folders_one_judges_at_a_time(
    served: tuple[FlaskClient, Box, Told],
) -> None:
    """A new service starts while the one before it still drains."""
    client, box, told = served
    first, second = follower_of(box), RuleFollower(replace(box))

    def judged() -> int:
        return len(told.of(above, "a"))

    first.start()
    second.start()
    above = make_rule(client, "above", threshold=0.5)
    for number in range(30):
        client.post(READINGS, json=posted([(START, float(number % 2))], "a"))
        second.wake()
    first.stop(10)
    client.post(READINGS, json=posted([(START, 0.0)], "a"))
    second.wake()
    until(lambda: judged() == 15 and told.of(above, "a")[-1][2], "the rest to be judged")
    second.stop(10)
    assert judged() == 15
    assert told.repeated == 0


def test_silence_is_counted_while_the_box_listens_and_goes_on_after_a_restart(
    served: tuple[FlaskClient, Box, Told],
) -> None:
    client, box, told = served
    now = 1_000_000.0
    absent = make_rule(client, "absent", for_seconds=600)

    def judge(store: RuleStore) -> Judge:
        return Judge(box, RuleCache(box.database), "", store, lambda: now)

    def listen(one: Judge, seconds: float) -> None:
        nonlocal now
        while seconds > 0:
            now += min(TICK, seconds)
            seconds -= TICK
            one.look()

    file = box.paths.state / "silence.db"
    with contextlib.closing(RuleStore(file)) as store:
        one = judge(store)
        one.look()
        follower_of(box).received = lambda: received(START)
        client.post(READINGS, json=posted([(START + timedelta(days=30_000), 1.0)], "a"))
        listen(one, 300)
    now = 5.0  # another boot; the box was off for days, or the clock of the box leapt
    with contextlib.closing(RuleStore(file)) as store:
        one = judge(store)
        listen(one, 200)
        assert told.of(absent, "a") == []
        now += 86_400  # stopped, e.g. by SIGSTOP: nothing could come in
        one.look()
        assert told.of(absent, "a") == []
        listen(one, 300)
        assert len(told.of(absent, "a")) == 1
        assert "none since 2024-01-01T00:00:00Z (rule" in told.messages[0]
        follower_of(box).received = lambda: received(START + timedelta(hours=5))
        client.post(READINGS, json=posted([(START, 1.0)], "a"))
        one.look()
        listen(one, 500)
    ((_, _, over),) = told.of(absent, "a")
    assert over == START + timedelta(hours=5)


def test_a_device_that_a_rule_names_is_missed_before_its_first_reading_where_no_other_box_is(
    served: tuple[FlaskClient, Box, Told],
) -> None:
    client, box, told = served
    absent = make_rule(client, "absent", for_seconds=10, device="never")
    hub = replace(box.contract, hub_url="postgresql://hub/edge")
    for number, contract in enumerate((hub, box.contract)):
        now = itertools.count(0, 5)
        with contextlib.closing(RuleStore(box.paths.state / f"never-{number}.db")) as store:
            one = Judge(
                replace(box, contract=contract),
                RuleCache(box.database),
                "",
                store,
                lambda now=now: float(next(now)),  # type: ignore[misc]
            )
            for _ in range(10):
                one.look()
        assert len(told.of(absent, "never")) == number


def test_a_file_of_states_that_is_damaged_is_set_aside(paths: Paths) -> None:
    file = paths.state / "rules.db"
    file.write_bytes(b"this is no database" * 1000)
    with contextlib.closing(RuleStore(file)) as store:
        assert store.load() == ({}, 0.0)
    assert file.with_name("rules.db.set-aside-1").read_bytes().startswith(b"this is no database")


def test_a_service_that_is_killed_judges_every_reading_once(paths: Paths, tmp_path: Path) -> None:
    """SIGKILL at random moments under a client that repeats what it got no answer for."""
    port = free_port()
    write_env_contract(paths, EDGEPAAS_APP="telemetry", PORT=str(port), HOST="127.0.0.1")
    contract = contract_for(paths, None)
    contract.write(paths.db_contract)
    prepare_database(contract, Settings.of(), paths, telemetry)
    address, chance = f"http://127.0.0.1:{port}", random.Random(9)
    sent = threading.Event()
    rows = [(START + timedelta(seconds=n), float(n % 2)) for n in range(360)]

    def begin() -> Process:
        process = Process(edgepaas("serve"), tmp_path, child_environ(tmp_path))
        running.append(process)
        return process

    def send() -> None:
        for number, start in enumerate(range(0, len(rows), 3)):
            body = posted(rows[start : start + 3], "switch")
            until(lambda body=body, number=number: post(body, number), "an answer", limit=60)  # type: ignore[misc]
            time.sleep(0.01)
        sent.set()

    def post(body: Any, number: int) -> bool:
        try:
            answer = requests.post(
                f"{address}{READINGS}",
                json=body,
                headers={"Idempotency-Key": f"k{number}"},
                timeout=10,
            )
        except requests.RequestException:
            return False
        return answer.status_code == 201

    for fingerprint in ("service-start", "database-lost"):
        Spool(paths).accept("said by one before it", fingerprint=fingerprint)
    running: list[Process] = []
    try:
        process = begin()
        wait_until_ready(port)
        rule = {"name": "a", "metric": "temperature", "condition": "above", "threshold": 0.5}
        above = requests.post(f"{address}{RULES}", json=rule, timeout=10).json()["id"]
        client = threading.Thread(target=send, daemon=True)
        client.start()
        for _ in range(3):
            sent.wait(chance.uniform(0.2, 0.7))
            process.signal(signal.SIGKILL)
            process.wait()
            process = begin()
            wait_until_ready(port)
        until(sent.is_set, "everything to be sent", limit=60)
        told = (paths.alerts / "new").glob
        until(lambda: len(list(told("*-rule-*"))) >= len(rows) - 1, "every alert", limit=60)
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.output
    finally:
        for process in running:
            process.close()
    assert len(running) == 4
    # A start that succeeded ends what was raised of those that did not.
    assert raised_fingerprints(paths, "") == [f"rule:{above}:switch"]
    found = spooled(paths).of(above, "switch")
    # Each reading turns the condition over: one left out, or judged twice, would show.
    assert len(found) == len(rows) // 2
    assert [over is None for _, _, over in found] == [False] * (len(found) - 1) + [True]


def received(moment: datetime) -> Received:
    """The box took a reading in at *moment*, by all its clocks."""
    microseconds = (moment - EARLIEST) // timedelta(microseconds=1)
    return Received("this start", microseconds, microseconds)


def spooled(paths: Paths) -> Told:
    """What lies in the spool, told in the order in which it was accepted."""
    told = Told()
    for file in sorted((paths.alerts / "new").iterdir()):
        entry = json.loads(file.read_text(encoding="utf-8"))
        if entry["fingerprint"].startswith("rule:"):
            say = told.alert if entry["what"] == "raised" else told.resolve
            say(entry["message"], fingerprint=entry["fingerprint"])
    return told
