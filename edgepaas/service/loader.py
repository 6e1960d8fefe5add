# SPDX-License-Identifier: Apache-2.0
"""From contracts to an application that answers: the heavy half of the start, in its own thread."""

import gc
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgepaas.service import early_connections

if TYPE_CHECKING:
    from edgepaas.app.box import Worker
    from edgepaas.database import Database
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.health.checks import HealthBoard
    from edgepaas.health.gate import GateReport
    from edgepaas.health.state import StateBoard
    from edgepaas.service.watches.journal import JournalWatch
    from edgepaas.settings import Settings
    from edgepaas.timing.task_registry import TaskRegistry
    from edgepaas.web.access.entrance import Entrance
    from edgepaas.web.plain_appends import PlainAppends

#: Seconds for which the gate waits for a check that is late, as on a machine that has just
#: been switched on and starts many things at once.
PATIENCE = 20.0

_PRELOADED = ("database", "health.gate", "hosting.box", "hosting.loading", "web.app")


@dataclass
class Loaded:
    """What answers requests, and what it stands on."""

    wsgi: Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
    #: What answers requests that need no thread.
    appends: "PlainAppends"
    #: What decides whose bodies are read.
    entrance: "Entrance"
    database: "Database"
    board: "HealthBoard"
    report: "GateReport"
    #: What the application wants to run beside the requests.
    workers: "list[Worker]"
    #: What keeps the journal of what PostgreSQL acknowledges; None where none is kept.
    journal: "JournalWatch | None" = None


def preload() -> None:
    """Import what every service needs, whatever its settings and its application are."""
    from edgepaas.database.lean_import import import_sqlalchemy

    import_sqlalchemy()
    for name in _PRELOADED:
        importlib.import_module(f"edgepaas.{name}")


def load(
    settings: "Settings",
    contract: "DatabaseContract",
    paths: "Paths",
    state: "StateBoard",
    tasks: "TaskRegistry",
    *,
    workers_answer: Callable[[float], bool],
) -> Loaded:
    """Import and open everything, and pass the verification gate once.

    *workers_answer* says whether a worker was free within some seconds.

    Raises what the application raises at import, ConfigurationError for one that is not
    there, DatabaseError. A failing gate is no exception: it is in ``report``.
    """
    connector = early_connections.begin(contract, settings, paths)
    preload()

    from edgepaas.database import open_database
    from edgepaas.database.model import forwarded_tables
    from edgepaas.health.gate import (
        accept_rehearsal,
        build_board,
        build_checks,
        verify,
        workers_check,
    )
    from edgepaas.hosting.box import make_box
    from edgepaas.hosting.loading import load_application, metadata_of
    from edgepaas.service.capture_guard import guard_capture
    from edgepaas.web.app import create_app, entrance, plain_appends

    application = load_application(settings.text("EDGEPAAS_APP"))
    forwarded = forwarded_tables(metadata_of(application))
    database = open_database(contract, settings, paths, connector=connector, forwarded=forwarded)
    try:
        guard_capture(database, contract, paths)
        journal = _open_journal(database, contract, settings, paths, state)
        checks = build_checks(database, contract, settings, paths, application)
        board = build_board(checks, settings)
        state.latest = board.latest
        box = make_box(application, settings, paths, contract, database, state=state.state)
        box.tasks = tasks
        wsgi = create_app(box, application, board)
        accept_rehearsal(board, contract, paths)
        # With SQLite to fall back on nothing is gained by waiting for a PostgreSQL that is late.
        report = verify(
            board,
            production=settings.text("ENV") == "production",
            patience=0.0 if contract.fallback_armed else PATIENCE,
        )
        board.add(workers_check(workers_answer))
    except BaseException:
        database.close()
        raise
    return Loaded(
        wsgi, plain_appends(wsgi), entrance(wsgi), database, board, report, box.workers, journal
    )


def _open_journal(
    database: "Database",
    contract: "DatabaseContract",
    settings: "Settings",
    paths: "Paths",
    state: "StateBoard",
) -> "JournalWatch | None":
    """Open the journal where PostgreSQL serves and JOURNAL is not off."""
    if database.dialect != "postgresql" or not settings.flag("JOURNAL"):
        return None
    from edgepaas.database.postgresql.database import ServerDatabase
    from edgepaas.service.hub_capture import capture_on_hub
    from edgepaas.service.watches.journal import JournalWatch

    if not isinstance(database, ServerDatabase):
        return None
    if database.marks is not None:
        capture_on_hub(database.marks, paths, may_mend=contract.run_migrations)
    watch = JournalWatch(database, contract, settings, paths, state)
    watch.open()
    return watch


def freeze_startup_objects() -> None:
    """Keep what the start made out of every later collection (the collector was off until now)."""
    gc.collect()
    gc.freeze()
    gc.enable()
