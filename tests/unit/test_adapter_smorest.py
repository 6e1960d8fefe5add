# SPDX-License-Identifier: Apache-2.0
"""The contract with flask-smorest and webargs: what edgepaas.apikit.smorest_adapter uses."""

import inspect
from typing import Any

import marshmallow as ma
import pytest
from flask import Flask
from flask_smorest import Api, Blueprint
from webargs.flaskparser import FlaskParser

from edgepaas.apikit.smorest_adapter import (
    OWN_SCHEMAS,
    AdaptedApi,
    AdaptedBlueprint,
    from_address,
    noting,
    summary_of,
)


class QuerySchema(ma.Schema):
    """Arguments from an address."""

    limit = ma.fields.Integer()

    @ma.pre_load
    def note(self, data: Any, **_: Any) -> Any:
        seen.append(from_address(data))
        return data


class ThingSchema(ma.Schema):
    """A body and an answer."""

    name = ma.fields.String(required=True)


seen: list[bool] = []


def document_of(blueprint: AdaptedBlueprint) -> tuple[Flask, dict[str, Any]]:
    """Return an application with *blueprint*, and the document, made afterwards."""
    app = Flask("contract")
    app.register_blueprint(blueprint)
    options = {"title": "Contract", "version": "1", "openapi_version": "3.1.0"}
    api = AdaptedApi(app, spec_kwargs=options)
    api.describe(blueprint)
    return app, api.document()


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (Blueprint.register_views_in_doc, ["self", "api", "app", "spec", "name", "parameters"]),
        (Api._register_error_handlers, ["self"]),
        (FlaskParser.load_json, ["self", "req", "schema"]),
        (FlaskParser.load_querystring, ["self", "req", "schema"]),
    ],
)
def test_what_is_called_or_overridden_takes_what_it_took(function: Any, names: list[str]) -> None:
    assert list(inspect.signature(function).parameters) == names


def test_the_parsers_error_handler_is_given_the_error_first() -> None:
    assert list(inspect.signature(FlaskParser.handle_error).parameters)[:2] == ["self", "error"]


def test_unknown_names_are_judged_by_the_place_that_they_stand_in() -> None:
    """The names of the places that ApiParser changes."""
    assert {"json", "query", "querystring"} <= set(FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION)


def test_a_blueprint_has_its_own_parsers() -> None:
    assert isinstance(Blueprint.ARGUMENTS_PARSER, FlaskParser)
    assert hasattr(Blueprint, "PAGINATION_ARGUMENTS_PARSER")


def test_an_operation_is_finished_with_all_that_was_noted() -> None:
    given: list[tuple[str, tuple[int, ...], dict[str, Any], bool]] = []

    class Recording(AdaptedBlueprint):
        def finish_operation(
            self, doc: dict[str, Any], noted: dict[str, Any], manual: dict[str, Any], method: str
        ) -> None:
            given.append((method, noted["answers"], manual, "requestBody" in doc))
            doc["responses"] = {418: "OURS"}

    api = Recording("things", __name__, url_prefix="/things", description="Things.")

    @api.route("", methods=["POST"])
    @api.arguments(ThingSchema)
    @api.response(201, ThingSchema)
    @noting("answers", 409)
    @noting("answers", 410)
    @api.doc(summary="Make a thing")
    def create(thing: Any) -> Any:
        return thing

    app, document = document_of(api)
    assert given == [("post", (410, 409), {"summary": "Make a thing"}, True)]
    operation = document["paths"]["/things"]["post"]
    assert list(operation["responses"]) == ["418"]
    assert operation["summary"] == "Make a thing"
    assert document["tags"] == [{"name": "things", "description": "Things."}]
    assert summary_of(app.view_functions["things.create"]) == "Make a thing"
    answer = app.test_client().post("/things", json={"name": "x"})
    assert (answer.status_code, answer.get_json()) == (201, {"name": "x"})


def test_a_view_that_nobody_documents_has_no_summary() -> None:
    def view() -> None:
        """Nothing."""

    assert summary_of(view) == ""


def test_the_document_is_made_after_a_request_and_adds_no_error_handler() -> None:
    api = AdaptedBlueprint("things", __name__, url_prefix="/things", description="")

    @api.route("")
    @api.response(200, ThingSchema)
    def one() -> Any:
        return {"name": "x"}

    app = Flask("contract")
    app.register_blueprint(api)
    assert app.test_client().get("/things").status_code == 200
    before = {code: dict(found) for code, found in app.error_handler_spec[None].items()}
    options = {"title": "Contract", "version": "1", "openapi_version": "3.1.0"}
    made = AdaptedApi(app, spec_kwargs=options)
    made.describe(api)
    assert "/things" in made.document()["paths"]
    assert {code: dict(found) for code, found in app.error_handler_spec[None].items()} == before


def test_only_the_schemas_that_are_described_are_in_the_document() -> None:
    """The library's own one is there, and taken out."""
    app = Flask("contract")
    options = {"title": "Contract", "version": "1", "openapi_version": "3.1.0"}
    api = AdaptedApi(app, spec_kwargs=options)
    assert set(OWN_SCHEMAS) <= set(api.spec.to_dict()["components"]["schemas"])
    assert not set(OWN_SCHEMAS) & set(api.document()["components"]["schemas"])


def test_arguments_of_an_address_are_told_from_a_body() -> None:
    api = AdaptedBlueprint("things", __name__, url_prefix="/things", description="")

    @api.route("", methods=["GET"])
    @api.arguments(QuerySchema, location="query")
    @api.response(200)
    def listed(_query: Any) -> Any:
        return {}

    @api.route("", methods=["POST"])
    @api.arguments(QuerySchema)
    @api.response(200)
    def posted(_body: Any) -> Any:
        return {}

    app, _ = document_of(api)
    client = app.test_client()
    seen.clear()
    assert client.get("/things?limit=3").status_code == 200
    assert client.post("/things", json={"limit": 3}).status_code == 200
    assert seen == [True, False]
