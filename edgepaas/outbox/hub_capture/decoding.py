# SPDX-License-Identifier: Apache-2.0
"""What the hub's triggers captured, decoded to the values that SQLite would hold.

A value is to the bit what the box's own column types write in SQLite, and so what its triggers
put into the outbox. What SQLite's form does not know (a time beyond the year 9999, a document
with an endless number) stays PostgreSQL's own text, which its input reads back: nothing that
was written is left out for its form.
"""

import json
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from edgepaas.database.column_kinds import PLAIN_UUID, ColumnKind, column_kind
from edgepaas.outbox.journal.entries import Change
from edgepaas.outbox.layout import Layout

#: A field of a composite value with its quotes, if it has any; NULL is an empty one without.
_FIELD = re.compile(r'[(,]("(?:[^"\\]|""|\\.)*"|[^,()"]*)', re.DOTALL)
_DOUBLED = re.compile(r'""|\\(.)', re.DOTALL)

_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?\+00\Z")
_LOCAL_TIME = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?\Z")
_TIME_OF_DAY = re.compile(r"(\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?\Z")


def decode(captured: str | None, layouts: Mapping[str, Layout]) -> list[Change]:
    """Return the changes of a transaction, in the order in which its statements ended.

    *captured*: what the hub's function returned, *layouts*: by table. An update is one of the
    same key; one that changes the key is a delete and an insert. Tables without a layout are
    left out. Raises ValueError for what no such function wrote.
    """
    if not captured:
        return []
    changes: list[Change] = []
    for table, names, after, before in json.loads(f"[{captured[1:]}]"):
        layout = layouts.get(table)
        if layout is None:  # another application's, or forwarded by other releases alone
            continue
        read = _reader(layout, names)
        new = None if after is None else [read(row) for row in after]
        old = None if before is None else [read(row) for row in before]
        changes += _paired(layout, new, old)
    return changes


def _paired(
    layout: Layout, new: Sequence[tuple[Any, ...]] | None, old: Sequence[tuple[Any, ...]] | None
) -> Iterable[Change]:
    table = layout.table
    if old is None:
        return [Change(table, "I", row) for row in new or ()]
    if new is None:
        return [Change(table, "D", row) for row in old]
    positions = layout.key_positions

    def key(row: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(row[position] for position in positions)

    # A cascade may change one row twice in what PostgreSQL counts as one statement.
    followed: defaultdict[tuple[Any, ...], deque[tuple[Any, ...]]] = defaultdict(deque)
    for row in new:
        followed[key(row)].append(row)
    changed, gone = [], []
    for row in old:
        after = followed.get(key(row))
        if after:
            changed.append(Change(table, "U", after.popleft() + row))
        else:
            gone.append(Change(table, "D", row))
    come = [Change(table, "I", row) for rows in followed.values() for row in rows]
    return [*gone, *changed, *come]


def _reader(layout: Layout, names: Sequence[str]) -> Callable[[str], tuple[Any, ...]]:
    """Return what makes the layout's values of a row whose columns are *names*."""
    places = {name: place for place, name in enumerate(names)}
    plan = [
        (
            places.get(column.name),
            _without_hyphens
            if column.storage == PLAIN_UUID
            else _READERS[column_kind(column.type)],
        )
        for column in layout.columns
    ]

    def read(text: str) -> tuple[Any, ...]:
        values = split_row(text)
        if len(values) != len(names):
            raise ValueError(f"a row of {layout.table} with {len(values)} values for {len(names)}")
        try:
            return tuple(
                None if place is None or (value := values[place]) is None else to_stored(value)
                for place, to_stored in plan
            )
        except ValueError:  # the hub's column has another type than the box's
            return tuple(
                None if place is None else _read_or_keep(values[place], to_stored)
                for place, to_stored in plan
            )

    return read


def _read_or_keep(value: str | None, to_stored: Callable[[str], Any]) -> Any:
    try:
        return None if value is None else to_stored(value)
    except ValueError:
        return value


def split_row(text: str) -> list[str | None]:
    """Return the fields of a composite value's text (PostgreSQL manual, 8.16.6)."""
    return [
        _unquoted(field[1:-1]) if field[:1] == '"' else field or None
        for field in _FIELD.findall(text)
    ]


def _unquoted(text: str) -> str:
    if '"' not in text and "\\" not in text:
        return text
    return _DOUBLED.sub(lambda found: found[1] or '"', text)


def _without_hyphens(text: str) -> str:
    return text.replace("-", "")


def _boolean(text: str) -> int:
    return int(text == "t")


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def _document(text: str) -> str:
    """Return the document as the box writes it; see sync.mirror.stored_values.compact_json."""
    try:
        return json.dumps(
            json.loads(text),
            allow_nan=False,
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        )
    except (ValueError, RecursionError):
        return text


def _moment(text: str) -> str:
    found = _MOMENT.match(text)
    return text if found is None else f"{found[1]}T{found[2]}.{found[3] or '':0<6}Z"


def _local_time(text: str) -> str:
    found = _LOCAL_TIME.match(text)
    return text if found is None else f"{found[1]} {found[2]}.{found[3] or '':0<6}"


def _time_of_day(text: str) -> str:
    found = _TIME_OF_DAY.match(text)
    return text if found is None else f"{found[1]}.{found[2] or '':0<6}"


#: PostgreSQL's text of each kind of column, read as the box stores it in SQLite.
_READERS: Mapping[ColumnKind, Callable[[str], Any]] = {
    ColumnKind.BOOLEAN: _boolean,
    ColumnKind.INTEGER: int,
    ColumnKind.FLOAT: float,
    ColumnKind.DECIMAL: str,
    ColumnKind.BYTES: _bytes,
    ColumnKind.JSON: _document,
    ColumnKind.MOMENT: _moment,
    ColumnKind.LOCAL_TIME: _local_time,
    ColumnKind.TIME_OF_DAY: _time_of_day,
    ColumnKind.TEXT: str,
}
