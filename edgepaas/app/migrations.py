# SPDX-License-Identifier: Apache-2.0
"""Migrations: what ``env.py`` in an application's folder of migrations consists of.

::

    from alembic import context
    from edgepaas.app.migrations import run
    run(context)

The revisions beside it are Alembic's; their column types are those of
:mod:`edgepaas.app.models` (``models.Uuid()``). ``edgepaas schema`` runs them on both
databases, in one transaction, with a copy or a lock as the database wants it.
"""

from types import ModuleType
from typing import Any

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
    context.configure(
        connection=connection,
        target_metadata=attributes["metadata"],
        version_table=attributes["version_table"],
        # SQLite alters hardly anything in place: Alembic copies the table instead.
        render_as_batch=True,
        user_module_prefix=TYPES_PREFIX,
        include_name=_only_known(attributes["metadata"]),
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def _only_known(metadata: Any) -> Any:
    """Leave tables that are not the application's (the platform's own) out of a comparison."""

    def include(name: str | None, kind: str, _parents: Any) -> bool:
        return kind != "table" or metadata is None or name in metadata.tables

    return include
