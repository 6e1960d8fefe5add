# SPDX-License-Identifier: Apache-2.0
"""Taking the SQLite file back to an earlier revision: on a copy, checked, swapped in."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.files.paths import Paths
from edgepaas.outbox.revisions.naming import Naming
from edgepaas.outbox.revisions.record import read_record
from edgepaas.schema.chain import Chain, Revisions, show
from edgepaas.schema.downgrade.rehearsal import Downgrade, carry_out, rehearse
from edgepaas.schema.downgrade.target import require_known
from edgepaas.schema.errors import SchemaError, brief
from edgepaas.schema.renames.catalogs import sqlite_driver
from edgepaas.schema.renames.waiting import broken_rows, count_waiting, waiting_layouts
from edgepaas.schema.report import SchemaReport
from edgepaas.schema.sqlite import file_operations as files
from edgepaas.schema.sqlite.copies import finished_copy, other_owner
from edgepaas.schema.sqlite.inspection import EmptyFile, examine

if TYPE_CHECKING:
    import sqlite3

    from sqlalchemy import Connection, MetaData

    from edgepaas.schema.renames.observer import ObservedRevision
    from edgepaas.schema.renames.upgrade import Guard

logger = logging.getLogger("edgepaas.schema")


def revisions_of_file(path: Path, paths: Paths, chain: Chain) -> Revisions | None:
    """Return the file's revisions; None: there is no file. Raises SchemaError."""
    found = examine(path, paths, chain)
    if isinstance(found, EmptyFile):
        return None
    if other := other_owner(path, paths, chain):
        raise SchemaError(f"{path} is the database of the application {other}")
    return require_known(chain, found, str(path))


def rehearse_on_file(
    path: Path, chain: Chain, metadata: "MetaData | None", target: str
) -> Downgrade:
    """Say what going back to *target* would do, on a copy that is removed again."""
    with _rehearsed_copy(path, chain, metadata, target) as (copy, _, plan):
        pass
    files.discard(copy)
    return plan


def downgrade_file(
    path: Path,
    paths: Paths,
    chain: Chain,
    metadata: "MetaData | None",
    *,
    target: str,
    before: Revisions,
) -> SchemaReport:
    """Take the file back, with the lock held exclusively; as it was it stays in ``backups/``.

    Raises SchemaError with nothing changed.
    """
    files.sweep(path)
    files.forget_unfinished_backups(path, paths.backups)
    with _rehearsed_copy(path, chain, metadata, target) as (copy, connection, plan):
        if plan.refusal:
            raise SchemaError(f"{path}: {plan.refusal}")
        carry_out(connection, chain, metadata, target)
    try:
        files.check_copy(copy)
        kept = files.swap_in(copy, path, paths.backups, f"before-downgrade-{target}")
    except BaseException:
        files.discard(copy)
        raise
    message = f"taken back from {show(before)} to {show(plan.after)}; lost: {plan.lost}"
    logger.warning("%s: %s; as it was it is kept: %s", path, message, kept)
    return SchemaReport(
        "sqlite",
        "downgraded",
        tuple(sorted(before)),
        tuple(sorted(plan.after)),
        message,
        kept=kept,
        steps=(f"kept the file as it was: {kept}",),
    )


@contextlib.contextmanager
def _rehearsed_copy(
    path: Path, chain: Chain, metadata: "MetaData | None", target: str
) -> "Iterator[tuple[Path, Connection, Downgrade]]":
    try:
        with finished_copy(path, path) as (copy, connection):
            guard = _guard(sqlite_driver(connection))
            yield copy, connection, rehearse(connection, chain, metadata, target, guard)
    except SchemaError:
        raise
    except Exception as error:
        raise SchemaError(f"{path} cannot be taken back to {target}: {brief(error)}") from error


def _guard(connection: "sqlite3.Connection") -> "Guard":
    """Return what refuses values that wait and would have no place, or another name.

    The record of revisions, which leads them to their place, goes back too.
    """

    def guard(revision: "ObservedRevision") -> list[str]:
        naming = Naming(box=read_record(connection))
        found = broken_rows(connection, revision, naming.at_box)
        for layout in waiting_layouts(connection):
            names = naming.at_box(layout)
            after = names.after([revision.changes])
            if names.table is None or after.table is None:
                continue
            moved = [
                f"{names.table}.{old}"
                for old, new in zip(names.columns.values(), after.columns.values(), strict=True)
                if old is not None and new is not None and old != new
            ]
            if after.table != names.table:
                moved.insert(0, names.table)
            if moved:
                rows = count_waiting(connection, layout)
                said = "1 row waits" if rows == 1 else f"{rows:,} rows wait"
                found.append(f"{said} with {', '.join(moved)}, which it calls otherwise")
        return found

    return guard
