# SPDX-License-Identifier: Apache-2.0
"""Making every table: in a fresh file, or anew with the rows that are there.

There is one source of the schema: the application's migrations where it has any, with the
rows, views and checks that they make; its models only where it has none.
"""

from typing import TYPE_CHECKING

from edgepaas.schema.chain import Chain
from edgepaas.schema.errors import SchemaError, SchemaRefused, brief

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

#: What a table is called while its successor is made.
_OLD = "_before_repair_"


def fill_fresh(connection: "Connection", chain: Chain, metadata: "MetaData | None") -> None:
    """Make the tables in an empty file, and stamp it.

    Raises SchemaRefused where a migration fails, or where they leave out what the models need.
    """
    from edgepaas.schema import fingerprint, migrations
    from edgepaas.schema.renames.upgrade import upgrade

    if chain.unwritten:
        if metadata is not None:
            metadata.create_all(connection)
        migrations.stamp(connection, chain, chain.heads)
        return
    try:
        upgrade(connection, chain, metadata)
    except SchemaError:
        raise
    except Exception as error:
        raise SchemaRefused(
            f"the migrations of {chain.name} make no fresh file: {brief(error)}; mend them"
        ) from error
    shape = migrations.columns_by_table(connection, chain)
    needs = fingerprint.required_columns(connection, chain, metadata)
    if lacking := fingerprint.incompatibility_of(shape, connection, needs):
        raise SchemaRefused(
            f"the migrations of {chain.name} make a file on which its models do not work: "
            f"{lacking}; 'edgepaas schema --revision MSG' writes the migration that is missing"
        )


def rebuild(
    connection: "Connection", chain: Chain, metadata: "MetaData | None", steps: list[str]
) -> None:
    """Make every table anew and fill it with the rows that are there.

    The old tables of the same names go; the file as it was, which has them, is kept. Raises
    SchemaError where a row does not fit, SchemaRefused as :func:`fill_fresh` does.
    """
    from edgepaas.schema import migrations

    if metadata is None and chain.unwritten:
        raise SchemaError("the application has no models to rebuild the tables from")
    before = migrations.columns_by_table(connection, chain)
    moved = _move_away(connection, set(before) & _names(connection, chain, metadata))
    migrations.stamp(connection, chain, frozenset())
    fill_fresh(connection, chain, metadata)
    after = migrations.columns_by_table(connection, chain)
    for table in sorted(set(after) - set(before) - set(moved.values())):
        steps.append(f"created the table {table}, which was missing")
    quote = connection.dialect.identifier_preparer.quote
    for table, old in moved.items():
        common = sorted(before[table] & after.get(table, frozenset()))
        if not common:
            steps.append(f"the rows of {table} are only in the kept file: it is no table any more")
        else:
            rows = _refill(connection, table, old, common)
            lost = sorted(before[table] - set(common))
            steps.append(
                f"rebuilt {table} with all its {rows} rows"
                + (f"; its columns {', '.join(lost)} are only in the kept file" if lost else "")
            )
        connection.exec_driver_sql(f"DROP TABLE {quote(old)}")


def _names(connection: "Connection", chain: Chain, metadata: "MetaData | None") -> set[str]:
    """Return every table that the models or any revision make."""
    from edgepaas.schema import fingerprint

    made = fingerprint.columns_by_revision(connection, chain, metadata)
    names = {table for _, shape in made for table in shape}
    return names | ({table.name for table in metadata.sorted_tables} if metadata else set())


def _move_away(connection: "Connection", tables: set[str]) -> dict[str, str]:
    """Free the names of *tables* and their indexes, of views and triggers; return the new names."""
    from sqlalchemy import inspect

    quote = connection.dialect.identifier_preparer.quote
    triggers = connection.exec_driver_sql("SELECT name FROM sqlite_schema WHERE type = 'trigger'")
    for (trigger,) in triggers.fetchall():
        connection.exec_driver_sql(f"DROP TRIGGER {quote(trigger)}")
    for view in inspect(connection).get_view_names():
        connection.exec_driver_sql(f"DROP VIEW {quote(view)}")
    moved = {}
    for table in sorted(tables):
        for index in inspect(connection).get_indexes(table):
            if index["name"]:
                connection.exec_driver_sql(f"DROP INDEX {quote(index['name'])}")
        moved[table] = f"{_OLD}{table}"
        connection.exec_driver_sql(f"ALTER TABLE {quote(table)} RENAME TO {quote(moved[table])}")
    return moved


def _refill(connection: "Connection", table: str, old: str, columns: list[str]) -> int:
    """Copy the rows of *old*; one that a migration put into *table* gives way to them."""
    quote = connection.dialect.identifier_preparer.quote
    names = ", ".join(map(quote, columns))
    # Names are those of the tables, quoted; no value is part of a statement.
    seeded = connection.exec_driver_sql(f"SELECT 1 FROM {quote(table)} LIMIT 1").first()  # noqa: S608
    insert = "INSERT OR REPLACE" if seeded else "INSERT"
    try:
        return connection.exec_driver_sql(
            f"{insert} INTO {quote(table)} ({names}) SELECT {names} FROM {quote(old)}"  # noqa: S608
        ).rowcount
    except Exception as error:
        raise SchemaError(
            f"the rows of {table} do not fit into the table as it should be "
            f"({brief(error)}); the file was left as it was"
        ) from error
