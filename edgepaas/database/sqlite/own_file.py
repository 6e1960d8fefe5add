# SPDX-License-Identifier: Apache-2.0
"""What the box's own SQLite file holds, asked while another database serves."""

import sqlite3
import uuid
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from sqlalchemy import Table

from edgepaas.database.bulk_insert import key_of
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.errors import DatabaseUnavailable, EdgePaaSError
from edgepaas.files.locks import held

#: Keys a statement.
_KEYS_AT_ONCE = 500
#: Seconds to wait for the lock of the box's own file.
_FILE_LOCK_SECONDS = 1.0


def ids_in_file(
    path: Path, lock: Path, table: Table, identities: Iterable[uuid.UUID]
) -> frozenset[uuid.UUID]:
    """Return which of these *identities* the SQLite file *path* holds in *table*.

    *lock* is held shared meanwhile. No file holds none. Raises DatabaseUnavailable.
    """
    if not path.exists():
        return frozenset()
    keys = [str(identity) for identity in identities]
    found: set[uuid.UUID] = set()
    try:
        with (
            held(lock, shared=True, timeout=_FILE_LOCK_SECONDS),
            closing(open_sqlite(path, read_only=True)) as connection,
        ):
            for start in range(0, len(keys), _KEYS_AT_ONCE):
                some = keys[start : start + _KEYS_AT_ONCE]
                marks = ", ".join("?" * len(some))
                name, key = f'"{table.name}"', f'"{key_of(table).name}"'
                statement = f"SELECT {key} FROM {name} WHERE {key} IN ({marks})"  # noqa: S608
                found.update(uuid.UUID(text) for (text,) in connection.execute(statement, some))
    except (sqlite3.Error, OSError, EdgePaaSError) as error:
        raise DatabaseUnavailable(f"{path} cannot be read: {error}") from error
    return frozenset(found)
