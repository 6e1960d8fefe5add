# SPDX-License-Identifier: Apache-2.0
"""The health routes, the page at / and the API's description."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from flask import Blueprint

from edgepaas.app import Application, BoxState
from edgepaas.errors import ConfigurationError, DatabaseUnavailable
from edgepaas.files.paths import Paths
from edgepaas.health.checks import Check, CheckFailed, CheckResult
from edgepaas.web.views.page import page_policy, render_page
from tests.support.boxes import THINGS, TestBox, make_box


@pytest.fixture
def box(paths: Paths) -> TestBox:
    return make_box(paths)


def get(box: TestBox, path: str, **headers: str) -> tuple[int, Any]:
    response = box.app.test_client().get(path, headers=headers)
    return response.status_code, response.get_json()


def test_liveness_touches_nothing(box: TestBox) -> None:
    """Alive is alive, whatever the database does."""
    box.database.failure = DatabaseUnavailable("gone")
    box.states.phase = "starting"
    for path in ("/health", "/health/live"):
        assert get(box, path) == (200, {"status": "ok"})


@pytest.mark.parametrize("path", ["/health/ready", "/ready"])
def test_readiness_says_state_mode_reasons_and_every_check(box: TestBox, path: str) -> None:
    """What a load balancer, a unit and a person want to know, in one document."""
    status, document = get(box, path)
    assert status == 200
    assert (document["status"], document["state"], document["mode"]) == (
        "ok",
        "standalone",
        "standalone",
    )
    assert document["reasons"] == ["no DATABASE_URL"]
    assert document["build_version"] == "0.1.0+gabcdef"
    assert document["since"]
    assert [check["name"] for check in document["checks"]] == ["database"]


@pytest.mark.parametrize("phase", ["starting", "stopping"])
def test_a_box_that_starts_or_stops_is_not_ready(box: TestBox, phase: Any) -> None:
    """Traffic goes elsewhere, and the word says why."""
    box.states.phase = phase
    status, document = get(box, "/health/ready")
    assert (status, document["state"], document["status"]) == (503, phase, "unavailable")


def test_a_lost_database_is_not_ready_and_comes_back(box: TestBox) -> None:
    """503 with Retry-After while it is away."""
    box.database.failure = DatabaseUnavailable("refused")
    response = box.app.test_client().get("/health/ready")
    assert response.status_code == 503
    assert response.headers["Retry-After"]
    assert response.get_json()["checks"][0]["message"] == "refused"
    assert get(box, "/health/db") == (
        503,
        {"status": "unavailable", "database": "disconnected", "message": "refused"},
    )
    box.database.failure = None
    assert get(box, "/health/ready")[0] == 200
    assert get(box, "/health/db")[1]["database"] == "connected"


def test_a_fallback_is_ready_and_says_so(paths: Paths) -> None:
    """Serving from SQLite is serving."""
    from tests.support.boxes import contract

    box = make_box(paths)
    box.states.contract = contract(paths, db_state="fallback", reason="PostgreSQL refused")
    status, document = get(box, "/health/ready")
    assert (status, document["state"]) == (200, "fallback")
    assert document["reasons"] == ["PostgreSQL refused"]


def test_a_failed_required_check_degrades_and_an_optional_one_does_not(paths: Paths) -> None:
    """The box still serves: only a lost database keeps traffic away."""

    def away() -> str:
        raise CheckFailed("refused")

    degraded = make_box(paths, checks=[Check("service broker", away)])
    status, document = get(degraded, "/ready")
    assert (status, document["state"]) == (200, "degraded")
    assert document["reasons"] == ["service broker: refused"]
    calm = make_box(paths, checks=[Check("service cache", away, required=False)])
    assert get(calm, "/ready")[1]["state"] == "standalone"


def test_the_machine_is_503_when_a_threshold_is_broken(
    box: TestBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processor, memory, disk, temperature and clock, each against its threshold."""
    monkeypatch.setattr("edgepaas.health.system.memory_percent", lambda: 97.0)
    status, document = get(box, "/health/system")
    assert status == 503
    assert document["status"] == "degraded"
    assert document["memory"] == {"value": 97.0, "unit": "percent", "threshold": 90.0, "ok": False}
    assert document["clock"]["message"]


def test_programs_get_the_root_as_json(box: TestBox) -> None:
    """What it is, how it is, where to go on."""
    status, document = get(box, "/")
    assert status == 200
    assert (document["name"], document["build_version"]) == ("things", "0.1.0+gabcdef")
    assert document["documentation"] == "/openapi.json"
    assert document["environment"] in ("development", "production")
    paths = {entry["path"]: entry for entry in document["endpoints"]}
    assert paths["/api/things"]["methods"] == ["GET", "POST"]
    assert paths["/api/things"]["description"] == "List things; Make a thing"
    assert "/api/things/{thing_id}" in paths


def test_the_status_is_there_with_any_application(box: TestBox) -> None:
    """It was telemetry's alone."""
    status, document = get(box, "/api/v1/status")
    assert status == 200
    assert (document["state"], document["build"]) == ("standalone", "0.1.0+gabcdef")


def test_people_get_the_root_as_a_page_under_a_strict_policy(paths: Paths) -> None:
    """No script, nothing from elsewhere, everything that is shown escaped."""

    def away() -> str:
        raise CheckFailed("<script>alert(1)</script>")

    box = make_box(paths, checks=[Check("<b>", away)])
    accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    response = box.app.test_client().get("/", headers={"Accept": accept})
    page = response.get_data(as_text=True)
    assert response.mimetype == "text/html"
    assert response.headers["Content-Security-Policy"] == page_policy()
    assert "Accept" in response.headers["Vary"]
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "degraded" in page
    assert "/api/things" in page


@pytest.mark.parametrize(("required", "shown"), [(True, "failed"), (False, "warning")])
def test_a_failed_check_is_a_failure_or_a_warning_on_the_page(required: bool, shown: str) -> None:
    page = render_page(
        name="things",
        build_version="1",
        state=BoxState("degraded", "primary"),
        checks=[CheckResult("printer", False, "out of paper", 0.1, required)],
        endpoints=(),
    )
    assert re.findall(r'<span class="state \w+">(\w+)</span></td>', page) == [shown]


def test_the_page_shows_the_applications_example_with_this_boxs_address(paths: Paths) -> None:
    """Something to type, also for who holds a token."""
    application = replace(THINGS, example="curl {box}/api/things -d '{}'")
    for env, shown in (
        ("development", "curl http://localhost/api/things -d &#x27;{}&#x27;</code>"),
        ("production", "&#x27;{}&#x27; -H &#x27;Authorization: Bearer TOKEN&#x27;</code>"),
    ):
        client = make_box(paths, application, ENV=env).app.test_client()
        assert shown in client.get("/", headers={"Accept": "text/html"}).get_data(as_text=True)


@pytest.mark.parametrize(
    ("state", "tone"),
    [
        *((state, "good") for state in ("standalone", "primary", "local-first")),
        *((state, "busy") for state in ("starting", "draining", "fallback")),
        *((state, "bad") for state in ("degraded", "full", "stopping")),
    ],
)
def test_red_is_for_what_needs_a_person(state: str, tone: str) -> None:
    """Serving from the fallback is what the box is for."""
    page = render_page(
        name="n", build_version="1", state=BoxState(state, state), checks=[], endpoints=[]
    )
    assert f'<span class="state {tone}">{state}</span>' in page


def test_an_applications_plain_flask_routes_are_listed(paths: Paths) -> None:
    """An application need not document itself to be found."""

    def blueprints(box: Any) -> list[Blueprint]:
        plain = Blueprint("plain", __name__)
        plain.add_url_rule("/notes", "notes", lambda: "notes")
        return [plain]

    box = make_box(paths, Application(name="own", blueprints=blueprints))
    assert "/notes" in [entry["path"] for entry in get(box, "/")[1]["endpoints"]]


def test_an_application_whose_blueprints_fail_is_named_in_one_line(paths: Paths) -> None:
    """With the exit status of a configuration, and where it happened."""

    def blueprints(box: Any) -> list[Blueprint]:
        raise KeyError("licence")

    with pytest.raises(ConfigurationError, match=r"EDGEPAAS_APP=own: its blueprints .*'licence'"):
        make_box(paths, Application(name="own", blueprints=blueprints))


@pytest.mark.parametrize("accept", ["*/*", "application/json", "", ";;;q=x,,/", "image/png"])
def test_whoever_does_not_ask_for_a_page_gets_json(box: TestBox, accept: str) -> None:
    """curl sends */*."""
    response = box.app.test_client().get("/", headers={"Accept": accept})
    assert (response.status_code, response.mimetype) == (200, "application/json")


def test_an_applications_own_root_is_kept(paths: Paths) -> None:
    """The platform's page stands in only where there is none."""

    def blueprints(box: Any) -> list[Blueprint]:
        pages = Blueprint("pages", __name__)
        pages.add_url_rule("/", "home", lambda: "my own page")
        return [pages]

    box = make_box(paths, Application(name="own", blueprints=blueprints))
    assert box.app.test_client().get("/").data == b"my own page"
    assert get(box, "/openapi.json")[0] == 200


def test_an_application_cannot_take_a_route_of_the_platform(paths: Paths) -> None:
    """A liveness that somebody else answers is worth nothing."""

    def blueprints(box: Any) -> list[Blueprint]:
        pages = Blueprint("pages", __name__)
        pages.add_url_rule("/health/live", "live", lambda: "fine")
        return [pages]

    with pytest.raises(ConfigurationError, match="/health/live"):
        make_box(paths, Application(name="own", blueprints=blueprints))


def test_every_operation_is_described_with_every_status_it_can_give(box: TestBox) -> None:
    """What the platform answers is declared by itself."""
    document = get(box, "/openapi.json")[1]
    assert document["openapi"].startswith("3.1")
    paths = document["paths"]
    writes = " ".join(paths["/api/things"]["post"]["responses"])
    reads = " ".join(paths["/api/things"]["get"]["responses"])
    assert writes == "201 400 401 403 413 415 422 429 503 507"
    assert reads == "200 400 401 422 429 503"
    assert "404" in paths["/api/things/{thing_id}"]["get"]["responses"]
    assert set(paths["/health/ready"]["get"]["responses"]) >= {"200", "503"}
    assert document["components"]["schemas"]["Error"]["required"]


def test_the_document_refers_to_nothing_that_is_not_in_it(box: TestBox) -> None:
    """Every $ref leads somewhere."""
    document = get(box, "/openapi.json")[1]
    text = json.dumps(document)
    places = [piece.split('"')[0] for piece in text.split('"$ref": "#/')[1:]]
    assert places
    for place in places:
        found: Any = document
        for step in place.split("/"):
            assert step in found, place
            found = found[step]
        assert isinstance(found, dict), place


def test_the_document_says_who_needs_a_token(paths: Paths) -> None:
    """A write in production always; the box's own programs may read without."""
    token: dict[str, list[str]] = {"token": []}
    for env, write in (("production", [token]), ("development", [{}, token])):
        box = make_box(paths, THINGS, ENV=env)
        described = get(box, "/openapi.json")[1]["paths"]
        assert described["/api/things"]["post"]["security"] == write
        assert described["/api/things"]["get"]["security"] == [{}, {"token": []}]
        assert described["/health"]["get"]["security"] == []


def test_the_document_is_built_once_and_only_when_asked(
    box: TestBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most boxes are never asked."""
    built: list[int] = []
    from edgepaas.web.views.openapi import OpenAPIDocument

    build = OpenAPIDocument.build

    def count(self: OpenAPIDocument) -> dict[str, Any]:
        built.append(1)
        return build(self)

    monkeypatch.setattr(OpenAPIDocument, "build", count)
    assert built == []
    assert get(box, "/openapi.json") == get(box, "/openapi.json")
    assert built == [1]


def test_what_answers_before_the_application_is_there_imports_no_framework() -> None:
    """Errors, request ids and the parser stand before Flask is imported."""
    code = (
        "import sys, edgepaas.apikit.problems, edgepaas.httpd.protocol, edgepaas.web.request_ids\n"
        "import edgepaas.web.access.tokens, edgepaas.health.state, edgepaas.health.gate\n"
        "heavy = ('flask', 'sqlalchemy', 'marshmallow', 'psutil', 'alembic', 'requests')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_serving_process_imports_neither_psutil_nor_alembic_nor_requests() -> None:
    """An idle service is lean; psutil comes when somebody asks for the machine."""
    code = (
        "import sys, edgepaas.web.app\n"
        "print([n for n in ('psutil', 'alembic', 'requests', 'ctypes.util') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
