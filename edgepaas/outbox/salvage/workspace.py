# SPDX-License-Identifier: Apache-2.0
"""The salvage workspace: a new file that takes what can be read of a damaged one.

Nothing has to fit into the memory, and whatever SQLite itself copies here stays as it was to
the last bit. Implausible rows are dropped from it, and what is missing is counted.
"""

import contextlib
import json
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from edgepaas.database.reserved_names import LAYOUTS
from edgepaas.outbox.layout import Layout, stored_layouts
from edgepaas.outbox.salvage.page_file import Undecodable, Values
from edgepaas.outbox.triggers import values_of

#: Columns before v0 in a record of the outbox.
HEAD: Final = 4

_TABLES = (
    "CREATE TABLE found (seq INTEGER PRIMARY KEY, layout, op, resent, v0)",
    "CREATE TABLE markers (first INTEGER PRIMARY KEY, last)",
    "CREATE TABLE ids (old INTEGER PRIMARY KEY, new)",
    f"CREATE TABLE {LAYOUTS} (id INTEGER PRIMARY KEY, tbl, revision, definition)",
)


class SalvageWorkspace:
    """A new file *path*; ``connection`` is to it, and ``width`` how many values a row has.

    *spare*: layouts by id for rows whose own is lost. ``confirmed`` and ``last`` are what is
    known of the numbers, None: nothing; ``uncounted``: rows may be missing that cannot be
    counted.
    """

    def __init__(self, path: Path, spare: Mapping[int, Layout]) -> None:
        uri = f"{path.absolute().as_uri()}?mode=rwc"
        self.connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        self.width = 1
        self.confirmed: int | None = None
        self.last: int | None = None
        self.uncounted = False
        self._spare = spare
        self.connection.executescript("PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF")
        for statement in _TABLES:
            self.connection.execute(statement)

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def widen(self, width: int) -> None:
        """Make room for *width* values a row."""
        for position in range(self.width, width):
            self.connection.execute(f"ALTER TABLE main.found ADD COLUMN v{position}")
        self.width = max(self.width, width)

    def names(self, width: int | None = None) -> str:
        """Return the columns of a row with *width* values, for a statement."""
        width = self.width if width is None else width
        return f"seq, layout, op, resent{', ' if width else ''}{values_of(width)}"

    def keep_row(self, seq: int, values: Values) -> None:
        """Keep a record of the outbox, unless that number is there already."""
        if seq <= (self.confirmed or 0):
            return
        width = len(values) - HEAD
        self.widen(width)
        places = ", ".join(
            "CAST(? AS TEXT)" if isinstance(value, Undecodable) else "?" for value in values[1:]
        )
        self.connection.execute(
            f"INSERT OR IGNORE INTO main.found ({self.names(width)}) VALUES (?, {places})",  # noqa: S608
            (seq, *values[1:]),
        )

    def keep_layout(self, identity: int, values: Values) -> None:
        """Keep a record of the layouts."""
        self.connection.execute(
            f"INSERT OR IGNORE INTO main.{LAYOUTS} (id, tbl, revision, definition) "  # noqa: S608
            "VALUES (?, ?, ?, ?)",
            (identity, *values[1:]),
        )

    def layouts(self) -> dict[int, Layout]:
        """Return the layouts by id: those that were found, else the spare ones."""
        own: dict[int, Layout] = {}
        with contextlib.suppress(ValueError, KeyError, TypeError):
            own = stored_layouts(self.connection)
        return {**self._spare, **own}

    def drop_implausible(self) -> None:
        """Drop rows that damage has changed, and rows whose table is unknown."""
        self._drop(LAYOUTS, "SELECT id, definition FROM main.{}", "id", _is_layout)
        layouts = self.layouts()
        own = {row[0] for row in self.connection.execute(f"SELECT id FROM main.{LAYOUTS}")}  # noqa: S608
        numbers = ", ".join(map(str, layouts)) or "NULL"
        self.connection.execute(
            "DELETE FROM main.found WHERE seq <= ? OR seq > ? OR op NOT IN ('I', 'U', 'D', 'G') "  # noqa: S608
            "OR typeof(layout) <> 'integer' "
            f"OR (op <> 'G' AND layout NOT IN ({numbers})) OR (op = 'G' AND layout <> 0)",
            (self.confirmed or 0, self.last or 1 << 62),
        )
        self._drop("found", "SELECT seq, v0 FROM main.{} WHERE op = 'G'", "seq", _is_gap)
        for identity, layout in layouts.items():
            if identity not in own:
                self._drop_mismatched(identity, layout)

    def missing(self) -> tuple[int, bool]:
        """Return how many rows are known to be missing, and whether there may be more."""
        least, most, count = self.connection.execute(
            "SELECT min(seq), max(seq), count(*) FROM main.found"
        ).fetchone()
        uncertain = self.confirmed is None or self.last is None or self.uncounted
        if self.confirmed is None and least is None:
            return 0, uncertain
        low = least if self.confirmed is None else self.confirmed + 1
        high = (most or 0) if self.last is None else max(self.last, most or 0)
        shed = 0
        for (text,) in self.connection.execute("SELECT v0 FROM main.found WHERE op = 'G'"):
            for a, b in json.loads(text)["ranges"]:
                shed += max(0, min(b, high) - max(a, low) + 1)
        return max(0, high - low + 1 - count - shed), uncertain

    def _drop(self, table: str, query: str, key: str, sound: Callable[[Any], bool]) -> None:
        for number, text in self.connection.execute(query.format(table)).fetchall():
            if not sound(text):
                self.connection.execute(f"DELETE FROM main.{table} WHERE {key} = ?", (number,))  # noqa: S608

    def _drop_mismatched(self, identity: int, layout: Layout) -> None:
        """Forget rows that do not look like *layout*, which was only guessed to be theirs."""
        count = len(layout.columns)
        if self.width < count:
            self.connection.execute("DELETE FROM main.found WHERE layout = ?", (identity,))
            return
        wanted = [f"v{n} IS NOT NULL" for n, c in enumerate(layout.columns) if not c.nullable]
        single = " AND ".join(f"v{n} IS NULL" for n in range(count, self.width)) or "1"
        double = " AND ".join(f"v{n} IS NULL" for n in range(2 * count, self.width)) or "1"
        alike = " AND ".join([*wanted, f"CASE op WHEN 'U' THEN {double} ELSE {single} END"])
        self.connection.execute(
            f"DELETE FROM main.found WHERE layout = ? AND op <> 'G' AND NOT ({alike})",  # noqa: S608
            (identity,),
        )


def _is_gap(text: Any) -> bool:
    try:
        return all(isinstance(a, int) and isinstance(b, int) for a, b in json.loads(text)["ranges"])
    except (ValueError, KeyError, TypeError):
        return False


def _is_layout(text: Any) -> bool:
    try:
        entry = json.loads(text)
        names = {column["name"] for column in entry["columns"]}
        words = {"type", "storage", "nullable"}
        whole = all(words <= column.keys() for column in entry["columns"])
        return bool(entry["kind"]) and whole and set(entry["key"]) <= names
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
