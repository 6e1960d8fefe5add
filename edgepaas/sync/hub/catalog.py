# SPDX-License-Identifier: Apache-2.0
"""The hub's tables, columns, keys and foreign keys, read from PostgreSQL's catalog."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from edgepaas.database.column_kinds import ColumnKind, column_kind
from edgepaas.database.reserved_names import OPTIONAL_TABLES
from edgepaas.outcomes.fit import TableShape, fit_question, shapes_of
from edgepaas.pgdriver.pipeline import Result, Statement

# format_type(…, -1) is the type without its length or precision: an explicit cast to
# varchar(5) would silently truncate a text, where assigning it is refused (PostgreSQL
# manual, 10.4 "Value Storage").
#: What another role made and gave this one no right to counts as not there: no row waits for it.
_OPTIONAL = ", ".join(f"'{name}'" for name in OPTIONAL_TABLES)
_RIGHTS = " AND ".join(
    f"has_table_privilege(c.oid, '{right}')" for right in ("SELECT", "INSERT", "UPDATE", "DELETE")
)
_COLUMNS = f"""
SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
  format_type(a.atttypid, -1), t.typcategory::text, a.attnotnull,
  a.atthasdef OR a.attidentity <> '', a.attgenerated <> '' OR a.attidentity = 'a'
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relnamespace = to_regnamespace(current_schema()) AND c.relkind IN ('r', 'p')
  AND (c.relname NOT IN ({_OPTIONAL}) OR ({_RIGHTS}))
ORDER BY c.relname, a.attnum"""  # noqa: S608
_KEYS = """
SELECT 'key', c.relname, a.attname
FROM pg_class c
JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND i.indimmediate
JOIN pg_attribute a ON a.attrelid = c.oid
  AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
WHERE c.relnamespace = to_regnamespace(current_schema())
ORDER BY c.relname, array_position(i.indkey::int2[], a.attnum)"""
_PARENTS = """
SELECT 'parent', c.relname, p.relname
FROM pg_constraint f
JOIN pg_class c ON c.oid = f.conrelid
JOIN pg_class p ON p.oid = f.confrelid
WHERE f.contype = 'f' AND c.relnamespace = to_regnamespace(current_schema())"""

#: Types that PostgreSQL cannot compare with ``=``: they are compared as text.
_WITHOUT_EQUALITY = frozenset({"json", "xml", "point", "polygon", "box", "path"})


@dataclass(frozen=True)
class HubColumn:
    """One column; ``type`` as declared, ``base`` without length or precision."""

    name: str
    type: str
    base: str
    is_array: bool
    #: Whether it holds text or bits, whose length the type may limit.
    is_text: bool
    #: Whether a row without a value for it is refused.
    required: bool
    #: Whether PostgreSQL computes it, so that no value may be given.
    generated: bool

    @property
    def parameter_type(self) -> str:
        """The type that a value is sent as: an array is sent as text, as arrays do not nest."""
        return "text" if self.is_array else self.base

    def from_parameter(self, sent: str) -> str:
        """Return *sent*, an SQL expression of the parameter's type, cast to the base type."""
        return f"{sent}::{self.base}" if self.is_array else sent

    def stored(self, value: str) -> str:
        """Return *value*, an SQL expression of the base type, as the column would store it.

        A text is stored as it is or refused; a cast would truncate it to the column's length.
        """
        plain = self.type == self.base or self.is_text
        return value if plain else f"{value}::{self.type}"

    def comparable(self, expression: str) -> str:
        """Return *expression*, of the column's type, in a form that PostgreSQL can compare."""
        return f"{expression}::text" if self.base in _WITHOUT_EQUALITY else expression

    @property
    def is_bytes(self) -> bool:
        """Whether it holds bytes."""
        return column_kind(self.base) is ColumnKind.BYTES


@dataclass(frozen=True)
class HubTable:
    """One table: columns by name, primary key, and the tables that its foreign keys refer to.

    ``shape``: the same as it is judged for fit, and what may happen to its rows.
    """

    name: str
    columns: Mapping[str, HubColumn]
    key: tuple[str, ...] = ()
    parents: frozenset[str] = field(default_factory=frozenset)
    shape: TableShape | None = None


Tables = Mapping[str, HubTable]


def read_tables(run: Callable[[Sequence[Statement]], list[Result]]) -> Tables:
    """Return the tables of the default schema, read with *run* in one round trip."""
    found_columns, found_keys, found_parents, found_shapes = run(
        [(_COLUMNS, ()), (_KEYS, ()), (_PARENTS, ()), (fit_question(), ())]
    )
    columns: dict[str, dict[str, HubColumn]] = {}
    for (
        _,
        table,
        name,
        declared,
        base,
        category,
        not_null,
        default,
        generated,
    ) in found_columns.rows:
        columns.setdefault(table, {})[name] = HubColumn(
            name,
            declared,
            base,
            category == "A",
            category in "SV",
            not_null and not default,
            generated,
        )
    keys = _grouped(found_keys.rows)
    parents = _grouped(found_parents.rows)
    shapes = shapes_of(found_shapes.rows[0][0])
    return MappingProxyType(
        {
            name: HubTable(
                name,
                found,
                tuple(keys.get(name, ())),
                frozenset(parents.get(name, ())),
                shapes.get(name),
            )
            for name, found in columns.items()
        }
    )


def _grouped(rows: Iterable[list[Any]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for _, table, name in rows:
        groups.setdefault(table, []).append(name)
    return groups
