# SPDX-License-Identifier: Apache-2.0
"""Making every table anew from the models, with the rows that are there."""

from typing import TYPE_CHECKING

from edgepaas.schema.chain import Chain
from edgepaas.schema.errors import SchemaError, brief

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData


def rebuild(
    connection: "Connection", chain: Chain, metadata: "MetaData | None", steps: list[str]
) -> None:
    """Make every table anew from the models and fill it with the rows that are there.

    The old tables of the same names go; the file as it was, which has them, is kept.
    """
    from sqlalchemy import inspect

    from edgepaas.schema import migrations

    if metadata is None:
        raise SchemaError("the application has no models to rebuild the tables from")
    shape = migrations.columns_by_table(connection, chain)
    quote = connection.dialect.identifier_preparer.quote
    old_names = {}
    for table in metadata.sorted_tables:
        if table.name in shape:
            old = f"_before_repair_{table.name}"
            for index in inspect(connection).get_indexes(table.name):
                if index["name"]:
                    connection.exec_driver_sql(f"DROP INDEX {quote(index['name'])}")
            connection.exec_driver_sql(f"ALTER TABLE {quote(table.name)} RENAME TO {quote(old)}")
            old_names[table.name] = old
    metadata.create_all(connection)
    for table in metadata.sorted_tables:
        if table.name not in old_names:
            steps.append(f"created the table {table.name}, which was missing")
            continue
        old = quote(old_names[table.name])
        common = [column.name for column in table.columns if column.name in shape[table.name]]
        names = ", ".join(map(quote, common))
        try:
            # Names are those of the models, quoted; no value is part of the statement.
            moved = connection.exec_driver_sql(
                f"INSERT INTO {quote(table.name)} ({names}) SELECT {names} FROM {old}"  # noqa: S608
            ).rowcount
        except Exception as error:
            raise SchemaError(
                f"the rows of {table.name} do not fit into the table as it should be "
                f"({brief(error)}); the file was left as it was"
            ) from error
        connection.exec_driver_sql(f"DROP TABLE {old}")
        lost = sorted(shape[table.name] - set(common))
        steps.append(
            f"rebuilt {table.name} with all its {moved} rows"
            + (f"; its columns {', '.join(lost)} are only in the kept file" if lost else "")
        )
    migrations.stamp(connection, chain, chain.heads)
