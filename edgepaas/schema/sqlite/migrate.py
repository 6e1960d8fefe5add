# SPDX-License-Identifier: Apache-2.0
"""Bringing the SQLite file to head: create, migrate on a copy, or refuse it.

What cannot be migrated is never altered nor moved: it is refused, and an empty file never
takes the place of one with rows. Only a damaged file goes to quarantine, whole.
"""

import glob
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.alerts.catalogue import SQLITE_REBUILT, SQLITE_REPLACED, SQLITE_UNMIGRATED
from edgepaas.decision.waiting import is_sound_and_empty
from edgepaas.errors import DatabaseFull
from edgepaas.files.locks import held
from edgepaas.files.paths import Paths
from edgepaas.files.sqlite_file import forget_damage, forget_due_check, forget_unclean_stop
from edgepaas.schema.chain import Chain, Revisions, show
from edgepaas.schema.errors import (
    ChainIncomplete,
    RevisionRefused,
    SchemaError,
    SchemaRefused,
    brief,
)
from edgepaas.schema.ownership import another_application
from edgepaas.schema.report import Action, SchemaReport
from edgepaas.schema.sqlite import error_classes
from edgepaas.schema.sqlite import file_operations as files
from edgepaas.schema.sqlite.copies import (
    finished_copy,
    incompatibility,
    missing_tables,
    other_owner,
    outbox_problem,
    write_name,
)
from edgepaas.schema.sqlite.error_classes import Damaged
from edgepaas.schema.sqlite.housekeeping import clear_reserved_paths
from edgepaas.schema.sqlite.inspection import EmptyFile, examine_with_retry
from edgepaas.schema.sqlite.rebuild import fill_fresh, rebuild

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

logger = logging.getLogger("edgepaas.schema")

#: Seconds to wait for the processes that have the file open.
LOCK_TIMEOUT = 25.0
#: Reads the models when they are needed: importing them takes longer than all the rest.
Models = Callable[[], "MetaData | None"]


@dataclass(frozen=True)
class _Failed:
    """A migration that did not work: from where, how to say it, what was raised."""

    before: Revisions | None
    reason: str
    error: Exception


def prepare_sqlite(path: Path, paths: Paths, chain: Chain, models: Models) -> SchemaReport:
    """Bring the file *path* to head and say what was done.

    Raises SchemaError or LockHeld when it cannot and no safe way round is left: the file is in
    use, or the disk is full. SchemaRefused is raised where this build cannot work on the file,
    which is left as it was.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with held(paths.database_lock, timeout=LOCK_TIMEOUT):
        return prepare_locked(path, paths, chain, models)


def prepare_locked(path: Path, paths: Paths, chain: Chain, models: Models) -> SchemaReport:
    """Do so with the lock held exclusively."""
    files.sweep(path)
    files.forget_unfinished_backups(path, paths.backups)
    clear_reserved_paths(path, paths)
    try:
        before = examine_with_retry(path, paths, chain)
    except Damaged as error:
        return _replace(path, paths, chain, models, str(error))
    if isinstance(before, EmptyFile):
        forget_damage(path)
        if not chain.unwritten:
            chain.check_environment()
        return _create(path, chain, models)
    if other := other_owner(path, paths, chain):
        return _succeed(path, paths, chain, models, other)
    if chain.unwritten:
        if before is not None and not missing_tables(path, models()):
            write_name(path, chain)
            return _report("nothing", before, chain, "every table is there", after=before)
    elif before == chain.heads:
        write_name(path, chain)
        return _report("nothing", before, chain, f"at head ({show(before)})")
    return _migrate(path, paths, chain, models, before)


def _succeed(path: Path, paths: Paths, chain: Chain, models: Models, other: str) -> SchemaReport:
    """Begin a fresh file in the place of one of the application *other* that holds no row.

    Raises OfAnotherApplication where it holds rows.
    """
    if not is_sound_and_empty(path):
        raise another_application(
            other,
            chain,
            str(path),
            f"it is left as it is, with its rows; give {chain.name} a file of its own with "
            f"DATABASE_URL_SQLITE, or set EDGEPAAS_APP back (an application that was renamed says "
            f"so with 'formerly')",
        )
    reason = f"it was the application {other}'s, and holds no row"
    folder = files.move_to_quarantine(path, paths.quarantine, reason)
    created = _create(path, chain, models)
    return _report("created", None, chain, f"{created.message}; {reason}: {folder}", kept=folder)


def _create(path: Path, chain: Chain, models: Models) -> SchemaReport:
    """Make a fresh file by the application's migrations; by its models where it has none."""
    from sqlalchemy.exc import SQLAlchemyError

    metadata = models()
    try:
        with finished_copy(path, None) as (copy, connection):
            fill_fresh(connection, chain, metadata)
        files.check_copy(copy)
        files.swap_in(copy, path, None, "")
    except (ChainIncomplete, SchemaRefused):
        raise
    except SchemaError as error:
        raise SchemaRefused(f"a fresh {path} cannot be made: {error}") from error
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        if error_classes.disk_is_full(path):
            raise DatabaseFull(
                f"the disk has no room for a fresh {path}: {brief(error)}"
            ) from error
        raise SchemaError(f"a fresh {path} cannot be created: {brief(error)}") from error
    finally:
        files.sweep(path)
    if chain.unwritten and chain.folder is not None:
        message = (
            f"fresh file, its tables from the models: {chain.folder / 'versions'} holds no "
            f"migration yet; 'edgepaas schema --revision MSG' writes the first"
        )
    else:
        message = f"fresh file at {show(chain.heads)}"
    return _report("created", None, chain, message)


def _migrate(
    path: Path, paths: Paths, chain: Chain, models: Models, before: Revisions | None
) -> SchemaReport:
    """Migrate on a copy and swap it in; after a failure the file serves as it is if it can."""
    metadata = models()
    label = "-".join(sorted(before or ())) or "unversioned"
    try:
        with finished_copy(path, path) as (copy, connection):
            action = bring_copy(connection, chain, metadata, before)
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
        if error_classes.fails_to_read(error):
            raise error_classes.unreadable(path, error) from error
        cause = error_classes.error_for(path, error) if isinstance(error, sqlite3.Error) else error
        if isinstance(error, SchemaRefused):
            raise
        if isinstance(cause, DatabaseFull) or error_classes.disk_is_full(path):
            raise SchemaError(
                f"the disk is too full to migrate {path} on a copy; it was left as it is: "
                f"{brief(error)}"
            ) from error
        # The way out stands at its end, behind the columns and their numbers.
        reason = str(error) if isinstance(error, RevisionRefused) else brief(error)
        if before != chain.heads and not isinstance(error, SchemaError):
            way = f"from {show(before or ())} to {show(chain.heads)}"
            reason = f"migrating it {way} failed: {reason}"
        logger.error("%s: %s", path, reason)
        logger.debug("migrating %s failed", path, exc_info=error)
        files.sweep(path)
        return _without_migration(path, paths, chain, models, _Failed(before, reason, error))
    if isinstance(action, RevisionRefused):
        message = f"migrated on a copy to {show(action.reached)}; {action}"
        SQLITE_UNMIGRATED.raise_alert(f"{path}: {message}")
        return _report("unmigrated", before, chain, message, kept=kept, after=action.reached)
    if action == "adopted":
        message = f"its tables had no version; adopted, and now at {show(chain.heads)}"
    else:
        message = f"migrated on a copy from {show(before or ())} to {show(chain.heads)}"
    return _report(action, before, chain, message, kept=kept, after=_after(chain, before))


def bring_copy(
    connection: "Connection",
    chain: Chain,
    metadata: "MetaData | None",
    before: Revisions | None,
    *,
    waits: bool = True,
) -> Action | RevisionRefused:
    """Bring the copy on *connection* to head; raises what the migration raises.

    *waits*: whether the rows in its outbox are still to be sent from it. Returns the refusal where
    it came as far as this build needs it.
    """
    from edgepaas.schema import fingerprint, migrations
    from edgepaas.schema.renames.record import renamed_since

    if chain.unwritten:
        if metadata is not None:
            metadata.create_all(connection)
        if not before:  # a version that another build or application wrote is left to it
            _stamp(connection, chain)
        return "migrated"
    if not before:
        # Made from the models before there was a migration, or by something else.
        alike = fingerprint.match_fingerprint(connection, chain, metadata, before)
        if alike.revisions is not None:
            migrations.stamp(connection, chain, alike.revisions)
            return _upgrade(connection, chain, metadata, waits=waits) or "adopted"
        if alike.any_table:
            raise SchemaError(
                f"it has tables, no version, and looks like no known revision: {alike.difference}"
            )
    unknown = (before or frozenset()) - frozenset(chain.parents)
    if unknown:
        shape = migrations.columns_by_table(connection, chain)
        needs = fingerprint.required_columns(connection, chain, metadata)
        lacking = fingerprint.incompatibility_of(shape, connection, needs)
        lacking = lacking or renamed_since(connection, chain, needs)
        if lacking:
            raise SchemaError(
                f"its revision {show(unknown)} is unknown to this build and {lacking}"
            )
        return "ahead"
    return _upgrade(connection, chain, metadata, waits=waits) or "migrated"


def _upgrade(
    connection: "Connection", chain: Chain, metadata: "MetaData | None", *, waits: bool
) -> RevisionRefused | None:
    """Migrate the copy to head, but for a revision that would take values from rows that wait.

    Returns its refusal where earlier revisions were applied and this build can work on them;
    raises it where nothing is gained.
    """
    from edgepaas.schema import fingerprint, migrations
    from edgepaas.schema.renames.catalogs import sqlite_driver
    from edgepaas.schema.renames.upgrade import upgrade
    from edgepaas.schema.renames.waiting import guard_of_file

    before = migrations.versions(connection, chain) or frozenset()
    guard = guard_of_file(sqlite_driver(connection)) if waits else None
    refused = upgrade(connection, chain, metadata, guard)
    if refused is None:
        return None
    if refused.reached == before:
        raise refused
    shape = migrations.columns_by_table(connection, chain)
    needs = fingerprint.required_columns(connection, chain, metadata)
    if fingerprint.incompatibility_of(shape, connection, needs):
        raise refused
    return refused


def _without_migration(
    path: Path,
    paths: Paths,
    chain: Chain,
    models: Models,
    failed: _Failed,
) -> SchemaReport:
    """Go on after a migration failed: as it is if it fits, or rebuilt if none ever ran on it.

    Raises SchemaRefused where neither is possible: the file is left as it was.
    """
    before, reason = failed.before, failed.reason
    metadata = models()
    known = metadata is not None or chain.unwritten
    if known and not incompatibility(path, chain, metadata):
        message = f"{reason}; the file was left as it is and serves, since its tables fit"
        SQLITE_UNMIGRATED.raise_alert(f"{path}: {message}")
        message = SQLITE_UNMIGRATED.message(message)
        return _report("unmigrated", before, chain, message, after=before or frozenset())
    if isinstance(failed.error, ChainIncomplete):
        raise failed.error
    if unknown := outbox_problem(path):
        raise _refused(path, paths, f"{unknown} ({reason})") from failed.error
    if before and before != chain.heads:
        raise _refused(path, paths, reason) from failed.error
    # No migration ever ran on it, so none of what they do to rows can be missed.
    try:
        steps: list[str] = []
        with finished_copy(path, path) as (copy, connection):
            rebuild(connection, chain, metadata, steps)
        files.check_copy(copy)
        kept = files.swap_in(copy, path, paths.backups, "before-rebuild")
    except Exception as problem:
        logger.debug("rebuilding the tables of %s failed", path, exc_info=problem)
        files.sweep(path)
        why = f"{reason}; its tables cannot be rebuilt either: {brief(problem)}"
        raise _refused(path, paths, why) from problem
    message = f"{'; '.join(steps)}; now at {show(chain.heads)} ({reason})"
    SQLITE_REBUILT.raise_alert(f"{path}: {message}; as it was it is kept: {kept}")
    return _report("repaired", before, chain, message, kept=kept)


def _refused(path: Path, paths: Paths, reason: str) -> SchemaRefused:
    """Return the refusal, with the way out."""
    older = sorted(paths.backups.glob(f"*.{glob.escape(path.name)}"), reverse=True)
    copies = f"; as it was before earlier migrations it is kept in {paths.backups}" if older else ""
    return SchemaRefused(
        f"{path} is left as it is, with all its rows, and is not served: {reason}; install a "
        f"release that works on it{copies}"
    )


def _after(chain: Chain, before: Revisions | None) -> Revisions:
    return before or frozenset() if chain.unwritten else chain.heads


def _replace(path: Path, paths: Paths, chain: Chain, models: Models, reason: str) -> SchemaReport:
    folder = files.move_to_quarantine(path, paths.quarantine, reason, salvage=True)
    forget_damage(path)
    forget_due_check(path)
    forget_unclean_stop(path)
    SQLITE_REPLACED.raise_alert(
        f"the SQLite file {path} is damaged ({reason}); it was moved to {folder} and a "
        f"fresh one was opened: the box serves, without the rows of the old file"
    )
    created = _create(path, chain, models)
    message = f"the old file is in {folder} ({reason}); {created.message}"
    return _report("replaced", None, chain, message, kept=folder)


def _stamp(connection: "Connection", chain: Chain) -> None:
    from edgepaas.schema.migrations import stamp

    stamp(connection, chain, chain.heads)


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
