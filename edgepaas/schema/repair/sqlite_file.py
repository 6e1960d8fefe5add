# SPDX-License-Identifier: Apache-2.0
"""``edgepaas schema --repair`` on the SQLite file: on a copy; what was there stays in backups/."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.files.locks import LockHeld, held
from edgepaas.files.paths import Paths
from edgepaas.schema.chain import Chain, Revisions, show
from edgepaas.schema.errors import SchemaError, brief
from edgepaas.schema.repair.diagnosis import (
    diagnose_scripts,
    diagnose_versions,
    overlapping_revisions,
)
from edgepaas.schema.report import SchemaReport
from edgepaas.schema.sqlite import file_operations as files
from edgepaas.schema.sqlite import migrate as embedded
from edgepaas.schema.sqlite.copies import finished_copy, other_owner
from edgepaas.schema.sqlite.error_classes import Damaged
from edgepaas.schema.sqlite.housekeeping import clear_reserved_paths, tidy
from edgepaas.schema.sqlite.inspection import EmptyFile, examine
from edgepaas.schema.sqlite.quarantine import to_be_taken_back
from edgepaas.schema.sqlite.rebuild import rebuild
from edgepaas.schema.sqlite.taking_back import take_back

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

logger = logging.getLogger("edgepaas.schema")

Models = Callable[[], "MetaData | None"]

_BATCH_TABLE = "_alembic_tmp_"
#: Seconds to wait for processes that have the file open: a service does not let go of it.
_PATIENCE = 3.0


def repair_sqlite(path: Path, paths: Paths, chain: Chain, models: Models) -> SchemaReport:
    """Diagnose and mend the SQLite file, and take back what is set aside of it.

    Raises SchemaError with nothing changed, also where a process that does not end has the file.
    """
    tidy(paths, path)
    if report := _found_in_order(path, paths, chain, models):
        return report
    try:
        with held(paths.database_lock, timeout=_PATIENCE):
            report = _repair_file(path, paths, chain, models)
            found = take_back(path, paths, chain, models, again=True)
    except LockHeld as error:
        raise SchemaError(
            f"SQLite: {path} is in use, and is mended while nobody has it open: 'systemctl stop "
            f"edgepaas.socket edgepaas edgepaas-sync' (or end 'edgepaas up'), 'edgepaas schema "
            f"--repair', then 'systemctl start edgepaas.socket edgepaas'; {error}"
        ) from error
    if not found.done and not found.failed:
        return report
    action = "repaired" if found.done and report.action == "nothing" else report.action
    message = "; ".join((report.message, *found.done)) if found.done else report.message
    steps = (*report.steps, *found.done, *found.failed)
    return replace(report, action=action, message=message, steps=steps)


def _found_in_order(path: Path, paths: Paths, chain: Chain, models: Models) -> SchemaReport | None:
    """Return that nothing is to be done, where that shows while a service has the file open."""
    from sqlalchemy import inspect

    from edgepaas.schema import migrations
    from edgepaas.schema.repair import completion

    if chain.unwritten or to_be_taken_back(paths, path, ""):
        return None
    with held(paths.database_lock, shared=True, timeout=_PATIENCE):
        try:
            before = examine(path, paths, chain)
        except Damaged:
            return None
        if isinstance(before, EmptyFile) or before != chain.heads or len(chain.heads) > 1:
            return None
        metadata = models()
        engine = migrations.migration_engine(lambda: open_sqlite(path), "sqlite://")
        try:
            with engine.connect() as connection:
                leftover = any(
                    name.startswith(_BATCH_TABLE) for name in inspect(connection).get_table_names()
                )
                sound = not (
                    leftover
                    or other_owner(path, paths, chain)
                    or _incompatibility(connection, chain, metadata)
                    or completion.missing_indexes(connection, metadata)
                )
        finally:
            engine.dispose()
    if not sound:
        return None
    message = f"nothing to repair: {show(before)}, sound and as the models want it"
    return SchemaReport("sqlite", "nothing", _tuple(before), _tuple(before), message)


def _repair_file(path: Path, paths: Paths, chain: Chain, models: Models) -> SchemaReport:
    files.sweep(path)
    clear_reserved_paths(path, paths)
    files.forget_unfinished_backups(path, paths.backups)
    try:
        found = examine(path, paths, chain)
    except Damaged:
        found = EmptyFile()
    if not isinstance(found, EmptyFile) and not other_owner(path, paths, chain):
        return _repair_sound_file(path, paths, chain, models, found)
    # Without a file, with a damaged one or another application's, a boot knows what to do.
    return embedded.prepare_locked(path, paths, chain, models)


def _repair_sound_file(
    path: Path, paths: Paths, chain: Chain, models: Models, before: Revisions | None
) -> SchemaReport:
    metadata = models()
    steps = diagnose_versions(chain, before)
    with finished_copy(path, path) as (copy, connection):
        steps += _mend_batch_leftovers(connection)
        after = _mend(connection, chain, metadata, before, steps)
    try:
        if not steps:
            files.discard(copy)
            message = f"nothing to repair: {show(after)}, sound and as the models want it"
            return SchemaReport("sqlite", "nothing", _tuple(before), _tuple(after), message)
        files.check_copy(copy)
        kept = files.swap_in(copy, path, paths.backups, "before-repair")
    except BaseException:
        files.discard(copy)
        raise
    return SchemaReport(
        "sqlite",
        "repaired",
        _tuple(before),
        _tuple(after),
        f"repaired, now at {show(after)}",
        kept=kept,
        steps=(*diagnose_scripts(chain), *steps, f"kept the file as it was: {kept}"),
    )


def _mend(
    connection: "Connection",
    chain: Chain,
    metadata: "MetaData | None",
    before: Revisions | None,
    steps: list[str],
) -> Revisions:
    """Bring the copy to head by the gentlest means that works; adds to *steps* what it did."""
    from edgepaas.schema import fingerprint, migrations
    from edgepaas.schema.repair import completion

    unknown = (before or frozenset()) - frozenset(chain.parents)
    if before and not unknown and not overlapping_revisions(chain, before):
        failure = _try_upgrade(connection, chain, metadata)
        if not failure:
            if before != chain.heads:
                steps.append(f"migrated from {show(before)} to {show(chain.heads)}")
            # Rebuilding the whole table for an index that somebody dropped would be too much.
            steps += completion.complete(connection, chain, metadata, columns=False)
            return chain.heads
        steps.append(f"going on from {show(before)} does not work: {failure}")
    alike = fingerprint.match_fingerprint(connection, chain, metadata, before)
    if alike.revisions is not None:
        migrations.stamp(connection, chain, alike.revisions)
        steps.append(f"it looks like {show(alike.revisions)}: stamped as such")
        failure = _try_upgrade(connection, chain, metadata)
        if not failure:
            return chain.heads
        steps.append(f"going on from there does not work: {failure}")
    elif unknown and not _incompatibility(connection, chain, metadata):
        steps.clear()  # a newer build's, and this one can work on it: nothing is wrong
        return before or frozenset()
    steps.append(f"half-applied, it looks like no revision: {alike.difference}")
    rebuild(connection, chain, metadata, steps)
    return chain.heads


def _try_upgrade(connection: "Connection", chain: Chain, metadata: "MetaData | None") -> str:
    """Upgrade in a savepoint; return why it did not work or does not fit, empty when it does."""
    from edgepaas.schema import migrations

    try:
        with connection.begin_nested():
            migrations.upgrade(connection, chain, metadata)
            incompatibility = _incompatibility(connection, chain, metadata)
            if incompatibility:
                raise SchemaError(incompatibility)
    except Exception as error:  # noqa: BLE001 - a migration's code may raise anything
        return brief(error)
    return ""


def _incompatibility(connection: "Connection", chain: Chain, metadata: "MetaData | None") -> str:
    from edgepaas.schema import fingerprint, migrations

    needs = fingerprint.required_columns(connection, chain, metadata)
    return fingerprint.incompatibility_of(
        migrations.columns_by_table(connection, chain), connection, needs
    )


def _mend_batch_leftovers(connection: "Connection") -> list[str]:
    """Undo what a killed batch migration left behind: its half-filled working table."""
    from sqlalchemy import inspect

    quote = connection.dialect.identifier_preparer.quote
    names = set(inspect(connection).get_table_names())
    steps = []
    for leftover in sorted(name for name in names if name.startswith(_BATCH_TABLE)):
        table = leftover.removeprefix(_BATCH_TABLE)
        if table in names:
            connection.exec_driver_sql(f"DROP TABLE {quote(leftover)}")
            steps.append(f"removed {leftover}, the working copy of a migration that was killed")
        else:
            connection.exec_driver_sql(f"ALTER TABLE {quote(leftover)} RENAME TO {quote(table)}")
            steps.append(f"gave {table} its name back, which a killed migration had taken")
    return steps


def _tuple(revisions: Revisions | None) -> tuple[str, ...]:
    return tuple(sorted(revisions or ()))
