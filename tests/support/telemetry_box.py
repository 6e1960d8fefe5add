# SPDX-License-Identifier: Apache-2.0
"""A box in this process for tests: the real database, the real schema, the real application."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flask import Flask
from waitress.server import create_server

from edgepaas.app import Application, Box, BoxState
from edgepaas.database import open_database
from edgepaas.decision.contract import DatabaseContract
from edgepaas.files.paths import Paths
from edgepaas.health.checks import HealthBoard
from edgepaas.health.gate import build_checks
from edgepaas.hosting.box import make_box
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from edgepaas.settings.own import own_settings
from edgepaas.web.app import create_app

#: A piece of a machine's readings in which the clock steps back: 45 of them, 12 times occur twice.
STEPPING_CLOCK = Path(__file__).resolve().parent / "stepping_clock.csv"


def contract_for(paths: Paths, url: str | None, state: str = "") -> DatabaseContract:
    """Return what the decision would write: PostgreSQL at *url*, or SQLite when it is None."""
    sqlite = url is None
    return DatabaseContract.of(
        {
            "DATABASE_URL": f"sqlite:///{paths.sqlite}" if url is None else url,
            "RUN_MIGRATIONS": "false" if sqlite else "true",
            "FINAL_DB_MODE": "sqlite_only" if sqlite else "try_postgres",
            "DB_STATE": state or ("standalone" if sqlite else "primary"),
            "DB_FALLBACK": "true" if state == "fallback" else "false",
            "HUB_URL": "",
            "SQLITE_PATH": str(paths.sqlite),
            "DB_REASON": "decided by a test",
            "DB_GENERATION": "1",
            "DB_DECIDED_AT": "2024-01-01T00:00:00Z",
        }
    )


@contextmanager
def open_box(
    paths: Paths,
    url: str | None = None,
    *,
    application: Application | None = None,
    state: str = "",
    **settings: str,
) -> Iterator[tuple[Flask, Box]]:
    """Give an application and its box, the schema at head; on SQLite unless *url* is given.

    The application is the built-in one unless another is given.
    """
    if application is None:
        from edgepaas.telemetry import application as built_in

        application = built_in
    resolved = Settings.of(own_settings(application.settings), **settings)
    contract = contract_for(paths, url, state)
    prepare_database(contract, resolved, paths, application)
    database = open_database(contract, resolved, paths)
    try:
        box = make_box(
            application,
            resolved,
            paths,
            contract,
            database,
            state=lambda: BoxState(contract.db_state, contract.db_state, (contract.reason,)),
        )
        checks = build_checks(database, contract, resolved, paths, application)
        yield create_app(box, application, HealthBoard(checks)), box
    finally:
        database.close()


@contextmanager
def serving(app: Flask) -> Iterator[str]:
    """Serve *app* on loopback from a thread; give its address."""
    server = create_server(app, host="127.0.0.1", port=0, threads=4)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}"
    finally:
        # In the loop's own thread: a socket that is closed under its select() is an error.
        # A request that ends just now may wake the loop first: it has closed the trigger then.
        with suppress(OSError):
            server.trigger.pull_trigger(lambda: server.asyncore.close_all(server._map))
        thread.join()
        server.task_dispatcher.shutdown()
