# SPDX-License-Identifier: Apache-2.0
"""No write of the service goes uncaptured: triggers that were dropped are put back before it.

SQLite counts the changes of a file's schema (https://sqlite.org/pragma.html#pragma_schema_version),
and nobody else changes anything while a transaction has the write lock. So one look at that number
when a transaction begins, and one before it commits, tell whether the triggers are those that
were there last.
"""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_VERSION = "PRAGMA schema_version"


@dataclass(frozen=True)
class Capture:
    """How changes of a file are captured.

    *restore* puts back what is missing, in the open transaction, and returns what that was.
    *notify* is told of it; it must neither wait nor fail.
    """

    restore: Callable[[sqlite3.Connection], Sequence[str]]
    notify: Callable[[Sequence[str]], None]


class CaptureGuard:
    """Guards the transactions on *connection*; free where *capture* returns None."""

    def __init__(
        self, connection: sqlite3.Connection, capture: Callable[[], Capture | None]
    ) -> None:
        """*capture* returns what captures at the time of a transaction; None: nothing does."""
        self._connection = connection
        self._capture = capture
        #: The schema's version when its triggers were last looked at.
        self._seen = -1

    def begin(self) -> None:
        """Put back what is missing; the transaction has the write lock. Raises sqlite3.Error."""
        capture = self._capture()
        if capture is None or self._version() == self._seen:
            return
        missing = capture.restore(self._connection)
        self._seen = self._version()
        if missing:
            capture.notify(missing)

    def finish(self) -> None:
        """Raise RuntimeError where the transaction itself removed triggers, before it commits.

        What it wrote afterwards is not captured. Raises sqlite3.Error.
        """
        capture = self._capture()
        if capture is None or (now := self._version()) == self._seen:
            return
        # A savepoint leaves the transaction as it is for those who look at it.
        self._connection.execute("SAVEPOINT guard")
        try:
            missing = capture.restore(self._connection)
        finally:
            self._connection.execute("ROLLBACK TO guard")
            self._connection.execute("RELEASE guard")
        if missing:
            raise RuntimeError(f"a write has removed what captures changes: {'; '.join(missing)}")
        self._seen = now

    def _version(self) -> int:
        return int(self._connection.execute(_VERSION).fetchone()[0])
