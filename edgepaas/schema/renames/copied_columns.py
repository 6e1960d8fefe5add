# SPDX-License-Identifier: Apache-2.0
"""Which columns an INSERT from a SELECT copies: SQLAlchemy's insides, used in this module alone.

Alembic's batch mode makes a table anew and copies its rows with such a statement
(``alembic.operations.batch.ApplyBatchImpl``). It names the columns of the new table by their keys,
which are the old names, while the new table's columns have the new ones. The names that the
statement fills are in its ``_select_names`` alone.
``tests/unit/test_adapter_copied_columns.py`` holds both to the tested versions.
"""

from typing import Any


def copied_columns(element: Any) -> tuple[str, str, list[tuple[str, str]]] | None:
    """Return (source table, target table, pairs of columns) that *element* copies, else None.

    Only columns whose value is another table's column, cast or not, are among the pairs; the
    source is that of the first of them.
    """
    from sqlalchemy.sql.dml import Insert
    from sqlalchemy.sql.schema import Table

    if not isinstance(element, Insert) or element.select is None:
        return None
    target, keys = element.table, element._select_names
    if not isinstance(target, Table) or not keys:
        return None
    source = ""
    pairs: list[tuple[str, str]] = []
    for key, expression in zip(keys, _selected(element.select), strict=False):
        column = _plain_column(expression)
        if column is None or key not in target.c:
            continue
        source = source or column.table.name
        if column.table.name == source:
            pairs.append((column.name, target.c[key].name))
    return (source, target.name, pairs) if pairs else None


def _selected(select: Any) -> Any:
    return getattr(select, "selected_columns", ())


def _plain_column(expression: Any) -> Any:
    """Return the column of a table that *expression* is, or casts; None for anything else."""
    from sqlalchemy.sql.elements import Cast, Label, TypeCoerce
    from sqlalchemy.sql.schema import Column

    while isinstance(expression, Cast | Label | TypeCoerce):
        expression = expression.element if isinstance(expression, Label) else expression.clause
    return expression if isinstance(expression, Column) and expression.table is not None else None
