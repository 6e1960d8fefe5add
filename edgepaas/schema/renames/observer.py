# SPDX-License-Identifier: Apache-2.0
"""Observing a migration on its connection: what each revision renames, whichever way it does it.

SQLAlchemy's events show each statement that goes through it; Alembic's own hooks miss raw SQL. A
statement that goes past SQLAlchemy is not seen on SQLite: the column counts as gone then, and on
PostgreSQL the catalog tells.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgepaas.app.migrations import OBSERVER
from edgepaas.outbox.revisions.changes import RevisionChanges
from edgepaas.schema.renames.catalogs import read_catalog
from edgepaas.schema.renames.copied_columns import copied_columns
from edgepaas.schema.renames.lineage import Catalog, ColumnShape, Lineage, TableShape

if TYPE_CHECKING:
    from sqlalchemy import Connection

_ALTER = re.compile(r"\balter\b", re.IGNORECASE)


@dataclass(frozen=True)
class ObservedRevision:
    """What a revision did to names, and the catalogs before and after it."""

    changes: RevisionChanges
    before: Catalog
    after: Catalog
    lineage: Lineage

    def has_table(self, table: str) -> bool:
        """Whether the application had *table* before the revision."""
        return _shape(self.before, table) is not None

    def is_retired(self, table: str, column: str) -> bool:
        """Whether the migration says that values of *column* need no place; names before it."""
        return self.lineage.is_retired(table, column)

    def changed_type(
        self, table: str, column: str, new_table: str, new_column: str
    ) -> tuple[str, str] | None:
        """Return the type of a column before and after the revision; None where it stayed."""
        old, new = _type_of(self.before, table, column), _type_of(self.after, new_table, new_column)
        return None if old == new or not old or not new else (old, new)

    def newly_required(self, table: str, new_table: str) -> list[str]:
        """Return the columns that a row has to bring since this revision; names after it."""
        return self._newly(table, new_table, lambda column: column.required)

    def no_longer_empty(self, table: str, new_table: str) -> list[str]:
        """Return the columns that take no NULL since this revision; names after it."""
        return self._newly(table, new_table, lambda column: column.not_null)

    def _newly(
        self, table: str, new_table: str, counts: Callable[[ColumnShape], bool]
    ) -> list[str]:
        renamed = self.changes.columns.get(table, {})
        already = {renamed.get(one, one) for one in _columns(self.before, table, counts)}
        found = _columns(self.after, new_table, counts)
        return [name for name in found if name not in already]


def _shape(catalog: Catalog, table: str) -> TableShape | None:
    return next((one for one in catalog.values() if one.name == table), None)


def _type_of(catalog: Catalog, table: str, column: str) -> str:
    shape = _shape(catalog, table)
    columns = () if shape is None else shape.columns.values()
    return next((one.type for one in columns if one.name == column), "")


def _columns(catalog: Catalog, table: str, counts: Callable[[ColumnShape], bool]) -> list[str]:
    shape = _shape(catalog, table)
    return [] if shape is None else [one.name for one in shape.columns.values() if counts(one)]


class Observer:
    """Follows the revisions that run on one connection, one after the other."""

    def __init__(
        self, connection: "Connection", finished: "Callable[[ObservedRevision], None]"
    ) -> None:
        """*finished* gets what each revision did, at its end; what it raises ends the migration."""
        self._connection = connection
        self._finished = finished
        self._by_position = connection.dialect.name == "sqlite"
        self._before: Catalog = read_catalog(connection)
        self._last = self._before
        self.lineage = Lineage(self._before)

    def revision_applied(self, revision: str) -> None:
        """Report the revision that has just ended, and begin with the next one."""
        now = read_catalog(self._connection)
        if not self._by_position:
            self.lineage.altered(self._last, now)
        changes = self.lineage.changes(revision, now)
        self._finished(ObservedRevision(changes, self._before, now, self.lineage))
        self._before, self._last, self.lineage = now, now, Lineage(now)

    def before_statement(self, statement: str) -> None:
        """Read the catalog before an ALTER of SQLite."""
        if self._by_position and _ALTER.search(statement):
            self._last = read_catalog(self._connection)

    def after_statement(self, statement: str) -> None:
        """Compare the catalog with the one before the ALTER."""
        if self._by_position and _ALTER.search(statement):
            now = read_catalog(self._connection)
            self.lineage.altered(self._last, now, by_position=True)

    def before_execute(self, element: object) -> None:
        """Follow an INSERT from a SELECT, as batch mode copies a table with it."""
        found = copied_columns(element)
        if found is None:
            return
        if not self._by_position:
            now = read_catalog(self._connection)
            self.lineage.altered(self._last, now)
            self._last = now
        self.lineage.copied(*found)


@contextmanager
def observed(
    connection: "Connection", finished: Callable[[ObservedRevision], None]
) -> Iterator[Observer]:
    """Observe the migrations that run on *connection* in the block; see :class:`Observer`."""
    from sqlalchemy import event

    observer = Observer(connection, finished)

    def before_execute(_connection: Any, element: Any, *_: Any) -> None:
        observer.before_execute(element)

    def before_cursor(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        observer.before_statement(statement)

    def after_cursor(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        observer.after_statement(statement)

    listeners = (
        ("before_execute", before_execute),
        ("before_cursor_execute", before_cursor),
        ("after_cursor_execute", after_cursor),
    )
    for name, listener in listeners:
        event.listen(connection, name, listener)
    connection.info[OBSERVER] = observer
    try:
        yield observer
    finally:
        del connection.info[OBSERVER]
        for name, listener in listeners:
            event.remove(connection, name, listener)
