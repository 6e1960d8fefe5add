# SPDX-License-Identifier: Apache-2.0
"""Schemathesis against /openapi.json: whatever is sent, no 5xx and no undocumented answer."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgepaas.apikit.werkzeug_adapter import openapi_path
from edgepaas.files.paths import Paths
from tests.support.answers import json_of
from tests.support.telemetry_box import open_box, serving

#: Test cases an operation and kind, beside those of the coverage phase, which are always all.
EXAMPLES = 300 if os.environ.get("EDGEPAAS_SOAK") else 5
LIMIT = 240 if EXAMPLES < 10 else 3600

#: Valid by its schema, refused with a documented 422 all the same: a cursor that nobody
#: gave out, a rule whose fields do not fit each other, a moment before 1970.
NOT_CHECKED = "positive_data_acceptance"

#: /health/system answers 503 while a threshold is broken; whose machine this is, is not tested.
UNBROKEN: dict[str, Any] = {"MEMORY_THRESHOLD": "100", "DISK_THRESHOLD": "100"}

_STATUSES = {
    "POST /api/v1/readings": {"201", "400", "401", "403", "409", "413", "415", "422", "507"},
    "GET /api/v1/readings": {"200", "401", "422"},
    "GET /api/v1/readings/{reading_id}": {"200", "401", "404"},
    "POST /api/v1/devices": {"201", "400", "409", "413", "415", "422", "507"},
    "GET /api/v1/devices": {"200", "422"},
    "GET /api/v1/devices/{device_id}": {"200", "404"},
    "PATCH /api/v1/devices/{device_id}": {"200", "404", "413", "415", "422", "507"},
    "DELETE /api/v1/devices/{device_id}": {"204", "403", "404", "507"},
    "POST /api/v1/rules": {"201", "409", "413", "415", "422", "507"},
    "GET /api/v1/rules": {"200", "422"},
    "GET /api/v1/rules/{rule_id}": {"200", "404"},
    "PATCH /api/v1/rules/{rule_id}": {"200", "404", "415", "422", "507"},
    "DELETE /api/v1/rules/{rule_id}": {"204", "404"},
    "GET /api/v1/status": {"200", "401"},
    "GET /": {"200", "401"},
    "GET /openapi.json": {"200", "401"},
    "GET /metrics": {"200"},
    "GET /health": {"200"},
    "GET /health/ready": {"200"},
}


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_no_request_gets_a_5xx_or_an_undocumented_answer(
    database: str,
    paths: Paths,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The processor is as busy as this test makes it.
    monkeypatch.setattr("edgepaas.health.system.SystemMeter._cpu_percent", lambda meter: 5.0)
    url = None if database == "sqlite" else request.getfixturevalue("postgres_url")
    with open_box(paths, url, **UNBROKEN) as (app, _box), serving(app) as address:
        result = subprocess.run(
            [
                sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json",
                "--generation-deterministic", f"--max-examples={EXAMPLES}", "--workers=1",
                f"--exclude-checks={NOT_CHECKED}", "--no-color",
            ],
            # It keeps its own files in the current folder and in the home folder.
            cwd=tmp_path,
            env={**os.environ, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )  # fmt: skip
    assert result.returncode == 0, f"{result.stdout[-6000:]}\n{result.stderr[-2000:]}"
    # Warnings end with 0 as well: an operation that took nothing was not tried.
    assert "No issues found" in result.stdout, result.stdout[-6000:]


@pytest.fixture
def document(paths: Paths) -> dict[str, Any]:
    with open_box(paths) as (app, _box):
        answer = app.test_client().get("/openapi.json")
        assert answer.status_code == 200
        return dict(json_of(answer))


def test_every_route_is_in_the_document(paths: Paths) -> None:
    """So that whatever is asked of what the document says is asked of all there is."""
    with open_box(paths) as (app, _box):
        document = json_of(app.test_client().get("/openapi.json"))
        documented = {
            (path, method.upper())
            for path, operations in document["paths"].items()
            for method in operations
            if method != "parameters"
        }
        served = {
            (openapi_path(rule), method)
            for rule in app.url_map.iter_rules()
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        }
    assert served == documented


@pytest.mark.parametrize("operation", sorted(_STATUSES))
def test_every_operation_is_documented_with_what_it_answers(
    document: dict[str, Any], operation: str
) -> None:
    method, path = operation.split()
    responses = document["paths"][path][method.lower()]["responses"]
    assert _STATUSES[operation] | {"429", "503"} <= set(responses)


def test_a_batch_is_documented_in_each_of_its_forms(document: dict[str, Any]) -> None:
    body = document["paths"]["/api/v1/readings"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "application/x-ndjson"}
    assert len(body["application/json"]["schema"]["oneOf"]) == 3
    reading = document["components"]["schemas"]["ReadingFields"]
    assert set(reading["required"]) == {"device", "metric", "value"}
    assert reading["properties"]["recorded_at"]["format"] == "date-time"


def test_the_document_says_how_rules_are_judged(document: dict[str, Any]) -> None:
    tags = {tag["name"]: tag["description"] for tag in document["tags"]}
    assert "judged in the order in which they come in" in tags["rules"]
    assert "`recorded_at`" in document["paths"]["/api/v1/rules"]["post"]["description"]


def test_every_schema_is_used(document: dict[str, Any]) -> None:
    """flask-smorest brings one along for pages that no list here has."""
    text = json.dumps(document)
    names = document["components"]["schemas"]
    assert [name for name in names if f'schemas/{name}"' not in text] == []


def test_building_the_document_warns_of_nothing(
    paths: Paths, recwarn: pytest.WarningsRecorder
) -> None:
    """apispec warns when two schemas share a name, and then invents one for the second."""
    with open_box(paths) as (app, _box):
        app.test_client().get("/openapi.json")
    assert [str(warning.message) for warning in recwarn if "schema" in str(warning.message)] == []
