"""Bringing PostgreSQL to head: many boxes start at once, one migrates, the rest find it done."""

import hashlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgepaas.errors import DatabaseUnavailable
from edgepaas.postgres.connection import close_quietly
from edgepaas.postgres.failures import is_lost, server_message, sqlstate
from edgepaas.schema.chain import Chain, Revisions, show
from edgepaas.schema.errors import SchemaError
from edgepaas.schema.report import Action, SchemaReport

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

    from edgepaas.database.connector import Connector

logger = logging.getLogger("edgepaas.schema")

#: Seconds to wait for other boxes that are migrating.
TURN_TIMEOUT = 60.0
#: Seconds that a migration waits for a table that somebody uses: it blocks everybody else
#: who comes after it.
TABLE_TIMEOUT = 10.0
#: Seconds that one statement of a migration may take.
STATEMENT_TIMEOUT = 900.0

_NO_TABLE = "42P01"


def versions_at(connection: Any, chain: Chain) -> Revisions | None:
    """Return the revisions by a bare driver's *connection*; None without a version table.

    Leaves no transaction behind. Raises what the driver raises.
    """
    connection.autocommit = True
    cursor = connection.cursor()
    try:
        cursor.execute(f"SELECT version_num FROM {chain.version_table}")  # noqa: S608
        return frozenset(row[0] for row in cursor.fetchall())
    except Exception as error:
        if sqlstate(error) == _NO_TABLE:
            return None
        raise


def bring_postgres(
    connector: "Connector",
    chain: Chain,
    models: "Callable[[], MetaData | None]",
    *,
    run_migrations: bool,
) -> SchemaReport:
    """Bring the PostgreSQL that *connector* reaches to head and say what was done.

    Raises DatabaseUnavailable or SchemaError, which name why it is unusable; it is then as
    it was, since a migration is one transaction.
    """
    if not run_migrations:
        return _report(
            "left", (), (), "RUN_MIGRATIONS=false: left alone; 'edgepaas verify' says if it fits"
        )
    connection = connector()
    try:
        before = versions_at(connection, chain)
    except Exception as error:
        raise unusable(error, "its version cannot be read") from error
    finally:
        close_quietly(connection)
    if before == chain.heads and not chain.unwritten:
        return _report("nothing", before, before, f"at head ({show(before)})")
    return migrate(connector, chain, models())


def migrate(
    connector: "Connector", chain: Chain, metadata: "MetaData | None", *, adopt: bool = False
) -> SchemaReport:
    """Migrate under the advisory lock, in one transaction.

    *adopt* allows to take tables without a version (or with a wrong one) for the revision
    that they look like.
    """
    from edgepaas.schema import migrations

    engine = migrations.migration_engine(
        lambda: connector(statement_timeout=STATEMENT_TIMEOUT), "postgresql+pg8000://"
    )
    try:
        with engine.begin() as connection:
            _take_turn(connection, chain)
            before = migrations.versions(connection, chain)
            action = _upgrade(connection, chain, metadata, before, adopt=adopt)
    except (SchemaError, DatabaseUnavailable):
        raise
    except Exception as error:
        raise unusable(error, f"migrating it to {show(chain.heads)} failed") from error
    finally:
        engine.dispose()
    if action == "nothing":
        message = f"at head ({show(chain.heads)}); another box was first"
    elif action == "ahead":
        message = (
            f"at {show(before or ())}, which a newer build made; it holds all that this one needs"
        )
        return _report(action, before, before, message)
    else:
        message = f"{action} from {show(before or ())} to {show(chain.heads)}"
    return _report(action, before, chain.heads, message)


def unusable(error: Exception, what: str) -> Exception:
    """Return what an error of the driver means: the link is lost, or the schema is in the way."""
    if isinstance(error, DatabaseUnavailable | SchemaError):
        return error
    original = getattr(error, "orig", None) or error
    said = " ".join(server_message(original).split())
    state = sqlstate(original)
    if is_lost(original):
        return DatabaseUnavailable(f"PostgreSQL: {what}: {said}")
    return SchemaError(f"PostgreSQL: {what}: {said}{f' (SQLSTATE {state})' if state else ''}")


def _take_turn(connection: "Connection", chain: Chain) -> None:
    """Wait for the advisory lock; it ends with the transaction, whatever becomes of this box."""
    digest = hashlib.sha256(f"edgepaas.schema/{chain.version_table}".encode()).digest()
    key = int.from_bytes(digest[:8], "big", signed=True)
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(TURN_TIMEOUT * 1000)}")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({key})")
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(TABLE_TIMEOUT * 1000)}")


def _upgrade(
    connection: "Connection",
    chain: Chain,
    metadata: "MetaData | None",
    before: Revisions | None,
    *,
    adopt: bool,
) -> Action:
    from edgepaas.schema import migrations

    if chain.unwritten:
        if metadata is not None:
            metadata.create_all(connection)
        if not before:  # a version that another build wrote is left to it
            migrations.stamp(connection, chain, chain.heads)
        return "migrated"
    # An empty version table: the tables were made from the models before there was a migration.
    adopt = adopt or before == frozenset()
    if before == chain.heads and not adopt:
        return "nothing"
    shape = migrations.shape_of(connection, chain)
    ours = {name for name in shape if metadata is not None and name in metadata.tables}
    unknown = (before or frozenset()) - frozenset(chain.parents)
    if adopt and ours:
        likeness = migrations.likeness_of(connection, chain, metadata, before)
        if likeness.revisions is not None and likeness.revisions != before:
            migrations.stamp(connection, chain, likeness.revisions)
            migrations.upgrade(connection, chain, metadata)
            return "adopted"
        if before == chain.heads and likeness.revisions is not None:
            return "nothing"
        hint = f"its tables look like no known revision: {likeness.difference}"
    else:
        hint = "'edgepaas schema --repair' finds out which it is"
    if unknown:
        misfit = migrations.fits(shape, connection, metadata)
        if misfit:
            raise SchemaError(
                f"PostgreSQL is at revision {show(unknown)}, unknown to this build, and {misfit}: "
                f"install the build that made it; {hint}"
            )
        return "ahead"
    if not before and ours:
        raise SchemaError(
            f"PostgreSQL has the tables {', '.join(sorted(ours))} but no version of them; {hint}"
        )
    if before == chain.heads:
        raise SchemaError(f"PostgreSQL says that it is at {show(before)}, but {hint}")
    migrations.upgrade(connection, chain, metadata)
    return "migrated" if before else "created"


def _report(action: Action, before: Any, after: Any, message: str) -> SchemaReport:
    return SchemaReport(
        database="postgresql",
        action=action,
        before=tuple(sorted(before or ())),
        after=tuple(sorted(after or ())),
        message=message,
    )
