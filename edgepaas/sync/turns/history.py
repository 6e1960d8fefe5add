# SPDX-License-Identifier: Apache-2.0
"""The turn of the box's own history: while SQLite serves, the rest of the journal is copied."""

import contextlib
import logging
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.outbox.journal.opening import opened_for_reading
from edgepaas.outbox.resending.own_history import FactCopier, copy_shared

if TYPE_CHECKING:
    from edgepaas.sync.box_file import BoxFile

logger = logging.getLogger("edgepaas.sync")


class HistoryTurn:
    """Copies facts that this box wrote to PostgreSQL into its file, some at each turn."""

    def __init__(self, journal: Path, *, wanted: bool) -> None:
        """*wanted*: whether SQLite serves."""
        self._path = journal
        self._wanted = wanted
        self._file: BoxFile | None = None
        self._copier: FactCopier | None = None
        self._opened = contextlib.ExitStack()

    def take(self, file: "BoxFile | None") -> None:
        """Copy some into *file*; raises sqlite3.Error of it."""
        if not self._wanted or file is None or not file.captures:
            return
        if file is not self._file:
            self.close()
            self._file = file
            journal = self._opened.enter_context(opened_for_reading(self._path))
            if journal is not None:
                self._copier = FactCopier(file.connection, journal)
        if self._copier is not None:
            self._copier.step()
            if self._copier.done:
                self._opened.close()
                self._copier = None

    def close(self) -> None:
        """Close the journal."""
        self._opened.close()
        self._copier = self._file = None


class SharedCopier:
    """Applies to a file the changes of shared rows that the journal alone has."""

    def __init__(self, journal: Path) -> None:
        self._path = journal

    def __call__(self, connection: sqlite3.Connection) -> int:
        """Return how many were applied; raises sqlite3.Error."""
        with opened_for_reading(self._path) as journal:
            return 0 if journal is None else copy_shared(connection, journal)
