# SPDX-License-Identifier: Apache-2.0
"""Running Alembic; the only module that imports it, and only when there is something to run."""

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sqlalchemy import Connection, Engine, create_engine, inspect, text

from edgepaas.database.reserved_names import APPLICATIONS
from edgepaas.schema import ownership
from edgepaas.schema.chain import SHARED_VERSION_TABLE, Chain, Revisions
from edgepaas.schema.errors import ChainIncomplete, SchemaError

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from sqlalchemy import MetaData

logger = logging.getLogger("edgepaas.schema")

#: A table and the names of its columns.
TableColumns = dict[str, frozenset[str]]

#: What Alembic writes a new migration from.
TEMPLATE = "script.py.mako"

_BATCH_TABLE = "_alembic_tmp_"


def upgrade(
    connection: Connection,
    chain: Chain,
    metadata: "MetaData | None",
    to: str = "heads",
    *,
    applied: Callable[[str], None] | None = None,
) -> None:
    """Migrate in the transaction that *connection* is in; raises what the migration raises.

    *applied* gets each revision that was applied, before the next one; what it raises as well.
    """
    if chain.unwritten:
        return
    chain.check_environment()
    _quiet_alembic()
    from alembic import command

    ownership.claim(connection, chain)
    config = _config(connection, chain, metadata)
    config.attributes["applied"] = applied
    command.upgrade(config, to)
    ownership.keep_in_step(connection, chain)


def downgrade(connection: Connection, chain: Chain, metadata: "MetaData | None", to: str) -> None:
    """Take revisions back until *to* is the newest; raises what a migration raises."""
    chain.check_environment()
    _quiet_alembic()
    from alembic import command

    ownership.claim(connection, chain)
    command.downgrade(_config(connection, chain, metadata), to)
    ownership.keep_in_step(connection, chain)


def write_sql(
    connection: Connection,
    chain: Chain,
    metadata: "MetaData | None",
    before: str,
    output: TextIO,
) -> None:
    """Write the SQL that leads PostgreSQL from revision *before* (empty: none) to head.

    Runs nothing; raises what a migration raises that asks the database.
    """
    chain.check_environment()
    _quiet_alembic()
    from alembic import command

    config = _config(connection, chain, metadata)
    config.output_buffer = output
    command.upgrade(config, f"{before}:heads" if before else "heads", sql=True)


def stamp(connection: Connection, chain: Chain, revisions: Revisions) -> None:
    """Write *revisions* as the version, without running anything."""
    # Importing Alembic for one table would double what a boot takes.
    ownership.claim(connection, chain)
    connection.exec_driver_sql(ownership.version_table_statement(chain.version_table))
    connection.exec_driver_sql(f"DELETE FROM {chain.version_table}")  # noqa: S608
    for revision in sorted(revisions):
        connection.execute(
            text(f"INSERT INTO {chain.version_table} (version_num) VALUES (:revision)"),  # noqa: S608
            {"revision": revision},
        )
    ownership.keep_in_step(connection, chain)


def versions(connection: Connection, chain: Chain) -> Revisions | None:
    """Return the revisions that the database says it has; None without a version table."""
    return ownership.ownership_of(connection, chain).revisions


def columns_by_table(connection: Connection, chain: Chain) -> TableColumns:
    """Return the tables that are there, but for version tables, the owner's name and SQLite's."""
    inspector = inspect(connection)
    return {
        name: frozenset(column["name"] for column in inspector.get_columns(name))
        for name in inspector.get_table_names()
        if name not in (chain.version_table, APPLICATIONS)
        and not name.startswith((_BATCH_TABLE, SHARED_VERSION_TABLE))
    }


def script_names(connection: Connection, chain: Chain) -> list[str]:
    """Return the chain's revisions in the order in which they are run."""
    chain.check_environment()
    _quiet_alembic()
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config(connection, chain, None))
    return [script.revision for script in reversed(list(scripts.walk_revisions()))]


def comparison(connection: Connection, chain: Chain, metadata: "MetaData") -> "MigrationContext":
    """Return what Alembic's autogenerate compares the database with the models by."""
    _quiet_alembic()
    from alembic.migration import MigrationContext

    def known(name: str | None, kind: str, _parents: Any) -> bool:
        return kind != "table" or name in metadata.tables

    return MigrationContext.configure(
        connection,
        opts={
            "compare_type": True,
            "include_name": known,
            "target_metadata": metadata,
            "version_table": chain.version_table,
        },
    )


def differences(connection: Connection, chain: Chain, metadata: "MetaData") -> list[Any]:
    """Return what Alembic's autogenerate would change to get from the database to the models."""
    context = comparison(connection, chain, metadata)
    from alembic.autogenerate import compare_metadata

    return list(compare_metadata(context, metadata))


def write_revision(chain: Chain, metadata: "MetaData", message: str, folder: Path) -> Path:
    """Write a new migration by comparing the models with a scratch database at head.

    Where the scripts have two heads it is the one that joins them. *folder* takes the scratch
    file. A missing ``versions/`` is made, a missing ``script.py.mako`` is the shipped one. Returns
    the new script's path; raises SchemaError when the models have not changed, ChainIncomplete
    without an ``env.py``.
    """
    chain.check_environment()
    assert chain.folder is not None  # noqa: S101 - callers have seen to it
    (chain.folder / "versions").mkdir(exist_ok=True)
    _quiet_alembic()
    from alembic import command

    number = 1 + max((int(r) for r in chain.parents if r.isdecimal()), default=0)
    engine = scratch_engine(f"sqlite:///{folder / 'scratch.db'}")
    try:
        with engine.connect() as connection:
            upgrade(connection, chain, metadata)
            connection.commit()
            joins = len(chain.heads) > 1
            if not joins and not differences(connection, chain, metadata):
                raise SchemaError("the models and the newest migration agree: nothing to write")
            connection.rollback()
            config = _config(connection, chain, metadata)
            with _template(chain.folder):
                if joins:
                    made: Any = command.merge(
                        config, sorted(chain.heads), message=message, rev_id=f"{number:04d}"
                    )
                else:
                    made = command.revision(
                        config, message=message, autogenerate=True, rev_id=f"{number:04d}"
                    )
    finally:
        engine.dispose()
    script = made[0] if isinstance(made, list) else made
    if script is None:
        raise SchemaError("Alembic wrote no migration")
    # An application may lie behind a link; what is to be read and committed is the file.
    return Path(script.path).resolve()


@contextlib.contextmanager
def _template(folder: Path) -> Iterator[None]:
    """Lend the shipped template to a *folder* that has none of its own."""
    wanted = folder / TEMPLATE
    if wanted.exists():
        yield
        return
    shutil.copyfile(shipped_template(), wanted)
    try:
        yield
    finally:
        wanted.unlink(missing_ok=True)


def shipped_template() -> Path:
    """Return the template that comes with this build."""
    package = Path(__file__).parents[1]
    places = (package / "_alembic" / TEMPLATE, package.parent / "alembic" / TEMPLATE)
    for place in places:
        if place.is_file():
            return place
    raise ChainIncomplete(f"{places[0]} is not there: install this build again")


def scratch_engine(url: str, **options: Any) -> Engine:
    """Return an engine for a database of SQLite's that is no box's file."""
    from sqlalchemy import event

    from edgepaas.database.sqlite import numeric_order

    engine = create_engine(url, **options)
    event.listen(engine, "connect", lambda connection, _: numeric_order.register(connection))
    return engine


def migration_engine(connect: Any, dialect: str) -> Engine:
    """Return an engine of one connection that *connect* makes; a transaction is IMMEDIATE."""
    from sqlalchemy import event
    from sqlalchemy.pool import NullPool

    engine = create_engine(dialect, creator=connect, poolclass=NullPool, hide_parameters=True)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _quiet_alembic() -> None:
    """Silence Alembic, which logs its plugins at INFO: what is done is logged here."""
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _config(connection: Connection, chain: Chain, metadata: "MetaData | None") -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(chain.folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    config.attributes.update(
        connection=connection, metadata=metadata, version_table=chain.version_table
    )
    return config
