# SPDX-License-Identifier: Apache-2.0
"""Whether the PostgreSQL that rows go to is as this build wants it, while SQLite serves.

What nothing else asks then: the gate looks at the database that serves, and the drainer at the
tables that it writes.
"""

from typing import TYPE_CHECKING

from edgepaas.database.postgresql.connector import Connector
from edgepaas.hosting.loading import metadata_of
from edgepaas.schema.chain import Chain, chain_of
from edgepaas.schema.errors import SchemaError
from edgepaas.schema.postgresql.hub import require_fit
from edgepaas.schema.postgresql.migrate import check_postgres, parts_of
from edgepaas.schema.postgresql.transactions import transaction

if TYPE_CHECKING:
    from sqlalchemy import MetaData

    from edgepaas.app import Application
    from edgepaas.settings import Settings


def hub_problem(url: str, settings: "Settings", application: "Application", *, name: str) -> str:
    """Return what is wrong with its schema, with the way out; empty: nothing.

    One at another revision than this build's is not compared to the last type: rows find their
    columns there. *name* is that of the session. Raises DatabaseUnavailable.
    """
    connector = Connector(url, settings, name=name)
    chain = chain_of(application)
    metadata = metadata_of(application)
    try:
        if without := _without_version(connector, chain, metadata):
            return without
        if check_postgres(connector, parts_of(chain, lambda: metadata)).action != "nothing":
            return ""
        require_fit(connector, metadata)
        return _missing(connector, metadata)
    except SchemaError as error:
        return str(error)


def _without_version(connector: Connector, chain: Chain, metadata: "MetaData | None") -> str:
    from edgepaas.schema import migrations

    if chain.unwritten:
        return ""
    with transaction(connector, "its version cannot be read", commit=False) as connection:
        if migrations.versions(connection, chain):
            return ""
        tables = () if metadata is None else metadata.tables
        there = sorted(set(tables) & set(migrations.columns_by_table(connection, chain)))
    if not there:
        return "PostgreSQL has none of the tables: 'edgepaas schema --hub' makes them"
    return (
        f"PostgreSQL has the tables {', '.join(there)} but no version of them: 'edgepaas schema "
        f"--repair' finds out which it is"
    )


def _missing(connector: Connector, metadata: "MetaData | None") -> str:
    from edgepaas.database.table_presence import missing_in
    from edgepaas.schema.repair.completion import missing_indexes

    if metadata is None:
        return ""
    with transaction(connector, "its tables cannot be examined", commit=False) as connection:
        if gone := missing_in(connection, metadata):
            return f"PostgreSQL: {gone}: 'edgepaas schema --repair' makes what is missing"
        lacking = missing_indexes(connection, metadata)
    if not lacking:
        return ""
    return f"PostgreSQL is without {', '.join(lacking)}: 'edgepaas schema --repair' makes the index"
