# SPDX-License-Identifier: Apache-2.0
"""Which columns of the box's rows exist in the hub's table, and where each one stands."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgepaas.database.column_kinds import ColumnKind, column_kind
from edgepaas.outbox.layout import Column, Layout, Merge
from edgepaas.outbox.revisions.changes import Names
from edgepaas.outbox.revisions.naming import Naming
from edgepaas.outbox.tables import quoted
from edgepaas.outcomes import mending
from edgepaas.outcomes.fit import table_misfit
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
    """The columns of *layout* that the hub has, in the layout's order.

    ``hub_table`` is the table's name there. ``dropped`` are columns that the hub has no more:
    what rows bring for them is kept as a conflict.
    """

    layout: Layout
    columns: tuple[MappedColumn, ...]
    hub_table: str
    dropped: tuple[MappedColumn, ...] = ()

    @property
    def table(self) -> str:
        """The hub's table as an SQL identifier."""
        return quoted(self.hub_table)

    @property
    def key(self) -> tuple[MappedColumn, ...]:
        """The key's columns, in the layout's order."""
        return tuple(mapped for mapped in self.columns if mapped.in_key)

    def at(self, position: int) -> MappedColumn | None:
        """Return the column at *position* of the box's rows, if the hub has it."""
        return next((mapped for mapped in self.columns if mapped.position == position), None)


class TableDropped(Exception):
    """Neither the hub nor this box's own models have the table any more."""


def map_columns(
    layout: Layout,
    tables: Mapping[str, HubTable],
    models: Mapping[str, Any],
    naming: Naming | None = None,
) -> ColumnMapping:
    """Return where the columns of *layout* stand among the hub's *tables*.

    *naming*: what was renamed since rows of the layout were captured. A column that neither the
    hub nor the current *models* (``tables`` of tables.json) have is ``dropped``. Raises
    SchemaDrift where the hub lacks a column of the models, has another key, or requires a value
    that these rows do not have; TableDropped.
    """
    naming = naming or Naming()
    names, own = naming.at_hub(layout), naming.at_box(layout)
    wanted = models.get(own.table or "")
    table = None if names.table is None else tables.get(names.table)
    if table is None:
        if names.table is None or wanted is None:
            raise TableDropped
        raise SchemaDrift(f"the hub has no table {names.table}; {_REMEDY}")
    if names.ambiguous:
        raise SchemaDrift(f"the hub's table {table.name} has other columns yet; {_REMEDY}")
    known = {column["name"] for column in wanted["columns"]} if wanted else set()
    lacking = sorted(
        now
        for name, now in names.columns.items()
        if now is not None
        and now not in table.columns
        and (own.columns[name] in known or name in layout.key)
    )
    if lacking:
        raise SchemaDrift(f"the hub's table {table.name} has no {lacking[0]}; {_REMEDY}")
    _check_key(layout, table, names)
    _check_required(table, names)
    if wanted is not None:
        _check_fit(layout, table, names, own, wanted)
    return ColumnMapping(
        layout,
        tuple(_mapped_columns(layout, table, names)),
        table.name,
        tuple(_dropped_columns(layout, table, names)),
    )


_MENDED = "what waits is sent once its owner has run this"
_REMEDY = "run 'edgepaas schema --hub' to upgrade it to this box's models"


def _check_key(layout: Layout, table: HubTable, names: Names) -> None:
    key = [names.columns[name] for name in layout.key]
    if set(table.key) != set(key):
        name = "" if table.shape is None else table.shape.key_name
        raise SchemaDrift(
            f"the hub's table {table.name} has the key ({', '.join(table.key)}), this box's "
            f"({', '.join(filter(None, key))}): "
            f"{mending.to_key(table.name, list(filter(None, key)), name)}; {_MENDED}"
        )


def _check_required(table: HubTable, names: Names) -> None:
    given = set(names.columns.values())
    for column in table.columns.values():
        if column.required and not column.generated and column.name not in given:
            raise SchemaDrift(
                f"the hub's column {table.name}.{column.name} requires a value, and rows that "
                "wait here have none: give it a default there until they are delivered, or "
                f"{mending.to_nullable(table.name, column.name)}"
            )


def _check_fit(
    layout: Layout, table: HubTable, names: Names, own: Names, wanted: Mapping[str, Any]
) -> None:
    """Raise SchemaDrift where *table* would not keep what the models, *wanted*, allow as it is.

    The rows at hand may be of an older layout; what a migration made of their columns is the
    models' matter.
    """
    models = {column["name"]: column for column in wanted["columns"]}
    columns = [
        {**models.get(own.columns[column.name] or "", {}), "name": there}
        for column in layout.columns
        if (there := names.columns[column.name]) in table.columns
    ]
    if table.shape is None:
        return
    refusal = table_misfit(table.name, {"columns": columns}, table.shape)
    if refusal is not None:
        raise SchemaDrift(f"{refusal.text}; {_MENDED}")


def _mapped_columns(layout: Layout, table: HubTable, names: Names) -> Iterator[MappedColumn]:
    positions = {now: n for n, now in enumerate(names.columns.values()) if now in table.columns}
    for position, column in enumerate(layout.columns):
        now = names.columns[column.name]
        if now is None or now not in table.columns or table.columns[now].generated:
            continue
        filled_from = names.columns.get(column.filled_from)
        yield MappedColumn(
            position,
            table.columns[now],
            column.merge,
            -1 if filled_from is None else positions.get(filled_from, -1),
            column.name in layout.key,
        )


def _dropped_columns(layout: Layout, table: HubTable, names: Names) -> Iterator[MappedColumn]:
    for position, column in enumerate(layout.columns):
        if names.columns[column.name] not in table.columns:
            yield MappedColumn(position, _without_place(column), "", -1, in_key=False)


def _without_place(column: Column) -> HubColumn:
    """Return *column* as one of the hub, to send its values as text or bytes."""
    kind = "bytea" if column_kind(column.type) is ColumnKind.BYTES else "text"
    return HubColumn(column.name, kind, kind, False, kind == "text", False, False)


def literal(text: str) -> str:
    """Return *text* as an SQL string literal, whatever standard_conforming_strings is."""
    doubled = text.replace("'", "''")
    return "E'" + doubled.replace("\\", "\\\\") + "'" if "\\" in text else f"'{doubled}'"
