# SPDX-License-Identifier: Apache-2.0
"""Reading PostgreSQL's values in the form in which the box stores them in SQLite.

The form is to the bit what the box's own column types write. So a row that was mirrored equals
the same row written on the box, and comparing rows compares their content.

To forward another column type, add its PostgreSQL type to :func:`stored_column` unless
``column::text`` already gives the stored form. The other places are
``edgepaas/database/types.py`` (the model's type, which defines the form in SQLite) and
``edgepaas/sync/delivery/values.py`` (the way to PostgreSQL, by text). The table ``Everything`` in
``tests/support/forwarding.py`` gets a column of the type; ``tests/integration/test_sync_types.py``
and ``test_sync_mirror.py`` then send and mirror it.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
    """How one column is selected, sorted and stored.

    ``select`` is an SQL expression of PostgreSQL, ``order`` one for ORDER BY that sorts as
    SQLite's BINARY collation does; ``read`` converts a value that is not None to what SQLite
    stores, and raises ValueError for one that the box cannot hold.
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
    if kind.startswith(_FLOATS):
        return StoredColumn(column.name, f"{name}::float8", name, float)
    if kind in ("JSON", "JSONB"):
        return _text(column.name, f"{name}::text", compact_json)
    if kind.startswith("TIMESTAMP"):
        zoned = kind == "TIMESTAMP WITH TIME ZONE"
        select = _formatted(name, f"{name} AT TIME ZONE 'UTC'" if zoned else name, zoned=zoned)
        return _text(column.name, select, _checked_time)
    if kind.startswith("TIME"):
        return _text(column.name, f"to_char({name}, '{_TIME_OF_DAY}')")
    return _text(column.name, f"{name}::text")


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


def _as_is(value: Any) -> Any:
    return value


_PLAIN: dict[str, Reader] = {
    "BOOLEAN": int,
    **dict.fromkeys(("SMALLINT", "INTEGER", "BIGINT", "BYTEA"), _as_is),
}
_FLOATS = ("DOUBLE", "FLOAT", "REAL", "NUMERIC", "DECIMAL")


def _text(name: str, select: str, read: Reader = _as_is) -> StoredColumn:
    return StoredColumn(name, select, f'{select} COLLATE "C"', read)


def _formatted(column: str, value: str, *, zoned: bool) -> str:
    pattern = _INSTANT if zoned else _LOCAL
    storable = f"{column} BETWEEN '0001-01-01' AND '9999-12-31 23:59:59.999999'"
    return f"CASE WHEN {storable} THEN to_char({value}, '{pattern}') ELSE {column}::text END"


def _checked_time(text: str) -> str:
    # Python has no datetime for infinity, and for years beyond 9999 or before the year 1.
    if not _TIME.match(text):
        raise ValueError(f"the box cannot store the time {text}")
    return text
