"""Bringing the SQLite file to head: create, migrate on a copy, or set aside and begin anew.

The box starts whatever the file is like. What cannot be migrated is never altered: it is
moved, whole, to where a person finds it, and an alert says so.
"""

import contextlib
import errno
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.alerts import raise_alert
from edgepaas.database.sqlite import open_sqlite
from edgepaas.errors import DatabaseFull, EdgePaaSError
from edgepaas.files.locks import held
from edgepaas.files.paths import Paths
from edgepaas.schema import files
from edgepaas.schema.chain import Chain, Revisions, show
from edgepaas.schema.errors import SchemaError
from edgepaas.schema.report import Action, SchemaReport

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

logger = logging.getLogger("edgepaas.schema")

#: Seconds to wait for the processes that have the file open.
LOCK_TIMEOUT = 25.0
#: A file system with less than this many bytes left is full: no error there is the file's.
FULL_BELOW = 256 * 1024

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR)

#: Reads the models when they are needed: importing them takes longer than all the rest.
Models = Callable[[], "MetaData | None"]


class Damaged(SchemaError):
    """The file is no sound database."""


def versions_in(connection: sqlite3.Connection, chain: Chain) -> Revisions | None:
    """Return the file's revisions; None without a version table; raises sqlite3.Error."""
    found = connection.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (chain.version_table,)
    ).fetchone()
    if found is None:
        return None
    rows = connection.execute(f"SELECT version_num FROM {chain.version_table}")  # noqa: S608
    return frozenset(row[0] for row in rows)


def look(path: Path, chain: Chain) -> Revisions | None:
    """Return the file's revisions after a quick check; None without a version table.

    Raises Damaged for a file that is no sound database, DatabaseFull when the disk is too
    full to open it, SchemaError when it cannot be opened for another reason.
    """
    try:
        with contextlib.closing(open_sqlite(path)) as connection:
            problem = files.problem_of(connection)
            if problem:
                raise Damaged(f"the quick check found: {problem}")
            return versions_in(connection, chain)
    except sqlite3.Error as error:
        raise _judged(path, error) from error


def is_empty(path: Path) -> bool:
    """Whether there is no file, or one in which nothing was ever stored."""
    if not path.exists():
        return True
    if path.is_dir():
        return False
    with contextlib.closing(open_sqlite(path)) as connection:
        return connection.execute("SELECT 1 FROM sqlite_schema").fetchone() is None


def bring_sqlite(path: Path, paths: Paths, chain: Chain, models: Models) -> SchemaReport:
    """Bring the file *path* to head and say what was done.

    Raises SchemaError or LockHeld when it cannot and no safe way round is left: the file
    is in use, or the disk is full.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with held(paths.database_lock, timeout=LOCK_TIMEOUT):
        files.sweep(path)
        files.forget_unfinished_backups(path, paths.backups)
        try:
            if is_empty(path):
                return _create(path, chain, models)
            before = look(path, chain)
        except sqlite3.Error as error:
            judged = _judged(path, error)
            if not isinstance(judged, Damaged):
                raise judged from error
            return _replace(path, paths, chain, models, str(judged))
        except Damaged as error:
            return _replace(path, paths, chain, models, str(error))
        if before == chain.heads and chain.folder is not None:
            return _report("nothing", before, chain, f"at head ({show(before)})")
        return _migrate(path, paths, chain, models, before)


def _create(path: Path, chain: Chain, models: Models) -> SchemaReport:
    from sqlalchemy.exc import SQLAlchemyError

    metadata = models()
    try:
        with finished_copy(path, None) as (copy, connection):
            if metadata is not None:
                metadata.create_all(connection)
            _stamp(connection, chain)
        files.swap_in(copy, path, None, "")
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        if _disk_is_full(path):
            raise DatabaseFull(f"the disk has no room for a fresh {path}: {error}") from error
        raise SchemaError(f"a fresh {path} cannot be created: {error}") from error
    return _report("created", None, chain, f"fresh file at {show(chain.heads)}")


def _migrate(
    path: Path, paths: Paths, chain: Chain, models: Models, before: Revisions | None
) -> SchemaReport:
    """Migrate on a copy and swap it in; a failure sets the old file aside."""
    metadata = models()
    label = "-".join(sorted(before or ())) or "unversioned"
    try:
        with finished_copy(path, path) as (copy, connection):
            action = _mend_copy(connection, chain, metadata, before)
            if action == "ahead":
                raise _Ahead
        files.check_copy(copy)
        kept = files.swap_in(copy, path, paths.backups, label)
    except _Ahead:
        message = (
            f"at {show(before or ())}, which a newer build made; it holds all that this one needs"
        )
        logger.warning("the SQLite file is %s", message)
        return _report("ahead", before, chain, message, after=before)
    except Exception as error:
        judged = _judged(path, error) if isinstance(error, sqlite3.Error) else error
        if isinstance(judged, DatabaseFull) or _disk_is_full(path):
            raise SchemaError(
                f"the disk is too full to migrate {path} on a copy; it was left as it is: {error}"
            ) from error
        logger.exception("migrating %s failed", path)
        files.sweep(path)
        reason = f"migrating it from {show(before or ())} to {show(chain.heads)} failed: {error}"
        return _replace(path, paths, chain, models, reason)
    message = f"migrated on a copy from {show(before or ())} to {show(chain.heads)}"
    return _report(action, before, chain, message, kept=kept)


def _mend_copy(
    connection: "Connection", chain: Chain, metadata: "MetaData | None", before: Revisions | None
) -> Action:
    """Bring the copy on *connection* to head; raises what the migration raises."""
    from edgepaas.schema import migrations

    if chain.folder is None:
        if metadata is not None:
            metadata.create_all(connection)
        _stamp(connection, chain)
        return "migrated"
    if before is None:
        likeness = migrations.likeness_of(connection, chain, metadata, before)
        if likeness.revisions is None:
            raise SchemaError(
                f"it has tables, no version, and looks like no known revision: "
                f"{likeness.difference}"
            )
        migrations.stamp(connection, chain, likeness.revisions)
        migrations.upgrade(connection, chain, metadata)
        return "adopted"
    unknown = before - frozenset(chain.parents)
    if unknown:
        shape = migrations.shape_of(connection, chain)
        misfit = migrations.fits(shape, connection, metadata)
        if misfit:
            raise SchemaError(f"its revision {show(unknown)} is unknown to this build and {misfit}")
        return "ahead"
    migrations.upgrade(connection, chain, metadata)
    return "migrated"


def _replace(path: Path, paths: Paths, chain: Chain, models: Models, reason: str) -> SchemaReport:
    folder = files.set_aside(path, paths.quarantine)
    raise_alert(
        f"the SQLite file {path} could not be used ({reason}); it was moved to {folder} and a "
        f"fresh one was opened: the box serves, without the rows of the old file. "
        f"'edgepaas doctor' and the log say more; the old file is kept",
        severity="critical",
        fingerprint="sqlite-replaced",
        origin="schema",
    )
    created = _create(path, chain, models)
    message = f"the old file is in {folder} ({reason}); {created.message}"
    return _report("replaced", None, chain, message, kept=folder)


@contextlib.contextmanager
def finished_copy(path: Path, source: Path | None) -> "Iterator[tuple[Path, Connection]]":
    """Give a file beside *path*, a copy of *source* or empty, and a connection in a transaction.

    Foreign keys are off: batch mode drops the parent table, and cascades would empty the
    children. The transaction is committed and the file closed at the block's end; on an
    exception it is removed.
    """
    from edgepaas.schema.migrations import migration_engine

    copy = files.temporary_beside(path)
    try:
        if source is not None:
            files.copy_database(source, copy)
        engine = migration_engine(partial(_open_for_migration, copy), "sqlite://")
        try:
            with engine.begin() as connection:
                yield copy, connection
        finally:
            engine.dispose()
    except BaseException:
        files.discard(copy)
        raise


def _open_for_migration(path: Path) -> sqlite3.Connection:
    connection = open_sqlite(path, create=True)
    connection.execute("PRAGMA foreign_keys=OFF")
    return connection


def _stamp(connection: "Connection", chain: Chain) -> None:
    from edgepaas.schema.migrations import stamp

    stamp(connection, chain, chain.heads)


def _judged(path: Path, error: sqlite3.Error) -> EdgePaaSError:
    """Return what *error* says about the file *path*: damaged, no room, or just out of reach."""
    code = int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or _disk_is_full(path):
        return DatabaseFull(f"the disk has no room to open {path}: {error}")
    if code in _DAMAGED or path.is_dir():
        return Damaged(str(error))
    if not os.access(path, os.R_OK | os.W_OK):
        return Damaged(f"{os.strerror(errno.EACCES)}: {error}")
    return SchemaError(f"{path} cannot be opened: {error}")


def _disk_is_full(path: Path) -> bool:
    status = os.statvfs(path.parent)
    return status.f_bavail * status.f_frsize < FULL_BELOW


def _report(
    action: Action,
    before: Revisions | None,
    chain: Chain,
    message: str,
    *,
    after: Revisions | None = None,
    kept: Path | None = None,
) -> SchemaReport:
    return SchemaReport(
        database="sqlite",
        action=action,
        before=tuple(sorted(before or ())),
        after=tuple(sorted(chain.heads if after is None else after)),
        message=message,
        kept=kept,
    )


class _Ahead(Exception):
    """The copy is not needed: the file is as good as it is."""
