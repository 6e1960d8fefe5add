# SPDX-License-Identifier: Apache-2.0
"""Reading what waits: whole transactions, in order, in memory that does not grow with them."""

import hashlib
import json
import math
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple

from edgepaas.database.reserved_names import OUTBOX, TRANSACTIONS
from edgepaas.outbox.layout import Layout, stored_layouts
from edgepaas.outbox.resending.counters import MISSING
from edgepaas.outbox.triggers import values_of

Values = tuple[Any, ...] | None
Op = Literal["insert", "update", "delete", "gap"]

#: Rows that are in memory at a time, and bytes of text and blobs but for those of the last row:
#: a thousand photographs do not fit.
CHUNK: Final = 1000
CHUNK_BYTES: Final = 1024 * 1024

#: The longest key, in bytes, in the hub's own tables: an index entry has less than 2704.
MAX_KEY_BYTES: Final = 1000

_OPS: Final[dict[str, Op]] = {"I": "insert", "U": "update", "D": "delete", "G": "gap"}
#: A gap row belongs to no table; its one value is JSON.
_GAP: Final = Layout(0, "", "gap", (), (), "")


class Change(NamedTuple):
    """One captured change.

    ``transaction`` is the number of the source transaction's first change. ``new`` and
    ``old`` hold the values by the layout's positions, as SQLite had them: None, int, float,
    str, bytes; bytes of a text that are no UTF-8 stand as lone surrogates
    (``surrogateescape``). ``gap`` is a gap row's content. ``resent``: it is sent again, to a hub
    that may have it (``outbox.resent`` is 1), or that lacks it for sure (2: ``missing``, of an
    update of a counter alone).
    """

    seq: int
    transaction: int
    layout: Layout
    op: Op
    new: Values
    old: Values
    resent: bool
    gap: dict[str, Any] | None = None
    missing: bool = False

    @property
    def key(self) -> tuple[Any, ...]:
        """The values of the table's key; an update never changes them."""
        row = self.old if self.new is None else self.new
        if row is None:
            return ()
        return tuple(row[position] for position in self.layout.key_positions)

    @property
    def key_text(self) -> str:
        """The key as text that is the same on every box, for the hub's own tables."""
        return key_text(self.key)

    @property
    def changed(self) -> tuple[int, ...]:
        """The positions whose value an update changed, to the bit; of another change: all."""
        if self.new is None or self.old is None:
            return tuple(range(len(self.layout.columns)))
        pairs = enumerate(zip(self.new, self.old, strict=True))
        return tuple(position for position, (new, old) in pairs if not same(new, old))

    def __repr__(self) -> str:
        return f"Change({self.seq}, {self.op}, {self.layout.table} {self.key_text})"


@dataclass(frozen=True)
class Batch:
    """The changes from ``first_seq`` to ``last_seq``, ``rows`` of them: whole transactions."""

    connection: sqlite3.Connection
    first_seq: int
    last_seq: int
    rows: int

    def chunks(self, size: int = CHUNK) -> Iterator[list[Change]]:
        """Give the changes in order, at most *size* at a time, fewer where they are large.

        No statement stays open between two chunks: a slow hub does not keep the file's WAL
        from being reset. Raises sqlite3.Error.
        """
        after = self.first_seq - 1
        while after < self.last_seq:
            chunk = self._read(after, size)
            if not chunk:
                return
            after = chunk[-1].seq
            yield chunk

    def _read(self, after: int, size: int) -> list[Change]:
        statement = (
            f"SELECT seq, layout, op, resent, {values_of(self._width)} FROM {OUTBOX} "  # noqa: S608
            "WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
        )
        rows = exact_rows(self.connection, statement, (after, self.last_seq, size), CHUNK_BYTES)
        return list(self._decode_rows(rows)) if rows else []

    def _decode_rows(self, rows: list[tuple[Any, ...]]) -> Iterator[Change]:
        """Yield the change of each of *rows* (seq, layout, op, resent, v0, v1, …), in their order.

        A row's values are the new ones, followed by the old ones where op is ``U``; those of
        ``D`` are the old ones. A row of op ``G`` holds a gap as JSON.
        """
        shapes = {
            identity: (layout, 4 + len(layout.columns), 4 + 2 * len(layout.columns))
            for identity, layout in self._layouts.items()
        }
        markers = _markers(self.connection, rows[0][0], rows[-1][0])
        first, last = next(markers)
        for row in rows:
            seq, layout_id, op, resent = row[:4]
            while seq > last:
                first, last = next(markers)
            transaction = first if first <= seq else seq
            if op == "G":
                gap = json.loads(row[4])
                yield Change(seq, transaction, _GAP, "gap", None, None, resent != 0, gap)
                continue
            layout, middle, end = shapes[layout_id]
            new: Values = row[4:middle]
            old: Values = None
            if op == "D":
                new, old = None, new
            elif op == "U":
                old = row[middle:end]
            again, missing = resent != 0, resent == MISSING
            yield Change(seq, transaction, layout, _OPS[op], new, old, again, None, missing)

    @cached_property
    def _layouts(self) -> dict[int, Layout]:
        return stored_layouts(self.connection)

    @cached_property
    def _width(self) -> int:
        """How many columns of values the batch has: those that it has not take time as well."""
        found = self.connection.execute(
            f"SELECT DISTINCT layout, op FROM {OUTBOX} WHERE seq BETWEEN ? AND ?",  # noqa: S608
            (self.first_seq, self.last_seq),
        )
        return max(
            (
                len(self._layouts[layout].columns) * (2 if op == "U" else 1)
                for layout, op in found
                if op != "G"
            ),
            default=1,
        )


def next_batch(connection: sqlite3.Connection, after: int, *, rows: int) -> Batch | None:
    """Return the changes above *after*: about *rows* of them, never a part of a transaction.

    A transaction that is larger than *rows* is a batch of its own. None: nothing waits.
    """
    (first,) = connection.execute(
        f"SELECT min(seq) FROM {OUTBOX} WHERE seq > ?",  # noqa: S608
        (after,),
    ).fetchone()
    if first is None:
        return None
    found = connection.execute(
        f"SELECT max(seq) FROM (SELECT seq FROM {OUTBOX} WHERE seq > ? ORDER BY seq LIMIT ?)",  # noqa: S608
        (after, rows),
    ).fetchone()
    last = int(found[0])
    marker = connection.execute(
        f"SELECT first, last FROM {TRANSACTIONS} WHERE first <= ? ORDER BY first DESC LIMIT 1",  # noqa: S608
        (last,),
    ).fetchone()
    if marker is not None and marker[1] > last:
        last = marker[1] if marker[0] <= first else marker[0] - 1
    last, count = connection.execute(
        f"SELECT max(seq), count(*) FROM {OUTBOX} WHERE seq > ? AND seq <= ?",  # noqa: S608
        (after, last),
    ).fetchone()
    return Batch(connection, first, last, count)


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same to the bit: 1 is not 1.0, and 0.0 not -0.0."""
    if type(one) is not type(other) or one != other:
        return False
    return not isinstance(one, float) or math.copysign(1, one) == math.copysign(1, other)


def key_text(key: tuple[Any, ...]) -> str:
    """Return *key* as text: a plain word as itself, everything else as JSON."""
    if (
        len(key) == 1
        and isinstance(key[0], str)
        and key[0].isprintable()
        and key[0][:1] not in '"[{'
    ):
        return key[0]
    return json.dumps(key[0] if len(key) == 1 else key, default=_bytes, separators=(",", ":"))


def bounded_key(text: str) -> str:
    """Return a key as *text* (:func:`key_text`), or the hash of a long one."""
    if len(text) <= MAX_KEY_BYTES // 4:
        return text
    data = text.encode("utf-8")
    return text if len(data) <= MAX_KEY_BYTES else f"sha256:{hashlib.sha256(data).hexdigest()}"


def exact_rows(
    connection: sqlite3.Connection,
    statement: str,
    parameters: tuple[Any, ...],
    most: float = math.inf,
) -> list[tuple[Any, ...]]:
    """Run *statement* and return its rows, also where a text is no UTF-8.

    No more of them after one with which their texts and blobs are *most* bytes or more.
    """
    try:
        return _first_rows(connection.execute(statement, parameters), most)
    except sqlite3.OperationalError as error:
        if "UTF-8" not in str(error):
            raise
    # Rare, and slower: each text goes through Python.
    before = connection.text_factory
    connection.text_factory = _decoded
    try:
        return _first_rows(connection.execute(statement, parameters), most)
    finally:
        connection.text_factory = before


def _first_rows(cursor: sqlite3.Cursor, most: float) -> list[tuple[Any, ...]]:
    if most == math.inf:
        return cursor.fetchall()
    rows, size = [], 0
    for row in cursor:
        rows.append(row)
        size += sum([len(value) for value in row if isinstance(value, str | bytes)])
        if size >= most:
            break
    cursor.close()  # nothing of it is to stay open
    return rows


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _bytes(value: object) -> object:
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    raise TypeError(f"a key of type {type(value).__name__}")


def _markers(connection: sqlite3.Connection, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Give the marked transactions that touch the range, in order; then one beyond all numbers."""
    yield from connection.execute(
        f"SELECT first, last FROM {TRANSACTIONS} WHERE first <= ? AND first >= coalesce("  # noqa: S608
        f"(SELECT max(first) FROM {TRANSACTIONS} WHERE first <= ?), 0) ORDER BY first",
        (last, first),
    ).fetchall()
    yield sys.maxsize, sys.maxsize
