# SPDX-License-Identifier: Apache-2.0
"""The journal of a service that PostgreSQL serves: opened at its start, or refusing writes."""

import errno
import logging
import os
import sqlite3
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from edgepaas.errors import DatabaseBusy, DatabaseError, DatabaseFull, EdgePaaSError
from edgepaas.files.locks import LockHeld
from edgepaas.files.node_identity import node_identity
from edgepaas.outbox.journal.journal import Journal
from edgepaas.outbox.journal.tables import journal_path
from edgepaas.outbox.layout import Layout, forwarded_layouts, read_document

if TYPE_CHECKING:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.marks.changes import Change
    from edgepaas.marks.journaling import StreamJournal

logger = logging.getLogger("edgepaas.service")

#: What a disk answers that takes no write any more, whatever is done about it.
_DEAD = frozenset({errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM})


def open_journal(
    contract: "DatabaseContract",
    paths: "Paths",
    owner: str,
    set_aside: Callable[[str], None] = lambda _line: None,
) -> "StreamJournal | None":
    """Return the journal of the process *owner*; one that refuses where it cannot be opened.

    None where no table is forwarded. Raises OSError where the disk takes no write at all: a
    healthy PostgreSQL then serves without it.
    """
    layouts = forwarded_layouts(read_document(paths.tables))
    if not layouts:
        return None
    path = journal_path(contract.sqlite_path)
    try:
        node_id = node_identity(paths).node_id
        return Journal(path, node_id, layouts, owner=owner, set_aside=set_aside)
    except (sqlite3.Error, OSError, EdgePaaSError) as error:
        require_writable(path.parent)
        logger.debug("the journal %s cannot be opened: %s", path, error)
        full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
        full = full or (isinstance(error, OSError) and error.errno == errno.ENOSPC)
        said = f"the journal {path} cannot be opened ({error}); nothing was written"
        refusal = DatabaseFull(said) if full else DatabaseBusy(said)
        refusal.__cause__ = error
        return RefusingJournal(layouts, refusal)


def require_writable(folder: Path) -> None:
    """Raise OSError where *folder* is on a disk that takes no write; a full one is none."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=".edgepaas-", dir=folder)
        os.close(descriptor)
        Path(name).unlink()
    except OSError as error:
        if error.errno in _DEAD:
            raise


def is_in_use(error: BaseException) -> bool:
    """Whether *error* comes of another process that has the journal, and of no disk."""
    cause: BaseException | None = error
    while cause is not None:
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        if isinstance(cause, LockHeld) or code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return True
        cause = cause.__cause__
    return False


class RefusingJournal:
    """Stands in for a journal that cannot be opened: nothing is sent to PostgreSQL.

    ``error`` is raised in its place.
    """

    def __init__(self, layouts: Sequence[Layout], error: DatabaseError) -> None:
        self.columns: Mapping[str, tuple[str, ...]] = {one.table: one.names for one in layouts}
        self.error = error

    def write(self, _stream_id: str, _mark: int, _changes: "Sequence[Change]") -> NoReturn:
        """Raise why it cannot be written."""
        raise type(self.error)(str(self.error))

    def record(
        self, _stream_id: str, _mark: int, _changes: "Sequence[Change]", *, order: int = 0
    ) -> NoReturn:
        """Raise why it cannot be written."""
        raise type(self.error)(str(self.error))

    def next_order(self) -> NoReturn:
        """Raise why it cannot be written."""
        raise type(self.error)(str(self.error))

    def sync(self, entry: object) -> None:
        """Do nothing: there are no entries."""

    def confirm(self, entry: object, position: tuple[str, int] | None = None) -> None:
        """Do nothing: there are no entries."""

    def drop(self, entry: object) -> None:
        """Do nothing."""

    def leave(self, entry: object) -> None:
        """Do nothing."""

    def void(self, entry: object, places: Collection[int]) -> None:
        """Do nothing."""

    def abandoned(self, alive: Callable[[str, str], bool]) -> Collection[int]:
        """Return nothing: there are no entries."""
        return ()

    def settle(self, hub: Mapping[str, int], abandoned: Collection[int]) -> int:
        """Do nothing."""
        return 0

    def streams_ahead(self, hub: Mapping[str, int]) -> Collection[str]:
        """Return nothing: there are no entries."""
        return ()

    def note_joining(self, _streams: Collection[str], _joined_to: str, _mark: int) -> NoReturn:
        """Raise why it cannot be written: what is joined is found in its streams no more."""
        raise type(self.error)(str(self.error))

    def close(self) -> None:
        """Do nothing."""
