# SPDX-License-Identifier: Apache-2.0
"""Which columns of the box's rows exist in the hub's table, and where each one stands."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgepaas.outbox.layout import Layout, Merge
from edgepaas.outbox.tables import quoted
from edgepaas.sync.errors import SchemaDrift
from edgepaas.sync.hub.catalog import HubColumn, HubTable


@dataclass(frozen=True)
class MappedColumn:
    """One column: its position in the box's rows, and its description on the hub."""

    position: int
    column: HubColumn
    merge: Merge
    #: The position of the column whose value this one has where a box filled it in; -1: none.
    filled_from: int
    in_key: bool

    @property
    def name(self) -> str:
        """The column's name as an SQL identifier."""
        return quoted(self.column.name)

    @property
    def is_content(self) -> bool:
        """Whether a row with another value in it counts as different."""
        return not self.merge and not self.in_key


@dataclass(frozen=True)
class ColumnMapping:
    """The columns of *layout* that the hub has, in the layout's order."""

    layout: Layout
    columns: tuple[MappedColumn, ...]

    @property
    def table(self) -> str:
        """The table's name as an SQL identifier."""
        return quoted(self.layout.table)

    @property
    def key(self) -> tuple[MappedColumn, ...]:
        """The key's columns, in the layout's order."""
        return tuple(mapped for mapped in self.columns if mapped.in_key)

    def at(self, position: int) -> MappedColumn | None:
        """Return the column at *position* of the box's rows, if the hub has it."""
        return next((mapped for mapped in self.columns if mapped.position == position), None)


class TableDropped(Exception):
    """Neither the hub nor this box's own models have the table any more."""


def map_columns(layout: Layout, table: HubTable | None, models: Mapping[str, Any]) -> ColumnMapping:
    """Return the columns of *layout* that the hub's *table* has.

    A column that neither the hub nor the current *models* (``tables`` of tables.json) have is
    left out. Raises SchemaDrift where the hub lacks a column of the models, has another key, or
    requires a value that these rows do not have; TableDropped.
    """
    wanted = models.get(layout.table)
    if table is None:
        if wanted is None:
            raise TableDropped
        raise SchemaDrift(f"the hub has no table {layout.table}; {_REMEDY}")
    known = {column["name"] for column in wanted["columns"]} if wanted else set()
    missing = [name for name in layout.names if name not in table.columns]
    lacking = sorted(set(missing) & (known | set(layout.key)))
    if lacking:
        raise SchemaDrift(f"the hub's table {layout.table} has no {lacking[0]}; {_REMEDY}")
    if set(table.key) != set(layout.key):
        raise SchemaDrift(
            f"the hub's table {layout.table} has the key ({', '.join(table.key)}), this box's "
            f"({', '.join(layout.key)}); {_REMEDY}"
        )
    for column in table.columns.values():
        if column.required and not column.generated and column.name not in layout.names:
            raise SchemaDrift(
                f"the hub's column {layout.table}.{column.name} requires a value, and rows that "
                "wait here have none: give it a default there until they are delivered"
            )
    return ColumnMapping(layout, tuple(_mapped_columns(layout, table)))


_REMEDY = "run 'edgepaas schema --hub' to upgrade it to this box's models"


def _mapped_columns(layout: Layout, table: HubTable) -> list[MappedColumn]:
    names = layout.names
    return [
        MappedColumn(
            position,
            table.columns[column.name],
            column.merge,
            names.index(column.filled_from) if column.filled_from in table.columns else -1,
            column.name in layout.key,
        )
        for position, column in enumerate(layout.columns)
        if column.name in table.columns and not table.columns[column.name].generated
    ]


def literal(text: str) -> str:
    """Return *text* as an SQL string literal, whatever standard_conforming_strings is."""
    doubled = text.replace("'", "''")
    return "E'" + doubled.replace("\\", "\\\\") + "'" if "\\" in text else f"'{doubled}'"
