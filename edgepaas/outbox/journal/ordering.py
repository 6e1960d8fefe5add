# SPDX-License-Identifier: Apache-2.0
"""The base of the journal's order: no boot, and no second process, gives out a lower one."""

from collections.abc import Callable

from edgepaas.outbox import tables as outbox_tables
from edgepaas.outbox.journal import reading
from edgepaas.outbox.journal.opening import JournalFile
from edgepaas.outbox.journal.tables import STATE


def order_base(file: JournalFile, clock: Callable[[], int]) -> int:
    """Return what is added to *clock*, which runs since boot; raises sqlite3.Error."""
    if (base := _stored_base(file, clock())) is not None:
        return base
    with outbox_tables.transaction(file.connection):
        # Another process may have been faster.
        if (base := _stored_base(file, now := clock())) is not None:
            return base
        base = reading.youngest_order(file.connection) + 1 - now  # the box was started since
        file.connection.execute(f"UPDATE {STATE} SET order_base = ?", (base,))  # noqa: S608
    return base


def _stored_base(file: JournalFile, now: int) -> int | None:
    """Return the base that the file has, None where an order of *now* would not be the greatest."""
    (base,) = file.connection.execute(f"SELECT order_base FROM {STATE}").fetchone()  # noqa: S608
    return int(base) if base + now > reading.youngest_order(file.connection) else None
