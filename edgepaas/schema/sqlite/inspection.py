# SPDX-License-Identifier: Apache-2.0
"""What is in the place of the SQLite file: nothing, a file at some revision, or damage."""

import contextlib
import glob
import logging
import sqlite3
from pathlib import Path

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.files.paths import Paths
from edgepaas.files.sqlite_file import (
    damage_noted,
    forget_damage,
    forget_due_check,
    forget_unclean_stop,
    note_due_check,
    open_refusal_reason,
    stopped_uncleanly,
)
from edgepaas.schema.chain import Chain, Revisions
from edgepaas.schema.ownership import ownership_of_file
from edgepaas.schema.sqlite import error_classes
from edgepaas.schema.sqlite import file_operations as files
from edgepaas.schema.sqlite.error_classes import Damaged, Unreadable
from edgepaas.schema.table_contract import last_user

logger = logging.getLogger("edgepaas.schema")

#: Seconds for a check that is not to be given up.
_FULL_CHECK_SECONDS = 24 * 3600.0


def versions_in(
    connection: sqlite3.Connection, chain: Chain, *, named: bool = False
) -> Revisions | None:
    """Return the file's revisions; None without a version table; raises sqlite3.Error.

    *named*: only from the table that is the application's own, in a file that bears its name.
    """
    found = ownership_of_file(connection, chain)
    if named and (chain.name not in found.owners or found.table != chain.version_table):
        return None
    return found.revisions


def inspect_file(
    path: Path, chain: Chain, *, check: bool = True, named: bool = False
) -> Revisions | None:
    """Return the file's revisions after a quick check; None without a version table.

    *named*: as for :func:`versions_in`.

    A file that was found damaged in use is checked in full, however large it is; without
    *check* no other is. After an unclean stop its indexes are checked as well, for as long
    as a boot may take. Raises Damaged for a file that is no sound database, DatabaseFull
    when the disk is too full to open it, Unreadable when the disk fails, SchemaError for
    another reason.
    """
    try:
        with contextlib.closing(open_sqlite(path)) as connection:
            problem = _checked(path, connection) if check or damage_noted(path) else ""
            if problem:
                raise Damaged(f"the check found: {problem}")
            forget_damage(path)
            return versions_in(connection, chain, named=named)
    except sqlite3.Error as error:
        raise error_classes.error_for(path, error) from error


def _checked(path: Path, connection: sqlite3.Connection) -> str | None:
    """Check the file as thoroughly as there is reason and time for; raises sqlite3.Error."""
    if damage_noted(path):
        logger.warning("%s was found damaged in use: it is checked in full", path)
        problem = files.problem_of(connection, seconds=_FULL_CHECK_SECONDS, thorough=True)
        forget_due_check(path)
    elif stopped_uncleanly(path):
        logger.warning("the box stopped while %s was in use: it is checked", path)
        problem = files.problem_of(connection, thorough=True)
        if problem is None:
            note_due_check(path)  # the service goes on with it, beside its work
    else:
        problem = files.problem_of(connection)
    if not problem:
        forget_unclean_stop(path)
    return problem


def is_empty(path: Path) -> bool:
    """Whether there is no file, or one in which nothing was ever stored."""
    if not path.exists():
        return True
    if path.is_dir():
        return False
    with contextlib.closing(open_sqlite(path)) as connection:
        return connection.execute("SELECT 1 FROM sqlite_schema").fetchone() is None


class EmptyFile:
    """There is no file, or nothing was ever stored in it."""


def examine(path: Path, paths: Paths, chain: Chain) -> Revisions | EmptyFile | None:
    """Return what is at *path*, looked at before SQLite opens it.

    Raises what :func:`inspect_file` does.
    """
    problem = open_refusal_reason(path)
    if not problem and path.exists() and path.stat().st_size == 0:
        user = last_user(paths, path)
        if user or any(paths.backups.glob(f"*.{glob.escape(path.name)}")):
            problem = f"it has no bytes, though {user or 'an application'} has used it"
    if problem:
        raise Damaged(problem)
    try:
        if is_empty(path):
            return EmptyFile()
    except sqlite3.Error as error:
        raise error_classes.error_for(path, error) from error
    return inspect_file(path, chain)


def examine_with_retry(path: Path, paths: Paths, chain: Chain) -> Revisions | EmptyFile | None:
    """Return what is at *path*; a disk that fails is asked once more."""
    try:
        return examine(path, paths, chain)
    except Unreadable as error:
        logger.warning("%s; it is examined once more", error)
    return examine(path, paths, chain)
