# SPDX-License-Identifier: Apache-2.0
"""What PostgreSQL checks of the models' rows, in a form that SQLite can check as well.

It is a part of tables.json, from which :mod:`edgepaas.outbox.strictness` makes triggers.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import CheckConstraint, Column, Table


def values_of(column: "Column[Any]") -> list[str]:
    """Return the words of an enumeration that is a type of PostgreSQL's own; else none."""
    from sqlalchemy import Enum
    from sqlalchemy.types import TypeDecorator

    kind = column.type
    while isinstance(kind, TypeDecorator):
        kind = kind.impl_instance
    return list(kind.enums) if isinstance(kind, Enum) and kind.native_enum else []


def checks_of(table: "Table") -> list[dict[str, Any]]:
    """Return the name (or "") and the text, in SQLite's words, of each CHECK of *table*."""
    from sqlalchemy import CheckConstraint

    found = [one for one in table.constraints if isinstance(one, CheckConstraint)]
    described = [{"name": _name(one), "text": _text(one)} for one in found]
    return sorted(described, key=lambda one: (one["name"], one["text"]))


def unique_of(table: "Table") -> list[dict[str, Any]]:
    """Return name, columns and ``nulls_distinct`` of whatever makes rows of *table* unique.

    Beside its key. An index over expressions, or over a part of the rows, is left out: SQLite
    has it only where its migration makes it.
    """
    described = [
        {
            "name": _name(one),
            "columns": names,
            "nulls_distinct": not _option(one, "nulls_not_distinct"),
        }
        for one, names in _unique(table)
    ]
    return sorted(described, key=lambda one: (one["name"], one["columns"]))


def _unique(table: "Table") -> Iterator[tuple[Any, list[str]]]:
    from sqlalchemy import Column, UniqueConstraint

    for constraint in table.constraints:
        if isinstance(constraint, UniqueConstraint):
            yield constraint, [column.name for column in constraint.columns]
    for index in table.indexes:
        columns = [one.name for one in index.expressions if isinstance(one, Column)]
        whole = len(columns) == len(list(index.expressions)) and _option(index, "where") is None
        if index.unique and whole:
            yield index, columns


def _option(one: Any, name: str) -> Any:
    return one.dialect_options["postgresql"].get(name)


def _name(one: Any) -> str:
    """Return the name that the naming convention gives, as it is in the database."""
    from sqlalchemy import Index
    from sqlalchemy.dialects import postgresql

    if one.name is None:
        return ""
    preparer = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]
    format_name = preparer.format_index if isinstance(one, Index) else preparer.format_constraint
    return str(format_name(one) or "").strip('"')


def _text(constraint: "CheckConstraint") -> str:
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.exc import CompileError

    try:
        return _compiled(constraint, sqlite.dialect())
    except CompileError:  # PostgreSQL's words, which SQLite then reports not to know
        return _compiled(constraint, postgresql.dialect())  # type: ignore[no-untyped-call]


def _compiled(constraint: "CheckConstraint", dialect: Any) -> str:
    compiler = dialect.ddl_compiler(dialect, None).sql_compiler
    text: str = compiler.process(constraint.sqltext, include_table=False, literal_binds=True)
    return text
