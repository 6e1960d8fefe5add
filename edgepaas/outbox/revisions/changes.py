# SPDX-License-Identifier: Apache-2.0
"""What one revision did to names, and where a table's columns stand after several.

A row that waits was captured at one revision of the schema, and arrives at another. Names alone do
not tell where its values belong: two columns may have swapped theirs.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RevisionChanges:
    """What *revision* renamed and dropped; all keys are names as they were before it.

    ``columns`` and ``gone_columns`` are by the table's name before it. ``observed`` is False for
    a revision that was applied where nobody looked: it is taken to have changed no name.
    """

    revision: str
    tables: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    gone_tables: frozenset[str] = frozenset()
    gone_columns: Mapping[str, frozenset[str]] = field(default_factory=dict)
    observed: bool = True

    @property
    def is_empty(self) -> bool:
        """Whether every name stayed as it was."""
        return not (self.tables or self.columns or self.gone_tables or self.gone_columns)

    def inverted(self) -> "RevisionChanges":
        """Return what leads back: new names to those before; what was dropped does not return."""
        return RevisionChanges(
            self.revision,
            {new: old for old, new in self.tables.items()},
            {
                self.tables.get(table, table): {new: old for old, new in renamed.items()}
                for table, renamed in self.columns.items()
            },
        )

    def as_text(self) -> str | None:
        """Return what the record keeps; None for a revision that was not observed."""
        if not self.observed:
            return None
        return json.dumps(
            {
                "tables": dict(self.tables),
                "columns": {table: dict(names) for table, names in self.columns.items()},
                "gone_tables": sorted(self.gone_tables),
                "gone_columns": {t: sorted(names) for t, names in self.gone_columns.items()},
            },
            sort_keys=True,
            separators=(",", ":"),
        )


def read_changes(revision: str, text: str | None) -> RevisionChanges:
    """Return the changes that :meth:`RevisionChanges.as_text` made; ValueError for other text."""
    if text is None:
        return RevisionChanges(revision, observed=False)
    try:
        entry = json.loads(text)
        return RevisionChanges(
            revision,
            {str(old): str(new) for old, new in entry["tables"].items()},
            {
                str(table): {str(old): str(new) for old, new in names.items()}
                for table, names in entry["columns"].items()
            },
            frozenset(map(str, entry["gone_tables"])),
            {str(t): frozenset(map(str, names)) for t, names in entry["gone_columns"].items()},
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"what revision {revision} changed cannot be read: {text:.80}") from error


@dataclass(frozen=True)
class Names:
    """Where a table and its columns stand; None: it was dropped on the way.

    ``columns`` is by the names that the rows were captured with, in their order.
    """

    table: str | None
    columns: Mapping[str, str | None]

    @classmethod
    def of(cls, table: str, columns: Iterable[str]) -> "Names":
        """Return the names as they are."""
        return cls(table, {name: name for name in columns})

    @property
    def ambiguous(self) -> bool:
        """Whether two columns would stand in one place."""
        found = [name for name in self.columns.values() if name is not None]
        return len(set(found)) < len(found)

    def after(self, changes: Iterable[RevisionChanges]) -> "Names":
        """Return where they stand after *changes*, in the order in which these were applied."""
        table, columns = self.table, dict(self.columns)
        for one in changes:
            if table is None:
                break
            if table in one.gone_tables:
                table, columns = None, dict.fromkeys(columns)
                break
            renamed = one.columns.get(table, {})
            gone = one.gone_columns.get(table, frozenset())
            columns = {
                name: None if now is None or now in gone else renamed.get(now, now)
                for name, now in columns.items()
            }
            table = one.tables.get(table, table)
        return Names(table, columns)
