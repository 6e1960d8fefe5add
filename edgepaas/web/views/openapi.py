# SPDX-License-Identifier: Apache-2.0
"""``/openapi.json``: generated from the code, at the first question for it.

Building the document imports nothing new but costs memory and a tenth of a second on
a slow box; most boxes are never asked.
"""

import json
import threading
from collections.abc import Sequence
from typing import Any

import marshmallow as ma
from flask import Flask, Response

from edgepaas.apikit.blueprint import ApiBlueprint
from edgepaas.apikit.problems import PROBLEMS
from edgepaas.apikit.smorest_adapter import AdaptedApi
from edgepaas.apikit.werkzeug_adapter import openapi_path
from edgepaas.app import Application
from edgepaas.web.access.auth import AccessRules
from edgepaas.web.probe_paths import PROBE_PATHS

#: What every view may be answered with in place of its own answer.
_ANY_VIEW = (400, 401, 429, 503)
_OWN_TAG = "box"
_METHODS = ("get", "post", "put", "patch", "delete")


class DetailSchema(ma.Schema):
    """One wrong field of the request."""

    path = ma.fields.String(
        required=True,
        metadata={
            "description": "Where the field is in the request.",
            "example": "readings[3].value",
        },
    )
    message = ma.fields.String(required=True, metadata={"description": "What is wrong with it."})


class ErrorSchema(ma.Schema):
    """What every error is answered with."""

    error = ma.fields.String(
        required=True,
        metadata={
            "description": "A word for programs; the same for the same kind of error.",
            "example": "invalid",
        },
    )
    message = ma.fields.String(
        required=True, metadata={"description": "What is wrong, for a person."}
    )
    request_id = ma.fields.String(
        required=True,
        metadata={
            "description": "Identifies the request in the log; also in the header X-Request-ID."
        },
    )
    details = ma.fields.List(
        ma.fields.Nested(DetailSchema),
        required=True,
        metadata={"description": "The wrong fields; empty where the error is not about one."},
    )


class LateApi(AdaptedApi):
    """The document, made after the routes are there; errors are :mod:`edgepaas.web.errors`'."""

    ERROR_SCHEMA = ErrorSchema


class OpenAPIDocument:
    """Builds the document once and keeps its bytes."""

    def __init__(
        self,
        app: Flask,
        application: Application,
        blueprints: Sequence[ApiBlueprint],
        rules: AccessRules,
        build_version: str,
    ) -> None:
        self._flask_app = app
        self._flask_application = application
        self._blueprints = tuple(blueprints)
        self._rules = rules
        self._build_version = build_version
        self._lock = threading.Lock()
        self._encoded: bytes | None = None

    def view(self) -> Response:
        """Answer with the document."""
        with self._lock:
            if self._encoded is None:
                self._encoded = json.dumps(self.build()).encode("ascii")
            return Response(self._encoded, mimetype="application/json")

    def build(self) -> dict[str, Any]:
        """Return the document (OpenAPI 3.1)."""
        options = {
            "info": {"description": "EdgePaaS, an edge-device appliance. Errors share one body."}
        }
        api = LateApi(
            self._flask_app,
            spec_kwargs={
                "title": self._flask_application.name,
                "version": self._flask_application.version or self._build_version,
                "openapi_version": "3.1.0",
                **options,
            },
        )
        api.spec.components.security_scheme("token", {"type": "http", "scheme": "bearer"})
        for blueprint in self._blueprints:
            api.describe(blueprint)
        document = api.document()
        self._add_own_views(document)
        for path, operations in document["paths"].items():
            self._finish(document, path, operations)
        return document

    def _add_own_views(self, document: dict[str, Any]) -> None:
        """Add the platform's views that belong to no blueprint: ``/`` and this document."""
        for rule in self._flask_app.url_map.iter_rules():
            view = self._flask_app.view_functions[rule.endpoint]
            purpose = getattr(view, "purpose", "")
            if not purpose:
                continue
            content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
            if rule.rule == "/":
                content["text/html"] = {"schema": {"type": "string"}}
            responses: dict[str, Any] = {"200": {"description": "OK", "content": content}}
            for status in _ANY_VIEW:
                responses[str(status)] = _reference(document, status)
            operation = {"summary": purpose, "tags": [_OWN_TAG], "responses": responses}
            document["paths"].setdefault(openapi_path(rule), {})["get"] = operation
        document["tags"].append({"name": _OWN_TAG, "description": "The box itself."})

    def _finish(self, document: dict[str, Any], path: str, operations: dict[str, Any]) -> None:
        """Add to every operation who may call it, and 404 for a path with a parameter."""
        health = path in PROBE_PATHS
        for method in _METHODS:
            operation = operations.get(method)
            if operation is None:
                continue
            operation.setdefault("security", self._security(method, health=health))
            if "{" in path:
                operation["responses"].setdefault("404", _reference(document, 404))

    def _security(self, method: str, *, health: bool) -> list[dict[str, list[str]]]:
        needed: list[dict[str, list[str]]] = [{"token": []}]
        if health and self._rules.health:
            return []
        writes = method != "get"
        if self._rules.everybody or not writes or self._rules.local_writes:
            return [{}, *needed]  # the box's own programs need none
        return needed


def _reference(document: dict[str, Any], status: int) -> dict[str, str]:
    responses = document["components"].setdefault("responses", {})
    name = PROBLEMS[status][0].upper()
    responses.setdefault(
        name,
        {
            "description": PROBLEMS[status][1],
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        },
    )
    return {"$ref": f"#/components/responses/{name}"}
