# SPDX-License-Identifier: Apache-2.0
"""Devices without a clock, at a real service: what its spool holds is the record."""

import contextlib
import json
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests

from edgepaas.files.paths import Paths
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from edgepaas.telemetry import application as telemetry
from tests.support.service_process import (
    Process,
    child_environ,
    edgepaas,
    free_port,
    until,
    wait_until_ready,
    write_env_contract,
)
from tests.support.telemetry_box import contract_for


def raised(paths: Paths) -> list[str]:
    """What the rules raised or resolved, by the spool's files."""
    files = sorted((paths.alerts / "new").glob("*-rule-*"))
    return [json.loads(file.read_text("utf-8"))["message"] for file in files]


def test_a_first_reading_of_1970_and_one_of_2099_raise_nothing(
    paths: Paths, tmp_path: Path
) -> None:
    port = free_port()
    write_env_contract(paths, EDGEPAAS_APP="telemetry", PORT=str(port), HOST="127.0.0.1")
    contract = contract_for(paths, None)
    contract.write(paths.db_contract)
    prepare_database(contract, Settings.of(), paths, telemetry)
    api = f"http://127.0.0.1:{port}/api/v1"

    def post(path: str, **body: Any) -> None:
        assert requests.post(f"{api}/{path}", json=body, timeout=10).status_code == 201

    def reading(device: str, value: float, moment: str) -> None:
        post("readings", device=device, metric="temp", value=value, recorded_at=moment)

    def ago(seconds: int) -> str:
        return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()

    with contextlib.closing(
        Process(edgepaas("serve"), tmp_path, child_environ(tmp_path))
    ) as process:
        wait_until_ready(port)
        above = {"metric": "temp", "condition": "above", "threshold": 80, "severity": "critical"}
        post("rules", name="hot 10 min", for_seconds=600, **above)
        post("rules", name="silent 1 h", metric="temp", condition="absent", for_seconds=3600)
        post("rules", name="hot 1 s", for_seconds=1, device="slow", **above)
        time.sleep(0.1)
        reading("new", 85, "1970-01-01T00:00:07Z")
        reading("new", 85.1, ago(1))
        reading("gps", 20, ago(10))
        reading("gps", 20, "2099-01-01T00:00:00Z")
        reading("slow", 90, "1970-01-01T00:00:07Z")
        time.sleep(1.2)
        reading("slow", 90, "1970-01-01T00:00:07Z")
        until(lambda: raised(paths), "what the box itself saw for a second")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.output
    (message,) = raised(paths)
    assert "hot 1 s" in message
    assert "1970" not in message
