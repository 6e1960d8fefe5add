# SPDX-License-Identifier: Apache-2.0
"""What stands in the journal: changes, each as the outbox would have it, in entries."""

from dataclasses import dataclass, field

from edgepaas.marks.changes import Change, Op
from edgepaas.outbox import reading

__all__ = ["Change", "Entry", "Op", "Reach", "StoredEntry"]


@dataclass(eq=False, slots=True)
class Entry:
    """The changes of one transaction.

    ``order``: its place among all of the box's entries. ``stream_id`` and ``mark``: the hub has
    committed it when the mark of this stream is at least so high (transactions); an empty
    ``stream_id``: no marks were kept.
    """

    order: int
    stream_id: str
    mark: int
    rows: int
    #: Where its first row stands in the file, and which transaction of this process wrote it.
    number: int = 0
    written: int = 0


@dataclass(frozen=True)
class StoredEntry:
    """An entry as it is read from the file.

    ``owner``: the name of the process that wrote it. ``state``: one of those in
    edgepaas.outbox.journal.tables. ``at``: seconds since 1970 by the box's clock. ``changes``:
    their ``seq`` is the row's number in the journal, and ``transaction`` the entry's.
    """

    order: int
    stream_id: str
    owner: str
    mark: int
    state: int
    at: int
    number: int
    rows: int
    changes: list[reading.Change] = field(default_factory=list)


@dataclass(frozen=True)
class Reach:
    """How far the journal reaches back.

    ``oldest``: the order of the oldest entry that is kept, 0 without one; ``since``: when it was
    written, seconds since 1970. ``dropped_order``: of the youngest entry that made room or was
    too old; ``dropped_rows``: how many rows left so. ``entries`` in flight are ``unsettled``.
    """

    oldest: int
    since: int
    rows: int
    unsettled: int
    dropped_order: int
    dropped_rows: int
    bytes: int
