"""What a chain's scripts make, seen by running them on PostgreSQL where nothing stays."""

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from edgepaas.schema.chain import Chain, Revisions
from edgepaas.schema.errors import SchemaError, brief
from edgepaas.schema.migrations import Shape, script_names, upgrade, versions

_TABLES = (
    "SELECT c.relname, a.attname FROM pg_catalog.pg_class c "
    "JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid "
    "WHERE c.relnamespace = pg_my_temp_schema() AND c.relkind IN ('r', 'p') "
    "AND a.attnum > 0 AND NOT a.attisdropped"
)


def shapes_on_postgres(connection: Connection, chain: Chain) -> list[tuple[Revisions, Shape]]:
    """Return how the tables look after each revision, oldest first.

    The scripts run in the session's temporary schema, inside a savepoint that is taken back:
    they speak PostgreSQL's own words, which no SQLite in memory understands. Raises
    SchemaError where this user may make no temporary table.
    """
    found: list[tuple[Revisions, Shape]] = []
    savepoint = connection.begin_nested()
    try:
        connection.exec_driver_sql("SET LOCAL search_path TO pg_temp")
        for revision in script_names(connection, chain):
            upgrade(connection, chain, None, revision)
            found.append((versions(connection, chain) or frozenset(), _shape(connection, chain)))
    except DBAPIError as error:
        raise SchemaError(
            f"what {chain.folder} makes cannot be tried out in a temporary schema: {brief(error)}"
        ) from error
    finally:
        savepoint.rollback()
    return found


def _shape(connection: Connection, chain: Chain) -> Shape:
    columns: dict[str, set[str]] = {}
    for table, column in connection.exec_driver_sql(_TABLES):
        columns.setdefault(table, set()).add(column)
    columns.pop(chain.version_table, None)
    return {table: frozenset(names) for table, names in columns.items()}
