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
from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgepaas.database.append import Appended, FactsDiffer, append_facts
from edgepaas.database.bulk_insert import Row, insert_new, rows_by_id
from edgepaas.database.fact_deletion import delete_facts
from edgepaas.database.sqlite.own_file import ids_in_file

if TYPE_CHECKING:
    from sqlalchemy import Table

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


def ids_in_own_file(
    box: "Box", table: "Table", identities: Iterable[uuid.UUID]
) -> frozenset[uuid.UUID]:
    """Return which of these *identities* the box's own SQLite file holds in *table*.

    Whichever database serves. Raises DatabaseUnavailable where the file cannot be read
    within a second; no file holds none.
    """
    return ids_in_file(box.contract.sqlite_path, box.paths.database_lock, table, identities)
