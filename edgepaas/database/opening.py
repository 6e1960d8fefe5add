# SPDX-License-Identifier: Apache-2.0
"""From the decision to an open database; only the chosen one's code is imported."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgepaas.database.database import Database
from edgepaas.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from edgepaas.database.postgresql.connector import Connector
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.marks.keeper import MarkKeeper
    from edgepaas.settings import Settings

logger = logging.getLogger("edgepaas.database")


def open_database(
    contract: "DatabaseContract",
    settings: "Settings",
    paths: "Paths",
    *,
    connector: "Connector | None" = None,
    forwarded: Sequence[str] | None = None,
) -> Database:
    """Open the database that *contract* names, without creating or changing anything in it.

    SQLite: holds the shared lock on ``paths.database_lock`` until it is closed. Raises
    DatabaseUnavailable when the SQLite file is not there or is locked for a swap; a
    PostgreSQL is connected to only by the first use. Where there is a hub, the drainer is
    woken through ``paths.sync_wake`` by each commit that has something for it. *connector*: of
    :func:`box_connector`, where it has been made before.

    *forwarded*: the names of the forwarded tables, by a process that serves: what a PostgreSQL
    acknowledges to it is marked there, and the rows of these tables are counted.
    """
    if contract.sqlite_active:
        from edgepaas.database.sqlite.database import EmbeddedDatabase
        from edgepaas.database.sqlite.sync_wakeup import Waker

        return EmbeddedDatabase(
            contract.sqlite_path,
            lock=paths.database_lock,
            readers=max(settings.integer("THREADS"), settings.integer("DB_POOL_SIZE")),
            patience=settings.number("DB_STATEMENT_TIMEOUT") or None,
            on_commit=Waker(paths.sync_wake) if contract.hub_url else _do_nothing,
        )
    if not contract.database_url:
        raise DatabaseUnavailable("the decision names no database: run 'edgepaas dbdecide'")
    from edgepaas.database.postgresql.database import ServerDatabase

    return ServerDatabase(
        contract.database_url,
        settings,
        connector=connector or box_connector(contract, settings, paths),
        marks=None if forwarded is None else _marks(paths, forwarded, connector),
    )


def box_connector(
    contract: "DatabaseContract", settings: "Settings", paths: "Paths"
) -> "Connector":
    """Return what connects to the contract's PostgreSQL, with what is known of the link to it."""
    from edgepaas.database.postgresql.connector import service_connector
    from edgepaas.decision.link_record import recorded_link
    from edgepaas.settings.urls import split_url

    link = recorded_link(paths, split_url(contract.database_url))
    return service_connector(contract.database_url, settings, link)


def _marks(
    paths: "Paths", forwarded: Sequence[str], connector: "Connector | None"
) -> "MarkKeeper | None":
    """Return what keeps the marks of this process's connections; None on a disk that is dead."""
    early = connector.keeper if connector is not None else None
    if early is not None and set(early.tables) == set(forwarded):
        return early
    return new_keeper(paths, forwarded)


def new_keeper(paths: "Paths", forwarded: Sequence[str]) -> "MarkKeeper | None":
    """Return what keeps marks, counting the rows of the tables *forwarded*.

    None on a disk that is dead.
    """
    from edgepaas.files.locks import LockHeld
    from edgepaas.files.node_identity import node_identity
    from edgepaas.marks.keeper import MarkKeeper

    try:
        node_id = node_identity(paths).node_id
    except (OSError, LockHeld) as error:
        logger.warning("no marks are kept of what PostgreSQL acknowledges: %s", error)
        return None
    return MarkKeeper(paths, node_id, forwarded)


def _do_nothing() -> None:
    """Commits are not reported: there is no hub."""
