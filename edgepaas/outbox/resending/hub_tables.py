# SPDX-License-Identifier: Apache-2.0
"""Which tables of the hub this file was mirrored from: one that was made anew is another one.

A table that is dropped and made again, or restored by itself, lacks what it had, and every mark
of the hub is as it was. What it lacks was lost, and not deleted. Where the table of history
marks is another one too, the whole database was moved, and its marks say what it has.
"""

import sqlite3
from collections.abc import Mapping

from edgepaas.database.reserved_names import HUB_TABLES
from edgepaas.outbox import tables

#: The hub's table of history marks; it is in every backup in which the marks are.
HISTORIES = "sync_histories"

_TABLE = f"CREATE TABLE IF NOT EXISTS {HUB_TABLES} (tbl TEXT PRIMARY KEY, oid INTEGER NOT NULL)"


def made_anew(connection: sqlite3.Connection, identities: Mapping[str, int]) -> frozenset[str]:
    """Return the tables that are not those that the file was mirrored from; raises sqlite3.Error.

    *identities*: PostgreSQL's oid of each table now.
    """
    known = _read(connection)
    if HISTORIES not in known or known[HISTORIES] != identities.get(HISTORIES):
        return frozenset()
    return frozenset(
        name for name, oid in identities.items() if name in known and known[name] != oid
    )


def note_identities(connection: sqlite3.Connection, identities: Mapping[str, int]) -> None:
    """Note from which tables the file was mirrored; nothing is written where that is known.

    A table that is not there just now stays noted: it may be made anew. In the caller's
    transaction if one is open. Raises sqlite3.Error.
    """
    if identities.items() <= _read(connection).items():
        return
    with tables.transaction(connection):
        connection.execute(_TABLE)
        connection.executemany(
            f"INSERT OR REPLACE INTO {HUB_TABLES} (tbl, oid) VALUES (?, ?)",  # noqa: S608
            identities.items(),
        )


def _read(connection: sqlite3.Connection) -> dict[str, int]:
    found = connection.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (HUB_TABLES,)
    )
    if found.fetchone() is None:
        return {}
    return dict(connection.execute(f"SELECT tbl, oid FROM {HUB_TABLES}"))  # noqa: S608
