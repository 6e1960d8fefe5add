# SPDX-License-Identifier: Apache-2.0
"""The turn of the box's own history: while SQLite serves, the rest of the journal is copied."""

import contextlib
import logging
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.outbox.journal.access import JournalUnreadable, opened_if_there
from edgepaas.outbox.resending.own_history import FactCopier, copy_shared
from edgepaas.sync.mirror.ordered_rows import MirrorPostponed
from edgepaas.timing.due import Interval

if TYPE_CHECKING:
    from edgepaas.sync.box_file import BoxFile

logger = logging.getLogger("edgepaas.sync")

#: Seconds until a journal that could not be read is looked at again.
AGAIN_AFTER = 30.0


class HistoryTurn:
    """Copies facts that this box wrote to PostgreSQL into its file, some at each turn."""

    def __init__(self, journal: Path, *, wanted: bool) -> None:
        """*wanted*: whether SQLite serves."""
        self._path = journal
        self._wanted = wanted
        self._file: BoxFile | None = None
        self._copier: FactCopier | None = None
        self._opened = contextlib.ExitStack()
        self._again = Interval(AGAIN_AFTER)

    def take(self, file: "BoxFile | None") -> None:
        """Copy some into *file*; raises sqlite3.Error of it.

        A journal that cannot be read holds nothing up: it is looked at again later.
        """
        if not self._wanted or file is None or not file.captures:
            return
        try:
            if file is not self._file and self._again.left <= 0:
                self._open(file)
            if self._copier is not None:
                self._copier.step()
                if self._copier.done:
                    self._opened.close()
                    self._copier = None
        except JournalUnreadable as error:
            logger.warning("what this box wrote to PostgreSQL is not copied: %s", error)
            self.close()
            self._again.done()

    def _open(self, file: "BoxFile") -> None:
        self.close()
        self._file = file
        journal = self._opened.enter_context(opened_if_there(self._path))
        if journal is not None:
            self._copier = FactCopier(file.connection, journal)

    def close(self) -> None:
        """Close the journal."""
        self._opened.close()
        self._copier = self._file = None


class SharedCopier:
    """Applies to a file the changes of shared rows that the journal alone has."""

    def __init__(self, journal: Path) -> None:
        self._path = journal

    def __call__(self, connection: sqlite3.Connection) -> int:
        """Return how many were applied; raises sqlite3.Error, MirrorPostponed.

        The hub's rows are not put over what only the journal shows to be newer.
        """
        try:
            with opened_if_there(self._path) as journal:
                return 0 if journal is None else copy_shared(connection, journal)
        except JournalUnreadable as error:
            raise MirrorPostponed(str(error)) from error
