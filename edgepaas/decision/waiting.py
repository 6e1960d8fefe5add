# SPDX-License-Identifier: Apache-2.0
"""How many rows of the SQLite file PostgreSQL does not have, asked without changing the file."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.files.locks import LockHeld, held
from edgepaas.files.sqlite_file import open_refusal_reason

if TYPE_CHECKING:
    from edgepaas.decision.contract import DatabaseContract

#: Seconds to wait for a process that swaps or repairs the file.
_LOCK_TIMEOUT = 2.0
_BUSY_TIMEOUT = 1.0
#: In a larger file, counting would read for seconds: the highest row number has to do.
_COUNTED_BYTES = 64 * 1024 * 1024

#: So many rows of the outbox are counted; of more, the sequence numbers tell.
_COUNTED_ROWS = 10_000

#: Tables that are no application's (edgepaas.database.reserved_names).
_NOT_ROWS = "outbox"
_NOT_ROWS_PREFIXES = ("alembic_version", "edgepaas_", "sqlite_", "outbox_", "_alembic_tmp_")


@dataclass(frozen=True)
class Waiting:
    """What the file holds; where it is not ``readable``, ``problem`` says why.

    ``rows`` are in the outbox and are sent by themselves. Without an outbox nothing sends
    the rows of the application's tables: they are ``unsent``, and lead to no other choice.
    """

    rows: int = 0
    readable: bool = True
    problem: str = ""
    unsent: int = 0
    #: They are too many to be counted at each boot: ``unsent`` is an estimate.
    estimated: bool = False

    @property
    def may_hold_unsent_rows(self) -> bool:
        """Whether the file may hold rows that are still to be sent."""
        return self.rows > 0 or not self.readable

    @property
    def total(self) -> int:
        """All rows that PostgreSQL does not have."""
        return self.rows + self.unsent


def rows_waiting(sqlite_path: Path, lock: Path | None = None) -> Waiting:
    """Count the rows that wait in *sqlite_path*, opened read-only.

    No file and no table are no rows. *lock* is held shared meanwhile, as by every process
    that opens the file. Never raises: a file that cannot be read is reported as such, and the
    schema stage deals with it.
    """
    try:
        if not sqlite_path.exists():
            return Waiting()
        if lock is None:
            return _count(sqlite_path)
        with held(lock, shared=True, timeout=_LOCK_TIMEOUT):
            return _count(sqlite_path)
    except (OSError, ValueError, LockHeld, sqlite3.Error) as error:
        return Waiting(readable=False, problem=" ".join(str(error).split()))


def is_sound_and_empty(path: Path) -> bool:
    """Whether the file *path* is known to be sound and without a row, of whatever table."""
    try:
        if open_refusal_reason(path):
            return False
        with closing(_opened(path)) as connection:
            if _in_outbox(connection):
                return False
            for name in _own_tables(connection):
                quoted = _quoted(name)
                if connection.execute(f"SELECT 1 FROM {quoted} LIMIT 1").fetchone():  # noqa: S608
                    return False
            return str(connection.execute("PRAGMA quick_check(1)").fetchone()[0]) == "ok"
    except (OSError, ValueError, sqlite3.Error):
        return False


def rows_not_in_postgres(contract: "DatabaseContract") -> int | None:
    """Return how many rows of the box are not in its PostgreSQL right now; None: unknown.

    Without a PostgreSQL nothing waits.
    """
    if not contract.hub_url:
        return 0
    found = rows_waiting(contract.sqlite_path)
    return found.total if found.readable else None


def _count(path: Path) -> Waiting:
    problem = open_refusal_reason(path)
    if problem:
        return Waiting(readable=False, problem=f"{path} cannot be read: {problem}")
    with closing(_opened(path)) as connection:
        waiting = _in_outbox(connection)
        if waiting is not None:
            return Waiting(rows=waiting)
        return _count_tables(connection, _own_tables(connection), path.stat().st_size)


def _own_tables(connection: sqlite3.Connection) -> list[str]:
    """Return the application's tables."""
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    return [
        str(name)
        for (name,) in names
        if name != _NOT_ROWS and not name.startswith(_NOT_ROWS_PREFIXES)
    ]


def _in_outbox(connection: sqlite3.Connection) -> int | None:
    """Return how many rows of the outbox the hub has not confirmed; None without an outbox.

    Of very many at most that many: numbers of rows that were shed are counted with them.
    """
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name IN ('outbox', 'outbox_state')"
    ).fetchall()
    if ("outbox",) not in names:
        return None
    confirmed = 0
    if ("outbox_state",) in names:
        (confirmed,) = connection.execute("SELECT max(confirmed_seq) FROM outbox_state").fetchone()
    counted, last = connection.execute(
        "SELECT count(*), (SELECT max(seq) FROM outbox) "
        "FROM (SELECT 1 FROM outbox WHERE seq > ? LIMIT ?)",
        (confirmed or 0, _COUNTED_ROWS),
    ).fetchone()
    return int(counted if counted < _COUNTED_ROWS else last - (confirmed or 0))


def _opened(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT)


def _quoted(table: str) -> str:
    return '"' + table.replace('"', '""') + '"'


def _count_tables(connection: sqlite3.Connection, tables: list[str], size: int) -> Waiting:
    estimated = size > _COUNTED_BYTES
    rows = 0
    for table in tables:
        quoted = _quoted(table)
        if estimated:
            try:
                found = connection.execute(f"SELECT max(_rowid_) FROM {quoted}")  # noqa: S608
                rows += int(found.fetchone()[0] or 0)
                continue
            except sqlite3.OperationalError:
                pass  # a table WITHOUT ROWID: there is no quicker way
        rows += int(connection.execute(f"SELECT count(*) FROM {quoted}").fetchone()[0])  # noqa: S608
    return Waiting(unsent=rows, estimated=estimated)
