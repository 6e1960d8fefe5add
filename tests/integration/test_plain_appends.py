# SPDX-License-Identifier: Apache-2.0
"""What is posted most is answered without a worker, and nobody can tell by the answer."""

import json
import logging
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from edgepaas.app import Box
from edgepaas.errors import DatabaseUnavailable
from edgepaas.files.paths import Paths, find_paths
from edgepaas.telemetry.models import DEVICES, READINGS, RULE_FEED
from edgepaas.telemetry.rules import feed
from edgepaas.telemetry.rules.follower import RuleFollower
from edgepaas.web.access.tokens import TokenStore
from edgepaas.web.app import plain_appends
from tests.support.loop_box import PATH, Answered, LoopBox, post, serving_in_loop, until
from tests.support.telemetry_box import open_box
from tests.support.weaken import weakened

#: Harmless, and more than the loop wants to judge: a worker has it.
BY_WORKER = {"Sec-Fetch-Site": "none"}
ID = "0190163d-8694-739b-aea5-966c26f8ad90"
PLAIN = {"device": "press-1", "metric": "temperature", "value": 21.5}


@dataclass
class Two:
    """The same box twice: one that takes appends in its loop, one that leaves them to workers."""

    loop: LoopBox
    workers: LoopBox
    boxes: tuple[Box, Box]
    apps: tuple[Flask, Flask]


@pytest.fixture(autouse=True)
def _rules_stay_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine of any speed; without it a worker reads them again after 15 seconds."""
    monkeypatch.setattr(feed, "RULES_KEPT", 3600.0)


def read_rules(box: Box) -> None:
    """Have the rules known, as their thread does, which is not there to keep them so."""
    (follower,) = box.workers
    assert isinstance(follower, RuleFollower)
    follower.rules.forget()
    follower.rules.watches()
    now = follower.rules._clock()
    follower.rules._clock = lambda: now


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Callable[..., Two]]:
    """Start both with the same settings."""
    with ExitStack() as stack:

        def start(*, tokens: bool = False, **settings: Any) -> Two:
            found = []
            for name in ("loop", "workers"):
                paths = find_paths({"EDGEPAAS_HOME": str(tmp_path / name)})
                paths.create()
                if tokens:
                    _copy_tokens(tmp_path, paths)
                app, box = stack.enter_context(open_box(paths, None, **settings))
                read_rules(box)
                found.append((stack.enter_context(serving_in_loop(app)), box, app))
            (loop, box, app), (workers, other, another) = found
            return Two(loop, workers, (box, other), (app, another))

        yield start


def _copy_tokens(folder: Path, paths: Paths) -> None:
    """Have the same tokens in both boxes; their secrets are in the files ``writer``, ``reader``."""
    made = folder / "tokens.json"
    if not made.exists():
        store = TokenStore(made)
        for name in ("writer", "reader"):
            _, secret = store.create(name, read_only=name == "reader")
            (folder / name).write_text(secret)
    paths.tokens.write_bytes(made.read_bytes())
    paths.tokens.chmod(0o600)


def secret(folder: Path, name: str) -> str:
    return (folder / name).read_text()


VOLATILE = {"Date", "X-Request-Id"}


def comparable(answer: Answered, *, own_id: bool) -> tuple[Any, ...]:
    headers = {
        n: v for n, v in answer.headers.items() if n not in VOLATILE or (own_id and n != "Date")
    }
    body = answer.body
    if not own_id:
        body = re.sub(rb'"request_id":"[^"]*"', b'"request_id":""', body)
    order = list(answer.headers)
    return answer.status, headers, order, body


def rows(box: Box) -> list[Any]:
    """Everything that is stored, without what each box makes by itself."""
    with box.database.read() as session:
        readings = [
            (r["device"], r["device_id"], r["metric"], r["value"], r["unit"])
            for r in session.execute(select(READINGS)).mappings()
        ]
        devices = [
            (d["name"], d["id"], d["labels"]) for d in session.execute(select(DEVICES)).mappings()
        ]
        fed = [
            [entry[1:4] for entry in json.loads(f["readings"])]
            for f in session.execute(select(RULE_FEED).order_by(RULE_FEED.c.seq)).mappings()
        ]
    return [sorted(readings, key=repr), sorted(devices, key=repr), fed]


def given_ids(box: Box) -> set[uuid.UUID]:
    with box.database.read() as session:
        return set(session.scalars(select(READINGS.c.id)))


def counted(app: Flask) -> dict[Any, int]:
    """How many requests /metrics counts, by method, route and status."""
    meter = plain_appends(app)._meter
    return {labels: found.requests for labels, found in meter.durations()}


def j(value: Any) -> bytes:
    return json.dumps(value).encode()


#: A body with headers, and whether the loop is to take it.
CORPUS: list[tuple[str, bytes, Mapping[str, str], bool]] = [
    ("one", j(PLAIN), {}, True),
    (
        "one with all",
        j({**PLAIN, "unit": "°C", "recorded_at": "2024-05-01T12:30:00+02:00"}),
        {},
        True,
    ),
    ("an id", j({**PLAIN, "id": ID}), {}, True),
    ("the id again", j({**PLAIN, "id": ID}), {}, True),
    ("the id with other content", j({**PLAIN, "id": ID, "value": 1}), {}, True),
    ("a list", j([PLAIN, {**PLAIN, "device": "press-2"}]), {}, True),
    ("a batch", j({"readings": [PLAIN] * 3}), {}, True),
    ("a batch that repeats", j([{**PLAIN, "id": ID}, PLAIN]), {}, True),
    ("a batch that differs", j({"readings": [PLAIN, {**PLAIN, "id": ID, "value": 2}]}), {}, True),
    ("two that differ", j([{**PLAIN, "id": ID}, {**PLAIN, "id": ID, "value": 3}]), {}, False),
    ("a key", j(PLAIN), {"Idempotency-Key": "k-1"}, True),
    ("the key again", j(PLAIN), {"Idempotency-Key": "k-1"}, True),
    ("the key with another body", j({**PLAIN, "value": 4}), {"Idempotency-Key": "k-1"}, True),
    ("a key of a batch", j([PLAIN, PLAIN]), {"Idempotency-Key": "k-2"}, True),
    (
        "the batch's key with another",
        j([PLAIN, {**PLAIN, "value": 9}]),
        {"Idempotency-Key": "k-2"},
        True,
    ),
    ("a bad key", j(PLAIN), {"Idempotency-Key": "k 1"}, False),
    ("its own request id", j(PLAIN), {"X-Request-ID": "mine-1"}, True),
    ("an unsound request id", j(PLAIN), {"X-Request-ID": "a b"}, True),
    ("utf-8 named", j(PLAIN), {"Content-Type": "application/json; charset=utf-8"}, True),
    ("another JSON", j(PLAIN), {"Content-Type": "application/senml+json"}, False),
    ("no JSON", j(PLAIN), {"Content-Type": "text/plain"}, False),
    ("lines", j(PLAIN) + b"\n" + j(PLAIN), {"Content-Type": "application/x-ndjson"}, False),
    ("a byte-order mark", b"\xef\xbb\xbf" + j(PLAIN), {}, True),
    ("not UTF-8", b'{"device": "\xff"}', {}, False),
    ("half a body", b'{"device": "press-1"', {}, False),
    ("NaN", b'{"device": "press-1", "metric": "t", "value": NaN}', {}, False),
    ("a name twice", b'{"device": "a", "device": "b", "metric": "t", "value": 1}', {}, False),
    ("an empty list", b"[]", {}, False),
    ("null", b"null", {}, False),
    ("an unknown field", j({**PLAIN, "colour": "red"}), {}, False),
    ("no value", j({"device": "press-1", "metric": "t"}), {}, False),
    ("a text for a value", j({**PLAIN, "value": "1"}), {}, False),
    ("true for a value", j({**PLAIN, "value": True}), {}, False),
    ("too large a value", b'{"device": "a", "metric": "t", "value": 1e999}', {}, False),
    ("minus zero", j({**PLAIN, "value": -0.0}), {}, True),
    ("a blank name", j({**PLAIN, "device": " "}), {}, False),
    ("a NUL", b'{"device": "a\\u0000", "metric": "t", "value": 1}', {}, False),
    ("too long a name", j({**PLAIN, "device": "x" * 201}), {}, False),
    ("a moment before 1970", j({**PLAIN, "recorded_at": "1969-12-31T00:00:00Z"}), {}, False),
    ("a compressed body", j(PLAIN), {"Content-Encoding": "gzip"}, False),
    ("a long body", j([PLAIN] * 400), {}, False),
    ("a wrong Host", j(PLAIN), {"Host": "exa mple"}, False),
    ("close", j(PLAIN), {"Connection": "close"}, True),
    ("keep-alive", j(PLAIN), {"Connection": "keep-alive"}, True),
    ("forwarded", j(PLAIN), {"X-Forwarded-For": "192.0.2.1"}, False),
    ("of a web page", j(PLAIN), {"Origin": "http://example.org"}, False),
    ("of a web page of another site", j(PLAIN), {"Sec-Fetch-Site": "cross-site"}, False),
    ("an unknown token", j(PLAIN), {"Authorization": "Bearer edgepaas_nope"}, False),
    ("another scheme", j(PLAIN), {"Authorization": "Basic YTpi"}, False),
    ("expecting", j(PLAIN), {"Expect": "100-continue"}, False),
]


def compare(two: Two, corpus: list[tuple[str, bytes, Mapping[str, str], bool]]) -> int:
    """Send *corpus* both ways; return how many rows either has then."""
    with two.loop.connect() as plain, two.workers.connect() as ordinary:
        for name, body, headers, by_loop in corpus:
            before = len(two.loop.taken), len(two.workers.taken)
            plain.send(post(body, headers))
            answers = [plain.receive()]
            forced = {**BY_WORKER, **headers}
            ordinary.send(post(body, forced))
            answers.append(ordinary.receive())
            own_id = re.fullmatch(r"[\w.-]+", headers.get("X-Request-ID", " ")) is not None
            found = [comparable(answer, own_id=own_id) for answer in answers]
            assert found[0] == found[1], name
            assert len(two.loop.taken) - before[0] == by_loop, name
            assert len(two.workers.taken) == before[1], name
            if answers[0].headers.get("Connection") == "close":
                assert plain.is_closed()
                assert ordinary.is_closed()
                plain.__init__(two.loop.address)  # type: ignore[misc]
                ordinary.__init__(two.workers.address)  # type: ignore[misc]
    stored = [rows(box) for box in two.boxes]
    assert stored[0] == stored[1]
    known = {uuid.UUID(ID)}
    assert known <= given_ids(two.boxes[0])
    assert counted(two.apps[0]) == counted(two.apps[1])
    return len(stored[0][0])


def test_both_ways_answer_and_store_the_same(
    two: Callable[..., Two], caplog: pytest.LogCaptureFixture
) -> None:
    """Status, headers in their order, body, rows, counts of /metrics, log lines."""
    with caplog.at_level(logging.DEBUG, logger="edgepaas.request"):
        compare(two(ENV="development"), CORPUS)
    lines = [
        re.sub(r"in [\d.]+ ms", "", record.getMessage())
        for record in caplog.records
        if record.name == "edgepaas.request"
    ]
    assert len(lines) == 2 * len(CORPUS)
    assert lines[::2] == lines[1::2]


def test_with_rules_the_same_is_left_for_them(two: Callable[..., Two]) -> None:
    both = two(ENV="development")
    rule = {"name": "hot", "metric": "temperature", "condition": "above", "threshold": 20}
    for app, box in zip(both.apps, both.boxes, strict=True):
        assert app.test_client().post("/api/v1/rules", json=rule).status_code == 201
        read_rules(box)
    compare(both, CORPUS)
    assert rows(both.boxes[0])[2], "the rules get what they want"


def test_in_production_a_token_is_needed_on_both(two: Callable[..., Two], tmp_path: Path) -> None:
    both = two(ENV="production", tokens=True)
    writer = {"Authorization": f"Bearer {secret(tmp_path, 'writer')}"}
    reader = {"Authorization": f"Bearer {secret(tmp_path, 'reader')}"}
    corpus: list[tuple[str, bytes, Mapping[str, str], bool]] = [
        ("an id", j({**PLAIN, "id": ID}), writer, True),
        ("nobody", j(PLAIN), {}, False),
        ("a reader", j(PLAIN), reader, False),
        ("a key", j(PLAIN), {**writer, "Idempotency-Key": "k"}, True),
        ("the key again", j(PLAIN), {**writer, "Idempotency-Key": "k"}, True),
        (
            "in lower case",
            j(PLAIN),
            {"Authorization": writer["Authorization"].replace("B", "b", 1)},
            True,
        ),
        ("cut short", j(PLAIN), {"Authorization": writer["Authorization"][:-1]}, False),
    ]
    compare(both, corpus)
    ids = [given_ids(box) - {uuid.UUID(ID)} for box in both.boxes]
    assert len(ids[0] & ids[1]) == 1, "the id that is made of the key is the same"
    TokenStore(both.boxes[0].paths.tokens).revoke("writer")
    assert both.loop.send(post(j(PLAIN), writer)).status.startswith("401")


def test_with_cors_an_answer_varies_on_both(two: Callable[..., Two]) -> None:
    both = two(ENV="development", CORS_ENABLED="true", CORS_ORIGINS="http://example.org")
    assert compare(both, CORPUS[:5]) == 3


def test_an_application_with_functions_around_its_requests_keeps_them(paths: Paths) -> None:
    """The loop knows nothing of them, so a worker has every request."""
    from edgepaas.telemetry import application as telemetry

    def blueprints(box: Box) -> Any:
        assert telemetry.blueprints is not None
        found = list(telemetry.blueprints(box))
        for blueprint in found:
            blueprint.before_request(lambda: seen.append(1))
        return found

    from dataclasses import replace

    seen: list[int] = []
    with open_box(paths, application=replace(telemetry, blueprints=blueprints)) as (app, _):
        assert not plain_appends(app).paths
        with serving_in_loop(app) as loop:
            assert loop.send(post(j(PLAIN))).status == "201 CREATED"
    assert seen == [1]


def test_what_the_database_refuses_is_worded_by_the_ordinary_way(paths: Paths) -> None:
    with open_box(paths) as (app, box), serving_in_loop(app) as loop:
        read_rules(box)
        box.database.refuse_writes("the budget is used up")  # type: ignore[attr-defined]
        answers = [loop.send(post(j(PLAIN))), loop.send(post(j(PLAIN), BY_WORKER))]
        found = [comparable(answer, own_id=False) for answer in answers]
        assert found[0] == found[1]
        assert answers[0].status.startswith("507")
        assert loop.taken == [PATH], "it had been taken, and came back"
        box.database.refuse_writes("")  # type: ignore[attr-defined]
        assert loop.send(post(j(PLAIN))).status == "201 CREATED"
        until(lambda: not loop.server.dispatcher.busy(), "no request in work")


def rows_after_a_commit_of_unknown_outcome(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> int:
    with open_box(paths) as (app, box), serving_in_loop(app) as loop:
        read_rules(box)
        writer = box.database._writer  # type: ignore[attr-defined]
        calls: list[int] = []

        def check() -> None:
            calls.append(1)
            if len(calls) == 2:  # after the commit, before the answer
                raise DatabaseUnavailable("the files have lost their names")

        monkeypatch.setattr(writer, "_check", check)
        answer = loop.send(post(j(PLAIN)))
        assert loop.taken == [PATH]
        if answer.status.startswith("503"):
            assert answer.headers["Retry-After"]
        return len(given_ids(box))


def test_a_commit_of_unknown_outcome_is_answered_and_not_repeated(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rows_after_a_commit_of_unknown_outcome(paths, monkeypatch) == 1


def test_a_build_that_repeats_it_is_found_out(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with weakened("append-again"):
        assert rows_after_a_commit_of_unknown_outcome(paths, monkeypatch) == 2


def test_a_loop_that_takes_what_anybody_sends_is_found_out(
    two: Callable[..., Two], tmp_path: Path
) -> None:
    with weakened("unguarded-loop"):
        both = two(ENV="production", tokens=True)
        with pytest.raises(AssertionError, match="nobody"):
            compare(both, [("nobody", j(PLAIN), {}, False)])


def test_before_and_after_the_application_answers_the_loop_takes_nothing(paths: Paths) -> None:
    from edgepaas.httpd.startup_responder import NotReady

    with open_box(paths) as (app, box), serving_in_loop(app) as loop:
        read_rules(box)
        loop.responder.close(NotReady("degraded", "PostgreSQL was lost"))
        assert loop.send(post(j(PLAIN))).status.startswith("503")
        loop.responder.reopen()
        assert loop.send(post(j(PLAIN))).status == "201 CREATED"
        assert loop.taken == [PATH]
