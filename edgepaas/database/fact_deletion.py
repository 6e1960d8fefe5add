# SPDX-License-Identifier: Apache-2.0
"""Deleting facts, which nothing does by itself: an operator's act, on every side.

In the SQLite file the triggers capture it, and the drainer deletes on PostgreSQL with a
tombstone. Where PostgreSQL serves, the tombstone is left here: another box may still hold
the rows, and would send them again as rows that PostgreSQL lost.
"""

import uuid
from collections.abc import Sequence

from sqlalchemy import Table, delete, text
from sqlalchemy.orm import Session

#: Keys of one statement.
_PAGE = 500
#: Stands where a stream and its number would: the deletion came through no outbox.
_NO_STREAM = uuid.UUID(int=0)
_THERE = text("SELECT to_regclass('sync_tombstones') IS NOT NULL")
_TOMBSTONE = text(
    "INSERT INTO sync_tombstones (tbl, row_key, node_id, stream_id, seq) "
    "SELECT :tbl, jsonb_array_elements_text(CAST(:keys AS jsonb)), CAST(:node AS uuid), "
    "CAST(:stream AS uuid), 0 "
    "ON CONFLICT (tbl, row_key) DO UPDATE SET node_id = excluded.node_id, "
    "stream_id = excluded.stream_id, seq = excluded.seq, deleted_at = now()"
)


def delete_facts(
    session: Session, table: Table, identities: Sequence[uuid.UUID], *, node_id: str
) -> int:
    """Delete the rows *identities* of *table* for good; return how many were there.

    For ``Database.write``; the table's key is one UUID, ``id``. *node_id*: the box that does it.
    """
    deleted = 0
    for start in range(0, len(identities), _PAGE):
        some = identities[start : start + _PAGE]
        found = session.execute(delete(table).where(table.c.id.in_(some)).returning(table.c.id))
        deleted += len(found.all())
        if session.get_bind().dialect.name == "postgresql":
            _leave_tombstones(session, table, some, node_id)
    return deleted


def _leave_tombstones(
    session: Session, table: Table, identities: Sequence[uuid.UUID], node_id: str
) -> None:
    if not session.execute(_THERE).scalar():
        return  # no box forwards to this PostgreSQL
    keys = ", ".join(f'"{identity}"' for identity in identities)
    given = {"tbl": table.name, "keys": f"[{keys}]", "node": node_id, "stream": str(_NO_STREAM)}
    session.execute(_TOMBSTONE, given)
