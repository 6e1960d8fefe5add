# SPDX-License-Identifier: Apache-2.0
"""The rows of a shared table on the hub and on the box, read in the same order of the key."""

import itertools
import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from edgepaas.outbox.reading import CHUNK_BYTES, exact_rows
from edgepaas.outbox.resending.agreed_rows import same_key
from edgepaas.outbox.tables import quoted
from edgepaas.sync.mirror.difference import MirroredTable

if TYPE_CHECKING:
    from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")

#: Rows that are in memory at a time.
PAGE = 500
_CURSOR = "edgepaas_mirror"
_SIZES = "edgepaas_mirror_sizes"

Row = tuple[Any, ...]


class MirrorPostponed(Exception):
    """This pass is not possible now; the next one tries again."""


class HistoryBroken(MirrorPostponed):
    """The hub lacks what it had: nothing is mirrored before that was sent again."""


class HubRows:
    """The hub's rows of *table* in the order of the key, as the box stores them; an iterator.

    They are read in pages of PAGE rows. Where the size of the largest row, *largest*, makes
    such pages too large, the sizes of the rows are read first, and pages are made of as many
    rows as fit. *check* is called before each page and raises to abandon the pass.
    """

    def __init__(
        self, hub: "Hub", table: MirroredTable, largest: int, check: Callable[[], None]
    ) -> None:
        self._hub, self.table, self._check = hub, table, check
        self._sized = largest * PAGE > CHUNK_BYTES
        #: Sort keys of PostgreSQL's rows that the box cannot store; its own rows of these keys
        #: are left unchanged.
        self.unreadable: set[Row] = set()
        columns = ", ".join(f"{column.select} AS c{n}" for n, column in enumerate(table.columns))
        order = ", ".join(table.columns[position].order for position in table.key_positions)
        rows = f"FROM {quoted(table.hub_name)} ORDER BY {order}"
        hub.query(f"DECLARE {_CURSOR} NO SCROLL CURSOR FOR SELECT {columns} {rows}")
        if self._sized:
            # The same snapshot and the same order: these are the sizes of the same rows.
            names = ", ".join(quoted(name) for name in table.hub_names)
            hub.query(
                f"DECLARE {_SIZES} NO SCROLL CURSOR FOR "
                f"SELECT octet_length(ROW({names})::text) {rows}"
            )
        self._rows = itertools.chain.from_iterable(self._pages())
        self._last: Row | None = None

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        while True:
            values = next(self._rows)
            try:
                row = tuple(
                    None if value is None else column.read(value)
                    for value, column in zip(values, self.table.columns, strict=True)
                )
            except (ValueError, OverflowError) as error:
                self._skip(values, error)
                continue
            key = sort_key(row, self.table.key_positions)
            if self._last is not None and key <= self._last:
                raise MirrorPostponed(
                    f"{self.table.name}: PostgreSQL sorts the keys in another order"
                )
            self._last = key
            return row

    def _pages(self) -> Iterator[list[Any]]:
        for count in self._page_sizes() if self._sized else itertools.repeat(PAGE):
            page = self._hub.query(f"FETCH {count} FROM {_CURSOR}")
            if not page:
                break
            self._check()
            yield page
        self._hub.query(f"CLOSE {_CURSOR}")

    def _page_sizes(self) -> Iterator[int]:
        """Give how many rows to read next: at most CHUNK_BYTES, not counting the last row."""
        while sizes := self._hub.query(f"FETCH {PAGE} FROM {_SIZES}"):
            count = total = 0
            for (size,) in sizes:
                count, total = count + 1, total + size
                if total >= CHUNK_BYTES:
                    yield count
                    count = total = 0
            if count:
                yield count
        self._hub.query(f"CLOSE {_SIZES}")

    def _skip(self, values: Sequence[Any], error: Exception) -> None:
        key = tuple(values[position] for position in self.table.key_positions)
        if not self.unreadable:
            logger.warning("the row %s of %s is not mirrored: %s", key, self.table.name, error)
        self.unreadable.add(tuple(_sort_value(value) for value in key))


def box_rows(
    connection: sqlite3.Connection, table: MirroredTable, agreed: str = ""
) -> Iterator[Row]:
    """Give the box's rows of *table* in the order of the key, a page at a time.

    *agreed*: the table of their digests, of which each row then has two more values: the digest,
    and whether there is one or it is known to be unknown.

    No statement stays open while the hub is waited for, so that the WAL can be reset. Rows
    that change meanwhile wait in the outbox, and the mirror leaves those alone.
    """
    columns = ", ".join(f"t.{quoted(name)}" for name in table.names)
    key = [f"t.{quoted(name)} COLLATE BINARY" for name in table.layout.key]
    joined = ""
    if agreed:
        columns += ", a.digest, a.k0 IS NOT NULL"
        joined = f"LEFT JOIN {agreed} a ON {same_key(table.layout, 't')}"
    where = f"WHERE ({', '.join(key)}) > ({', '.join('?' * len(key))})"
    positions = table.key_positions
    last: Row = ()
    while True:
        page = exact_rows(
            connection,
            f"SELECT {columns} FROM {quoted(table.name)} t {joined} {where if last else ''} "  # noqa: S608
            f"ORDER BY {', '.join(key)} LIMIT {PAGE}",
            last,
            CHUNK_BYTES,
        )
        if not page:
            return
        for row in page:
            if last and sort_key(row, positions) <= tuple(_sort_value(value) for value in last):
                raise MirrorPostponed(f"{table.name}: the box's keys cannot be sorted")
            last = tuple(row[position] for position in positions)
            yield row


def paired_rows(
    connection: sqlite3.Connection, hub_rows: HubRows, agreed: str = ""
) -> Iterator[tuple[Row | None, Row | None]]:
    """Give the rows of both sides by key: (the hub's, the box's), None where a side has none.

    *agreed*: the box's rows are as box_rows gives them then.
    A row of the box whose counterpart the box cannot store is left out: ``unreadable`` has it.
    """
    positions = hub_rows.table.key_positions
    own_rows = box_rows(connection, hub_rows.table, agreed)
    row, own = next(hub_rows, None), next(own_rows, None)
    while row is not None or own is not None:
        order = compare_keys(row, own, positions)
        if order < 0:
            yield row, None
        elif order == 0:
            yield row, own
        elif own is not None and sort_key(own, positions) not in hub_rows.unreadable:
            yield None, own
        row = next(hub_rows, None) if order <= 0 else row
        own = next(own_rows, None) if order >= 0 else own


def compare_keys(
    hub_row: Sequence[Any] | None, box_row: Sequence[Any] | None, positions: Sequence[int]
) -> int:
    """Return -1 when the hub's row comes first or alone, 1 when the box's does, 0: one key."""
    if hub_row is None or box_row is None:
        return -1 if box_row is None else 1
    one, other = sort_key(hub_row, positions), sort_key(box_row, positions)
    return (one > other) - (one < other)


def sort_key(row: Sequence[Any], positions: Sequence[int]) -> Row:
    """Return the key at *positions* of *row* in a form that sorts as SQLite sorts it."""
    return tuple(_sort_value(row[position]) for position in positions)


def _sort_value(value: Any) -> tuple[int, Any]:
    """Return *value* in a form that sorts as in SQLite: NULL, numbers, text, blobs."""
    if value is None:
        return 0, 0
    if isinstance(value, str):
        return 2, value
    return (3, value) if isinstance(value, bytes) else (1, value)
