# SPDX-License-Identifier: Apache-2.0
"""Migrations: what ``env.py`` in an application's folder of migrations consists of.

::

    from alembic import context
    from edgepaas.app.migrations import run
    run(context)

The revisions beside it are Alembic's; their column types are those of
:mod:`edgepaas.app.models` (``models.Uuid()``). ``edgepaas schema`` runs them on both
databases, in one transaction, with a copy or a lock as the database wants it.

Rows that wait on a box were captured before the migration, and arrive at PostgreSQL after it. A
column or a table that is renamed (``op.alter_column``, ``op.rename_table``, batch mode, ``ALTER
TABLE … RENAME`` in raw SQL) is followed by itself. What cannot be seen is said inside
``upgrade()``: :func:`renamed` where the values of a column were copied to another one that takes
its place, :func:`renamed_table` the same of a table, :func:`retired` where a column goes whose
values need no place any more. Without it, a migration that drops what rows which wait have a value
for is refused until they are in PostgreSQL.
"""

from types import ModuleType
from typing import Any

from edgepaas.database.sqlite.numeric_type import exact_columns
from edgepaas.database.types import Numeric

#: Alembic's batch mode makes its copy of a table under this name.
BATCH_PREFIX = "_alembic_tmp_"
#: Where a migration finds what observes its connection, in ``Connection.info``.
OBSERVER = "edgepaas.renames"
#: Autogenerate writes the platform's column types as ``models.Uuid()``.
TYPES_PREFIX = "models."


def run(context: ModuleType) -> None:
    """Run the migrations on the connection that ``edgepaas schema`` handed over.

    *context* is ``alembic.context``. Everything happens in the caller's transaction, so
    that a migration is there as a whole or not at all on both databases. Raises
    RuntimeError under the bare ``alembic`` command, which knows no connection.
    """
    attributes = context.config.attributes
    connection = attributes.get("connection")
    if connection is None:
        raise RuntimeError(
            "run migrations with 'edgepaas schema' (make migrate, make migration MSG=…): "
            "it chooses the database, locks it and keeps what was there"
        )
    if context.is_offline_mode():  # a script for the owner of the tables ('schema --sql')
        context.configure(
            dialect_name=connection.dialect.name,
            dialect_opts={"paramstyle": "named"},  # per cent signs stay single
            target_metadata=attributes["metadata"],
            version_table=attributes["version_table"],
            literal_binds=True,
            transactional_ddl=False,
        )
        with context.begin_transaction():
            context.run_migrations()
        return
    context.configure(
        connection=connection,
        target_metadata=attributes["metadata"],
        version_table=attributes["version_table"],
        # SQLite alters hardly anything in place: Alembic copies the table instead.
        render_as_batch=True,
        user_module_prefix=TYPES_PREFIX,
        include_name=_only_known(attributes["metadata"]),
        compare_type=True,
        on_version_apply=_reported(attributes.get("applied")),
    )
    with context.begin_transaction(), exact_columns(_decimals(attributes["metadata"])):
        context.run_migrations()


def renamed(table: str, column: str, to: str) -> None:
    """Say, in ``upgrade()``, that values of *column* which still wait belong into column *to*.

    For a column that was copied and dropped. *table* is called so at the revision's end, *column*
    as before it. Raises ValueError, when the revision ends, where there is no column *to*.
    """
    if (lineage := _lineage()) is not None:
        lineage.declared(table, column, to)


def renamed_table(table: str, to: str) -> None:
    """Say, in ``upgrade()``, that rows of *table* which still wait belong into table *to*."""
    if (lineage := _lineage()) is not None:
        lineage.declared_table(table, to)


def retired(table: str, column: str) -> None:
    """Say, in ``upgrade()``, that values of *column* which still wait need no place any more.

    They do not hold the migration up, and are kept beside PostgreSQL's row as a conflict
    (``edgepaas sync conflicts``).
    """
    if (lineage := _lineage()) is not None:
        lineage.retired(table, column)


def _lineage() -> Any:
    """Return what follows the columns of the revision that runs; None where nobody does."""
    from alembic import op

    bind = op.get_bind()  # none where a script is written
    observer = None if bind is None else bind.info.get(OBSERVER)
    return None if observer is None else observer.lineage


def _reported(applied: Any) -> Any:
    """Return the callback of Alembic that tells *applied* each revision."""
    if applied is None:
        return ()

    def report(*, step: Any, **_: Any) -> None:
        if step.is_upgrade and not step.is_stamp:
            applied(step.up_revision_id)

    return report


def _decimals(metadata: Any) -> set[tuple[str, str]]:
    """Return the columns of the models that SQLite is to store as exact decimal numbers."""
    tables = () if metadata is None else metadata.tables.values()
    return {
        (table.name if prefix is None else f"{prefix}{table.name}", column.name)
        for table in tables
        for column in table.columns
        if isinstance(column.type, Numeric)
        for prefix in (None, BATCH_PREFIX)
    }


def _only_known(metadata: Any) -> Any:
    """Leave tables that are not the application's (the platform's own) out of a comparison."""

    def include(name: str | None, kind: str, _parents: Any) -> bool:
        return kind != "table" or metadata is None or name in metadata.tables

    return include
