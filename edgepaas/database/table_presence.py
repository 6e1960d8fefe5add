# SPDX-License-Identifier: Apache-2.0
"""Whether the tables that the models need are there, by one query that waits for no lock."""

from typing import TYPE_CHECKING

from edgepaas.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

#: Queries for the first table or column that is missing. They read the catalogue alone, so that
#: no locked table delays them. They return no row where nothing is missing, else one: the table,
#: and the column if the table exists.
_QUERIES = {
    "postgresql": (
        "SELECT t, CASE WHEN to_regclass(quote_ident(t)) IS NOT NULL THEN c END "
        "FROM (VALUES {wanted}) AS wanted(t, c) WHERE NOT EXISTS (SELECT FROM pg_attribute "
        "WHERE attrelid = to_regclass(quote_ident(t)) AND attname = c AND NOT attisdropped) "
        "LIMIT 1"
    ),
    "sqlite": (
        "WITH wanted(t, c) AS (VALUES {wanted}) "
        "SELECT t, CASE WHEN EXISTS (SELECT 1 FROM pragma_table_xinfo(t)) THEN c END "
        "FROM wanted WHERE NOT EXISTS (SELECT 1 FROM pragma_table_xinfo(t) "
        "WHERE name = c COLLATE NOCASE) LIMIT 1"
    ),
}


class TableMissing(DatabaseUnavailable):
    """The server answers, and a table or column that the models need is not there."""

    def __init__(self, table: str, column: str | None) -> None:
        super().__init__(f"PostgreSQL: {describe_missing((table, column))}")
        self.table = table
        self.column = column


def missing_query(metadata: "MetaData", dialect: str) -> str:
    """Return SQL for what *metadata* lacks in the database; empty when it wants nothing.

    Its row, if there is one, is for :func:`describe_missing`. Tables of a schema of their own
    are not looked for.
    """
    wanted = [
        f"({_quoted(table.name)}, {_quoted(column.name)})"
        for table in metadata.tables.values()
        if table.schema is None
        for column in table.columns
    ]
    return _QUERIES[dialect].format(wanted=", ".join(wanted)) if wanted else ""


def describe_missing(row: tuple[str, str | None]) -> str:
    """Return the answer to the query for a person."""
    table, column = row
    return f"the column {table}.{column} is missing" if column else f"the table {table} is missing"


def missing_in(connection: "Connection", metadata: "MetaData") -> str:
    """Return what *metadata* lacks in the database of *connection*; empty when nothing."""
    query = missing_query(metadata, connection.dialect.name)
    if not query:
        return ""
    if connection.dialect.name == "postgresql":
        query = query.replace("%", "%%")  # pg8000 looks for its placeholders
    row = connection.exec_driver_sql(query).first()
    return describe_missing((row[0], row[1])) if row is not None else ""


def _quoted(name: str) -> str:
    return "'" + str(name).replace("'", "''") + "'"
