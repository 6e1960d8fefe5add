# SPDX-License-Identifier: Apache-2.0
"""What the file knows of the hub's history, and what became of what a hub lost.

The *history mark* is a number that this file moves on the hub after it has mirrored something
(table ``sync_histories``). A hub that has it has all that the file mirrored before: it was
committed earlier. A hub that has it no longer went back in time, or is another one.
"""

import sqlite3
import uuid
from dataclasses import dataclass

from edgepaas.database.reserved_names import RECOVERY
from edgepaas.outbox import tables

_TABLE = f"""CREATE TABLE IF NOT EXISTS {RECOVERY} (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    file_id TEXT NOT NULL,
    history_id TEXT NOT NULL DEFAULT '',
    history_mark INTEGER NOT NULL DEFAULT 0,
    broken INTEGER NOT NULL DEFAULT 0)"""


@dataclass(frozen=True)
class HistoryMark:
    """The mark of this file in a hub's history; ``history_id`` is empty before the first.

    *broken*: a hub was found that does not have it; what is missing there is to be sent again.
    """

    history_id: str = ""
    mark: int = 0
    broken: bool = False


def read_history(connection: sqlite3.Connection) -> HistoryMark:
    """Return what the file knows; raises sqlite3.Error."""
    if not _exists(connection):
        return HistoryMark()
    row = connection.execute(
        f"SELECT history_id, history_mark, broken FROM {RECOVERY}"  # noqa: S608
    ).fetchone()
    return HistoryMark() if row is None else HistoryMark(row[0], row[1], row[2] == 1)


def note_history(connection: sqlite3.Connection, history_id: str, mark: int) -> None:
    """Note that the hub has *mark* under *history_id*, and that its history is whole.

    In the caller's transaction if one is open. Raises sqlite3.Error.
    """
    with tables.transaction(connection):
        _create(connection)
        connection.execute(
            f"UPDATE {RECOVERY} SET history_id = ?, history_mark = ?, broken = 0",  # noqa: S608
            (history_id, mark),
        )


def note_broken(connection: sqlite3.Connection) -> None:
    """Note that a hub's history was found to be broken; nothing is written where it is known."""
    if read_history(connection).broken:
        return
    with tables.transaction(connection):
        _create(connection)
        connection.execute(f"UPDATE {RECOVERY} SET broken = 1")  # noqa: S608


def file_id(connection: sqlite3.Connection) -> str:
    """Return the id of this file, which tells its counts from those of an earlier one."""
    with tables.transaction(connection):
        _create(connection)
        row = connection.execute(f"SELECT file_id FROM {RECOVERY}").fetchone()  # noqa: S608
    return str(row[0])


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(_TABLE)
    connection.execute(
        f"INSERT OR IGNORE INTO {RECOVERY} (id, file_id) VALUES (1, ?)",  # noqa: S608
        (str(uuid.uuid4()),),
    )


def _exists(connection: sqlite3.Connection) -> bool:
    found = connection.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (RECOVERY,)
    )
    return found.fetchone() is not None
