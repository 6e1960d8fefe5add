# SPDX-License-Identifier: Apache-2.0
"""Bringing PostgreSQL to head: many boxes start at once, one migrates, the rest find it done."""

import hashlib
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from edgepaas.pgdriver.connection import close_quietly
from edgepaas.pgdriver.failures import sqlstate
from edgepaas.pgdriver.pg8000_adapter import simple_query
from edgepaas.schema.chain import (
    SHARED_VERSION_TABLE,
    Chain,
    Revisions,
    platform_chain,
    show,
)
from edgepaas.schema.errors import RightsLacking, SchemaError
from edgepaas.schema.postgresql.capture_triggers import capture_changes
from edgepaas.schema.postgresql.chain_upgrade import ChainUpgrade, needed_columns
from edgepaas.schema.postgresql.transactions import transaction, unusable
from edgepaas.schema.report import Action, SchemaReport

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

    from edgepaas.database.postgresql.connector import Connector
    from edgepaas.schema.renames.boxes import OwnBox

logger = logging.getLogger("edgepaas.schema")

#: Seconds to wait for other boxes that are migrating.
TURN_TIMEOUT = 60.0
#: Seconds that a migration waits for a table that is in use: it blocks every session
#: that comes after it.
TABLE_TIMEOUT = 10.0
#: Seconds that one statement of a migration may take.
STATEMENT_TIMEOUT = 900.0

_NO_TABLE = "42P01"
_NO_RIGHT = "42501"


@dataclass(frozen=True)
class Part:
    """One chain of a PostgreSQL: the application's, with its models, or the platform's."""

    chain: Chain
    #: Imports the models where they are needed; None where there are none.
    models: "Callable[[], MetaData | None]"


def parts_of(chain: Chain, models: "Callable[[], MetaData | None]") -> tuple[Part, ...]:
    """Return what every PostgreSQL holds: the application's chain, and the platform's."""
    return Part(chain, models), Part(platform_chain(), lambda: None)


def versions_at(connection: Any, chains: Sequence[Chain]) -> list[Revisions | None]:
    """Return each chain's revisions by a bare driver's *connection*; None: no version table.

    One round trip where there is nothing to do. Leaves no transaction behind; raises what
    the driver raises.
    """
    return _versions(connection, [chain.version_table for chain in chains])


def _versions(connection: Any, tables: Sequence[str]) -> list[Revisions | None]:
    connection.autocommit = True
    queries = [
        f"SELECT {number}, version_num FROM {table}"  # noqa: S608
        for number, table in enumerate(tables)
    ]
    try:
        rows = simple_query(connection, " UNION ALL ".join(queries))
    except Exception as error:
        if sqlstate(error) not in (_NO_TABLE, _NO_RIGHT):
            raise
        if len(tables) == 1:
            return [None]
        return [found for table in tables for found in _versions(connection, [table])]
    return [
        frozenset(revision for at, revision in rows if int(at) == number)
        for number in range(len(tables))
    ]


def recorded_revisions(connection: Any, tables: Sequence[str]) -> list[str]:
    """Return what the version *tables* hold, as ``TABLE REVISION``; see :func:`versions_at`."""
    found = zip(tables, _versions(connection, tables), strict=True)
    return [f"{table} {each}" for table, revisions in found for each in sorted(revisions or ())]


def heads_recorded(parts: Sequence[Part], revisions: Collection[str]) -> bool:
    """Whether *revisions* (of :func:`recorded_revisions`) are the heads of all *parts*."""
    heads = {f"{part.chain.version_table} {each}" for part in parts for each in part.chain.heads}
    return not any(part.chain.unwritten for part in parts) and heads == set(revisions)


def prepare_postgres(
    connector: "Connector",
    parts: Sequence[Part],
    *,
    run_migrations: bool,
    revisions: Collection[str] | None = None,
    always_capture: bool = False,
    own: "OwnBox | None" = None,
    forwarding: bool = False,
) -> SchemaReport:
    """Bring the PostgreSQL that *connector* reaches to head and say what was done.

    *revisions*: what a rehearsal has just found recorded there; it is not asked again then.
    *always_capture*: look also where it is at head whether every change is captured.
    *own*: the box that migrates; a revision that would break rows of it or of another box waits.
    *forwarding*: rows are only sent there, so that a newer build may have renamed what they bring.

    The report is the first part's; its message says what was done about the rest. Raises
    DatabaseUnavailable or SchemaError, which name why it is unusable; it is then as it was
    but for the parts before, since a migration is one transaction.
    """
    if not run_migrations:
        return _report(
            "left", (), (), "RUN_MIGRATIONS=false: left alone; 'edgepaas verify' says if it fits"
        )
    if revisions is not None and heads_recorded(parts, revisions):
        return _joined([_nothing_to_do(part) for part in parts])
    found = _ask_versions(connector, parts)
    # The last one first: the platform's tables take the record of what the application renames.
    reports = [
        _at_head(part, before) or _brought(connector, part, own, forwarding=forwarding)
        for part, before in reversed(list(zip(parts, found, strict=True)))
    ]
    report = _joined(reports[::-1])
    if not always_capture and all(one.action == "nothing" for one in reports):
        return report  # the service looks whether each change is captured
    captured = capture_changes(connector, parts[0].models())
    return replace(report, message=f"{report.message}; {captured}") if captured else report


def check_postgres(connector: "Connector", parts: Sequence[Part]) -> SchemaReport:
    """Say whether the PostgreSQL takes the rows of this build, and change nothing.

    Raises DatabaseUnavailable, or SchemaError that names what it lacks.
    """
    found = _ask_versions(connector, parts)
    return _joined(
        [
            _at_head(part, before) or _judged(connector, part)
            for part, before in zip(parts, found, strict=True)
        ]
    )


def _ask_versions(connector: "Connector", parts: Sequence[Part]) -> list[Revisions | None]:
    connection = connector()
    try:
        return versions_at(connection, [part.chain for part in parts])
    except Exception as error:
        raise unusable(error, "its version cannot be read") from error
    finally:
        close_quietly(connection)


def _at_head(part: Part, before: Revisions | None) -> SchemaReport | None:
    if before != part.chain.heads or part.chain.unwritten:
        return None
    return _nothing_to_do(part)


def _nothing_to_do(part: Part) -> SchemaReport:
    heads = part.chain.heads
    return _report("nothing", heads, heads, f"at head ({show(heads)})")


def _judged(connector: "Connector", part: Part) -> SchemaReport:
    from edgepaas.schema import fingerprint, migrations, ownership

    chain, metadata = part.chain, part.models()
    with transaction(connector, "its tables cannot be examined", commit=False) as connection:
        ownership.require_own(connection, chain, "PostgreSQL", metadata)
        before = migrations.versions(connection, chain)
        shape = migrations.columns_by_table(connection, chain)
        needs = needed_columns(connection, chain, metadata, forwarding=True)
        incompatibility = fingerprint.incompatibility_of(shape, connection, needs)
    if incompatibility:
        raise SchemaError(
            f"PostgreSQL is at {show(before or ())}, this build needs {show(chain.heads)}, and "
            f"{incompatibility}: RUN_MIGRATIONS=false keeps this box from migrating it"
        )
    return _report(
        "ahead", before, before, f"at {show(before or ())}; it holds all that this build needs"
    )


def _brought(
    connector: "Connector", part: Part, own: "OwnBox | None", *, forwarding: bool
) -> SchemaReport:
    """Migrate *part*; where this role may not, go on with what is there if that suffices."""
    from edgepaas.schema.postgresql.lesser_rights import works_as_before

    try:
        return migrate(connector, part.chain, part.models(), own=own, forwarding=forwarding)
    except RightsLacking as lacking:
        with transaction(connector, "its tables cannot be examined", commit=False) as connection:
            return works_as_before(
                connection, part.chain, part.models(), lacking, forwarding=forwarding
            )


def _joined(reports: Sequence[SchemaReport]) -> SchemaReport:
    """Return the application's report, with what was done about the others."""
    first, *others = reports
    others_done = [report.message for report in others if report.action != "nothing"]
    reservations = [one.reservation for one in reports if one.reservation]
    if reservations:
        from edgepaas.schema.postgresql.lesser_rights import reservation_of

        first = replace(first, reservation=reservation_of(reservations))
    if not others_done:
        return first
    return replace(first, message="; EdgePaaS's own tables: ".join([first.message, *others_done]))


def migrate(
    connector: "Connector",
    chain: Chain,
    metadata: "MetaData | None",
    *,
    adopt: bool = False,
    own: "OwnBox | None" = None,
    forwarding: bool = False,
) -> SchemaReport:
    """Migrate under the advisory lock, in one transaction.

    *adopt* allows to take tables without a version (or with a wrong one) for the revision
    that they look like. *own*, *forwarding*: see :func:`prepare_postgres`.
    """
    from edgepaas.schema import migrations, ownership

    connect = partial(connector, statement_timeout=STATEMENT_TIMEOUT)
    failure = f"migrating it to {show(chain.heads)} failed"
    with transaction(connect, failure, commit=True) as connection:
        take_turn(connection, chain)
        ownership.require_own(connection, chain, "PostgreSQL", metadata)
        before = migrations.versions(connection, chain)
        upgrade = ChainUpgrade(connection, chain, metadata, own, forwarding)
        action = upgrade.run(before, adopt=adopt)
    if action == "nothing":
        message = f"at head ({show(chain.heads)}); another box was first"
    elif action == "ahead":
        message = (
            f"at {show(before or ())}, which a newer build made; it holds all that this one needs"
        )
        return _report(action, before, before, message)
    elif upgrade.refused is not None:
        reached = upgrade.refused.reached
        message = f"{upgrade.refused}; until then it is left at {show(reached)}"
        return replace(_report(action, before, reached, message), waiting=str(upgrade.refused))
    else:
        message = f"{action} from {show(before or ())} to {show(chain.heads)}"
    return _report(action, before, chain.heads, message)


def take_turn(connection: "Connection", chain: Chain) -> None:
    """Wait for the advisory lock; it ends with the transaction, whatever becomes of this box."""
    # One for all applications, and the one of the releases before each had a version table.
    table = chain.version_table if chain.only_postgres else SHARED_VERSION_TABLE
    digest = hashlib.sha256(f"edgepaas.schema/{table}".encode()).digest()
    key = int.from_bytes(digest[:8], "big", signed=True)
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(TURN_TIMEOUT * 1000)}")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({key})")
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(TABLE_TIMEOUT * 1000)}")


def _report(action: Action, before: Any, after: Any, message: str) -> SchemaReport:
    return SchemaReport(
        database="postgresql",
        action=action,
        before=tuple(sorted(before or ())),
        after=tuple(sorted(after or ())),
        message=message,
    )
