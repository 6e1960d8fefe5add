# SPDX-License-Identifier: Apache-2.0
"""The rows of a file that was set aside, brought into the file in use; without SQLAlchemy.

What is in use wins: a row comes back only where no row has its key, and where none was deleted
under that key since. One transaction: all of it, or nothing.
"""

import contextlib
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgepaas.database.reserved_names import OUTBOX, STATE, is_reserved
from edgepaas.outbox import strictness, tables
from edgepaas.outbox.capture import forget_covered, paused
from edgepaas.outbox.layout import stored_layouts
from edgepaas.outbox.resending import agreed_rows
from edgepaas.outbox.salvage.salvage import was_salvaged
from edgepaas.outbox.tables import quoted
from edgepaas.schema.errors import SchemaError

#: Which files were taken back: a power cut may come before that is noted beside them.
DONE = "edgepaas_taken_back"
#: Under this name the other file is attached.
_ASIDE = "aside"
#: A row whose parent was not taken back goes again, and with it those that point to it, and so on.
_LONGEST_CHAIN = 100


@dataclass(frozen=True)
class Merged:
    """How many rows came back, and how many did not, or not whole.

    Another row has their key or their place, or the file in use has no such table or column.
    """

    rows: int
    differing: int


@dataclass(frozen=True)
class _Table:
    name: str
    columns: tuple[str, ...]
    #: All columns where the table has no primary key.
    key: tuple[str, ...]
    #: Columns that the file in use lacks.
    lacking: tuple[str, ...]
    #: The key is a number that SQLite gives, and no other table points to it.
    numbered: bool


def merge(connection: sqlite3.Connection, other: Path, source: str) -> Merged:
    """Bring the rows of the file *other*, of the same schema, into the one on *connection*.

    Nothing of it is captured: what *other* still had to send is salvaged, and what it had sent
    is at the hub. Where it captured nothing, its tables are queued anew for the hub, as resent
    rows, when capture is next installed. Done twice for one *source* it counts once. Raises
    SchemaError, sqlite3.Error; nothing was brought in then.
    """
    connection.execute("PRAGMA foreign_keys=OFF")
    connection.execute(f"ATTACH ? AS {_ASIDE}", (str(other),))
    try:
        with tables.transaction(connection):
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {DONE} "
                "(source TEXT PRIMARY KEY, rows INTEGER, differing INTEGER, at TEXT)"
            )
            done = connection.execute(
                f"SELECT rows, differing FROM {DONE} WHERE source = ?",  # noqa: S608
                (source,),
            ).fetchone()
            if done is not None:
                return Merged(*done)
            with paused(connection), strictness.suspended(connection):
                found = _merge_tables(connection, source)
            agreed_rows.forget_all(connection)
            connection.execute(
                f"INSERT INTO {DONE} (source, rows, differing, at) VALUES (?, ?, ?, ?)",  # noqa: S608
                (source, found.rows, found.differing, datetime.now(UTC).isoformat("T", "seconds")),
            )
        return found
    finally:
        with contextlib.suppress(sqlite3.OperationalError):  # the disk may be what fails
            connection.execute(f"DETACH {_ASIDE}")
        connection.execute("PRAGMA foreign_keys=ON")


def _merge_tables(connection: sqlite3.Connection, source: str) -> Merged:
    broken = set(_orphans(connection))
    rows = 0
    merged = list(_tables(connection))
    for table in merged:
        rows += _bring(connection, table)
    rows -= _drop_orphans(connection, broken)
    differing = 0
    for table in merged:
        left = _differing(connection, table)
        renumbered = _bring_renumbered(connection, table) if left and table.numbered else 0
        rows += renumbered
        differing += left - renumbered
    if dropped := _drop_orphans(connection, broken):
        rows -= dropped
        differing += dropped
    differing += sum(_not_whole(connection, table) for table in merged)
    differing += _without_table(connection, {table.name for table in merged})
    captured = _captured(connection) or was_salvaged(connection, source)
    if not captured and tables.exist(connection):
        forget_covered(connection, [table.name for table in merged])
    return Merged(rows, differing)


def _tables(connection: sqlite3.Connection) -> Iterator[_Table]:
    """Give the tables that both files have and that are the application's."""
    names = [
        row[0]
        for row in connection.execute(
            f"SELECT old.name FROM {_ASIDE}.sqlite_schema AS old "  # noqa: S608
            "JOIN main.sqlite_schema AS own ON own.name = old.name "
            "WHERE old.type = 'table' AND own.type = 'table' ORDER BY old.name"
        )
        if not is_reserved(row[0])
    ]
    pointed_to = _pointed_to(connection, names)
    for name in names:
        # Neither generated nor hidden columns, which take no value.
        columns = {
            schema: {
                row[1]: (row[5], row[2])
                for row in connection.execute(f"PRAGMA {schema}.table_xinfo({quoted(name)})")
                if row[6] == 0
            }
            for schema in ("main", _ASIDE)
        }
        common = tuple(column for column in columns["main"] if column in columns[_ASIDE])
        lacking = tuple(column for column in columns[_ASIDE] if column not in columns["main"])
        places = sorted((place, name) for name, (place, _) in columns["main"].items() if place)
        key = tuple(column for _, column in places) or common
        # "INTEGER PRIMARY KEY", to the letter: https://sqlite.org/lang_createtable.html#rowid
        numbered = len(places) == 1 and columns["main"][key[0]][1].upper() == "INTEGER"
        if common and set(key) <= set(common):
            numbered = numbered and name.casefold() not in pointed_to
            yield _Table(name, common, key, lacking, numbered)


def _pointed_to(connection: sqlite3.Connection, names: Sequence[str]) -> set[str]:
    """Return the tables that others of *names* point to, in small letters."""
    return {
        str(row[2]).casefold()
        for name in names
        for row in connection.execute(f"PRAGMA main.foreign_key_list({quoted(name)})")
    }


def _bring(connection: sqlite3.Connection, table: _Table) -> int:
    names = ", ".join(map(quoted, table.columns))
    same_key = _same("own", "old", table.key)
    return connection.execute(
        # Names are those of the tables, quoted; no value is part of the statement.
        f"INSERT OR IGNORE INTO main.{quoted(table.name)} ({names}) "  # noqa: S608
        f"SELECT {names} FROM {_ASIDE}.{quoted(table.name)} AS old "
        f"WHERE NOT EXISTS (SELECT 1 FROM main.{quoted(table.name)} AS own WHERE {same_key})"
        f"{_not_deleted(connection, table)}"
    ).rowcount


def _differing(connection: sqlite3.Connection, table: _Table) -> int:
    """Count the rows that are not in use as they are; a deleted one is meant to be gone."""
    same = _same("own", "old", (*table.key, *table.columns))
    (count,) = connection.execute(
        f"SELECT count(*) FROM {_ASIDE}.{quoted(table.name)} AS old "  # noqa: S608
        f"WHERE NOT EXISTS (SELECT 1 FROM main.{quoted(table.name)} AS own WHERE {same})"
        f"{_not_deleted(connection, table)}"
    ).fetchone()
    return int(count)


def _not_whole(connection: sqlite3.Connection, table: _Table) -> int:
    """Count the rows that are in use but for values of columns that are not there."""
    if not table.lacking:
        return 0
    given = " OR ".join(f"old.{quoted(name)} IS NOT NULL" for name in table.lacking)
    same = _same("own", "old", (*table.key, *table.columns))
    (count,) = connection.execute(
        f"SELECT count(*) FROM {_ASIDE}.{quoted(table.name)} AS old WHERE ({given}) "  # noqa: S608
        f"AND EXISTS (SELECT 1 FROM main.{quoted(table.name)} AS own WHERE {same})"
    ).fetchone()
    return int(count)


def _without_table(connection: sqlite3.Connection, merged: Collection[str]) -> int:
    """Count the rows of the application's tables that are none of *merged*."""
    tables_there = connection.execute(
        # Virtual tables have no root: their rows lie in tables of their own.
        f"SELECT name FROM {_ASIDE}.sqlite_schema WHERE type = 'table' AND rootpage > 0"  # noqa: S608
    ).fetchall()
    left = [name for (name,) in tables_there if name not in merged and not is_reserved(name)]
    return sum(
        connection.execute(f"SELECT count(*) FROM {_ASIDE}.{quoted(name)}").fetchone()[0]  # noqa: S608
        for name in left
    )


def _bring_renumbered(connection: sqlite3.Connection, table: _Table) -> int:
    """Bring what has the number of another row, under a new number."""
    names = ", ".join(quoted(name) for name in table.columns if name not in table.key)
    if not names:
        return 0
    same = _same("own", "old", (*table.key, *table.columns))
    return connection.execute(
        f"INSERT OR IGNORE INTO main.{quoted(table.name)} ({names}) "  # noqa: S608
        f"SELECT {names} FROM {_ASIDE}.{quoted(table.name)} AS old "
        f"WHERE NOT EXISTS (SELECT 1 FROM main.{quoted(table.name)} AS own WHERE {same})"
        f"{_not_deleted(connection, table)} ORDER BY old.{quoted(table.key[0])}"
    ).rowcount


def _same(one: str, other: str, columns: Sequence[str]) -> str:
    return " AND ".join(f"{one}.{quoted(name)} IS {other}.{quoted(name)}" for name in columns)


def _not_deleted(connection: sqlite3.Connection, table: _Table) -> str:
    """Return the condition that the file in use captured no deletion of the row ``old``."""
    if not tables.exist(connection):
        return ""
    found = []
    for layout in stored_layouts(connection).values():
        if layout.table == table.name and set(table.key) <= set(layout.names):
            same = " AND ".join(
                f"v{layout.names.index(name)} IS old.{quoted(name)}" for name in table.key
            )
            found.append(
                f" AND NOT EXISTS (SELECT 1 FROM main.{OUTBOX} "  # noqa: S608
                f"WHERE op = 'D' AND layout = {layout.id} AND {same})"
            )
    return "".join(found)


def _captured(connection: sqlite3.Connection) -> bool:
    """Whether the other file has captured its changes."""
    (found,) = connection.execute(
        f"SELECT count(*) FROM {_ASIDE}.sqlite_schema WHERE type = 'table' AND name IN (?, ?)",  # noqa: S608
        (OUTBOX, STATE),
    ).fetchone()
    if found != 2:
        return False
    state = connection.execute(f"SELECT capture FROM {_ASIDE}.{STATE}").fetchone()  # noqa: S608
    return bool(state and state[0])


def _orphans(connection: sqlite3.Connection) -> list[tuple[str, int | None]]:
    """Return table and rowid of each row that points to none."""
    return [(row[0], row[1]) for row in connection.execute("PRAGMA main.foreign_key_check")]


def _drop_orphans(connection: sqlite3.Connection, before: set[tuple[str, int | None]]) -> int:
    """Take out again what came without the row that it points to; return how many."""
    dropped = 0
    for _ in range(_LONGEST_CHAIN):
        found = set(_orphans(connection)) - before
        if not found:
            return dropped
        for table, rowid in found:
            if rowid is None:
                raise SchemaError(f"rows of {table} point to rows that the file in use lacks")
            connection.execute(f"DELETE FROM main.{quoted(table)} WHERE _rowid_ = ?", (rowid,))  # noqa: S608
        dropped += len(found)
    raise SchemaError("its rows point to rows that the file in use lacks")
