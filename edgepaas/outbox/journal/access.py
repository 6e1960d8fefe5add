# SPDX-License-Identifier: Apache-2.0
"""The journal opened by who does not keep it: a missing one is told from an unreadable one.

Of a journal that is not there nothing can be known, for ever; one that cannot be read now, since
another process sets it aside or the disk answers with errors, may be readable in a moment.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from edgepaas.errors import DatabaseError
from edgepaas.files.locks import LockHeld, held
from edgepaas.files.sqlite_file import note_damage, open_refusal_reason
from edgepaas.outbox.journal import reading, tables
from edgepaas.outbox.journal.entries import StoredEntry
from edgepaas.outbox.journal.opening import LOCK_TIMEOUT, JournalUnusable, connected, says_damaged

T = TypeVar("T")


class JournalUnreadable(JournalUnusable):
    """The journal is there, and cannot be read now."""


@contextlib.contextmanager
def opened_if_there(
    path: Path, *, lock_timeout: float | None = None, busy_timeout: float | None = None
) -> Iterator[sqlite3.Connection | None]:
    """Give a connection to the journal *path*; None where there is none, or an empty file.

    Nobody sets the file aside meanwhile: closing it would delete the -wal of the one in its
    place. Raises JournalUnreadable; what the block raises passes.
    """
    with contextlib.ExitStack() as opened:
        with of_the_journal(path):
            connection = None
            if path.exists():
                wait = LOCK_TIMEOUT if lock_timeout is None else lock_timeout
                opened.enter_context(held(tables.lock_of(path), shared=True, timeout=wait))
                # By now another process may have set it aside.
                connection = _opened(path, busy_timeout) if path.exists() else None
        if connection is not None:
            opened.callback(connection.close)
        yield connection


@contextlib.contextmanager
def of_the_journal(path: Path | None = None) -> Iterator[None]:
    """Raise JournalUnreadable for what the block, which works with the journal alone, raises."""
    try:
        yield
    except JournalUnreadable:
        raise
    except (sqlite3.Error, OSError, LockHeld, DatabaseError, JournalUnusable) as error:
        where = "" if path is None else f" {path}"
        if path is not None and says_damaged(error):
            note_damage(path, error)  # whoever opens it next looks at all of it
        raise JournalUnreadable(f"the journal{where} cannot be read: {error}") from error


def given_by_the_journal(items: Iterable[T]) -> Iterator[T]:
    """Give *items*, which are read from the journal; raises JournalUnreadable."""
    iterator = iter(items)
    while True:
        with of_the_journal():
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def youngest_order(path: Path) -> int:
    """Return the greatest order that the journal *path* has, or had, given out; 0 without one.

    Raises JournalUnreadable.
    """
    with opened_if_there(path) as connection, of_the_journal(path):
        return 0 if connection is None else reading.youngest_order(connection)


@contextlib.contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Have all that the block reads be of one moment, whatever others write or delete."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


class JournalSnapshot:
    """The journal as it was at one moment, over a *connection* with an open transaction.

    Every method raises JournalUnreadable.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        with of_the_journal(path):
            # The moment is that of the first read.
            self._joined = reading.joined_streams(connection)

    def lacking(self, hub: Mapping[str, int], *, newest: int = 0) -> list[StoredEntry]:
        """Return the confirmed entries that a hub with these marks lacks; in order, no changes.

        *newest*: only among so many rows at the end.
        """
        with of_the_journal(self._path):
            return reading.lacking(self._connection, hub, newest=newest)

    def with_changes(self, entry: StoredEntry) -> StoredEntry:
        """Return *entry* with its changes."""
        with of_the_journal(self._path):
            return reading.with_changes(self._connection, entry)

    def doubtful(self, hub: Mapping[str, int]) -> list[StoredEntry]:
        """Return the entries in doubt that a hub with these marks lacks; in order, no changes."""
        with of_the_journal(self._path):
            return reading.doubtful(self._connection, hub)

    def with_changes_in_doubt(self, entry: StoredEntry) -> StoredEntry:
        """Return *entry*, which is in doubt, with those of its changes that may be sent again."""
        with of_the_journal(self._path):
            return reading.with_changes_in_doubt(self._connection, entry)

    @property
    def joined_streams(self) -> Mapping[str, str]:
        """By stream the one on the hub that it was, or is being, joined to."""
        return self._joined


def _opened(path: Path, busy_timeout: float | None) -> sqlite3.Connection | None:
    if reason := open_refusal_reason(path):
        raise JournalUnreadable(f"the journal {path} cannot be read: {reason}")
    connection = connected(path, busy_timeout=busy_timeout)
    try:
        found = tables.version(connection)
        if found > tables.VERSION:
            raise JournalUnreadable(
                f"the journal {path} cannot be read: it is of a newer release (version {found})"
            )
        if found == tables.VERSION:
            return connection
    except BaseException:
        connection.close()
        raise
    connection.close()  # whoever creates it was killed, or is at it
    return None
