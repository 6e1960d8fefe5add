# SPDX-License-Identifier: Apache-2.0
"""Proving, in the snapshot of a pass, that the hub took nothing back of what it had confirmed.

A row that is missing on the hub was deleted there, or lost. It was deleted where the same
snapshot has the mark of the box's stream and that of its history, or where a tombstone says so.
"""

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.database.reserved_names import OUTBOX
from edgepaas.outbox.resending.hub_tables import made_anew
from edgepaas.outbox.resending.recovery_state import (
    HistoryMark,
    note_broken,
    note_history,
    read_history,
)
from edgepaas.outbox.stream import read_stream
from edgepaas.sync.delivery.marks import is_in_step
from edgepaas.sync.hub import history
from edgepaas.sync.mirror.ordered_rows import HistoryBroken, MirrorPostponed

if TYPE_CHECKING:
    from edgepaas.sync.hub.connection import Hub
    from edgepaas.sync.mirror.difference import Difference, MirroredTable

logger = logging.getLogger("edgepaas.sync")

_LOST = "PostgreSQL lacks what it had confirmed; this box's rows are sent again first"


@dataclass(frozen=True)
class Proof:
    """That the history is whole, with the new *mark*; without one, none can be kept.

    The hub may not have the table of marks (RUN_MIGRATIONS=false).
    """

    mark: HistoryMark | None = None

    def note(self, connection: sqlite3.Connection) -> None:
        """Note the mark, in the transaction that applies the pass; raises sqlite3.Error."""
        if self.mark is not None:
            note_history(connection, self.mark.history_id, self.mark.mark)


def require_whole_history(connection: sqlite3.Connection) -> HistoryMark:
    """Return the mark that the file knows, before a pass begins.

    Raises HistoryBroken where the hub is known to have lost something that was not queued yet,
    MirrorPostponed while what it lost waits to be sent, sqlite3.Error.
    """
    known = read_history(connection)
    if known.broken:
        raise HistoryBroken(_LOST)
    stream = read_stream(connection)
    if (
        stream is not None
        and connection.execute(
            f"SELECT 1 FROM {OUTBOX} WHERE seq > ? AND resent LIMIT 1",  # noqa: S608
            (stream.confirmed_seq,),
        ).fetchone()
    ):
        raise MirrorPostponed("rows of this box are being sent again")
    return known


def require_same_tables(
    connection: sqlite3.Connection,
    identities: Mapping[str, int],
    found: "Sequence[tuple[MirroredTable, Difference]]",
) -> None:
    """Raise HistoryBroken where a table that differs is not the one that was mirrored before.

    *identities*: PostgreSQL's oid of each table. Raises sqlite3.Error.
    """
    differing = {table.name for table, difference in found if difference.count}
    if anew := sorted(made_anew(connection, identities) & differing):
        logger.warning("PostgreSQL's table was made anew: %s", ", ".join(anew))
        note_broken(connection)
        raise HistoryBroken(_LOST)


def prove_history(connection: sqlite3.Connection, hub: "Hub", known: HistoryMark) -> Proof:
    """Prove it in *hub*'s open snapshot, and move the mark there, to be committed with it.

    Raises HistoryBroken, HubError, sqlite3.Error.
    """
    stream = read_stream(connection)
    if stream is None:
        return Proof()
    if not is_in_step(hub, stream):
        raise HistoryBroken(_LOST)
    if not history.can_keep_history(hub):
        return Proof()
    mark = history.advance(hub, known, stream.node_id)
    if mark is None:
        note_broken(connection)
        raise HistoryBroken(_LOST)
    return Proof(mark)
