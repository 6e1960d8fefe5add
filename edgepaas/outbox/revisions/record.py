# SPDX-License-Identifier: Apache-2.0
"""The record of revisions: in which order they were applied to a database, and what each renamed.

Both sides keep one, in a table of the same name and shape: the SQLite file, and PostgreSQL. It is
written in the transaction of the migration. With the hub's, rows find their columns there whatever
the revision at which they were captured; the box's own helps where the hub's has a gap.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edgepaas.database.reserved_names import REVISIONS
from edgepaas.outbox.revisions.changes import Names, RevisionChanges, read_changes

#: All of it, the oldest first; on both databases.
QUERY = f"SELECT position, chain, revision, changes FROM {REVISIONS} ORDER BY position"  # noqa: S608


@dataclass(frozen=True)
class RevisionRecord:
    """The revisions of one database, in the order in which they were applied.

    ``position`` grows with each one that is added; two readings that have the same one are equal.
    """

    entries: tuple[RevisionChanges, ...] = ()
    position: int = 0

    @property
    def head(self) -> str:
        """The revision that was applied last; empty without any."""
        return self.entries[-1].revision if self.entries else ""

    def knows(self, revision: str) -> bool:
        """Whether *revision* was applied here; several, joined by commas, where branches met."""
        known = {one.revision for one in self.entries}
        return all(part in known for part in _parts(revision))

    def after(self, revision: str) -> tuple[RevisionChanges, ...]:
        """Return what was applied after *revision*, which is known; after an empty one: all."""
        parts = set(_parts(revision))
        last = max((n for n, one in enumerate(self.entries) if one.revision in parts), default=-1)
        return self.entries[last + 1 :]

    def same_names(self, names: Names, one: str, other: str) -> bool:
        """Whether *names* mean the same columns at revision *one* as at *other*.

        Where the record does not know both, they may not.
        """
        if one == other:
            return True
        if not (self.knows(one) and self.knows(other)):
            return False
        earlier, later = sorted((self.after(one), self.after(other)), key=len, reverse=True)
        return names.after(earlier[: len(earlier) - len(later)]) == names

    def of(self, revision: str) -> RevisionChanges | None:
        """Return what *revision* changed; None where that was not observed here."""
        return next(
            (one for one in self.entries if one.revision == revision and one.observed), None
        )


def record_of(rows: Iterable[Sequence[Any]]) -> RevisionRecord:
    """Return the record that the rows of :data:`QUERY` are; of one chain, the last one's.

    Raises ValueError for rows of another build that this one cannot read.
    """
    found = list(rows)
    if not found:
        return RevisionRecord()
    position, chain = int(found[-1][0]), found[-1][1]
    entries = [read_changes(str(row[2]), row[3]) for row in found if row[1] == chain]
    return RevisionRecord(tuple(entries), position)


def read_record(connection: sqlite3.Connection) -> RevisionRecord:
    """Return the record of an SQLite file; an empty one where none was kept.

    Raises ValueError, sqlite3.Error.
    """
    there = connection.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (REVISIONS,)
    ).fetchone()
    return record_of(connection.execute(QUERY)) if there else RevisionRecord()


def way_to_hub(
    revision: str, hub: RevisionRecord | None, box: RevisionRecord
) -> tuple[RevisionChanges, ...]:
    """Return what leads from the names at *revision* to those of the hub.

    *revision* is that of the layout of a row. *hub* is None where PostgreSQL keeps no record: it
    is taken to be at the box's own head. A hub that has not come as far as *revision* is reached
    by going back.
    """
    if hub is None or not hub.entries:
        return box.after(revision) if box.knows(revision) else ()
    if hub.knows(revision):
        return tuple(
            one if one.observed else box.of(one.revision) or one for one in hub.after(revision)
        )
    if hub.head and box.knows(hub.head) and box.knows(revision):
        beyond = {one.revision for one in box.after(revision)}
        ahead = [one for one in box.after(hub.head) if one.revision not in beyond]
        return tuple(one.inverted() for one in reversed(ahead))
    return ()


def _parts(revision: str) -> list[str]:
    return [part for part in revision.split(",") if part]
