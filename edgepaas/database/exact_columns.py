# SPDX-License-Identifier: Apache-2.0
"""Which columns reach PostgreSQL as they were written on SQLite, and which do not."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Column, types
from sqlalchemy.types import TypeDecorator, TypeEngine

#: A binary fraction of up to 24 bits is PostgreSQL's ``real``
#: (https://www.postgresql.org/docs/current/datatype-numeric.html#DATATYPE-FLOAT).
_REAL_BITS = 24


def inexact_reason(column: Column[Any]) -> str:
    """Return why *column*'s values would change on their way, and what to use instead, or "".

    SQLite stores what its driver makes of a value, PostgreSQL reads that as its own type.
    """
    if column.computed is not None or column.identity is not None:
        return "the database computes it; compute it in the application, or write it when reading"
    kind = _plain(column.type)
    if isinstance(kind, types.NullType) and column.foreign_keys:
        return ""  # it gets its type when the table that it points to is declared
    return next((why for is_so, why in _INEXACT if is_so(kind)), "")


def _is_real(kind: TypeEngine[Any]) -> bool:
    if not isinstance(kind, types.Float):
        return False
    return isinstance(kind, types.REAL) or (kind.precision or 53) <= _REAL_BITS


def _is_decimal(kind: TypeEngine[Any]) -> bool:
    return isinstance(kind, types.Numeric) and not isinstance(kind, types.Float)


def _has_zone(kind: TypeEngine[Any]) -> bool:
    return isinstance(kind, types.DateTime | types.Time) and kind.timezone


_INEXACT: tuple[tuple[Callable[[TypeEngine[Any]], bool], str], ...] = (
    (_is_real, "its 64 bits become 32 on PostgreSQL; use Number of edgepaas.database"),
    (
        _is_decimal,
        "SQLite has no decimal numbers and rounds to 64 bits; use Number, an integer of the "
        "smallest unit, or Text, of edgepaas.database",
    ),
    (_has_zone, "SQLite drops the time zone; use UtcDateTime of edgepaas.database"),
    (
        lambda kind: isinstance(kind, types.Interval),
        "SQLite keeps it as a date; use Number, in seconds, of edgepaas.database",
    ),
    (
        lambda kind: isinstance(kind, types.ARRAY | types.NullType),
        "SQLite has no such type; use Json of edgepaas.database",
    ),
)


def _plain(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return the type below decorators: what they do on PostgreSQL is up to them."""
    # Interval is a decorator as well, but a type of its own on PostgreSQL.
    while isinstance(kind, TypeDecorator) and not isinstance(kind, types.Interval):
        kind = kind.impl_instance
    return kind
