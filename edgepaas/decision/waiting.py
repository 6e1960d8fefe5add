"""How many rows the SQLite file still has to send, asked without changing it."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edgepaas.files.locks import LockHeld, held

#: Seconds to wait for whoever swaps or repairs the file.
_LOCK_TIMEOUT = 2.0
_BUSY_TIMEOUT = 1.0


@dataclass(frozen=True)
class Waiting:
    """``rows`` wait to be sent; where the file is not ``readable``, ``problem`` says why."""

    rows: int = 0
    readable: bool = True
    problem: str = ""

    @property
    def any(self) -> bool:
        """Whether the file may hold rows that PostgreSQL does not have."""
        return self.rows > 0 or not self.readable


def rows_waiting(sqlite_path: Path, lock: Path | None = None) -> Waiting:
    """Count the rows of the table ``outbox`` in *sqlite_path*, opened read-only.

    No file and no such table are no rows. *lock* is held shared meanwhile, as by
    everybody who opens the file. Never raises: a file that cannot be read is reported
    as such, and the schema stage deals with it.
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


def _count(path: Path) -> Waiting:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT)) as connection:
        found = connection.execute(
            "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'outbox'"
        ).fetchone()
        if not found[0]:
            return Waiting()
        return Waiting(rows=int(connection.execute("SELECT count(*) FROM outbox").fetchone()[0]))
