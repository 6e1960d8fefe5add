# SPDX-License-Identifier: Apache-2.0
"""Readings are deleted by an operator: with who and why, on both sides, and for good."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from edgepaas.cli import main
from edgepaas.files.paths import Paths
from edgepaas.web.access.tokens import TokenStore
from tests.integration.test_audit_hub import Both
from tests.support.telemetry_box import open_box, serving

DELETIONS = "/api/v1/readings/deletions"
SELECTED = f"{DELETIONS}/selected"


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, paths: Paths) -> Iterator[str]:
    """Where a box listens, on each database."""
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with open_box(paths, url, ENV="production") as (app, _box), serving(app) as served:
        yield served


@pytest.fixture
def secret(paths: Paths) -> str:
    _, secret = TokenStore(paths.tokens).create("anna", read_only=False)
    return secret


def post(address: str, secret: str, path: str, body: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {secret}"}
    return requests.post(f"{address}{path}", json=body, headers=headers, timeout=60)


def store(address: str, secret: str, values: list[float]) -> list[str]:
    ids = [str(uuid.uuid4()) for _ in values]
    readings = [
        {"id": one, "device": "d", "metric": "m", "value": value, "unit": "°C",
         "recorded_at": f"2026-11-01T12:{place:02}:00Z"}
        for place, (one, value) in enumerate(zip(ids, values, strict=True))
    ]  # fmt: skip
    assert post(address, secret, "/api/v1/readings", readings).status_code == 201
    return ids


def items(address: str, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = requests.get(f"{address}{path}", timeout=60).json()["items"]
    return found


def test_a_reading_is_deleted_with_who_and_why(address: str, secret: str) -> None:
    first, second = store(address, secret, [2, 21.7])
    answer = post(address, secret, DELETIONS, {"ids": [first], "reason": "half a line"})
    assert (answer.status_code, answer.json()) == (201, {"deleted": 1, "missing": 0, "matching": 1})
    assert [one["id"] for one in items(address, "/api/v1/readings")] == [second]
    assert requests.get(f"{address}/api/v1/readings/{first}", timeout=60).status_code == 404
    (kept,) = items(address, f"{DELETIONS}?device=d&metric=m")
    assert (kept["reading_id"], kept["value"], kept["unit"]) == (first, 2, "°C")
    assert (kept["recorded_at"], kept["reason"]) == ("2026-11-01T12:00:00Z", "half a line")
    assert (kept["deleted_by"], len(kept["node"])) == ("anna", 36)
    assert items(address, f"{DELETIONS}?device=other") == []
    again = post(address, secret, DELETIONS, {"ids": [first, second], "reason": "again"})
    assert again.json() == {"deleted": 1, "missing": 1, "matching": 1}
    assert items(address, "/api/v1/readings") == []
    assert len(items(address, DELETIONS)) == 2


def test_a_selection_is_deleted_only_when_its_number_is_known(address: str, secret: str) -> None:
    store(address, secret, [1, 2, 3, 4])
    wanted = {"device": "d", "metric": "m", "from": "2026-11-01T12:01:00Z", "reason": "drift"}
    for expected in (0, 4):
        answer = post(address, secret, SELECTED, {**wanted, "expected": expected})
        assert answer.status_code == 409
        assert "3 readings match" in answer.json()["message"]
    counted = post(address, secret, SELECTED, wanted)
    assert counted.json() == {"deleted": 0, "missing": 0, "matching": 3}
    assert len(items(address, "/api/v1/readings")) == 4
    assert post(address, secret, SELECTED, {**wanted, "expected": 3}).json()["deleted"] == 3
    assert [one["value"] for one in items(address, "/api/v1/readings")] == [1]
    assert len(items(address, DELETIONS)) == 3


@pytest.mark.parametrize(
    "body",
    [
        {"ids": [str(uuid.uuid4())]},
        {"ids": [], "reason": "r"},
        {"reason": "r"},
        {"reason": " ", "ids": [str(uuid.uuid4())]},
        {"reason": "r", "device": "d", "expected": 1},
        {"reason": "r", "ids": [str(uuid.uuid4())], "device": "d"},
    ],
)
def test_half_a_request_deletes_nothing(address: str, secret: str, body: dict[str, Any]) -> None:
    store(address, secret, [1])
    for path in (DELETIONS, SELECTED):
        assert post(address, secret, path, body).status_code == 422
    assert len(items(address, "/api/v1/readings")) == 1


def test_who_may_not_write_may_not_delete(address: str, secret: str, paths: Paths) -> None:
    (one,) = store(address, secret, [1])
    _, reader = TokenStore(paths.tokens).create("reader", read_only=True)
    body = {"ids": [one], "reason": "r"}
    assert post(address, reader, DELETIONS, body).status_code == 403
    assert requests.post(f"{address}{DELETIONS}", json=body, timeout=60).status_code == 401
    assert len(items(address, "/api/v1/readings")) == 1


def test_the_command_shows_how_many_before_it_deletes_them(
    address: str, secret: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = store(address, secret, [1, 2, 3])
    token = tmp_path / "token"
    token.write_text(secret)
    where = ["--url", address, "--token-file", str(token), "--reason", "wrong meter"]
    select = ["telemetry", "delete", "--device", "d", "--metric", "m", *where]
    assert main(select) == 0
    assert "3 match, none was deleted: --expect 3 deletes them" in capsys.readouterr().out
    assert main([*select, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"deleted": 0, "missing": 0, "matching": 3}
    assert main([*select, "--expect", "2"]) == 1
    assert len(items(address, "/api/v1/readings")) == 3
    assert main(["telemetry", "delete", "--id", ids[0], "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["deleted"] == 1
    assert main([*select, "--expect", "2"]) == 0
    assert items(address, "/api/v1/readings") == []
    assert {one["reason"] for one in items(address, DELETIONS)} == {"wrong meter"}
    assert main(["telemetry", "delete", "--device", "d", *where]) == 2


def test_what_was_deleted_of_a_file_stays_deleted_when_it_is_imported_again(
    address: str, secret: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token, file = tmp_path / "token", tmp_path / "readings.csv"
    token.write_text(secret)
    file.write_text("timestamp,value\n2026-11-01 12:00,1\n2026-11-01 12:01,900\n")
    where = ["--device", "d", "--metric", "m", "--url", address, "--token-file", str(token)]
    run = ["telemetry", "import", str(file), *where]
    assert main(run) == 0
    spike = items(address, "/api/v1/readings")[1]["id"]
    body = {"ids": [spike], "reason": "spike"}
    assert post(address, secret, DELETIONS, body).status_code == 201
    file.write_text(file.read_text() + "2026-11-01 12:02,2\n")
    capsys.readouterr()
    assert main(run) == 0
    said = capsys.readouterr().out
    assert "3 readings: 1 stored, 1 there already" in said
    assert "1 reading deleted by an operator, and not stored again" in said
    assert [one["value"] for one in items(address, "/api/v1/readings")] == [1, 2]
    assert main([*run, "--restore-deleted"]) == 0
    assert [one["value"] for one in items(address, "/api/v1/readings")] == [1, 900, 2]


@pytest.fixture
def both(paths: Paths, postgres_url: str, capsys: pytest.CaptureFixture[str]) -> Iterator[Both]:
    with Both.opened(paths, postgres_url, capsys) as found:
        yield found


def test_what_is_deleted_on_a_box_is_deleted_on_postgresql_and_the_audit_adds_up(
    both: Both,
) -> None:
    both.write(10)
    both.drain()
    both.connection.execute("DELETE FROM readings WHERE value IN (3, 4)")
    both.drain()
    assert both.hub.query("SELECT count(*) FROM readings WHERE value IN (3, 4)") == [[0]]
    assert both.hub.query("SELECT count(*) FROM sync_tombstones WHERE tbl = 'readings'") == [[2]]
    assert both.audit() == 0, both.said


def test_a_box_that_still_holds_what_was_deleted_on_postgresql_does_not_bring_it_back(
    both: Both, postgres_url: str, tmp_path: Path
) -> None:
    both.write(10)
    both.drain()
    (row,) = both.hub.query("SELECT id::text FROM readings WHERE value = 3")
    run, state, logs, spool, env = (tmp_path / one for one in ("run", "state", "logs", "sp", "e"))
    other = Paths(run, state, logs, spool, env)
    other.create()
    with open_box(other, postgres_url) as (app, _box), serving(app) as address:
        body = {"ids": [row[0]], "reason": "spike"}
        answer = requests.post(f"{address}{DELETIONS}", json=body, timeout=60)
        assert answer.json()["deleted"] == 1
    held = both.connection.execute("SELECT count(*) FROM readings WHERE value = 3").fetchall()
    assert [tuple(one) for one in held] == [(1,)]
    assert both.audit() == 0, both.said
    both.drain()
    assert both.hub.query("SELECT count(*) FROM readings WHERE value = 3") == [[0]]
    assert both.hub.query("SELECT reason FROM reading_deletions") == [["spike"]]
