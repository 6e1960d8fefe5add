# SPDX-License-Identifier: Apache-2.0
"""``edgepaas schema --repair`` on PostgreSQL: diagnose, describe what is there, mend, explain.

It mends whichever PostgreSQL this box has, whatever serves meanwhile. Nothing is dropped: the
version is corrected, and what is missing is added.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepaas.files import shapes
from edgepaas.files.paths import Paths
from edgepaas.files.records import RecordType
from edgepaas.schema.chain import Chain, Revisions, show
from edgepaas.schema.errors import OfAnotherApplication, RightsLacking, SchemaError
from edgepaas.schema.postgresql.capture_triggers import capture_changes
from edgepaas.schema.repair.diagnosis import (
    diagnose_scripts,
    diagnose_versions,
    overlapping_revisions,
)
from edgepaas.schema.report import SchemaReport

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

    from edgepaas.database.postgresql.connector import Connector
    from edgepaas.schema.postgresql.migrate import Part
    from edgepaas.schema.renames.boxes import OwnBox

Models = Callable[[], "MetaData | None"]

#: ``state/postgres-schema-…json``: for a person who wants to go back to that schema.
POSTGRES_SCHEMA_RECORD = RecordType(
    "postgres-schema",
    2,
    {
        "versions": shapes.optional(shapes.list_of(shapes.text)),
        "columns": shapes.list_of(shapes.map_of(shapes.anything)),
    },
)


def repair_hub(
    connector: "Connector",
    paths: Paths,
    parts: "Sequence[Part]",
    *,
    own: "OwnBox | None" = None,
) -> SchemaReport:
    """Mend every chain; the report is the first part's, with the steps of all.

    *own*: this box. A revision that would break rows which wait, here or elsewhere, is left.
    """
    # The platform's first: its tables take the record of what the application renames.
    reports = [
        repair_postgres(connector, paths, part.chain, part.models, own=own)
        for part in reversed(parts)
    ][::-1]
    steps = [step for report in reports for step in report.steps]
    if captured := capture_changes(connector, parts[0].models()):
        steps.append(captured)
    mended = any(report.action == "repaired" for report in reports)
    mended = mended or bool(captured and not captured.startswith("WARNING"))
    action = "repaired" if mended else reports[0].action
    return replace(reports[0], action=action, steps=tuple(steps))


def repair_postgres(
    connector: "Connector",
    paths: Paths,
    chain: Chain,
    models: Models,
    *,
    own: "OwnBox | None" = None,
) -> SchemaReport:
    """Diagnose and mend one chain; raises SchemaError when only a person can help."""
    from edgepaas.schema.postgresql.migrate import migrate

    metadata = models()
    steps, kept, found = _diagnose(connector, paths, chain)
    try:
        report = migrate(connector, chain, metadata, adopt=True, own=own)
    except (OfAnotherApplication, RightsLacking):
        raise
    except SchemaError as error:
        if (found or frozenset()) - frozenset(chain.parents):
            raise  # a newer build's: what it is to have is not known here
        if metadata is None and not chain.only_postgres:
            raise  # there is nothing to complete it from
        steps.append(f"going on from {show(found or ())} does not work: {error}")
        try:
            report = _complete(connector, chain, metadata, found, steps)
        except RightsLacking:
            raise
        except SchemaError as reason:
            raise SchemaError(f"{error}; it cannot be completed either: {reason}") from reason
    else:
        if report.action == "nothing":
            report = _with_indexes(connector, chain, metadata, report, steps)
        steps.append(report.message)
    action = "repaired" if report.action in ("adopted", "migrated") else report.action
    return replace(report, action=action, kept=kept, steps=tuple(steps))


def _diagnose(
    connector: "Connector", paths: Paths, chain: Chain
) -> tuple[list[str], Path, Revisions | None]:
    """Describe what is there and take out a version that another one includes."""
    from edgepaas.schema import migrations
    from edgepaas.schema.postgresql.transactions import transaction

    steps = diagnose_scripts(chain)
    with transaction(connector, "it cannot be examined", commit=True) as connection:
        found = migrations.versions(connection, chain)
        kept = describe(connection, chain, found, paths)
        steps += diagnose_versions(chain, found)
        overlapping = overlapping_revisions(chain, found or frozenset())
        if overlapping:
            found = (found or frozenset()) - overlapping
            migrations.stamp(connection, chain, found)
            steps.append(f"took {show(overlapping)} out of {chain.version_table}")
    return [f"wrote a description of its schema to {kept}", *steps], kept, found


def _complete(
    connector: "Connector",
    chain: Chain,
    metadata: "MetaData | None",
    found: Revisions | None,
    steps: list[str],
) -> SchemaReport:
    """Add what is missing and stamp the newest revision, in one transaction or not at all."""
    from edgepaas.schema import fingerprint, migrations
    from edgepaas.schema.postgresql.migrate import STATEMENT_TIMEOUT, take_turn
    from edgepaas.schema.postgresql.transactions import transaction
    from edgepaas.schema.repair import completion

    connect = partial(connector, statement_timeout=STATEMENT_TIMEOUT)
    with transaction(connect, "what it lacks cannot be added", commit=True) as connection:
        take_turn(connection, chain)
        done = (
            completion.complete_from_scripts(connection, chain)
            if chain.only_postgres
            else completion.complete(connection, chain, metadata)
        )
        shape = migrations.columns_by_table(connection, chain)
        needs = fingerprint.required_columns(connection, chain, metadata)
        if lacking := fingerprint.incompatibility_of(shape, connection, needs):
            raise SchemaError(lacking)
        migrations.stamp(connection, chain, chain.heads)
    passed = chain.heads if found is None else chain.heads - found
    if not done and not passed:
        message = f"nothing to repair: at {show(chain.heads)}, with all that the models want"
        return _report("nothing", found, chain, message)
    if passed:
        done.append(
            f"took {show(passed)} as applied: what a migration does to rows, and not to tables, "
            f"columns and indexes, was not run"
        )
    steps += done
    return _report("migrated", found, chain, f"completed, now at {show(chain.heads)}")


def _with_indexes(
    connector: "Connector",
    chain: Chain,
    metadata: "MetaData | None",
    report: SchemaReport,
    steps: list[str],
) -> SchemaReport:
    """Make the indexes that somebody dropped; at head, nothing else does."""
    from edgepaas.schema.postgresql.migrate import STATEMENT_TIMEOUT, take_turn
    from edgepaas.schema.postgresql.transactions import transaction
    from edgepaas.schema.repair import completion

    connect = partial(connector, statement_timeout=STATEMENT_TIMEOUT)
    with transaction(connect, "its indexes cannot be made", commit=True) as connection:
        if not completion.missing_indexes(connection, metadata):
            return report
        take_turn(connection, chain)
        done = completion.complete(connection, chain, metadata, columns=False)
    steps += done
    return replace(report, action="repaired", message="; ".join((report.message, *done)))


def describe(connection: "Connection", chain: Chain, found: Revisions | None, paths: Paths) -> Path:
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


def _report(action: Any, found: Revisions | None, chain: Chain, message: str) -> SchemaReport:
    before, after = tuple(sorted(found or ())), tuple(sorted(chain.heads))
    return SchemaReport("postgresql", action, before, after, message)
