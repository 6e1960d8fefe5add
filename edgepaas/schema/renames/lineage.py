# SPDX-License-Identifier: Apache-2.0
"""Where the columns of a revision came from, followed from statement to statement; no database."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgepaas.outbox.revisions.changes import RevisionChanges

#: A table and a column as they were called before the revision.
Origin = tuple[str, str]


@dataclass(frozen=True)
class ColumnShape:
    """A column in a catalog.

    ``required``: a row that says nothing of it is refused; ``not_null``: one that says NULL.
    """

    name: str
    type: str
    required: bool
    not_null: bool = False


@dataclass(frozen=True)
class TableShape:
    """A table in a catalog: its columns by what identifies them there, in their order."""

    name: str
    columns: Mapping[int, ColumnShape]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its columns."""
        return tuple(column.name for column in self.columns.values())


#: The tables of a database by what identifies them in its catalog.
Catalog = Mapping[int, TableShape]


class Lineage:
    """Follows one revision, from the catalog before it to the one after it."""

    def __init__(self, before: Catalog) -> None:
        self._before = {one.name: one.names for one in before.values()}
        #: The origin of each column that is there now; None: it is new.
        self._now: dict[str, dict[str, Origin | None]] = {
            table: {column: (table, column) for column in columns}
            for table, columns in self._before.items()
        }
        self._declared: list[tuple[str, str, str]] = []
        self._declared_tables: list[tuple[str, str]] = []
        self._retired: set[Origin] = set()

    def altered(self, before: Catalog, after: Catalog, *, by_position: bool = False) -> None:
        """Follow what happened between two readings of the catalog.

        *by_position*: a column is identified by its position, which a dropped one shifts; one
        statement lies between the readings then.
        """
        now: dict[str, dict[str, Origin | None]] = {}
        for identity, table in after.items():
            columns: dict[str, Origin | None] = dict.fromkeys(table.names)
            old = before.get(identity)
            if old is not None:
                known = self._now.get(old.name, {})
                for old_name, new_name in _pairs(old, table, by_position=by_position):
                    columns[new_name] = known.get(old_name)
            now[table.name] = columns
        self._now = now

    def copied(self, source: str, target: str, columns: Iterable[tuple[str, str]]) -> None:
        """Note that each pair of *columns* was copied from table *source* to table *target*."""
        known = self._now.get(source, {})
        found = self._now.setdefault(target, {})
        for old_name, new_name in columns:
            found[new_name] = known.get(old_name)

    def declared(self, table: str, old: str, new: str) -> None:
        """The migration says that the values of column *old* of *table* belong into *new*."""
        self._declared.append((table, old, new))

    def declared_table(self, old: str, new: str) -> None:
        """The migration says that the rows of table *old* belong into table *new*."""
        self._declared_tables.append((old, new))

    def retired(self, table: str, column: str) -> None:
        """The migration says that values of *column* which still wait are not to hold it up."""
        self._retired.add((table, column))

    def is_retired(self, table: str, column: str) -> bool:
        """Whether :meth:`retired` was said of it; names before the revision."""
        return (table, column) in self._retired

    def changes(self, revision: str, after: Catalog) -> RevisionChanges:
        """Return what *revision* did, *after* being the catalog at its end.

        Raises ValueError where the migration declares a column or a table that is not there.
        """
        there = {one.name: set(one.names) for one in after.values()}
        now = {
            table: {column: self._now.get(table, {}).get(column) for column in columns}
            for table, columns in there.items()
        }
        targets = {table: _target(table, now) for table in self._before}
        self._apply_declarations(there, targets, now)
        return _summary(revision, self._before, targets, now)

    def _apply_declarations(
        self,
        there: Mapping[str, set[str]],
        targets: dict[str, str | None],
        now: dict[str, dict[str, Origin | None]],
    ) -> None:
        for old, new in self._declared_tables:
            if new not in there:
                raise ValueError(
                    f"the migration says renamed_table({old!r}, {new!r}): no such table"
                )
            targets[old] = new
            for column in self._before.get(old, ()):
                if column in now[new] and now[new][column] is None:
                    now[new][column] = (old, column)
        for table, old, new in self._declared:
            origin = next((o for o, t in targets.items() if t == table), table)
            target = targets.get(origin)
            if target is None or new not in there[target]:
                raise ValueError(
                    f"the migration says renamed({table!r}, {old!r}, {new!r}): "
                    f"there is no column {new} at its end"
                )
            for column, found in now[target].items():
                if found == (origin, old):
                    now[target][column] = None
            now[target][new] = (origin, old)


def _target(table: str, now: Mapping[str, Mapping[str, Origin | None]]) -> str | None:
    """Return the table in which the columns of *table* are now; itself where it can be."""
    counts = {
        name: sum(1 for origin in columns.values() if origin is not None and origin[0] == table)
        for name, columns in now.items()
    }
    if counts.get(table):
        return table
    best = max(counts, key=lambda name: counts[name], default=None)
    return best if best is not None and counts[best] else None


def _summary(
    revision: str,
    before: Mapping[str, Sequence[str]],
    targets: Mapping[str, str | None],
    now: Mapping[str, Mapping[str, Origin | None]],
) -> RevisionChanges:
    tables: dict[str, str] = {}
    columns: dict[str, dict[str, str]] = {}
    gone_tables: set[str] = set()
    gone_columns: dict[str, frozenset[str]] = {}
    for table, names in before.items():
        target = targets[table]
        if target is None:
            gone_tables.add(table)
            continue
        if target != table:
            tables[table] = target
        renamed: dict[str, str] = {}
        gone: set[str] = set()
        for name in names:
            places = [c for c, origin in now[target].items() if origin == (table, name)]
            if not places:
                gone.add(name)
            elif name not in places:
                renamed[name] = places[0]
        if renamed:
            columns[table] = renamed
        if gone:
            gone_columns[table] = frozenset(gone)
    return RevisionChanges(revision, tables, columns, frozenset(gone_tables), gone_columns)


def _pairs(old: TableShape, new: TableShape, *, by_position: bool) -> list[tuple[str, str]]:
    if by_position and len(old.columns) != len(new.columns):
        there = set(new.names)
        return [(name, name) for name in old.names if name in there]
    return [
        (column.name, new.columns[identity].name)
        for identity, column in old.columns.items()
        if identity in new.columns
    ]
