# SPDX-License-Identifier: Apache-2.0
"""The SQLite file and copies of it through SQLAlchemy: how they are opened, and if they fit."""

import contextlib
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.files.paths import Paths
from edgepaas.outbox.tables import transaction
from edgepaas.schema.chain import Chain
from edgepaas.schema.ownership import claim_file, ownership_of_file
from edgepaas.schema.sqlite import file_operations as files
from edgepaas.schema.table_contract import last_user

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData


@contextlib.contextmanager
def finished_copy(path: Path, source: Path | None) -> "Iterator[tuple[Path, Connection]]":
    """Give a file beside *path*, a copy of *source* or empty, and a connection in a transaction.

    Foreign keys are off: batch mode drops the parent table, and cascades would empty the
    children. So is capture, without its triggers: SQLite drops no column that one names; what
    waits in the outbox stays as it was captured. The transaction is committed and the file
    closed at the block's end; on an exception it is removed. Raises UnknownOutbox at the block's
    end where a newer release wrote *source*: the copy may be looked at, and takes no change.
    """
    from edgepaas.schema.migrations import migration_engine

    copy = files.temporary_beside(path)
    try:
        if source is not None:
            files.copy_database(source, copy)
        engine = migration_engine(partial(_open_for_migration, copy), "sqlite://")
        try:
            with engine.begin() as connection, _without_capture(connection):
                yield copy, connection
        finally:
            engine.dispose()
    except BaseException:
        files.discard(copy)
        raise


def _open_for_migration(path: Path) -> sqlite3.Connection:
    from edgepaas.outbox.space.vacuum import prepare

    connection = open_sqlite(path, create=True)
    if connection.execute("SELECT 1 FROM sqlite_schema").fetchone() is None:
        prepare(connection)
    connection.execute("PRAGMA foreign_keys=OFF")
    return connection


@contextlib.contextmanager
def _without_capture(connection: "Connection") -> Iterator[None]:
    from edgepaas.outbox import strictness, versions
    from edgepaas.outbox.capture import drop_triggers, paused
    from edgepaas.outbox.resending import agreed_rows

    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise TypeError(f"{driver!r} is no connection to an SQLite file")
    if unknown := versions.problem(driver):
        yield  # its triggers could not be put back afterwards
        raise versions.UnknownOutbox(unknown)
    drop_triggers(driver)
    agreed_rows.forget_all(driver)  # a migration may change any value, on both sides
    strictness.drop(driver)
    with paused(driver):
        yield


def outbox_problem(path: Path) -> str:
    """Return why this build cannot use the outbox in the file *path*; empty when it can.

    Raises sqlite3.Error.
    """
    from edgepaas.outbox import versions

    with contextlib.closing(open_sqlite(path)) as connection:
        return versions.problem(connection)


def other_owner(path: Path, paths: Paths, chain: Chain) -> str:
    """Return the application whose file this is, if it is not *chain*'s; else empty.

    By the name in it; in a file of the releases before there was one, by who used it last.
    Raises sqlite3.Error.
    """
    with contextlib.closing(open_sqlite(path)) as connection:
        found = ownership_of_file(connection, chain)
    if found.owners:
        return found.other(chain)
    last = last_user(paths, path)
    return "" if last in ("", *chain.names) else last


def write_name(path: Path, chain: Chain) -> None:
    """Write the application's name into a file that has none yet; raises sqlite3.Error."""
    with contextlib.closing(open_sqlite(path)) as connection, transaction(connection):
        claim_file(connection, chain)


def incompatibility(path: Path, chain: Chain, metadata: "MetaData | None") -> str:
    """Return why the models cannot work on the file as it is; empty when they can."""
    from edgepaas.schema import fingerprint, migrations

    engine = migrations.migration_engine(partial(open_sqlite, path), "sqlite://")
    try:
        with engine.connect() as connection:
            needs = fingerprint.required_columns(connection, chain, metadata)
            return fingerprint.incompatibility_of(
                migrations.columns_by_table(connection, chain), connection, needs
            )
    finally:
        engine.dispose()


def missing_tables(path: Path, metadata: "MetaData | None") -> bool:
    """Whether a table of the models is not in the file."""
    with contextlib.closing(open_sqlite(path)) as connection:
        there = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema")}
    return metadata is not None and not set(metadata.tables) <= there
