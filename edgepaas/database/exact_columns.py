# SPDX-License-Identifier: Apache-2.0
"""Which columns reach PostgreSQL as they were written on SQLite, and which do not.

Two of SQLAlchemy's own types, which SQLite would round or take for local times, are made exact:
their columns get the platform's type in the model (:func:`make_exact`), and their migrations
the same storage (:mod:`edgepaas.database.sqlite.numeric_type`). What cannot be made exact is
refused with its reason and what to use instead.
"""

from collections.abc import Callable
from typing import Any, TypeGuard

from sqlalchemy import Column, types
from sqlalchemy.types import TypeDecorator, TypeEngine

from edgepaas.database.types import Numeric, UtcDateTime

#: A binary fraction of up to 24 bits is PostgreSQL's ``real``
#: (https://www.postgresql.org/docs/current/datatype-numeric.html#DATATYPE-FLOAT).
_REAL_BITS = 24


def make_exact(column: Column[Any]) -> None:
    """Give *column* the platform's type where it has one of SQLAlchemy's that means the same.

    ``Numeric(12, 2)`` is stored exactly then, and ``DateTime(timezone=True)`` as a moment in UTC.
    """
    kind = column.type
    if isinstance(kind, TypeDecorator):
        return
    if isinstance(kind, types.DateTime) and kind.timezone:
        column.type = UtcDateTime()
    elif _is_decimal(kind) and kind.precision is not None and kind.asdecimal:
        column.type = Numeric(kind.precision, kind.scale or 0)


def inexact_reason(column: Column[Any]) -> str:
    """Return why *column*'s values would change on their way, and what to use instead, or "".

    SQLite stores what its driver makes of a value, PostgreSQL reads that as its own type.
    """
    if column.computed is not None or column.identity is not None:
        return "the database computes it; compute it in the application, or write it when reading"
    if isinstance(column.type, Numeric):
        return "" if column.type.precision is not None else _HOW_MANY_DIGITS
    kind = _plain(column.type)
    if isinstance(kind, types.NullType) and column.foreign_keys:
        return ""  # it gets its type when the table that it points to is declared
    return next((why for is_so, why in _INEXACT if is_so(kind)), "")


def _is_real(kind: TypeEngine[Any]) -> bool:
    if not isinstance(kind, types.Float):
        return False
    return isinstance(kind, types.REAL) or (kind.precision or 53) <= _REAL_BITS


def _is_decimal(kind: TypeEngine[Any]) -> TypeGuard[types.Numeric[Any]]:
    return isinstance(kind, types.Numeric) and not isinstance(kind, types.Float)


_HOW_MANY_DIGITS = "say how many digits it has, such as Numeric(12, 2)"

_INEXACT: tuple[tuple[Callable[[TypeEngine[Any]], bool], str], ...] = (
    (_is_real, "its 64 bits become 32 on PostgreSQL; use Number of edgepaas.app.models"),
    (
        _is_decimal,
        "SQLite has no decimal numbers and rounds to 64 bits; say how many digits it has, such "
        "as Numeric(12, 2), which keeps them exactly, or use Number of edgepaas.app.models",
    ),
    (
        lambda kind: isinstance(kind, types.DateTime) and kind.timezone,
        "SQLite drops the zone; use UtcDateTime of edgepaas.app.models",
    ),
    (
        lambda kind: isinstance(kind, types.Time) and kind.timezone,
        "SQLite drops the zone of a time of day, and which moment it means depends on the date; "
        "use UtcDateTime of edgepaas.app.models, or Time and a column for the zone's name",
    ),
    (
        lambda kind: isinstance(kind, types.CHAR),
        "PostgreSQL pads it with blanks, which SQLite does not; use Text of edgepaas.app.models",
    ),
    (
        lambda kind: isinstance(kind, types.Interval),
        "SQLite keeps it as a date; use Number, in seconds, of edgepaas.app.models",
    ),
    (
        lambda kind: isinstance(kind, types.ARRAY | types.NullType),
        "SQLite has no such type; use Json of edgepaas.app.models",
    ),
)


def _plain(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return the type below decorators: what they do on PostgreSQL is up to them."""
    # Interval is a decorator as well, but a type of its own on PostgreSQL.
    while isinstance(kind, TypeDecorator) and not isinstance(kind, types.Interval):
        kind = kind.impl_instance
    return kind
