# SPDX-License-Identifier: Apache-2.0
"""How far back the journal of what PostgreSQL acknowledged reaches, for every status."""

from pathlib import Path

from edgepaas.health.checks import CheckFailed
from edgepaas.outbox.journal import reading
from edgepaas.outbox.journal.access import JournalUnreadable, of_the_journal, opened_if_there
from edgepaas.timing.moment import rfc3339

_BUSY_TIMEOUT = 0.5
_LOCK_TIMEOUT = 0.1
_OFF = "off (JOURNAL=false): what PostgreSQL loses of what it acknowledged cannot be sent again"


def journal_line(path: Path, *, enabled: bool) -> str:
    """Return a line on the journal *path*; raises CheckFailed where it cannot be read."""
    if not enabled:
        return _OFF
    try:
        with (
            opened_if_there(
                path, lock_timeout=_LOCK_TIMEOUT, busy_timeout=_BUSY_TIMEOUT
            ) as connection,
            of_the_journal(path),
        ):
            if connection is None:
                return "nothing was written to PostgreSQL yet"
            found = reading.reach(connection)
    except JournalUnreadable as error:
        raise CheckFailed(str(error), ready=True) from error
    size = f"{found.bytes / 1024**2:.1f} MiB"
    if not found.oldest:
        return f"empty ({size})"
    return f"{found.rows:,} rows, back to {rfc3339(found.since)} ({size})"
