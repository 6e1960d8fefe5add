# SPDX-License-Identifier: Apache-2.0
"""Queueing rows again that the hub had and lacks now: each is sent once more, as a resent one."""

import sqlite3
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

from edgepaas.database.reserved_names import OUTBOX, TRANSACTIONS
from edgepaas.outbox import tables
from edgepaas.outbox.triggers import values_of

Op = Literal["I", "U", "D"]


class QueuedChange(NamedTuple):
    """One change as a row of the outbox holds it.

    *layout* is the id of a stored layout; *values* stand in its order: the new ones for an
    insert, the new ones and then the old ones for an update, the old ones for a delete.
    """

    layout: int
    op: Op
    values: Sequence[Any]


def queue_again(
    connection: sqlite3.Connection, changes: Sequence[QueuedChange], *, whole: bool = False
) -> int:
    """Put *changes* at the end of the outbox, in their order; returns how many.

    Inside the caller's transaction, which makes them durable all together or not at all. They
    count as resent: each applies only where the hub has nothing else of that row. *whole*: they
    are one source transaction, else each is one of its own. Raises sqlite3.Error.
    """
    if not connection.in_transaction:
        raise RuntimeError("rows are queued again only inside a transaction")
    if not changes:
        return 0
    tables.widen(connection, max(len(change.values) for change in changes))
    before = tables.last_seq(connection)
    for width, alike in groupby(changes, key=lambda change: len(change.values)):
        marks = ", ".join("?" * width)
        connection.executemany(
            f"INSERT INTO {OUTBOX} (layout, op, resent, {values_of(width)}) "  # noqa: S608
            f"VALUES (?, ?, 1, {marks})",
            [(change.layout, change.op, *change.values) for change in alike],
        )
    if whole and len(changes) > 1:
        connection.execute(
            f"INSERT INTO {TRANSACTIONS} (first, last) VALUES (?, ?)",  # noqa: S608
            (before + 1, before + len(changes)),
        )
    return len(changes)
