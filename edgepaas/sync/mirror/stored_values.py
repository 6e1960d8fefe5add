# SPDX-License-Identifier: Apache-2.0
"""Reading PostgreSQL's values in the form in which the box stores them in SQLite.

The form is to the bit what the box's own column types write. So a row that was mirrored equals
the same row written on the box, and comparing rows compares their content.

:mod:`edgepaas.database.column_kinds` names all that another column type needs; here it is one
entry of ``_FORMS``.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgepaas.database.column_kinds import PLAIN_UUID, ColumnKind, column_kind
from edgepaas.outbox.layout import Column
from edgepaas.outbox.tables import quoted

#: RFC 3339 in UTC with six digits, which sorts by time (database.types.UtcDateTime).
_INSTANT = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
#: How SQLAlchemy's SQLite dialect stores times without a time zone.
_TIME_OF_DAY = "HH24:MI:SS.US"
_LOCAL = f"YYYY-MM-DD {_TIME_OF_DAY}"

_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[ T][\d:.]+Z?\Z")

Reader = Callable[[Any], Any]


@dataclass(frozen=True)
class StoredColumn:
    """How one column, ``name`` on the box and ``hub_name`` there, is selected, sorted and stored.

    ``select`` is an SQL expression of PostgreSQL, ``order`` one for ORDER BY that sorts as
    SQLite's BINARY collation does; ``read`` converts a value that is not None to what SQLite
    stores, and raises ValueError for one that the box cannot hold.
    """

    name: str
    select: str
    order: str
    read: Reader
    hub_name: str


def stored_column(column: Column, hub_name: str = "") -> StoredColumn:
    """Return how *column* is read from the hub, by its PostgreSQL type.

    *hub_name*: what it is called there, where that is another name.
    """
    hub_name = hub_name or column.name
    name = quoted(hub_name)
    form = _FORMS[column_kind(column.type)]
    select = form.select.format(name)
    order = f'{select} COLLATE "C"' if form.is_text else name
    if column.storage == PLAIN_UUID:
        return StoredColumn(column.name, select, order, _without_hyphens, hub_name)
    return StoredColumn(column.name, select, order, form.read, hub_name)


def compact_json(text: str) -> str:
    """Return the document as the box writes it: compact and with sorted keys.

    A float without a fraction from 1e16 on comes back as the equal integer that PostgreSQL
    makes of it. Raises ValueError for a number beyond a 64-bit float.
    """
    return json.dumps(
        json.loads(text),
        allow_nan=False,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )


def _without_hyphens(text: str) -> str:
    return text.replace("-", "")


def _as_is(value: Any) -> Any:
    return value


def _checked_time(text: str) -> str:
    # Python has no datetime for infinity, and for years beyond 9999 or before the year 1.
    if not _TIME.match(text):
        raise ValueError(f"the box cannot store the time {text}")
    return text


def _checked_decimal(text: str) -> str:
    if not text[-1].isdecimal():
        raise ValueError(f"the box cannot store the number {text}")  # NaN, Infinity
    return text


@dataclass(frozen=True)
class _Form:
    """How the values of one kind are selected (``{0}`` is the column) and converted."""

    select: str = "{0}"
    read: Reader = _as_is
    is_text: bool = False


_STORABLE = "{0} BETWEEN '0001-01-01' AND '9999-12-31 23:59:59.999999'"

_FORMS: dict[ColumnKind, _Form] = {
    ColumnKind.BOOLEAN: _Form(read=int),
    ColumnKind.INTEGER: _Form(),
    ColumnKind.FLOAT: _Form("{0}::float8", float),
    ColumnKind.DECIMAL: _Form("{0}::text", _checked_decimal, is_text=True),
    ColumnKind.BYTES: _Form(),
    ColumnKind.JSON: _Form("{0}::text", compact_json, is_text=True),
    ColumnKind.MOMENT: _Form(
        f"CASE WHEN {_STORABLE} THEN to_char({{0}} AT TIME ZONE 'UTC', '{_INSTANT}') "
        "ELSE {0}::text END",
        _checked_time,
        is_text=True,
    ),
    ColumnKind.LOCAL_TIME: _Form(
        f"CASE WHEN {_STORABLE} THEN to_char({{0}}, '{_LOCAL}') ELSE {{0}}::text END",
        _checked_time,
        is_text=True,
    ),
    ColumnKind.TIME_OF_DAY: _Form(f"to_char({{0}}, '{_TIME_OF_DAY}')", is_text=True),
    ColumnKind.TEXT: _Form("{0}::text", is_text=True),
}
