# SPDX-License-Identifier: Apache-2.0
"""Pages of a list, cut by values so that they hold while rows come in and databases change."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, Table, select, tuple_

from edgepaas.app import Box
from edgepaas.app.api import wrong
from edgepaas.telemetry.cursor import BadCursor, Cursor


def page(
    box: Box,
    table: Table,
    moment: str,
    conditions: list[ColumnElement[bool]],
    query: Mapping[str, Any],
) -> dict[str, Any]:
    """Return one page of *table* as ``{items, next_cursor}``, ordered by (*moment*, id).

    *query* holds ``limit`` and ``cursor``; raises Problem 422 for a cursor that is none.
    ``partial`` is true while rows may be missing that only PostgreSQL has.
    """
    order = (table.c[moment], table.c.id)
    statement = select(table).where(*conditions).order_by(*order)
    if query["cursor"] is not None:
        try:
            after = Cursor.decode(query["cursor"])
        except BadCursor:
            raise wrong("cursor", "Not a cursor of this API.") from None
        statement = statement.where(tuple_(*order) > (after.moment, after.id))
    limit = query["limit"]
    with box.database.read() as session:
        # One row more than asked for tells whether there is a next page.
        rows = session.execute(statement.limit(limit + 1)).mappings().all()
    return {
        "items": rows[:limit],
        "next_cursor": _cursor(rows[limit - 1], moment) if len(rows) > limit else None,
        **({"partial": True} if box.may_lack_rows else {}),
    }


def _cursor(row: RowMapping, moment: str) -> str:
    return Cursor(row[moment], row["id"]).encode()
