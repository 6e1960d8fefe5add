# SPDX-License-Identifier: Apache-2.0
"""The contract with Werkzeug: what edgepaas.apikit.werkzeug_adapter uses."""

import io
from typing import Any
from uuid import UUID

import pytest
from flask import Flask, abort, request
from werkzeug.exceptions import NotFound
from werkzeug.routing import Rule

from edgepaas.apikit.werkzeug_adapter import (
    ClientDisconnected,
    HTTPException,
    RequestEntityTooLarge,
    abort_data,
    has_route,
    is_from_routing,
    openapi_path,
)


@pytest.fixture
def app() -> Flask:
    made = Flask("contract")
    made.config["MAX_CONTENT_LENGTH"] = 10

    @made.route("/things/<uuid:thing_id>/<path:rest>", methods=["GET", "PUT"])
    def thing(thing_id: UUID, rest: str) -> dict[str, str]:
        return {"id": str(thing_id), "rest": rest}

    @made.route("/body", methods=["POST"])
    def body() -> bytes:
        return request.get_data()

    @made.route("/missing")
    def missing() -> str:
        abort(404, "no such thing")

    return made


def test_a_body_that_ends_early_is_a_client_that_is_gone(app: Flask) -> None:
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/body",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "CONTENT_LENGTH": "8",
        "wsgi.input": io.BytesIO(b"four"),
    }
    with app.request_context(environ), pytest.raises(ClientDisconnected):
        request.get_data()


def test_a_body_beyond_the_limit_says_so(app: Flask) -> None:
    with (
        app.test_request_context("/body", method="POST", data=b"x" * 11),
        pytest.raises(RequestEntityTooLarge) as caught,
    ):
        assert request.max_content_length == 10
        request.get_data()
    assert (caught.value.code, isinstance(caught.value, HTTPException)) == (413, True)


def test_what_routing_raised_is_told_from_a_views_own_404(app: Flask) -> None:
    found: list[bool] = []

    def note(error: HTTPException) -> tuple[str, int]:
        found.append(is_from_routing(error))
        return "", error.code or 500

    app.register_error_handler(HTTPException, note)
    client = app.test_client()
    assert client.get("/nowhere").status_code == 404
    assert client.get("/missing").status_code == 404
    assert client.delete("/body").status_code == 405
    assert found == [True, False, True]


@pytest.mark.parametrize(
    ("path", "method", "there"),
    [
        (f"/things/{UUID(int=0)}/a/b", "GET", True),
        (f"/things/{UUID(int=0)}/a", "PUT", True),
        (f"/things/{UUID(int=0)}/a", "POST", False),
        ("/things/none/a", "GET", False),
        ("/nowhere", "GET", False),
    ],
)
def test_whether_a_route_leads_somewhere_is_asked_without_going_there(
    app: Flask, path: str, method: str, there: bool
) -> None:
    with app.test_request_context("/body"):
        assert has_route(path, method) is there


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/", "/"),
        ("/things/<uuid:thing_id>", "/things/{thing_id}"),
        ("/things/<uuid:thing_id>/parts/<path:rest>", "/things/{thing_id}/parts/{rest}"),
        ("/a<int:number>b", "/a{number}b"),
        ("/with|bar/<name>", "/with|bar/{name}"),
    ],
)
def test_a_route_is_written_as_openapi_does(app: Flask, text: str, path: str) -> None:
    app.add_url_rule(text, "added", lambda **_: "")
    (rule,) = [rule for rule in app.url_map.iter_rules() if rule.endpoint == "added"]
    assert isinstance(rule, Rule)
    assert openapi_path(rule) == path


def test_what_abort_was_given_is_found_in_the_exception() -> None:
    """webargs' abort() sets ``data``; other exceptions have none."""
    from webargs.flaskparser import abort as webargs_abort

    with pytest.raises(HTTPException) as caught:
        webargs_abort(422, messages={"json": {"name": ["Missing."]}})
    data: Any = abort_data(caught.value)
    assert data["messages"] == {"json": {"name": ["Missing."]}}
    assert abort_data(NotFound()) is None


def test_an_exception_has_headers_and_an_answer(app: Flask) -> None:
    with app.test_request_context("/body"):
        error = NotFound("no such thing")
        assert (error.code, error.description) == (404, "no such thing")
        assert ("Content-Type", "text/html; charset=utf-8") in error.get_headers()
        assert error.get_response(request.environ).status_code == 404
