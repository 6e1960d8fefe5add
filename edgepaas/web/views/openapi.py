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
from flask_smorest import Api

from edgepaas.apikit.blueprint import ApiBlueprint
from edgepaas.apikit.problems import PROBLEMS
from edgepaas.app import Application
from edgepaas.web.access.auth import AccessRules
from edgepaas.web.probe_paths import PROBE_PATHS

_METHODS = ("get", "post", "put", "patch", "delete")


class DetailSchema(ma.Schema):
    """One wrong field of the request."""

    path = ma.fields.String(required=True, metadata={"example": "readings[3].value"})
    message = ma.fields.String(required=True)


class ErrorSchema(ma.Schema):
    """What every error is answered with."""

    error = ma.fields.String(required=True, metadata={"example": "invalid"})
    message = ma.fields.String(required=True)
    request_id = ma.fields.String(required=True)
    details = ma.fields.List(ma.fields.Nested(DetailSchema), required=True)


class LateApi(Api):  # type: ignore[misc]  # flask-smorest has no types
    """flask-smorest's document, made after the routes are there; their errors are ours."""

    ERROR_SCHEMA = ErrorSchema

    def _register_error_handlers(self) -> None:
        """Leave every error to :mod:`edgepaas.web.errors`."""

    def describe(self, blueprint: ApiBlueprint) -> None:
        """Take the operations of a blueprint that is registered already into the document."""
        blueprint.register_views_in_doc(
            self, self._app, self.spec, name=blueprint.name, parameters=None
        )
        self.spec.tag({"name": blueprint.name, "description": blueprint.description})


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
        self._app = app
        self._application = application
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
            self._app,
            spec_kwargs={
                "title": self._application.name,
                "version": self._application.version or self._build_version,
                "openapi_version": "3.1.0",
                **options,
            },
        )
        api.spec.components.security_scheme("token", {"type": "http", "scheme": "bearer"})
        for blueprint in self._blueprints:
            api.describe(blueprint)
        document: dict[str, Any] = api.spec.to_dict()
        # flask-smorest's own pages, which no list of ours is made of.
        document["components"].get("schemas", {}).pop("PaginationMetadata", None)
        for path, operations in document["paths"].items():
            self._finish(document, path, operations)
        return document

    def _finish(self, document: dict[str, Any], path: str, operations: dict[str, Any]) -> None:
        """Say what holds for every operation: who may call it, and that a path may lead nowhere."""
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
