# SPDX-License-Identifier: Apache-2.0
"""A second application, on the public interface alone: the built-in one is not special.

``application`` brings Flask blueprints, models and migrations of its own; ``bare`` is a
plain WSGI callable that wants nothing from the box but to be served.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepaas.app import Application, Box, SmokeRequest

if TYPE_CHECKING:
    from flask import Blueprint
    from sqlalchemy import MetaData


def _models() -> "MetaData":
    from tests.support.second_application.models import Model

    return Model.metadata


def _blueprints(box: Box) -> "Sequence[Blueprint]":
    from tests.support.second_application.views import notes_blueprint

    return [notes_blueprint(box)]


application = Application(
    name="notes",
    version="7",
    models=_models,
    migrations=Path(__file__).resolve().parent / "migrations",
    blueprints=_blueprints,
    smoke=(SmokeRequest("GET", "/notes"),),
)


def _echo(box: Box) -> Callable[..., Iterable[bytes]]:
    def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} ".encode(), body]

    return wsgi


bare = Application(name="echo", wsgi=_echo, guarded=False)
