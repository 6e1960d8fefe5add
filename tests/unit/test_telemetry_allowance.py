# SPDX-License-Identifier: Apache-2.0
"""A token registers so much: whoever makes up names leaves no row for each."""

from collections.abc import Callable
from typing import Any

import pytest

from edgepaas.app.api import Problem
from edgepaas.files.paths import Paths
from edgepaas.telemetry.allowance import Allowance
from tests.support.answers import json_of
from tests.support.telemetry_box import open_box

RULE = {"name": "r", "metric": "m", "condition": "above", "threshold": 1.0}


def test_ten_thousand_devices_are_not_one_request(paths: Paths) -> None:
    with open_box(paths, ENV="development") as (app, _):
        client = app.test_client()
        made_up = [{"device": f"d-{n}", "metric": "m", "value": 1.5} for n in range(1001)]
        answer = client.post("/api/v1/readings", json=made_up)
        assert answer.status_code == 429
        assert "DEVICES_PER_TOKEN" in json_of(answer)["message"]
        assert int(answer.headers["Retry-After"]) > 0
        assert json_of(client.get("/api/v1/devices"))["items"] == []
        assert client.post("/api/v1/readings", json=made_up[:1000]).status_code == 201
        assert client.post("/api/v1/readings", json=made_up[:1]).status_code == 201
        assert client.post("/api/v1/devices", json={"name": "another"}).status_code == 429


DEVICE: tuple[str, Callable[[int], Any]] = "/api/v1/devices", lambda n: {"name": f"d-{n}"}
READING: tuple[str, Callable[[int], Any]] = (
    "/api/v1/readings",
    lambda n: {"device": f"d-{n}", "metric": "m", "value": 1.5},
)


@pytest.mark.parametrize("ways", [(DEVICE,), (READING,), (DEVICE, READING), (READING, DEVICE)])
def test_every_way_to_name_a_device_counts_together(
    paths: Paths, ways: tuple[tuple[str, Callable[[int], Any]], ...]
) -> None:
    with open_box(paths, ENV="development", DEVICES_PER_TOKEN="4") as (app, _):
        client = app.test_client()
        statuses = []
        for number in range(6):
            path, body = ways[number % len(ways)]
            statuses.append(client.post(path, json=body(number)).status_code)
        assert statuses == [201] * 4 + [429] * 2
        path, body = ways[0]
        assert client.post(path, json=body(0)).status_code in (201, 409), "one that is known"
        assert len(json_of(client.get("/api/v1/devices"))["items"]) == 4


def test_rules_are_counted_and_a_repeat_is_not(paths: Paths) -> None:
    with open_box(paths, ENV="development", RULES_PER_TOKEN="3") as (app, _):
        client = app.test_client()

        def made(key: str) -> int:
            headers = {"Idempotency-Key": key}
            return client.post("/api/v1/rules", json=RULE, headers=headers).status_code

        assert [made(key) for key in ("a", "b", "a", "c", "b")] == [201] * 5
        answer = client.post("/api/v1/rules", json=RULE)
        assert answer.status_code == 429
        assert "RULES_PER_TOKEN" in json_of(answer)["message"]
        assert len(json_of(client.get("/api/v1/rules"))["items"]) == 3


def test_names_are_counted_once_for_each_token_and_forgotten_after_an_hour() -> None:
    now = 0.0
    allowance = Allowance(2, "MOST", "devices", clock=lambda: now)
    for _ in range(3):
        allowance.take("a", {"x", "y"})
    allowance.take("b", {"z"})
    with pytest.raises(Problem, match="2 devices"):
        allowance.take("a", {"z"})
    now = 3600.0
    allowance.take("a", {"z", "w"})
