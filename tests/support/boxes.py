# SPDX-License-Identifier: Apache-2.0
"""A box for tests of the web layer: real settings and folders, a database that fails when told."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import marshmallow as ma
from flask import Flask, jsonify

from edgepaas.app import Application, Box
from edgepaas.app.api import (
    ApiBlueprint,
    IntegerField,
    LabelsField,
    NumberField,
    PageQuery,
    TextField,
    current_caller,
    is_ndjson,
    load,
    read_json,
    read_ndjson,
)
from edgepaas.database import Database
from edgepaas.decision.contract import DatabaseContract
from edgepaas.files.paths import Paths
from edgepaas.health.checks import Check, HealthBoard
from edgepaas.health.state import StateBoard
from edgepaas.settings import Settings
from edgepaas.web.app import create_app


class FakeDatabase(Database):
    """Answers, or raises what it was told to."""

    dialect = "sqlite"

    def __init__(self) -> None:
        self.failure: Exception | None = None

    @contextmanager
    def read(self) -> Iterator[Any]:
        self.ping()
        yield None

    def write(self, work: Callable[[Any], Any]) -> Any:
        self.ping()
        return work(None)

    def ping(self) -> None:
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        pass


class ThingSchema(ma.Schema):
    """Something to post."""

    name = TextField(longest=20, shortest=1, visible=True, required=True)
    size = NumberField(load_default=None, allow_none=True)
    count = IntegerField(load_default=0)
    labels = LabelsField(load_default=dict)


def things(box: Box) -> list[ApiBlueprint]:
    """A small API that uses every part of it."""
    api = ApiBlueprint("things", __name__, url_prefix="/api/things", description="Things.")

    @api.route("", methods=["POST"])
    @api.arguments(ThingSchema)
    @api.response(201, ThingSchema)
    def create(given: dict[str, Any]) -> dict[str, Any]:
        """Make a thing"""
        return box.database.write(lambda _: given)

    @api.route("")
    @api.arguments(PageQuery, location="query")
    @api.response(200)
    def listing(query: dict[str, Any]) -> Any:
        """List things"""
        return jsonify(query)

    @api.route("/<uuid:thing_id>")
    @api.response(200, ThingSchema)
    def one(thing_id: Any) -> Any:
        """Return a thing"""
        return {"name": str(thing_id)[:20]}

    @api.route("/many", methods=["POST"])
    @api.takes_body({"application/json": ThingSchema})
    @api.response(201)
    def many() -> Any:
        """Make things"""
        values = read_ndjson(most=100) if is_ndjson() else read_json()
        found = load(ThingSchema(), values, path="things", many=True)
        return jsonify(count=len(found), caller=current_caller().name)

    @api.route("/crash", methods=["GET", "POST"])
    @api.response(200)
    def crash() -> Any:
        """Fail"""
        raise RuntimeError("a bug with password=hunter2secret in it")

    return [api]


THINGS = Application(name="things", version="1", blueprints=things)


@dataclass
class TestBox:
    """A Flask application and everything that it stands on."""

    __test__ = False

    app: Flask
    box: Box
    database: FakeDatabase
    states: StateBoard
    board: HealthBoard


def contract(paths: Paths, **changes: Any) -> DatabaseContract:
    """A decision for SQLite alone, with *changes*."""
    values: dict[str, Any] = {
        "database_url": f"sqlite:///{paths.sqlite}",
        "run_migrations": False,
        "final_db_mode": "sqlite_only",
        "db_state": "standalone",
        "db_fallback": False,
        "hub_url": "",
        "sqlite_path": Path(paths.sqlite),
        "reason": "no DATABASE_URL",
        "generation": "1",
        "decided_at": "2026-01-01T00:00:00Z",
    }
    return DatabaseContract(**{**values, **changes})


def make_box(
    paths: Paths,
    application: Application = THINGS,
    checks: list[Check] | None = None,
    **settings: str,
) -> TestBox:
    """Return a running box with *application* in it."""
    database = FakeDatabase()

    def ping() -> str:
        database.ping()
        return "SQLite answers"

    board = HealthBoard([Check("database", ping), *(checks or [])], cache_seconds=0, timeout=2)
    states = StateBoard(contract(paths), latest=board.latest)
    states.phase = "running"
    box = Box(
        node_id="0190b6a4-0000-7000-8000-000000000000",
        settings=Settings.of(**settings),
        paths=paths,
        contract=states.contract,
        database=database,
        build_version="0.1.0+gabcdef",
        state=states.state,
    )
    return TestBox(create_app(box, application, board), box, database, states, board)
