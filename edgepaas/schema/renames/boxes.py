# SPDX-License-Identifier: Apache-2.0
"""What a revision of PostgreSQL would break at the boxes that forward rows to it.

Each box reports the layouts that it writes, and those of rows that wait on it
(edgepaas.sync.hub.layouts). Dropping a column waits until no report names a layout that has it, and
so does a narrower type, and a column that demands a value which such rows do not bring.
"""

import contextlib
import logging
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.outbox import versions
from edgepaas.outbox.revisions.changes import Names
from edgepaas.outbox.revisions.naming import Naming
from edgepaas.outbox.revisions.record import RevisionRecord, read_record, way_to_hub
from edgepaas.schema.renames import record
from edgepaas.schema.renames.fitting import is_narrower
from edgepaas.schema.renames.waiting import (
    broken_rows,
    count_empty,
    count_waiting,
    waiting_layouts,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from edgepaas.schema.renames.observer import ObservedRevision
    from edgepaas.schema.renames.upgrade import Guard

logger = logging.getLogger("edgepaas.schema")

_REPORTS = """
SELECT n.name, l.tbl, l.revision, l.columns, l.rows
FROM sync_layouts l JOIN nodes n ON n.node_id = l.node_id
WHERE l.node_id::text <> '{own}' AND (l.rows > 0 OR l.is_current)
ORDER BY n.name, l.tbl, l.revision"""


@dataclass(frozen=True)
class OwnBox:
    """The box that migrates: its id as PostgreSQL knows it, and its file, whose rows may wait."""

    node_id: str
    file: Path


@dataclass(frozen=True)
class ReportedLayout:
    """A layout that *box* writes, or of which *rows* wait on it; columns by name, with types."""

    box: str
    table: str
    revision: str
    columns: Mapping[str, str]
    rows: int

    @property
    def subject(self) -> str:
        """What of it a revision would break, as the beginning of a sentence."""
        if not self.rows:
            return f"box {self.box} still writes"
        rows = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        return f"{rows} of box {self.box} may wait with"


def guard_of_hub(connection: "Connection", own: OwnBox) -> "Guard":
    """Return the guard of the PostgreSQL on *connection*, which *own* migrates."""

    def guard(revision: "ObservedRevision") -> list[str]:
        hub = record.read(connection)
        found = [text for one in _reports(connection, own) for text in _broken(one, hub, revision)]
        return _broken_here(own.file, hub, revision) + found

    return guard


def _reports(connection: "Connection", own: OwnBox) -> list[ReportedLayout]:
    there = connection.exec_driver_sql("SELECT to_regclass('sync_layouts') IS NOT NULL").scalar()
    if not there:
        return []
    rows = connection.exec_driver_sql(_REPORTS.format(own=own.node_id.replace("'", "")))
    return [
        ReportedLayout(name, table, at, dict(columns), n) for name, table, at, columns, n in rows
    ]


def _broken(
    report: ReportedLayout, hub: RevisionRecord, revision: "ObservedRevision"
) -> Iterable[str]:
    way = way_to_hub(report.revision, hub, RevisionRecord())
    names = Names.of(report.table, report.columns).after(way)
    if names.table is None or not revision.has_table(names.table):
        return
    after = names.after([revision.changes])
    if after.table is None:
        yield f"{report.subject} the table {names.table}, which it drops"
        return
    for old, new in zip(names.columns.values(), after.columns.values(), strict=True):
        if old is None or revision.is_retired(names.table, old):
            continue
        what = f"{report.subject} the column {names.table}.{old}"
        if new is None:
            yield f"{what}, which it drops"
            continue
        types = revision.changed_type(names.table, old, after.table, new)
        if types is not None and is_narrower(*types):
            yield f"{what}, which becomes {types[1]}"
    yield from _demanded(report.subject, names, after, revision)
    if hub.knows(report.revision):  # its build is older than the revision
        for column, _ in _emptied(names, after, revision):
            yield f"{report.subject} no value for {after.table}.{column}, which it demands"


def _emptied(names: Names, after: Names, revision: "ObservedRevision") -> Iterable[tuple[str, int]]:
    """Give the columns that rows of *names* bring and may leave empty, and *revision* may not.

    Each with its place among those of *names*.
    """
    places = {column: n for n, column in enumerate(after.columns.values())}
    for column in revision.no_longer_empty(names.table or "", after.table or ""):
        if column in places:
            yield column, places[column]


def _demanded(
    subject: str, names: Names, after: Names, revision: "ObservedRevision"
) -> Iterable[str]:
    """Give the columns that *revision* makes required and rows of *names* do not bring."""
    brought = set(after.columns.values())
    for column in revision.newly_required(names.table or "", after.table or ""):
        if column not in brought:
            yield f"{subject} no value for {after.table}.{column}, which it demands"


def _broken_here(file: Path, hub: RevisionRecord, revision: "ObservedRevision") -> list[str]:
    """Return what waits in the box's own *file* and would be broken; nothing without a file.

    A file that cannot be read is the schema stage's own matter, and keeps no PostgreSQL behind.
    """
    if not file.is_file():
        return []
    try:
        with contextlib.closing(open_sqlite(file)) as connection:
            if versions.problem(connection):
                return []
            naming = Naming(hub, read_record(connection))
            return [
                *broken_rows(connection, revision, naming.at_hub),
                *_demanded_here(connection, naming, revision),
            ]
    except (sqlite3.Error, ValueError) as error:
        logger.warning("what waits in %s is not known to the migration: %s", file, error)
        return []


def _demanded_here(
    connection: sqlite3.Connection, naming: Naming, revision: "ObservedRevision"
) -> Iterable[str]:
    for layout in waiting_layouts(connection):
        names = naming.at_hub(layout)
        if names.table is None or not revision.has_table(names.table):
            continue
        rows = count_waiting(connection, layout)
        subject = "1 row waits here with" if rows == 1 else f"{rows:,} rows wait here with"
        after = names.after([revision.changes])
        yield from _demanded(subject, names, after, revision)
        for column, place in _emptied(names, after, revision):
            if empty := count_empty(connection, layout, place):
                said = "1 row waits here" if empty == 1 else f"{empty:,} rows wait here"
                yield f"{said} with no value for {after.table}.{column}, which it demands"
