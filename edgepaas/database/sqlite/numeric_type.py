# SPDX-License-Identifier: Apache-2.0
"""The type by which SQLite's tables declare decimal numbers: text that sorts as numbers do.

A migration says ``sa.Numeric(12, 2)``, which SQLite would round to 64 bits. While one runs,
the columns that are exact in the models are declared so here as well.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from sqlalchemy import types
from sqlalchemy.dialects.sqlite import base
from sqlalchemy.ext.compiler import compiles

from edgepaas.database.sqlite.numeric_order import COLLATION, TYPE

#: Table and name of the columns that are exact in the models of the migration that runs.
_exact: ContextVar[Collection[tuple[str, str]]] = ContextVar("exact", default=())


class NumericText(types.UserDefinedType[str]):
    """``NUMERIC_TEXT(12, 2) COLLATE edgepaas_numeric``; values are text."""

    cache_ok = True

    def __init__(self, precision: int | None = None, scale: int | None = None) -> None:
        self.precision = precision
        self.scale = scale

    def get_col_spec(self, **_: Any) -> str:
        """Return the type as CREATE TABLE has it."""
        digits = "" if self.precision is None else f"({self.precision}, {self.scale or 0})"
        return f"{TYPE}{digits} COLLATE {COLLATION}"


@contextmanager
def exact_columns(columns: Collection[tuple[str, str]]) -> Iterator[None]:
    """Have SQLAlchemy's own Numeric stored exactly in *columns* (table, name), for the block."""
    token = _exact.set(columns)
    try:
        yield
    finally:
        _exact.reset(token)


@compiles(types.Numeric, "sqlite")
@compiles(types.NUMERIC, "sqlite")
@compiles(types.DECIMAL, "sqlite")
def _declare(kind: "types.Numeric[Any]", compiler: Any, **options: Any) -> str:
    column = options.get("type_expression")
    place = (getattr(getattr(column, "table", None), "name", ""), getattr(column, "name", ""))
    if place not in _exact.get():
        name = "DECIMAL" if isinstance(kind, types.DECIMAL) else "NUMERIC"
        text: str = getattr(compiler, f"visit_{name}")(kind, **options)
        return text
    return NumericText(kind.precision, kind.scale).get_col_spec()


# A table that is read back from the file has it again: Alembic's batch mode copies tables so, and
# a copy without the collation would sort as text.
base.ischema_names[TYPE] = NumericText
