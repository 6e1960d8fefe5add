# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL's values as the box stores them in SQLite: to the bit what its own types write.

A row that came by the mirror and the same row written on the box are equal, so that nothing
is rewritten for its form alone and a text comparison means what it says.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgepaas.outbox.layout import Column
from edgepaas.outbox.tables import quoted

#: RFC 3339 in UTC with six digits: sorts as time does (database.types.UtcDateTime).
_INSTANT = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
#: How SQLAlchemy's SQLite dialect stores what has no zone.
_CLOCK = "HH24:MI:SS.US"
_LOCAL = f"YYYY-MM-DD {_CLOCK}"

_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}[ T][\d:.]+Z?\Z")

Reader = Callable[[Any], Any]


@dataclass(frozen=True)
class StoredColumn:
    """How one column is asked for, put in order and stored.

    ``select`` is an expression of PostgreSQL, ``order`` the same for ORDER BY so that rows
    come as SQLite's BINARY order has them; ``read`` turns a value that is not None into what
    SQLite is given, and raises ValueError for one that the box cannot hold.
    """

    name: str
    select: str
    order: str
    read: Reader


def stored_column(column: Column) -> StoredColumn:
    """Return how *column* is read from the hub, by its PostgreSQL type."""
    name = quoted(column.name)
    kind = column.type.upper()
    if kind in _PLAIN:
        return StoredColumn(column.name, name, name, _PLAIN[kind])
    if kind.startswith(_FRACTIONS):
        return StoredColumn(column.name, f"{name}::float8", name, float)
    if kind in ("JSON", "JSONB"):
        return _text(column.name, f"{name}::text", compact_json)
    if kind.startswith("TIMESTAMP"):
        zoned = kind == "TIMESTAMP WITH TIME ZONE"
        select = _formatted(name, f"{name} AT TIME ZONE 'UTC'" if zoned else name, zoned=zoned)
        return _text(column.name, select, _moment_of)
    if kind.startswith("TIME"):
        return _text(column.name, f"to_char({name}, '{_CLOCK}')")
    return _text(column.name, f"{name}::text")


def compact_json(text: str) -> str:
    """Return the document as the box writes it: compact, keys sorted (equal ones are equal text).

    A float without a fraction from 1e16 on comes back as the whole number that PostgreSQL
    makes of it, which is equal. Raises ValueError for a number beyond a 64-bit float.
    """
    return json.dumps(
        json.loads(text),
        allow_nan=False,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )


def _as_is(value: Any) -> Any:
    return value


_PLAIN: dict[str, Reader] = {
    "BOOLEAN": int,
    **dict.fromkeys(("SMALLINT", "INTEGER", "BIGINT", "BYTEA"), _as_is),
}
_FRACTIONS = ("DOUBLE", "FLOAT", "REAL", "NUMERIC", "DECIMAL")


def _text(name: str, select: str, read: Reader = _as_is) -> StoredColumn:
    return StoredColumn(name, select, f'{select} COLLATE "C"', read)


def _formatted(column: str, value: str, *, zoned: bool) -> str:
    pattern = _INSTANT if zoned else _LOCAL
    held = f"{column} BETWEEN '0001-01-01' AND '9999-12-31 23:59:59.999999'"
    return f"CASE WHEN {held} THEN to_char({value}, '{pattern}') ELSE {column}::text END"


def _moment_of(text: str) -> str:
    # Infinity, and years beyond 9999 or before our era, are no datetime of Python's.
    if not _MOMENT.match(text):
        raise ValueError(f"the box holds no moment such as {text}")
    return text
