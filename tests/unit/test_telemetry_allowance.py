# SPDX-License-Identifier: Apache-2.0
"""A token speaks for so many devices: whoever makes up names leaves no device for each."""

import pytest

from edgepaas.app.api import Problem
from edgepaas.files.paths import Paths
from edgepaas.telemetry.allowance import DeviceAllowance
from tests.support.answers import json_of
from tests.support.telemetry_box import open_box


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


def test_names_are_counted_once_for_each_token_and_forgotten_after_an_hour() -> None:
    now = 0.0
    allowance = DeviceAllowance(2, clock=lambda: now)
    for _ in range(3):
        allowance.take("a", {"x", "y"})
    allowance.take("b", {"z"})
    with pytest.raises(Problem, match="2 devices"):
        allowance.take("a", {"z"})
    now = 3600.0
    allowance.take("a", {"z", "w"})
