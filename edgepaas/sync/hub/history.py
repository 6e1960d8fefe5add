# SPDX-License-Identifier: Apache-2.0
"""The history mark on the hub: whether it still has all that this file mirrored from it.

What is committed with a mark, or before it, is in every later state of the same history. A
server that was restored from a backup, a standby that lagged and was promoted, and another
database do not have the last mark.
"""

import logging
import uuid
from typing import TYPE_CHECKING

from edgepaas.outbox.resending.recovery_state import HistoryMark
from edgepaas.pgdriver.pipeline import Statement

if TYPE_CHECKING:
    from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")

TABLE = "sync_histories"
#: Days after which the marks that a box has left behind are deleted.
_KEPT_DAYS = 400

_READ = f"SELECT mark FROM {TABLE} WHERE history_id = $1::uuid"  # noqa: S608
_ADVANCE = (
    f"UPDATE {TABLE} SET mark = mark + 1, updated_at = now() "  # noqa: S608
    "WHERE history_id = $1::uuid AND mark >= $2::bigint RETURNING mark"
)
_BEGIN = f"INSERT INTO {TABLE} (history_id, node_id, mark) VALUES ($1::uuid, $2::uuid, 1)"  # noqa: S608
_PRUNE = (
    f"DELETE FROM {TABLE} WHERE node_id = $1::uuid AND history_id <> $2::uuid "  # noqa: S608
    f"AND updated_at < now() - interval '{_KEPT_DAYS} days'"
)


def can_keep_history(hub: "Hub") -> bool:
    """Whether *hub* has the table of history marks: a box that may not migrate goes without."""
    return TABLE in hub.tables


def is_whole(hub: "Hub", known: HistoryMark) -> bool:
    """Whether *hub* has the mark that the file knows; one round trip. Raises HubError."""
    if not known.history_id:
        return True  # nothing was mirrored yet that could be missed
    rows = hub.query(_READ, known.history_id)
    return bool(rows) and int(rows[0][0]) >= known.mark


def advance(hub: "Hub", known: HistoryMark, node_id: str) -> HistoryMark | None:
    """Move the mark in the open transaction, and return it; None where *hub* does not have it.

    It counts once the transaction is committed. Raises HubError.
    """
    if not known.history_id:
        return begin_history(hub, node_id)
    rows = hub.query(_ADVANCE, known.history_id, known.mark)
    return HistoryMark(known.history_id, int(rows[0][0])) if rows else None


def begin_history(hub: "Hub", node_id: str) -> HistoryMark:
    """Begin a history in the open transaction, and return its mark. Raises HubError.

    Marks that this box left behind long ago are deleted.
    """
    history_id = str(uuid.uuid4())
    statements: list[Statement] = [
        (_BEGIN, (history_id, node_id)),
        (_PRUNE, (node_id, history_id)),
    ]
    hub.run(statements)
    return HistoryMark(history_id, 1)
