# SPDX-License-Identifier: Apache-2.0
"""What of a row can go into the hub's table: the columns that both sides have."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgepaas.outbox.layout import Layout, Merge
from edgepaas.outbox.tables import quoted
from edgepaas.sync.errors import SchemaDrift
from edgepaas.sync.hub.catalog import HubColumn, HubTable


@dataclass(frozen=True)
class MappedColumn:
    """One column: where it stands in the box's rows, and what the hub says of it."""

    position: int
    column: HubColumn
    merge: Merge
    #: The position of the column that this one equals where a box filled it in; -1: none.
    filled_from: int
    in_key: bool

    @property
    def name(self) -> str:
        """The column's name as an SQL identifier."""
        return quoted(self.column.name)

    @property
    def is_content(self) -> bool:
        """Whether another value in it makes a row another one."""
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
        """Return the column that stands at *position* of the box's rows, if the hub has it."""
        return next((mapped for mapped in self.columns if mapped.position == position), None)


class TableDropped(Exception):
    """Neither the hub nor this box's own models have the table any more."""


def map_columns(layout: Layout, table: HubTable | None, models: Mapping[str, Any]) -> ColumnMapping:
    """Return what of *layout*'s rows goes into *table*, as the hub has it.

    A column that neither the hub nor the current *models* (``tables`` of tables.json) know
    is left out. Raises SchemaDrift where the hub lacks what the models have, has another
    key, or demands a value that these rows do not have; TableDropped.
    """
    wanted = models.get(layout.table)
    if table is None:
        if wanted is None:
            raise TableDropped
        raise SchemaDrift(f"the hub has no table {layout.table}; {_WAY_OUT}")
    known = {column["name"] for column in wanted["columns"]} if wanted else set()
    missing = [name for name in layout.names if name not in table.columns]
    lacking = sorted(set(missing) & (known | set(layout.key)))
    if lacking:
        raise SchemaDrift(f"the hub's table {layout.table} has no {lacking[0]}; {_WAY_OUT}")
    if set(table.key) != set(layout.key):
        raise SchemaDrift(
            f"the hub's table {layout.table} has the key ({', '.join(table.key)}), this box's "
            f"({', '.join(layout.key)}); {_WAY_OUT}"
        )
    for column in table.columns.values():
        if column.demanded and not column.generated and column.name not in layout.names:
            raise SchemaDrift(
                f"the hub's {layout.table}.{column.name} demands a value, and rows that wait "
                f"here have none: give it a default there until they are delivered"
            )
    return ColumnMapping(layout, tuple(_mapped_columns(layout, table)))


_WAY_OUT = "'edgepaas schema --hub' brings it to this box's models"


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
    """Return *text* as an SQL string, whatever standard_conforming_strings is."""
    doubled = text.replace("'", "''")
    return "E'" + doubled.replace("\\", "\\\\") + "'" if "\\" in text else f"'{doubled}'"
