# SPDX-License-Identifier: Apache-2.0
"""Which captured rows belong to one source transaction.

A group commit carries several. Triggers know no transaction, so the writer leaves a marker
for each of its jobs that captured more than one row; any other row stands for itself.
"""

import sqlite3

from edgepaas.database.reserved_names import OUTBOX, TRANSACTIONS

#: The greatest number ever given out, as an SQL expression. The counter may lag behind the
#: rows after an INSERT OR FAIL that failed half-way; an outbox reclaimed to its end has only
#: the counter.
LAST_SEQ = (
    f"max(coalesce((SELECT max(seq) FROM {OUTBOX}), 0), "  # noqa: S608
    f"coalesce((SELECT seq FROM sqlite_sequence WHERE name = '{OUTBOX}'), 0))"
)
_INSTALLED = "SELECT count(*) FROM sqlite_schema WHERE name IN (?, ?) AND type = 'table'"
_MARK = f"INSERT INTO {TRANSACTIONS} (first, last) VALUES (?, ?)"  # noqa: S608


class TransactionStamp:
    """Stamps the jobs of the transactions on one *connection*; free where nothing is captured.

    ``captured`` counts the rows of the transaction that is open.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        """The outbox is there or not for as long as the file is open: the schema stage's work."""
        self._connection = connection
        found = connection.execute(_INSTALLED, (OUTBOX, TRANSACTIONS)).fetchone()
        self._installed = found[0] == 2
        self._first = self._last = 0

    @property
    def captured(self) -> int:
        """Rows captured since ``begin``."""
        return self._last - self._first

    def begin(self) -> None:
        """A transaction has begun, and has the write lock. Raises sqlite3.Error."""
        if self._installed:
            self._first = self._last = self._now()

    def mark(self) -> None:
        """A job of the transaction is done: what was captured since the last one is its."""
        if not self._installed:
            return
        last = self._now()
        if last - self._last > 1:
            self._connection.execute(_MARK, (self._last + 1, last))
        self._last = last

    def _now(self) -> int:
        return int(self._connection.execute(f"SELECT {LAST_SEQ}").fetchone()[0])
