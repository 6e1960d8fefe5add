# SPDX-License-Identifier: Apache-2.0
"""``/``: what this box is, as JSON for programs and as a page for people."""

from collections.abc import Callable
from typing import Any

from flask import Flask, Response, jsonify, request

from edgepaas.apikit.smorest_adapter import summary_of
from edgepaas.apikit.werkzeug_adapter import openapi_path
from edgepaas.app import Application, Box
from edgepaas.health.checks import HealthBoard
from edgepaas.settings.own_url import network_urls
from edgepaas.web.views.page import page_policy, render_page

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def root_view(
    app: Flask, box: Box, application: Application, board: HealthBoard
) -> Callable[[], Response]:
    """Return the view of ``/``."""

    def root() -> Response:
        preferred = request.accept_mimetypes.best_match(["application/json", "text/html"])
        endpoints = list_endpoints(app)
        if preferred == "text/html":
            checks = board.results()  # first: the state follows from what they find
            page = render_page(
                name=application.name,
                build_version=box.build_version,
                state=box.state(),
                checks=checks,
                endpoints=endpoints,
                example=_example(box, application),
                addresses=network_urls(box.paths),
            )
            response = Response(page, mimetype="text/html")
            response.headers["Content-Security-Policy"] = page_policy()
        else:
            response = jsonify(describe(box, application, endpoints))
        response.vary.add("Accept")
        return response

    return root


def status_view(box: Box) -> Callable[[], Response]:
    """Return the view of ``/api/v1/status`` for an application that has none of its own."""

    def status() -> Response:
        current = box.state()
        since = current.since and current.since.isoformat(timespec="seconds")
        return jsonify({**current.as_dict(), "since": since, "build": box.build_version})

    return status


def describe(
    box: Box, application: Application, endpoints: list[tuple[str, str, str]]
) -> dict[str, Any]:
    """Return the JSON document of ``/``."""
    return {
        "name": application.name,
        "version": application.version,
        "build_version": box.build_version,
        "environment": box.settings.text("ENV"),
        "addresses": network_urls(box.paths),
        **box.state().as_dict(),
        "documentation": "/openapi.json",
        "endpoints": [
            {"path": path, "methods": methods.split(), "description": purpose}
            for methods, path, purpose in endpoints
        ],
    }


def _example(box: Box, application: Application) -> str:
    """Return the application's example as one can type it: with the address that was asked."""
    example = application.example.replace("{box}", request.host_url.rstrip("/"))
    if example and application.guarded and box.settings.flag("AUTH_REQUIRED"):
        example += " -H 'Authorization: Bearer TOKEN'"
    return example


def list_endpoints(app: Flask) -> list[tuple[str, str, str]]:
    """Return (methods, path, purpose) of every route, sorted by path; paths as OpenAPI has them.

    The purposes of a path's methods stand in the methods' order.
    """
    found: dict[str, dict[str, str]] = {}
    for rule in app.url_map.iter_rules():
        view = app.view_functions.get(rule.endpoint)
        if view is None or getattr(view, "catch_all", False):
            continue
        path = openapi_path(rule)
        for method in _METHODS:
            if method in (rule.methods or ()):
                found.setdefault(path, {}).setdefault(method, _purpose(view))
    return [_endpoint(path, purposes) for path, purposes in sorted(found.items())]


def _endpoint(path: str, purposes: dict[str, str]) -> tuple[str, str, str]:
    methods = [method for method in _METHODS if method in purposes]
    said = dict.fromkeys(purposes[method] for method in methods if purposes[method])
    return " ".join(methods), path, "; ".join(said)


def _purpose(view: Callable[..., Any]) -> str:
    text = summary_of(view) or getattr(view, "purpose", "") or (view.__doc__ or "")
    return str(text).strip().split("\n")[0].rstrip(".")
