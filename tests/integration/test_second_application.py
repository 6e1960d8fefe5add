# SPDX-License-Identifier: Apache-2.0
"""The application interface carries somebody else's application as it carries ours."""

import pytest

from edgepaas.app import Application
from edgepaas.files.paths import Paths
from edgepaas.hosting.loading import load_application
from tests.support.answers import json_of
from tests.support.loop_box import post, serving_in_loop
from tests.support.second_application import application, bare
from tests.support.telemetry_box import open_box


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Where the database is: None for the embedded one."""
    if request.param == "sqlite":
        return None
    return str(request.getfixturevalue("postgres_url"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tests.support.second_application:application", application),
        ("tests.support.second_application:bare", bare),
    ],
)
def test_it_is_found_by_its_name(name: str, expected: Application) -> None:
    assert load_application(name) is expected


def test_its_tables_routes_and_document_are_its_own(paths: Paths, url: str | None) -> None:
    with open_box(paths, url, application=application) as (app, _box):
        client = app.test_client()
        written = client.post("/notes", json={"text": "first"})
        assert (written.status_code, json_of(written)["text"]) == (201, "first")
        assert [note["text"] for note in json_of(client.get("/notes"))] == ["first"]
        refused = client.post("/notes", json={"text": "a\0b"})
        assert (refused.status_code, json_of(refused)["error"]) == (422, "invalid")
        assert client.get("/api/v1/readings").status_code == 404
        document = json_of(client.get("/openapi.json"))
        assert document["info"]["title"] == "notes"
        assert "/notes" in document["paths"]
        assert "503" in document["paths"]["/notes"]["post"]["responses"]
        for request in application.smoke:
            answer = client.open(request.path, method=request.method)
            assert answer.status_code == request.expect


def test_it_appends_what_it_declared_once(paths: Paths, url: str | None) -> None:
    with open_box(paths, url, application=application) as (app, _box):
        client = app.test_client()
        one, key = {"text": "first"}, {"Idempotency-Key": "k"}
        assert json_of(client.post("/notes/many", json=one, headers=key))["accepted"] == 1
        assert json_of(client.post("/notes/many", json=one, headers=key))["duplicates"] == 1
        many = client.post("/notes/many", json=[{"text": "second"}, {"text": "third"}])
        assert (many.status_code, json_of(many)["accepted"]) == (201, 2)
        differs = client.post("/notes/many", json=[{"text": "other"}], headers=key)
        assert differs.status_code == 409
        assert json_of(differs)["details"][0]["message"].startswith(
            "This key came with another note"
        )
        refused = client.post("/notes/many", json=[{"text": "a"}, {"text": ""}])
        assert refused.status_code == 422
        assert json_of(refused)["details"][0]["path"] == "[1].text"
        assert len(json_of(client.get("/notes"))) == 3
        operation = json_of(client.get("/openapi.json"))["paths"]["/notes/many"]["post"]
        assert operation["summary"] == "Write notes down, all of them or none"
        assert {"201", "409", "413", "422", "507"} <= set(operation["responses"])
        assert operation["parameters"][0]["name"] == "Idempotency-Key"


def test_what_it_appends_needs_no_worker(paths: Paths) -> None:
    with (
        open_box(paths, application=application) as (app, _box),
        serving_in_loop(app) as loop,
    ):
        answer = loop.send(post(b'{"text": "first"}', path="/notes/many"))
        assert answer.status == "201 CREATED"
        assert loop.taken == ["/notes/many"]
        assert len(json_of(app.test_client().get("/notes"))) == 1


def test_an_application_in_one_file_needs_no_migrations(paths: Paths, url: str | None) -> None:
    """What a newcomer writes first: models, routes and the application, one below the other."""
    alone = load_application("tests.support.second_application.one_file:application")
    with open_box(paths, url, application=alone) as (app, _box):
        client = app.test_client()
        written = client.post("/notes", json={"text": "first"})
        assert (written.status_code, json_of(client.get("/notes"))) == (201, [json_of(written)])
        assert client.post("/notes", json={"text": ""}).status_code == 422


def test_its_rows_are_there_when_the_box_starts_again(paths: Paths, url: str | None) -> None:
    with open_box(paths, url, application=application) as (app, _box):
        app.test_client().post("/notes", json={"text": "kept"})
    with open_box(paths, url, application=application) as (app, _box):
        assert [note["text"] for note in json_of(app.test_client().get("/notes"))] == ["kept"]


def test_a_plain_wsgi_callable_is_served_beside_the_health_routes(paths: Paths) -> None:
    with open_box(paths, application=bare) as (app, _box):
        client = app.test_client()
        assert client.post("/any/where", data=b"hello").data == b"POST /any/where hello"
        assert client.get("/").data == b"GET / "
        assert client.get("/health/live").status_code == 200
