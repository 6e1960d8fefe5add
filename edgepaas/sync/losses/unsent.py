# SPDX-License-Identifier: Apache-2.0
"""What of this box PostgreSQL does not have, noted for whoever deletes the state folder.

Removing the package takes the code with it, and a purge that comes later finds files that only
the code understands: so it is asked before, once the service has stopped. A purge keeps what
is not known to be at home.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.decision.waiting import rows_waiting
from edgepaas.errors import EdgePaaSError
from edgepaas.files.atomic import write_atomic
from edgepaas.files.locks import held
from edgepaas.outbox.resending.recovery_state import read_history
from edgepaas.schema.sqlite.quarantine import list_quarantined

if TYPE_CHECKING:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths

#: Seconds to wait for whoever has the file open.
_TIMEOUT = 5.0


@dataclass(frozen=True)
class Unsent:
    """How many rows wait; *problem* says what could not be counted, empty where all was."""

    rows: int = 0
    problem: str = ""

    @property
    def text(self) -> str:
        """The note: a number in the first line, 0 alone says that nothing has to be kept."""
        first = str(self.rows) if self.rows or not self.problem else "unknown"
        return f"{first}\n{self.problem}\n" if self.problem else f"{first}\n"


def count_unsent(contract: "DatabaseContract", paths: "Paths") -> Unsent:
    """Count the rows of the box that have not reached its PostgreSQL.

    Without a PostgreSQL rows have no other home, but for those that were captured for one.
    """
    found = rows_waiting(contract.sqlite_path, paths.database_lock)
    if not found.readable:
        return Unsent(problem=found.problem)
    if not contract.hub_url:
        return Unsent(found.rows)
    aside = list_quarantined(paths, contract.sqlite_path)
    problem = aside[0].line if aside else _not_queued_yet(contract, paths)
    return Unsent(found.total, problem)


def _not_queued_yet(contract: "DatabaseContract", paths: "Paths") -> str:
    """Return what is to be said of rows that PostgreSQL lost and that are still here, if any."""
    path = contract.sqlite_path
    if not path.exists():
        return ""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with (
            held(paths.database_lock, shared=True, timeout=_TIMEOUT),
            closing(sqlite3.connect(uri, uri=True, timeout=_TIMEOUT)) as connection,
        ):
            if not read_history(connection).broken:
                return ""
    except (EdgePaaSError, OSError, sqlite3.Error) as error:
        return f"whether PostgreSQL has all that it confirmed cannot be read: {error}"
    return "PostgreSQL went back in time, and what it lost is not queued again yet"


def note_unsent(paths: "Paths", found: Unsent) -> None:
    """Keep *found* in the state folder, durably; raises OSError."""
    write_atomic(paths.unsent_rows, found.text, mode=0o600)
