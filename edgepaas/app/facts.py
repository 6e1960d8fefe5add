# SPDX-License-Identifier: Apache-2.0
"""Appending facts, each stored once; inserting what is not there yet.

:func:`append_facts` is the way for what devices post: known rows of parsed values go in,
``Appended(accepted, duplicates)`` comes back once they are durable. A fact that is sent
again is a duplicate, one with the same key and other content is refused
(:class:`FactsDiffer`). It is given values and no statements, so that each database stores
them in its fastest way; use it before ``box.database.write`` where it fits.

:func:`insert_new` and :func:`rows_by_id` are for ``box.database.write(work)``: insert what
is missing, look up what is there. :func:`ids_in_own_file` asks the box's own SQLite file
while PostgreSQL serves. :func:`delete_facts`, for ``box.database.write`` too, is an operator's
act: nothing else deletes facts, and no box that still holds them sends them again.
"""

import uuid
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import delete, text

from edgepaas.database.append import Appended, FactsDiffer, append_facts
from edgepaas.database.bulk_insert import Row, insert_new, rows_by_id
from edgepaas.database.sqlite.own_file import ids_in_file

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.orm import Session

    from edgepaas.app.box import Box

__all__ = [
    "Appended",
    "FactsDiffer",
    "Row",
    "append_facts",
    "delete_facts",
    "ids_in_own_file",
    "insert_new",
    "rows_by_id",
]

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


def ids_in_own_file(
    box: "Box", table: "Table", identities: Iterable[uuid.UUID]
) -> frozenset[uuid.UUID]:
    """Return which of these *identities* the box's own SQLite file holds in *table*.

    Whichever database serves. Raises DatabaseUnavailable where the file cannot be read
    within a second; no file holds none.
    """
    return ids_in_file(box.contract.sqlite_path, box.paths.database_lock, table, identities)


def delete_facts(
    session: "Session", table: "Table", identities: Sequence[uuid.UUID], *, node_id: str
) -> int:
    """Delete the rows *identities* of *table* for good; return how many were there.

    For ``Database.write``; the table's key is one UUID, ``id``. *node_id*: the box that does it.
    In the SQLite file the triggers capture it, and the drainer deletes on PostgreSQL with a
    tombstone. Where PostgreSQL serves, the tombstone is left here: another box may still hold
    the rows, and would send them again as rows that PostgreSQL lost.
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
    session: "Session", table: "Table", identities: Sequence[uuid.UUID], node_id: str
) -> None:
    if not session.execute(_THERE).scalar():
        return  # no box forwards to this PostgreSQL
    keys = ", ".join(f'"{identity}"' for identity in identities)
    given = {"tbl": table.name, "keys": f"[{keys}]", "node": node_id, "stream": str(_NO_STREAM)}
    session.execute(_TOMBSTONE, given)
