# SPDX-License-Identifier: Apache-2.0
"""How values travel to PostgreSQL within a JSON document that ``jsonb_to_recordset`` reads.

Each becomes what the input function of its column's type reads back to the bit: JSON itself
has no bytes, no times, and no sign of zero.
"""

import uuid
from collections.abc import Callable, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

from sqlalchemy import Dialect, Table, types
from sqlalchemy.types import TypeDecorator, TypeEngine

from edgepaas.database.types import Json, Number, Text, UtcDateTime, Uuid

#: Takes a value of a column's Python type and returns what JSON holds of it.
Converter = Callable[[Any], Any]


@cache
def json_converters(
    table: Table, names: tuple[str, ...], dialect: Dialect
) -> Sequence[tuple[str, Converter | None]]:
    """Return the columns *names* of *table*, each with what converts its values.

    None: values are JSON's as they are. A converter raises ValueError or whatever else the
    column's type raises for a value that it refuses.
    """
    return [(name, _converter(table.c[name].type, dialect)) for name in names]


def is_sent_as_text(kind: TypeEngine[Any], dialect: Dialect) -> bool:
    """Whether a column's values are documents that are sent as text, to be cast.

    SQLAlchemy's own JSON types tell JSON's null from SQL's, which ``jsonb_to_recordset`` does
    not. The platform's Json stores None as NULL, and is part of the document as it is.
    """
    return not isinstance(kind, Json) and isinstance(_below(kind, dialect), types.JSON)


def _converter(kind: TypeEngine[Any], dialect: Dialect) -> Converter | None:
    if isinstance(kind, Text | Json):
        return None  # what the types refuse, dump_json and the server refuse as well
    if isinstance(kind, Uuid):  # without the processors, on the path of every reading
        return lambda value: None if value is None else str(value)
    if isinstance(kind, UtcDateTime):
        moment = kind.process_bind_param
        return lambda value: None if value is None else moment(value, dialect).isoformat()
    if isinstance(kind, Number):
        number = kind.process_bind_param
        return lambda value: None if value is None else repr(number(value, dialect))
    process = kind.dialect_impl(dialect).bind_processor(dialect)
    return json_value if process is None else lambda value: json_value(process(value))


def json_value(value: Any) -> Any:
    """Return what JSON holds of *value*, which is as a driver would be given it.

    Lists and tuples are converted within, for arrays; a type without a form is returned as it
    is, and is refused when the document is written.
    """
    if value is None or isinstance(value, str | int):
        return value
    for known, form in _FORMS:
        if isinstance(value, known):
            return form(value)
    return value


def _interval(value: timedelta) -> str:
    return f"{value.days} days {value.seconds} seconds {value.microseconds} microseconds"


#: The forms of PostgreSQL's input functions.
_FORMS: tuple[tuple[Any, Converter], ...] = (
    (float, repr),  # JSON's number would lose the sign of zero, and has no infinity
    ((uuid.UUID, Decimal), str),
    ((date, time), lambda value: value.isoformat()),
    ((bytes, bytearray, memoryview), lambda value: f"\\x{bytes(value).hex()}"),
    (timedelta, _interval),
    ((list, tuple), lambda values: [json_value(value) for value in values]),
)


def _below(kind: TypeEngine[Any], dialect: Dialect) -> TypeEngine[Any]:
    """Return the type below decorators, as it is on *dialect*."""
    while isinstance(kind, TypeDecorator):
        kind = kind.type_engine(dialect)
    return kind
