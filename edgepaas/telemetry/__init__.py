# SPDX-License-Identifier: Apache-2.0
"""The built-in application: devices post readings, rules watch them.

It is written against the public interface of applications (:mod:`edgepaas.app`) alone, and
nothing in the platform knows it. Importing it is light: models and views are imported when
they are asked for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.app import PLATFORM_VERSION, Application, SmokeRequest
from edgepaas.app.commands import Command
from edgepaas.telemetry.limits import DEVICES_PER_TOKEN, READINGS_MAX, RULES_PER_TOKEN

if TYPE_CHECKING:
    import argparse

    from flask import Blueprint
    from sqlalchemy import MetaData

    from edgepaas.app import Box

_PACKAGE = Path(__file__).resolve().parents[1]
#: What a wheel carries, and the checkout's folder. Beside an installed package there is a
#: folder of that name too, the Alembic library's own, which has no env.py.
_MIGRATIONS = (_PACKAGE / "_alembic", _PACKAGE.parent / "alembic")


def _migrations() -> Path | None:
    return next((folder for folder in _MIGRATIONS if (folder / "env.py").is_file()), None)


def _models() -> "MetaData":
    from edgepaas.telemetry.models import Model

    return Model.metadata


def _blueprints(box: "Box") -> "Sequence[Blueprint]":
    from edgepaas.telemetry.allowance import Allowance
    from edgepaas.telemetry.changing.routes import changes_blueprint
    from edgepaas.telemetry.devices import devices_blueprint
    from edgepaas.telemetry.readings import readings_blueprint
    from edgepaas.telemetry.rules.follower import RuleFollower
    from edgepaas.telemetry.rules.views import rules_blueprint
    from edgepaas.telemetry.status import status_blueprint

    follower = RuleFollower(box)
    box.workers.append(follower)
    # One for readings, which register devices, and for whoever registers them.
    devices = Allowance(
        box.settings.integer(DEVICES_PER_TOKEN.name), DEVICES_PER_TOKEN.name, "devices"
    )
    rules = Allowance(box.settings.integer(RULES_PER_TOKEN.name), RULES_PER_TOKEN.name, "rules")
    return [
        devices_blueprint(box, devices),
        rules_blueprint(box, follower, rules),
        readings_blueprint(box, follower, devices),
        changes_blueprint(box),
        status_blueprint(box),
    ]


def _import_arguments(parser: "argparse.ArgumentParser") -> None:
    from edgepaas.telemetry.importer.command import add_arguments

    add_arguments(parser)


def _import(arguments: "argparse.Namespace") -> int:
    from edgepaas.telemetry.importer.command import run

    return run(arguments)


def _export_arguments(parser: "argparse.ArgumentParser") -> None:
    from edgepaas.telemetry.exporter.command import add_arguments

    add_arguments(parser)


def _export(arguments: "argparse.Namespace") -> int:
    from edgepaas.telemetry.exporter.command import run

    return run(arguments)


_EXPORT = Command(
    "export",
    "export readings as CSV or NDJSON",
    _export,
    _export_arguments,
    description=(
        "Export readings of a running box, over HTTP, from whichever database serves. FILE has\n"
        "its name once it is whole; of standard output the exit status says whether it is."
    ),
    needs_service_user=False,  # it works over HTTP and writes the caller's own file
    exports="readings",
)
_IMPORT = Command(
    "import",
    "import readings from a CSV file",
    _import,
    _import_arguments,
    description=(
        "Import readings from a CSV file into a running box, over HTTP. Importing the same file\n"
        "again, or the rest of it after an interruption, doubles nothing."
    ),
    needs_service_user=False,  # it works over HTTP and reads the caller's own files
)


def _delete_arguments(parser: "argparse.ArgumentParser") -> None:
    from edgepaas.telemetry.deleting.command import add_arguments

    add_arguments(parser)


def _delete(arguments: "argparse.Namespace") -> int:
    from edgepaas.telemetry.deleting.command import run

    return run(arguments)


_DELETE = Command(
    "delete",
    "delete readings for good, with who and why",
    _delete,
    _delete_arguments,
    description=(
        "Delete readings by their ids, or those of a device and a metric between two moments.\n"
        "What was deleted, by whose token and why is kept, here and on PostgreSQL."
    ),
    needs_service_user=False,  # it works over HTTP
)

application = Application(
    name="telemetry",
    version=PLATFORM_VERSION,
    models=_models,
    migrations=_migrations(),
    blueprints=_blueprints,
    smoke=(
        SmokeRequest("GET", "/api/v1/status"),
        SmokeRequest("GET", "/api/v1/devices?limit=1"),
        SmokeRequest("GET", "/api/v1/readings?limit=1"),
    ),
    settings=(READINGS_MAX, DEVICES_PER_TOKEN, RULES_PER_TOKEN),
    commands=(_IMPORT, _EXPORT, _DELETE),
    example=(
        "curl {box}/api/v1/readings -H 'Content-Type: application/json' "
        """-d '{"device": "press-1", "metric": "temperature", "value": 21.5}'"""
    ),
)
