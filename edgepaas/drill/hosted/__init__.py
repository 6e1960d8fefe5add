# SPDX-License-Identifier: Apache-2.0
"""The application of a drill's scratch box: what its devices write to.

A drill rehearses the platform, whatever application the box serves; so it brings a small
one of its own, on the public interface: a table of facts, and a shared one that changes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgepaas.app import PLATFORM_VERSION, Application, SmokeRequest

if TYPE_CHECKING:
    from flask import Blueprint
    from sqlalchemy import MetaData

    from edgepaas.app import Box


def _models() -> "MetaData":
    from edgepaas.drill.hosted.models import Model

    return Model.metadata


def _blueprints(box: "Box") -> "Sequence[Blueprint]":
    from edgepaas.drill.hosted.views import blueprint

    return [blueprint(box)]


application = Application(
    name="drill",
    version=PLATFORM_VERSION,
    models=_models,
    blueprints=_blueprints,
    smoke=(SmokeRequest("GET", "/drill/readings"),),
)
