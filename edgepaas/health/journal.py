# SPDX-License-Identifier: Apache-2.0
"""How far back the journal of what PostgreSQL acknowledged reaches, for every status."""

import contextlib
import sqlite3
from pathlib import Path

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.errors import DatabaseError
from edgepaas.health.checks import CheckFailed
from edgepaas.outbox.journal import reading
from edgepaas.timing.moment import rfc3339

_BUSY_TIMEOUT = 0.5
_OFF = "off (JOURNAL=false): what PostgreSQL loses of what it acknowledged cannot be sent again"


def journal_line(path: Path, *, enabled: bool) -> str:
    """Return a line on the journal *path*; raises CheckFailed where it cannot be read."""
    if not enabled:
        return _OFF
    if not path.exists():
        return "nothing was written to PostgreSQL yet"
    try:
        with contextlib.closing(
            open_sqlite(path, read_only=True, busy_timeout=_BUSY_TIMEOUT)
        ) as connection:
            found = reading.reach(connection)
    except (sqlite3.Error, DatabaseError) as error:
        raise CheckFailed(f"{path} cannot be read: {error}", ready=True) from error
    size = f"{found.bytes / 1024**2:.1f} MiB"
    if not found.oldest:
        return f"empty ({size})"
    return f"{found.rows:,} rows, back to {rfc3339(found.since)} ({size})"
