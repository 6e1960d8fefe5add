# SPDX-License-Identifier: Apache-2.0
"""Adding to a database what its models have and it lacks: tables, columns, indexes, wider types.

Only ever adds. Where adding would be a guess, such as a column that is missing beside one that is
too many and may be the same under another name, a person is asked.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgepaas.schema import fingerprint, migrations
from edgepaas.schema.chain import Chain
from edgepaas.schema.errors import SchemaError
from edgepaas.schema.renames.fitting import is_narrower

if TYPE_CHECKING:
    from alembic.operations.ops import (
        AddColumnOp,
        AlterColumnOp,
        CreateIndexOp,
        CreateTableOp,
        CreateUniqueConstraintOp,
        MigrateOperation,
    )
    from sqlalchemy import Connection, MetaData

    Addition = CreateTableOp | AddColumnOp | CreateIndexOp | CreateUniqueConstraintOp


#: Where scripts make what is moved to its place.
_SCRATCH = "edgepaas_repair"


def missing_indexes(connection: "Connection", metadata: "MetaData | None") -> list[str]:
    """Return the names of the models' indexes that no index of the database has; sorted.

    A table that is not there is another matter. One that is called otherwise and holds the
    same columns will do.
    """
    from sqlalchemy import inspect

    if metadata is None:
        return []
    inspector = inspect(connection)
    there = set(inspector.get_table_names())
    lacking = []
    for table in metadata.sorted_tables:
        if table.name not in there or not table.indexes:
            continue
        found = inspector.get_indexes(table.name)
        names = {index["name"] for index in found}
        alike = {(tuple(index["column_names"]), bool(index["unique"])) for index in found}
        for index in table.indexes:
            columns = tuple(getattr(one, "name", None) for one in index.expressions)
            if index.name not in names and (columns, bool(index.unique)) not in alike:
                lacking.append(f"{table.name}.{index.name}")
    return sorted(lacking)


def complete(
    connection: "Connection", chain: Chain, metadata: "MetaData | None", *, columns: bool = True
) -> list[str]:
    """Add what is missing, in the transaction of *connection*; return what was done.

    *columns*: tables and columns too, else indexes alone. Raises SchemaError where something is
    missing that cannot be added without a person, with its name; and what the database raises.
    """
    if metadata is None:
        return []
    if columns:
        _refuse_guesses(connection, chain, metadata)
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    operations = Operations(MigrationContext.configure(connection))
    steps = []
    for operation in _additions(connection, chain, metadata):
        said = _described(operation)
        if not columns and not said.startswith("made the index"):
            continue
        if type(operation).__name__ == "AddColumnOp":
            _require_value(connection, operation)
        operations.invoke(operation)
        steps.append(said)
    return steps


def complete_from_scripts(connection: "Connection", chain: Chain) -> list[str]:
    """Add PostgreSQL's tables that *chain*, which has no models, makes and that are not there.

    The scripts run in a schema of their own, out of which what is missing is moved. Returns what
    was done; raises SchemaError where a column is missing, and what the database raises.
    """
    shape = migrations.columns_by_table(connection, chain)
    wanted = fingerprint.required_columns(connection, chain, None)
    for table in sorted(set(wanted) & set(shape)):
        if lacking := wanted[table] - shape[table]:
            raise SchemaError(f"the column {table}.{min(lacking)} is missing")
    missing = sorted(set(wanted) - set(shape))
    if not missing:
        return []
    home = str(connection.exec_driver_sql("SELECT current_schema()::text").scalar_one())
    quote = connection.dialect.identifier_preparer.quote
    connection.exec_driver_sql(f"CREATE SCHEMA {_SCRATCH}")
    connection.exec_driver_sql(f"SET LOCAL search_path TO {_SCRATCH}")
    migrations.upgrade(connection, chain, None)
    connection.exec_driver_sql(f"SET LOCAL search_path TO {quote(home)}")
    for table in missing:
        connection.exec_driver_sql(
            f"ALTER TABLE {_SCRATCH}.{quote(table)} SET SCHEMA {quote(home)}"
        )
    connection.exec_driver_sql(f"DROP SCHEMA {_SCRATCH} CASCADE")
    return [f"made the table {table}, which was missing" for table in missing]


def _refuse_guesses(connection: "Connection", chain: Chain, metadata: "MetaData") -> None:
    """Raise SchemaError where what is missing may be there under another name, or is no model's."""
    shape = migrations.columns_by_table(connection, chain)
    for table, wanted in fingerprint.required_columns(connection, chain, metadata).items():
        missing, more = wanted - shape.get(table, wanted), shape.get(table, wanted) - wanted
        if missing and more:
            raise SchemaError(
                f"{table}.{min(missing)} is missing; {table}.{min(more)} is too many: where it is "
                f"that column under another name, 'ALTER TABLE {table} RENAME {min(more)} TO "
                f"{min(missing)}' is right, else 'ALTER TABLE {table} DROP {min(more)}'; then run "
                f"'edgepaas schema --repair' again"
            )


def _additions(
    connection: "Connection", chain: Chain, metadata: "MetaData"
) -> Iterator["MigrateOperation"]:
    """Yield what Alembic would add to get from the database to the models."""
    from alembic.autogenerate import produce_migrations
    from alembic.operations import ops

    context = migrations.comparison(connection, chain, metadata)
    produced = produce_migrations(context, metadata).upgrade_ops
    wanted = (ops.CreateTableOp, ops.AddColumnOp, ops.CreateIndexOp, ops.CreateUniqueConstraintOp)
    pending = list(produced.ops if produced is not None else ())
    while pending:
        operation = pending.pop(0)
        if isinstance(operation, ops.OpContainer):
            pending[:0] = operation.ops
        elif isinstance(operation, wanted) or (
            isinstance(operation, ops.AlterColumnOp) and _widens(connection, operation)
        ):
            yield operation


def _widens(connection: "Connection", operation: "AlterColumnOp") -> bool:
    """Whether only the type changes, to one that holds all that the present one does."""
    if operation.modify_type is None or operation.existing_type is None:
        return False
    before, after = (
        kind.compile(dialect=connection.dialect).lower()
        for kind in (operation.existing_type, operation.modify_type)
    )
    operation.modify_nullable = None
    operation.modify_server_default = False
    return before != after and not is_narrower(before, after)


def _described(operation: "MigrateOperation") -> str:
    found: Any = operation
    kind = type(operation).__name__
    if kind == "CreateTableOp":
        return f"made the table {found.table_name}, which was missing"
    if kind == "AddColumnOp":
        return f"added the column {found.table_name}.{found.column.name}, which was missing"
    if kind == "AlterColumnOp":
        return f"widened {found.table_name}.{found.column_name} to {found.modify_type}"
    name = found.index_name if kind == "CreateIndexOp" else found.constraint_name
    return f"made the index {name} of {found.table_name}, which was missing"


def _require_value(connection: "Connection", operation: "MigrateOperation") -> None:
    """Raise SchemaError where the rows that are there would have no value for the new column."""
    found: Any = operation
    column, table = found.column, found.table_name
    if column.nullable or column.server_default is not None:
        return
    quote = connection.dialect.identifier_preparer.quote
    if connection.exec_driver_sql(f"SELECT 1 FROM {quote(table)} LIMIT 1").first() is None:  # noqa: S608
        return
    kind = column.type.compile(dialect=connection.dialect)
    raise SchemaError(
        f"the column {table}.{column.name} is missing and demands a value, which the rows that are "
        f"there have not: 'ALTER TABLE {table} ADD {column.name} {kind} NOT NULL DEFAULT …' says "
        f"which; then run 'edgepaas schema --repair' again"
    )
