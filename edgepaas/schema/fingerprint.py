# SPDX-License-Identifier: Apache-2.0
"""What a chain's scripts make, and which of its revisions a database looks like.

What they make is seen by running them where nothing stays.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from edgepaas.database.reserved_names import OPTIONAL_TABLES
from edgepaas.schema.chain import Chain, Revisions
from edgepaas.schema.errors import SchemaError, brief
from edgepaas.schema.migrations import (
    TableColumns,
    columns_by_table,
    scratch_engine,
    script_names,
    upgrade,
    versions,
)

if TYPE_CHECKING:
    from sqlalchemy import MetaData

_TEMPORARY = (
    "SELECT c.relname, a.attname FROM pg_catalog.pg_class c "
    "JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid "
    "WHERE c.relnamespace = pg_my_temp_schema() AND c.relkind IN ('r', 'p') "
    "AND a.attnum > 0 AND NOT a.attisdropped"
)


@dataclass(frozen=True)
class FingerprintMatch:
    """Which revisions a database looks like; without any, how it differs from the newest.

    *any_table*: at least one table of the chain is there.
    """

    revisions: Revisions | None
    difference: str
    any_table: bool = True


def match_fingerprint(
    connection: Connection,
    chain: Chain,
    metadata: "MetaData | None",
    claimed: Revisions | None,
) -> FingerprintMatch:
    """Compare tables and columns with every revision's; tables of no revision do not count.

    Of several that look alike it is the *claimed* one, else the newest.
    """
    known = columns_by_revision(connection, chain, metadata)
    names = {table for _, shape in known for table in shape}
    shape = {t: columns for t, columns in columns_by_table(connection, chain).items() if t in names}
    alike = [revisions for revisions, columns in known if columns == shape]
    newest = known[-1][1] if known else {}
    if claimed in alike:
        return FingerprintMatch(claimed, "")
    different = difference(shape, newest) or "no difference in tables and columns"
    return FingerprintMatch(alike[-1] if alike else None, different, bool(shape))


def required_columns(
    connection: Connection, chain: Chain, metadata: "MetaData | None"
) -> TableColumns:
    """Return the tables and columns that this build works with.

    Those of the models; the platform has none, so what its newest script leaves, but for what
    it does without where the box may not migrate.
    """
    if chain.only_postgres:
        newest = columns_by_revision(connection, chain, None)[-1][1]
        return {table: columns for table, columns in newest.items() if table not in OPTIONAL_TABLES}
    return {
        table.name: frozenset(column.name for column in table.columns)
        for table in (() if metadata is None else metadata.sorted_tables)
    }


def incompatibility_of(shape: TableColumns, connection: Connection, needs: TableColumns) -> str:
    """Return why this build, which *needs* tables and columns, cannot work on *shape*.

    Empty when it can: every one is there and none has been added that demands a value, since
    migrations expand first and contract a release later.
    """
    inspector = inspect(connection)
    for table, wanted in needs.items():
        if table not in shape:
            return f"the table {table} is missing"
        missing = wanted - shape[table]
        if missing:
            return f"the column {table}.{min(missing)} is missing"
        for column in inspector.get_columns(table):
            demanded = not column["nullable"] and column["default"] is None
            if column["name"] not in wanted and demanded:
                return f"the column {table}.{column['name']} demands a value"
    return ""


def columns_by_revision(
    connection: Connection, chain: Chain, metadata: "MetaData | None"
) -> list[tuple[Revisions, TableColumns]]:
    """Return how the tables look after each revision, oldest first, by running them.

    That is in memory, or, for a chain that only PostgreSQL understands, on *connection* where
    nothing stays. Each with what the version table says then: two revisions, where branches
    were not merged.
    """
    if chain.unwritten:
        return []
    if chain.only_postgres:
        return _columns_on_postgres(connection, chain)
    return _columns_in_memory(chain, metadata)


def _columns_in_memory(
    chain: Chain, metadata: "MetaData | None"
) -> list[tuple[Revisions, TableColumns]]:
    engine = scratch_engine("sqlite://", poolclass=StaticPool)
    by_revision: list[tuple[Revisions, TableColumns]] = []
    try:
        with engine.connect() as connection:
            for revision in script_names(connection, chain):
                upgrade(connection, chain, metadata, revision)
                connection.commit()
                reached = versions(connection, chain) or frozenset()
                by_revision.append((reached, columns_by_table(connection, chain)))
    finally:
        engine.dispose()
    return by_revision


def _columns_on_postgres(
    connection: Connection, chain: Chain
) -> list[tuple[Revisions, TableColumns]]:
    """Return how the tables look after each revision, oldest first.

    The scripts run in the session's temporary schema, inside a savepoint that is taken back:
    they speak PostgreSQL's own words, which no SQLite in memory understands. Raises
    SchemaError where this user may make no temporary table.
    """
    found: list[tuple[Revisions, TableColumns]] = []
    savepoint = connection.begin_nested()
    try:
        connection.exec_driver_sql("SET LOCAL search_path TO pg_temp")
        for revision in script_names(connection, chain):
            upgrade(connection, chain, None, revision)
            reached = versions(connection, chain) or frozenset()
            found.append((reached, _temporary_columns(connection, chain)))
    except DBAPIError as error:
        raise SchemaError(
            f"what {chain.folder} makes cannot be tried out in a temporary schema: {brief(error)}; "
            "give this user the right to it: GRANT TEMPORARY ON DATABASE … TO …"
        ) from error
    finally:
        savepoint.rollback()
    return found


def _temporary_columns(connection: Connection, chain: Chain) -> TableColumns:
    columns: dict[str, set[str]] = {}
    for table, column in connection.exec_driver_sql(_TEMPORARY):
        columns.setdefault(table, set()).add(column)
    columns.pop(chain.version_table, None)
    return {table: frozenset(names) for table, names in columns.items()}


def difference(shape: TableColumns, wanted: TableColumns) -> str:
    """Return how the tables and columns of *shape* differ from *wanted*; empty: not at all."""
    words = []
    for table in sorted(wanted.keys() | shape.keys()):
        if table not in shape:
            words.append(f"the table {table} is missing")
        elif table not in wanted:
            words.append(f"the table {table} is not of the newest revision")
        else:
            words += [f"{table}.{c} is missing" for c in sorted(wanted[table] - shape[table])]
            words += [f"{table}.{c} is too many" for c in sorted(shape[table] - wanted[table])]
    return "; ".join(words)
