# SPDX-License-Identifier: Apache-2.0
"""The tables and columns of a database, by what identifies them in its catalog.

PostgreSQL: oid and attnum, which outlive any number of renames
(https://www.postgresql.org/docs/current/catalog-pg-attribute.html). SQLite: the root page of a
table, and the position of a column; both hold only around one ALTER, since a dropped column
shifts those behind it, and in a file with auto_vacuum a dropped table moves another one's root
page (https://sqlite.org/pragma.html#pragma_auto_vacuum).
"""

import sqlite3
from typing import TYPE_CHECKING

from edgepaas.database.reserved_names import is_reserved
from edgepaas.schema.renames.lineage import Catalog, ColumnShape, TableShape

if TYPE_CHECKING:
    from sqlalchemy import Connection

#: How Alembic calls the table that a batch migration copies rows to.
WORKING_TABLE = "_alembic_tmp_"

_POSTGRESQL = """
SELECT c.oid::bigint, c.relname::text, a.attnum::int, a.attname::text,
  format_type(a.atttypid, a.atttypmod),
  a.attnotnull AND NOT (a.atthasdef OR a.attidentity <> '' OR a.attgenerated <> ''), a.attnotnull
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND c.relnamespace = to_regnamespace(current_schema())
ORDER BY c.oid, a.attnum"""
_SQLITE = """
SELECT s.rootpage, s.name, t.cid, t.name, t.type, t."notnull" AND t.dflt_value IS NULL, t."notnull"
FROM sqlite_schema s JOIN pragma_table_info(s.name) t
WHERE s.type = 'table' AND s.rootpage > 0
ORDER BY s.rootpage, t.cid"""


def read_catalog(connection: "Connection") -> Catalog:
    """Return the tables that may be an application's, the working tables of a migration too.

    Raises what the driver raises.
    """
    if connection.dialect.name == "sqlite":
        rows = sqlite_driver(connection).execute(_SQLITE).fetchall()
    else:
        rows = [tuple(row) for row in connection.exec_driver_sql(_POSTGRESQL)]
    found: dict[int, tuple[str, dict[int, ColumnShape]]] = {}
    for identity, table, position, name, kind, required, not_null in rows:
        if is_reserved(table) and not table.startswith(WORKING_TABLE):
            continue
        columns = found.setdefault(int(identity), (table, {}))[1]
        columns[int(position)] = ColumnShape(name, kind, bool(required), bool(not_null))
    return {identity: TableShape(name, columns) for identity, (name, columns) in found.items()}


def sqlite_driver(connection: "Connection") -> sqlite3.Connection:
    """Return the driver's own connection to an SQLite file; TypeError for another one."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise TypeError(f"{driver!r} is no connection to an SQLite file")
    return driver
