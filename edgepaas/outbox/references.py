# SPDX-License-Identifier: Apache-2.0
"""Rows that others point to, by the foreign keys of the file itself.

Removing a row that another one points to is refused, or takes the other one along (ON DELETE
CASCADE), which may be a row that never left the box.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edgepaas.outbox.tables import quoted


@dataclass(frozen=True)
class Reference:
    """A foreign key: *columns* of *child* point to *targets* of *parent*."""

    child: str
    columns: tuple[str, ...]
    parent: str
    targets: tuple[str, ...]


def references(connection: sqlite3.Connection) -> list[Reference]:
    """Return every foreign key of the file; tables are called as they were created."""
    names = [
        str(name)
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    ]
    spelled = {name.casefold(): name for name in names}
    found = []
    for child in names:
        keys: dict[int, list[tuple[str, str, str | None]]] = {}
        for number, parent, column, target in connection.execute(
            'SELECT id, "table", "from", "to" FROM pragma_foreign_key_list(?) ORDER BY id, seq',
            (child,),
        ):
            keys.setdefault(number, []).append((parent, column, target))
        for parts in keys.values():
            parent = spelled.get(parts[0][0].casefold())
            if parent is None:
                continue
            targets = tuple(target for _, _, target in parts if target is not None)
            found.append(
                Reference(
                    child,
                    tuple(column for _, column, _ in parts),
                    parent,
                    targets or _primary_key(connection, parent),
                )
            )
    return found


def unreferenced(
    found: Iterable[Reference], table: str, value: Callable[[str], str | None]
) -> list[str]:
    """Return conditions that all hold for a row of *table* to which none points.

    *value* gives the expression of the row's own value in a column, None where there is none.
    """
    conditions = []
    for one in found:
        values = [value(target) for target in one.targets]
        if one.parent != table or None in values:
            continue
        same = " AND ".join(
            f"pointing.{quoted(column)} = {mine}"
            for column, mine in zip(one.columns, values, strict=True)
        )
        conditions.append(
            f"NOT EXISTS (SELECT 1 FROM {quoted(one.child)} pointing WHERE {same})"  # noqa: S608
        )
    return conditions


class Remover:
    """Deletes rows to which none points, and then what pointed nowhere else: their parents.

    Only the parents of the tables *removable*: they were there before their children, so
    what is true of a child, that it is at the hub long since, is true of its parents.
    """

    def __init__(
        self, connection: sqlite3.Connection, found: Sequence[Reference], removable: Iterable[str]
    ) -> None:
        self._connection = connection
        self._found = found
        self._removable = set(removable)
        self._statements: dict[tuple[str, tuple[str, ...]], str] = {}
        self._upward = {
            table: [one for one in found if one.child == table and one.parent in self._removable]
            for table in self._removable
        }

    def remove(self, table: str, columns: tuple[str, ...], key: Sequence[Any]) -> int:
        """Delete the row of *table* whose *columns* are *key*; returns how many rows went.

        Inside the caller's transaction, with capture off. Raises sqlite3.Error.
        """
        todo = [(table, columns, tuple(key))]
        removed = 0
        while todo:
            name, where, values = todo.pop()
            for row in self._connection.execute(self._statement(name, where), values).fetchall():
                removed += 1
                position = 0
                for one in self._upward[name]:
                    target = row[position : position + len(one.columns)]
                    position += len(one.columns)
                    if None not in target:
                        todo.append((one.parent, one.targets, target))
        return removed

    def _statement(self, table: str, where: tuple[str, ...]) -> str:
        found = self._statements.get((table, where))
        if found is None:
            name = quoted(table)
            conditions = [f"{quoted(column)} IS ?" for column in where]
            conditions += unreferenced(
                self._found, table, lambda column: f"{name}.{quoted(column)}"
            )
            pointing = [column for one in self._upward[table] for column in one.columns]
            found = (
                f"DELETE FROM {name} WHERE {' AND '.join(conditions)} "  # noqa: S608
                f"RETURNING {', '.join(map(quoted, pointing)) or '1'}"
            )
            self._statements[table, where] = found
        return found


def _primary_key(connection: sqlite3.Connection, table: str) -> tuple[str, ...]:
    rows = connection.execute(
        "SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", (table,)
    )
    return tuple(str(row[0]) for row in rows)
