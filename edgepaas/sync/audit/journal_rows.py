# SPDX-License-Identifier: Apache-2.0
"""The facts that the journal holds: what PostgreSQL acknowledged while it served.

The journal is a file of its own. It is opened for each chunk alone: a pass takes long, and whoever
has it open keeps it from being set aside.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from edgepaas.outbox.journal import reading
from edgepaas.outbox.journal.access import of_the_journal, opened_if_there
from edgepaas.outbox.journal.tables import CONFIRMED, IN_FLIGHT, IS_CHANGE, JOURNAL, RESENT, VOID
from edgepaas.outbox.layout import Layout, stored_layouts
from edgepaas.outbox.reading import CHUNK_BYTES, exact_rows
from edgepaas.outbox.triggers import values_of

Key = tuple[Any, ...]
Row = tuple[Any, ...]


class JournalRows:
    """The journal at *path*, which may not be there. Raises JournalUnreadable."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def inserted(self, *, rows: int, most: int | None = None) -> Iterator[tuple[Layout, list[Row]]]:
        """Give the inserts of facts that PostgreSQL acknowledged, about *rows* at a time.

        *most*: among so many of the latest rows of the journal.
        """
        number, state = self._start(most)
        while True:
            with opened_if_there(self._path) as connection, of_the_journal(self._path):
                found = [] if connection is None else _read(connection, number, rows)
                layouts = {} if connection is None else _facts(connection)
            if not found:
                return
            by_layout: dict[int, list[Row]] = {}
            number = found[-1][0]
            for _, order, own_state, identity, op, *values in found:
                state = own_state if order is not None else state
                layout = layouts.get(identity)
                if layout is None or op != "I" or state not in (CONFIRMED, RESENT):
                    continue
                by_layout.setdefault(identity, []).append(tuple(values[: len(layout.columns)]))
            for identity, inserted in by_layout.items():
                yield layouts[identity], inserted

    def has_more_than(self, rows: int) -> bool:
        """Whether there may be entries beside the latest *rows* ones."""
        with opened_if_there(self._path) as connection, of_the_journal(self._path):
            if connection is None:
                return False
            first, last = connection.execute(
                f"SELECT (SELECT min(number) FROM {JOURNAL}), (SELECT max(number) FROM {JOURNAL})"  # noqa: S608
            ).fetchone()
            return first is not None and bool(last - first >= rows)

    def joined_streams(self) -> dict[str, str]:
        """Return by stream the one on the hub that it was, or is being, joined to."""
        with opened_if_there(self._path) as connection, of_the_journal(self._path):
            return {} if connection is None else reading.joined_streams(connection)

    def changed(self, table: str, keys: Iterable[Key]) -> set[Key]:
        """Return those *keys* of *table* whose rows were changed or deleted while it served."""
        wanted = set(keys)
        found: set[Key] = set()
        with opened_if_there(self._path) as connection, of_the_journal(self._path):
            if connection is None:
                return found
            for layout in _facts(connection).values():
                if layout.table != table:
                    continue
                places = ", ".join(f"v{position}" for position in layout.key_positions)
                changes = exact_rows(
                    connection,
                    f"SELECT {places} FROM {JOURNAL} WHERE {IS_CHANGE} AND layout = ?",  # noqa: S608
                    (layout.id,),
                )
                found.update(key for key in changes if key in wanted)
        return found

    def _start(self, most: int | None) -> tuple[int, int]:
        """Return the number after which to begin, and the state of the entry that it is in."""
        with opened_if_there(self._path) as connection, of_the_journal(self._path):
            if connection is None or most is None:
                return 0, IN_FLIGHT
            (last,) = connection.execute(f"SELECT max(number) FROM {JOURNAL}").fetchone()  # noqa: S608
            head = connection.execute(
                f"SELECT max(number) FROM {JOURNAL} WHERE number <= ? AND ord IS NOT NULL",  # noqa: S608
                ((last or 0) - most,),
            ).fetchone()[0]
            return (0, IN_FLIGHT) if head is None else (head - 1, IN_FLIGHT)


def _facts(connection: sqlite3.Connection) -> dict[int, Layout]:
    return {
        identity: layout
        for identity, layout in stored_layouts(connection).items()
        if layout.kind == "facts"
    }


def _read(connection: sqlite3.Connection, above: int, rows: int) -> list[Row]:
    facts = _facts(connection).values()
    width = max((len(layout.columns) for layout in facts), default=1)
    return exact_rows(
        connection,
        f"SELECT number, ord, state, layout, op, {values_of(width)} FROM {JOURNAL} "  # noqa: S608
        f"WHERE number > ? AND (op <> '{VOID}' OR ord IS NOT NULL) ORDER BY number LIMIT ?",
        (above, rows),
        CHUNK_BYTES,
    )
