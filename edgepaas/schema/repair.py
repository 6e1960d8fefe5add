# SPDX-License-Identifier: Apache-2.0
"""``edgepaas schema --repair``: find out what is wrong, keep what was there, mend, explain.

Nothing is dropped. On SQLite everything happens on a copy, and the file as it was stays in
``backups/``; on PostgreSQL the only thing ever changed by a repair itself is the version.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepaas.files import shapes
from edgepaas.files.locks import held
from edgepaas.files.paths import Paths
from edgepaas.files.records import RecordType
from edgepaas.schema.chain import Chain, Revisions, show
from edgepaas.schema.errors import SchemaError, brief
from edgepaas.schema.report import SchemaReport
from edgepaas.schema.sqlite import file_operations as files
from edgepaas.schema.sqlite import migrate as embedded
from edgepaas.schema.sqlite.copies import finished_copy, other_owner
from edgepaas.schema.sqlite.error_classes import Damaged
from edgepaas.schema.sqlite.housekeeping import clear_reserved_paths, tidy
from edgepaas.schema.sqlite.inspection import EmptyFile, examine
from edgepaas.schema.sqlite.rebuild import rebuild
from edgepaas.schema.sqlite.taking_back import take_back

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

    from edgepaas.database.postgresql.connector import Connector
    from edgepaas.schema.postgresql.migrate import Part

logger = logging.getLogger("edgepaas.schema")

Models = Callable[[], "MetaData | None"]

_BATCH_TABLE = "_alembic_tmp_"

#: ``state/postgres-schema-…json``: for a person who wants to go back to that schema.
POSTGRES_SCHEMA_RECORD = RecordType(
    "postgres-schema",
    2,
    {
        "versions": shapes.optional(shapes.list_of(shapes.text)),
        "columns": shapes.list_of(shapes.map_of(shapes.anything)),
    },
)


def repair_sqlite(path: Path, paths: Paths, chain: Chain, models: Models) -> SchemaReport:
    """Diagnose and mend the SQLite file, and take back what is set aside of it.

    Raises SchemaError or LockHeld with nothing changed.
    """
    tidy(paths, path)
    with held(paths.database_lock, timeout=embedded.LOCK_TIMEOUT):
        report = _repair_file(path, paths, chain, models)
        found = take_back(path, paths, chain, models, again=True)
    if not found.done and not found.failed:
        return report
    action = "repaired" if found.done and report.action == "nothing" else report.action
    message = "; ".join((report.message, *found.done)) if found.done else report.message
    steps = (*report.steps, *found.done, *found.failed)
    return replace(report, action=action, message=message, steps=steps)


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


def repair_postgres(
    connector: "Connector", paths: Paths, chain: Chain, models: Models
) -> SchemaReport:
    """Diagnose and mend PostgreSQL's version; raises SchemaError when only a person can help."""
    from edgepaas.schema import migrations
    from edgepaas.schema.postgresql.migrate import migrate
    from edgepaas.schema.postgresql.transactions import transaction

    metadata = models()
    steps = _diagnose_scripts(chain)
    with transaction(connector, "it cannot be examined", commit=True) as connection:
        found = migrations.versions(connection, chain)
        kept = _describe(connection, chain, found, paths)
        steps += _diagnose_versions(chain, found)
        overlapping = _overlapping(chain, found or frozenset())
        if overlapping:
            migrations.stamp(connection, chain, (found or frozenset()) - overlapping)
            steps.append(f"took {show(overlapping)} out of {chain.version_table}")
    steps.insert(0, f"wrote a description of its schema to {kept}")
    report = migrate(connector, chain, metadata, adopt=True)
    steps.append(report.message)
    action = "repaired" if report.action in ("adopted", "migrated") else report.action
    return replace(report, action=action, kept=kept, steps=tuple(steps))


def repair_hub(connector: "Connector", paths: Paths, parts: "Sequence[Part]") -> SchemaReport:
    """Do so with every chain; the report is the first part's, with the steps of all."""
    reports = [repair_postgres(connector, paths, part.chain, part.models) for part in parts]
    steps = tuple(step for report in reports for step in report.steps)
    action = "repaired" if any(r.action == "repaired" for r in reports) else reports[0].action
    return replace(reports[0], action=action, steps=steps)


def _repair_sound_file(
    path: Path, paths: Paths, chain: Chain, models: Models, before: Revisions | None
) -> SchemaReport:
    metadata = models()
    steps = _diagnose_versions(chain, before)
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
        steps=(*_diagnose_scripts(chain), *steps, f"kept the file as it was: {kept}"),
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

    unknown = (before or frozenset()) - frozenset(chain.parents)
    if before and not unknown and not _overlapping(chain, before):
        failure = _try_upgrade(connection, chain, metadata)
        if not failure:
            if before != chain.heads:
                steps.append(f"migrated from {show(before)} to {show(chain.heads)}")
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


def _diagnose_scripts(chain: Chain) -> list[str]:
    if len(chain.heads) > 1:
        return [
            f"the scripts have two heads ({show(chain.heads)}): both are applied; "
            f"'alembic merge' joins them"
        ]
    return []


def _diagnose_versions(chain: Chain, found: Revisions | None) -> list[str]:
    if found is None:
        return [f"there is no version table ({chain.version_table})"]
    unknown = found - frozenset(chain.parents)
    steps = []
    if unknown:
        steps.append(f"its revision {show(unknown)} is unknown to this build")
    overlapping = _overlapping(chain, found)
    if overlapping:
        steps.append(
            f"it says {show(found)}, though {show(overlapping)} comes before one of the others"
        )
    return steps


def _overlapping(chain: Chain, found: Revisions) -> Revisions:
    known = found & frozenset(chain.parents)
    return frozenset(r for r in known if any(r in chain.ancestors(other) for other in known))


def _describe(
    connection: "Connection", chain: Chain, found: Revisions | None, paths: Paths
) -> Path:
    """Write what PostgreSQL's schema looks like, so that a person can go back to it."""
    rows = connection.exec_driver_sql(
        "SELECT table_schema, table_name, column_name, data_type, is_nullable, column_default "
        "FROM information_schema.columns "
        "WHERE table_schema NOT IN ('pg_catalog', 'information_schema') "
        "ORDER BY table_schema, table_name, ordinal_position"
    )
    columns: list[dict[str, Any]] = [dict(row) for row in rows.mappings()]
    document = {"versions": sorted(found) if found is not None else None, "columns": columns}
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target = paths.state / f"postgres-schema-{chain.name}-{stamp}.json"
    POSTGRES_SCHEMA_RECORD.write(target, document)
    return target


def _tuple(revisions: Revisions | None) -> tuple[str, ...]:
    return tuple(sorted(revisions or ()))
