# SPDX-License-Identifier: Apache-2.0
"""Pages of a list, cut by values so that they hold while rows come in and databases change."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import marshmallow as ma
from sqlalchemy import (
    ColumnElement,
    Integer,
    Table,
    bindparam,
    column,
    select,
    tuple_,
)

from edgepaas.app import Box
from edgepaas.app.api import Problem, compile_encoder, wrong
from edgepaas.app.models import PlainSelect
from edgepaas.telemetry.cursor import BadCursor, Cursor

_CUT = (
    "The rest of this list is in PostgreSQL, which is away: start again without a cursor for what "
    "this box has, or go on with this one when PostgreSQL is back."
)
#: A filter of a list: the condition on a column, of the value given in the address.
Filter = Callable[[ColumnElement[Any], Any], ColumnElement[bool]]


class PagedList:
    """The pages of *table* as JSON, in the order of a moment and the id.

    Each combination of filters is one statement, made at its first use and kept; rows go from
    the driver into the body without becoming objects.
    """

    def __init__(
        self,
        table: Table,
        moment: str,
        item: ma.Schema,
        filters: Mapping[str, tuple[str, Filter]],
        *,
        item_order: Sequence[str] = (),
        page_order: Sequence[str] = ("next_cursor", "partial", "items"),
    ) -> None:
        """*item* describes a row; the orders are those in which fields are written.

        *filters*: by the query's name, the column and the condition that it sets.
        """
        self._table = table
        self._moment = moment
        self._encoder = compile_encoder(item, order=item_order)
        self._page_order = page_order
        self._filters = filters
        self._statements: dict[tuple[str, ...], PlainSelect] = {}
        names = self._encoder.names
        self._moment_at, self._id_at = names.index(moment), names.index("id")

    def answer(self, box: Box, query: Mapping[str, Any]) -> str:
        """Return the page that *query* asks for, as JSON.

        *query* holds ``limit``, ``cursor`` and the filters' values. Raises Problem 422 for a
        cursor that is none, 409 where the rest of a list is missing that was whole when it
        began. ``partial`` is true while rows may be missing that only PostgreSQL has.
        """
        given = tuple(name for name in self._filters if query[name] is not None)
        values: dict[str, Any] = {name: query[name] for name in given}
        partial = box.may_lack_rows
        whole = not partial
        if query["cursor"] is not None:
            try:
                after = Cursor.decode(query["cursor"])
            except BadCursor:
                raise wrong("cursor", "Not a cursor of this API.") from None
            given, whole = (*given, "cursor"), after.whole
            values.update(after_moment=after.moment, after_id=after.id)
        limit = query["limit"]
        # One row more than asked for tells whether there is a next page.
        values["most"] = limit + 1
        found = box.database.fetch(self._statement(given), values)
        # What this box lacks may come after its own last row: a list that was whole has no end.
        cut = partial and whole and len(found) <= limit
        if cut and not found:
            raise Problem(409, _CUT, error="list_cut")
        last = found[-1] if cut else found[limit - 1] if len(found) > limit else None
        parts = {
            "items": self._encoder.array(found[:limit]),
            "next_cursor": "null" if last is None else json.dumps(self._cursor(last, whole=whole)),
            **({"partial": "true"} if partial else {}),
        }
        body = ",".join(f'"{name}":{parts[name]}' for name in self._page_order if name in parts)
        return f"{{{body}}}\n"

    def _statement(self, given: tuple[str, ...]) -> PlainSelect:
        found = self._statements.get(given)
        if found is None:
            found = self._statements[given] = PlainSelect(self._select(given))
        return found

    def _select(self, given: tuple[str, ...]) -> Any:
        columns = self._table.c
        order = (columns[self._moment], columns.id)
        # Without their types, which would convert each value of each row.
        wanted: list[ColumnElement[Any]] = [column(name) for name in self._encoder.names]
        statement = select(*wanted).select_from(self._table).order_by(*order)
        for name in given:
            if name == "cursor":
                after = (
                    bindparam("after_moment", type_=order[0].type),
                    bindparam("after_id", type_=order[1].type),
                )
                statement = statement.where(tuple_(*order) > tuple_(*after))
            else:
                which, condition = self._filters[name]
                value = bindparam(name, type_=columns[which].type)
                statement = statement.where(condition(columns[which], value))
        return statement.limit(bindparam("most", type_=Integer))

    def _cursor(self, row: Sequence[Any], *, whole: bool) -> str:
        moment, identity = row[self._moment_at], row[self._id_at]
        return Cursor(
            datetime.fromisoformat(moment) if isinstance(moment, str) else moment,
            uuid.UUID(identity) if isinstance(identity, str) else identity,
            whole,
        ).encode()
