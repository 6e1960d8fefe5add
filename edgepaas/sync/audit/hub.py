# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL's side of the ledger: marks, counters, and the rows that are really there."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgepaas.database.reserved_names import OUTBOX
from edgepaas.outbox.layout import Layout, stored_layouts
from edgepaas.outbox.reading import exact_rows, key_text
from edgepaas.outbox.stream import Stream
from edgepaas.outbox.tables import quoted
from edgepaas.sync.hub.connection import Hub, open_hub

if TYPE_CHECKING:
    from edgepaas.settings import Settings

#: Keys that are compared in one statement.
CHUNK = 2000
#: Missing keys that are listed.
_NAMED = 5

_TABLES = "SELECT to_regclass('sync_streams') IS NOT NULL"
_STREAMS = """
SELECT s.stream_id::text, s.base, s.mark, coalesce(s.batch::text, ''), s.rows, s.dead,
       s.conflicts, s.shed,
       (SELECT count(*) FROM sync_dead_letters d WHERE d.stream_id = s.stream_id),
       (SELECT count(*) FROM sync_dead_letters d
         WHERE d.stream_id = s.stream_id AND d.state = 'waiting'),
       (SELECT count(*) FROM sync_conflicts c WHERE c.stream_id = s.stream_id),
       (SELECT count(*) FROM sync_conflicts c WHERE c.stream_id = s.stream_id AND c.state = 'open'),
       (SELECT coalesce(sum(g.rows), 0)::bigint FROM sync_gaps g WHERE g.stream_id = s.stream_id)
FROM sync_streams s WHERE s.node_id = $1::text::uuid OR s.stream_id = $2::text::uuid
ORDER BY s.created_at, s.stream_id
"""
#: Keys whose absence is explained by a dead letter, a tombstone or a conflict.
_SETTLED = """
SELECT w.k FROM json_array_elements_text($2::text::json) AS w(k)
WHERE EXISTS (SELECT 1 FROM sync_dead_letters d WHERE d.tbl = $1::text AND d.row_key = w.k)
   OR EXISTS (SELECT 1 FROM sync_tombstones t WHERE t.tbl = $1::text AND t.row_key = w.k)
   OR EXISTS (SELECT 1 FROM sync_conflicts c WHERE c.tbl = $1::text AND c.row_key = w.k)
"""


@dataclass(frozen=True)
class HubStream:
    """A stream on the hub: its stored counters, and the rows counted to check them."""

    stream_id: str
    base: int
    mark: int
    batch: str
    rows: int
    dead: int
    conflicts: int
    shed: int
    dead_letters: int
    dead_letters_waiting: int
    conflicts_counted: int
    conflicts_open: int
    gap_rows: int


@dataclass(frozen=True)
class KeyComparison:
    """The result of looking for every delivered fact that the box still has."""

    checked: int = 0
    #: Not in their table, and explained: dead letter, conflict, deleted since.
    settled: int = 0
    missing: int = 0
    #: The first few that are missing, as ``table key``.
    examples: tuple[str, ...] = ()
    #: Tables that the hub does not have.
    no_table: tuple[str, ...] = ()


class HubReader:
    """Reads the hub in one snapshot and changes nothing there; raises HubError."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def streams(self, node_id: str, stream_id: str) -> list[HubStream]:
        """Return the streams of *node_id*, and *stream_id* whichever node it belongs to."""
        return [HubStream(*row) for row in self._hub.query(_STREAMS, node_id, stream_id)]

    def has_sync_tables(self) -> bool:
        """Whether the hub has the tables that forwarding uses."""
        return bool(self._hub.query(_TABLES)[0][0])

    def missing_of(self, layout: Layout, keys: Sequence[tuple[Any, ...]]) -> list[int]:
        """Return the positions of those *keys* that the hub's table does not have."""
        columns = {column.name: column.type for column in layout.columns}
        same = " AND ".join(
            f"t.{quoted(name)} = w.k{position}::{columns[name]}"
            for position, name in enumerate(layout.key)
        )
        names = ", ".join(f"k{position} text" for position in range(len(layout.key)))
        statement = (
            f"SELECT w.n FROM json_to_recordset($1::text::json) AS w(n int, {names}) "  # noqa: S608
            f"WHERE NOT EXISTS (SELECT 1 FROM {quoted(layout.table)} t WHERE {same})"
        )
        asked = [
            {"n": n, **{f"k{position}": _text(part) for position, part in enumerate(key)}}
            for n, key in enumerate(keys)
        ]
        return [int(row[0]) for row in self._hub.query(statement, json.dumps(asked))]

    def has_table(self, name: str) -> bool:
        """Whether the hub has the table *name*."""
        return bool(self._hub.query("SELECT to_regclass($1::text) IS NOT NULL", quoted(name))[0][0])

    def settled(self, table: str, keys: Sequence[str]) -> set[str]:
        """Return those *keys* of *table* whose absence is explained on the hub."""
        return {str(row[0]) for row in self._hub.query(_SETTLED, table, json.dumps(list(keys)))}


@contextmanager
def hub_reader(settings: "Settings", url: str) -> Iterator[HubReader]:
    """Yield a reader of the hub at *url*, within one snapshot; raises HubError."""
    with open_hub(settings, url, name="edgepaas-audit") as hub:
        hub.begin(snapshot=True)
        yield HubReader(hub)
        hub.rollback()


def compare_by_key(connection: sqlite3.Connection, hub: HubReader, found: Stream) -> KeyComparison:
    """Look in the hub's tables for every delivered fact that the box still holds.

    Delivered rows and their facts stay on the box for RETENTION: that far back this looks.
    Raises HubError, sqlite3.Error.
    """
    checked = settled = missing = 0
    examples: list[str] = []
    no_table = []
    for layout in stored_layouts(connection).values():
        if layout.kind != "facts" or not _has_table(connection, layout):
            continue
        if not hub.has_table(layout.table):
            no_table.append(layout.table)
            continue
        for keys in _delivered(connection, layout, found.confirmed_seq):
            checked += len(keys)
            missing_keys = [key_text(keys[n]) for n in hub.missing_of(layout, keys)]
            explained = hub.settled(layout.table, missing_keys) if missing_keys else set()
            settled += len(explained)
            gone = [key for key in missing_keys if key not in explained]
            missing += len(gone)
            examples += [f"{layout.table} {key}" for key in gone[: _NAMED - len(examples)]]
    return KeyComparison(checked, settled, missing, tuple(examples), tuple(no_table))


def _delivered(
    connection: sqlite3.Connection, layout: Layout, confirmed: int
) -> Iterator[list[tuple[Any, ...]]]:
    """Give the keys of facts that were delivered and are still in the box's table, in chunks."""
    values = ", ".join(f"o.v{position}" for position in layout.key_positions)
    same = " AND ".join(
        f"t.{quoted(name)} = o.v{position}"
        for name, position in zip(layout.key, layout.key_positions, strict=True)
    )
    statement = (
        f"SELECT o.seq, {values} FROM {OUTBOX} o WHERE o.seq > ? AND o.seq <= ? AND o.op = 'I' "  # noqa: S608
        f"AND o.layout = ? AND EXISTS (SELECT 1 FROM {quoted(layout.table)} t WHERE {same}) "
        "ORDER BY o.seq LIMIT ?"
    )
    after = 0
    while rows := exact_rows(connection, statement, (after, confirmed, layout.id, CHUNK)):
        after = rows[-1][0]
        yield [row[1:] for row in rows]


def _has_table(connection: sqlite3.Connection, layout: Layout) -> bool:
    rows = connection.execute("SELECT name FROM pragma_table_info(?)", (layout.table,))
    return set(layout.key) <= {row[0] for row in rows}


def _text(part: Any) -> str | None:
    """Return the value of a key as text that PostgreSQL reads."""
    if part is None:
        return None
    if isinstance(part, bytes):
        return f"\\x{part.hex()}"
    return repr(part) if isinstance(part, float) else str(part)
