# SPDX-License-Identifier: Apache-2.0
"""Capture in the SQLite file, as the schema stage sees to it; without SQLAlchemy.

Where a hub is to get every row, no file serves before its triggers are in place and were
looked at; what a file that was set aside still held is brought into its successor.
"""

import contextlib
import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgepaas.alerts.catalogue import ROWS_LOST_IN_DAMAGE, SALVAGE_FAILED
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.errors import EdgePaaSError
from edgepaas.files.locks import held
from edgepaas.files.paths import Paths
from edgepaas.schema.errors import SchemaError, brief
from edgepaas.schema.open_problems import record_problem
from edgepaas.schema.sqlite.quarantine import note_salvaged, pending_salvage

logger = logging.getLogger("edgepaas.schema")

#: Seconds for copying what the box wrote to PostgreSQL before SQLite serves.
HISTORY_SECONDS = 1.5
#: Seconds for making an older release's file one that gives its free pages back.
_CONVERTING = 5.0


class NotCaptured(SchemaError):
    """Changes of the SQLite file would not reach the hub."""


def capture(path: Path, paths: Paths, document: Mapping[str, Any]) -> str:
    """Have every change of *path* captured for the hub; return what was done, for a person.

    *document* is tables.json's. A fence that a hand-over left is lifted, whatever release put
    it. Raises NotCaptured that says what is missing, sqlite3.Error, OSError, LockHeld.
    """
    from edgepaas.files.node_identity import node_identity
    from edgepaas.outbox import capture as outbox
    from edgepaas.outbox import fence, strictness, versions
    from edgepaas.outbox.resending.switches import note_switch
    from edgepaas.outbox.space import vacuum

    with _opened(path, paths) as connection:
        if unknown := versions.problem(connection):
            _lift_unknown_fence(path, connection)
            raise NotCaptured(f"{path}: {unknown}")
        vacuum.convert(connection, seconds=_CONVERTING)
        if fence.lift(connection):
            # Each hand-back leaves one, so that nothing is written until this.
            logger.info("a fence was left in %s: writes are taken again", path)
        node = node_identity(paths).node_id
        try:
            done = outbox.install(connection, document, node_id=node)
        except EdgePaaSError as error:
            raise NotCaptured(f"{path}: {error}") from error
        # What was in place already was compared to the last letter.
        missing = outbox.problems(connection, document) if done.changed else []
        if missing:
            raise NotCaptured(f"{path}: changes are not captured: {'; '.join(missing)}")
        note_switch(connection, _youngest_order(path))
        _report_gaps(path, strictness.install(connection, document, captured=True))
        steps = [f"{done.baseline_rows:,} rows queued for the hub"] if done.baseline_rows else []
        steps += _salvage(path, paths, connection, document)
    return "; ".join(steps)


def _youngest_order(path: Path) -> int | None:
    """Return the order of the youngest entry of the journal beside *path*; None: not known now."""
    from edgepaas.outbox.journal.access import JournalUnreadable, youngest_order
    from edgepaas.outbox.journal.tables import journal_path

    try:
        return youngest_order(journal_path(path))
    except JournalUnreadable as error:
        logger.warning("where the outbox and the journal meet is noted as it was: %s", error)
        return None


def show_own_history(path: Path, paths: Paths) -> str:
    """Copy what this box wrote to PostgreSQL into the tables of *path*, which is to serve.

    For HISTORY_SECONDS; the drainer goes on with it. Returns what was done, for a person. What
    cannot be copied is not shown, and keeps nothing from serving.
    """
    from edgepaas.outbox.journal.access import opened_if_there
    from edgepaas.outbox.journal.tables import journal_path
    from edgepaas.outbox.resending.own_history import copy_history

    try:
        with opened_if_there(journal_path(path)) as journal:
            if journal is None:
                return ""
            with _opened(path, paths) as connection:
                copied = copy_history(connection, journal, seconds=HISTORY_SECONDS)
    except (sqlite3.Error, OSError, EdgePaaSError) as error:
        logger.warning("what this box wrote to PostgreSQL is not shown: %s", brief(error))
        return ""
    return f"{copied:,} rows that this box wrote to PostgreSQL are shown" if copied else ""


def capture_nothing(path: Path, paths: Paths, document: Mapping[str, Any]) -> None:
    """Take capture out of *path*, which has no hub: no write is to pay for it.

    It refuses all the same what a hub would refuse, which may come later. Raises sqlite3.Error,
    LockHeld.
    """
    from edgepaas.outbox import strictness, tables

    with _opened(path, paths) as connection:
        _report_gaps(path, strictness.install(connection, document, captured=False))
        if not tables.exist(connection):
            return  # a box without a hub pays nothing at its boot either
        from edgepaas.outbox import capture as outbox

        if outbox.remove(connection):
            logger.warning("there is no hub any more: changes of %s are not captured", path)


def _report_gaps(path: Path, gaps: Sequence[str]) -> None:
    for gap in gaps:
        logger.warning("%s is less strict than PostgreSQL: %s", path, gap)


@contextlib.contextmanager
def _opened(path: Path, paths: Paths) -> Iterator[sqlite3.Connection]:
    with (
        held(paths.database_lock, shared=True),
        contextlib.closing(open_sqlite(path)) as connection,
    ):
        yield connection


def _lift_unknown_fence(path: Path, connection: sqlite3.Connection) -> None:
    """Lift the fence that a newer release left: no process of that release runs any more."""
    from edgepaas.outbox import fence

    try:
        if fence.lift(connection):
            logger.info("a fence of a newer release was left in %s: writes are taken again", path)
    except sqlite3.OperationalError as error:
        logger.error("%s may refuse writes: its fence cannot be lifted (%s)", path, error)


def _salvage(
    path: Path, paths: Paths, connection: sqlite3.Connection, document: Mapping[str, Any]
) -> list[str]:
    """Bring what files in quarantine still held into *connection*; return what was done."""
    lines = []
    for folder in pending_salvage(paths, path):
        from edgepaas.outbox.salvage.salvage import salvage

        try:
            found = salvage(folder / path.name, connection, document)
        except (sqlite3.Error, OSError, EdgePaaSError) as error:
            # Tried again at the next boot: the file is kept.
            record_problem(
                paths,
                f"what {folder / path.name} still holds could not be brought into {path}: "
                f"{brief(error)}",
                SALVAGE_FAILED,
            )
            continue
        note_salvaged(folder, None if found.uncertain else found.lost)
        if found.line:
            lines.append(found.line)
        if found.lost or found.uncertain:
            ROWS_LOST_IN_DAMAGE.raise_alert(f"{folder / path.name} was damaged: {found.line}")
    return lines
