# SPDX-License-Identifier: Apache-2.0
"""What the rules have found so far, in a small SQLite file of the box's own.

It lies beside the database, not in it: whichever database serves, and whenever that
changes, an alert that was raised is resolved, and a duration goes on. One transaction
takes the new states, the alerts that follow from them and the names of the batches that
they were made of, so that a batch counts once, however often it is read.
"""

import json
import logging
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepaas.app.storage import open_sqlite
from edgepaas.telemetry.rules.judging import Series, Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("edgepaas.rules")

#: Form of what is stored; another one is set aside and begun anew.
_FORM = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS series (
    rule TEXT NOT NULL, device TEXT NOT NULL, watch TEXT NOT NULL, state TEXT NOT NULL,
    PRIMARY KEY (rule, device)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notices (n INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS taken (
    database TEXT NOT NULL, batch TEXT NOT NULL, PRIMARY KEY (database, batch)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meter (one INTEGER PRIMARY KEY CHECK (one = 1), listened REAL NOT NULL);
INSERT OR IGNORE INTO meter VALUES (1, 0);
"""

#: One rule's state about one device.
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Notice:
    """An alert to be raised, or resolved; *n* is its place among those that wait."""

    n: int
    raised: bool
    message: str
    severity: str
    fingerprint: str


@dataclass(slots=True)
class Known:
    """A state as it is stored, with the rule that it was made by."""

    watch: Watch
    series: Series


class RuleStore:
    """The file *path*; for one thread at a time, and for one process (its follower's lock)."""

    def __init__(self, path: Path) -> None:
        """Open *path*, made when it is not there; one that cannot be used is set aside."""
        self._path = path
        self._connection = self._open()

    def load(self) -> tuple[dict[Key, Known], float]:
        """Return every state, and for how long (seconds) the box has listened."""
        rows = self._connection.execute("SELECT rule, device, watch, state FROM series")
        known = {
            (rule, device): Known(Watch(*json.loads(watch)), Series(*json.loads(state)))
            for rule, device, watch, state in rows
        }
        (listened,) = self._connection.execute("SELECT listened FROM meter").fetchone()
        return known, float(listened)

    def taken(self, database: str) -> set[str]:
        """Return the batches of *database* that count already and may still be there."""
        rows = self._connection.execute("SELECT batch FROM taken WHERE database = ?", (database,))
        return {batch for (batch,) in rows}

    def keep(
        self,
        known: Mapping[Key, Known | None],
        notices: Iterable[Notice],
        listened: float,
        *,
        database: str = "",
        taken: Iterable[str] = (),
        gone: Iterable[str] = (),
    ) -> None:
        """Store all of it in one transaction; a state of None is deleted.

        *taken* are the batches of *database* that the states were made of, *gone* those
        that are not in it any more. Raises sqlite3.Error, and then nothing is stored.
        """
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO series VALUES (?, ?, ?, ?)",
                [
                    (*key, json.dumps(_values(one.watch)), json.dumps(_values(one.series)))
                    for key, one in known.items()
                    if one is not None
                ],
            )
            connection.executemany(
                "DELETE FROM series WHERE rule = ? AND device = ?",
                [key for key, one in known.items() if one is None],
            )
            connection.executemany(
                "INSERT INTO notices (body) VALUES (?)",
                [(json.dumps(_values(notice)[1:]),) for notice in notices],
            )
            connection.executemany(
                "DELETE FROM taken WHERE database = ? AND batch = ?",
                [(database, batch) for batch in gone],
            )
            connection.executemany(
                "INSERT OR IGNORE INTO taken VALUES (?, ?)", [(database, one) for one in taken]
            )
            connection.execute("UPDATE meter SET listened = ?", (listened,))

    def next_notice(self) -> Notice | None:
        """Return the oldest alert that waits, None without one."""
        row = self._connection.execute("SELECT n, body FROM notices ORDER BY n LIMIT 1").fetchone()
        return None if row is None else Notice(row[0], *json.loads(row[1]))

    def forget_notice(self, notice: Notice) -> None:
        """Drop *notice*: it was told."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM notices WHERE n = ?", (notice.n,))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> "Iterator[sqlite3.Connection]":
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _open(self) -> sqlite3.Connection:
        try:
            return _opened(self._path)
        except (sqlite3.DatabaseError, ValueError) as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # the disk's fault, or a lock's: what is stored is not to blame
            logger.error(
                "%s cannot be used (%s): it is set aside as %s.damaged, and every rule begins "
                "anew; alerts of rules that are raised now are to be discarded by hand",
                self._path,
                error,
                self._path,
            )
            for suffix in ("", "-wal", "-shm"):
                beside = self._path.with_name(self._path.name + suffix)
                if beside.exists():
                    beside.replace(self._path.with_name(f"{self._path.name}.damaged{suffix}"))
            return _opened(self._path)


def _opened(path: Path) -> sqlite3.Connection:
    connection = open_sqlite(path, create=True)
    try:
        (form,) = connection.execute("PRAGMA user_version").fetchone()
        if form not in (0, _FORM):
            raise ValueError(f"its form is {form}, and this build knows {_FORM}")
        connection.executescript(_SCHEMA)
        connection.execute(f"PRAGMA user_version = {_FORM}")
        problem = _problem(connection)
        if problem != "ok":
            raise ValueError(problem)
    except BaseException:
        connection.close()
        raise
    return connection


def _values(one: Watch | Series | Notice) -> list[Any]:
    # dataclasses.astuple() copies deeply, at ten times the price.
    return [getattr(one, name) for name in one.__slots__]


def _problem(connection: sqlite3.Connection) -> Any:
    return connection.execute("PRAGMA quick_check(1)").fetchone()[0]
