# SPDX-License-Identifier: Apache-2.0
"""Column types that hold the same value on SQLite and on PostgreSQL.

What PostgreSQL would refuse later, when a row is delivered, they refuse now: NUL and lone
surrogates in text, text that is too long, numbers that are not finite, decimal numbers with
too many digits, times without a zone. The refusal is a ValueRefused, a ValueError; SQLAlchemy
hands it on as the ``orig`` of a StatementError.

Another type that is forwarded begins here; :mod:`edgepaas.database.column_kinds` names the
other places, in order.
"""

import json
import math
import uuid
from datetime import UTC, datetime
from decimal import MAX_PREC, Context, Decimal, Inexact, InvalidOperation
from typing import Any

from sqlalchemy import TIMESTAMP, Dialect, Double, String, types
from sqlalchemy.types import TypeDecorator, TypeEngine

from edgepaas.database.sqlite.numeric_type import NumericText
from edgepaas.errors import ValueRefused

#: Length of ``2026-01-31T12:00:00.000000Z``.
_TIME_LENGTH = 27
#: Digits of a ``numeric`` that says how many it has
#: (https://www.postgresql.org/docs/current/datatype-numeric.html).
_MOST_DIGITS = 1000
#: Rounds nothing.
_EXACT = Context(prec=MAX_PREC, traps=[Inexact, InvalidOperation])


def utc_now() -> datetime:
    """Return the time, aware and in UTC: rows are stamped here, never by a database."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, UTC in and out: ``timestamptz``, or text that sorts as time does."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(TIMESTAMP(timezone=True))
        return dialect.type_descriptor(String(_TIME_LENGTH))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueRefused(f"{value.isoformat()} has no time zone")
        if value.tzinfo is not UTC:
            value = value.astimezone(UTC)
        if dialect.name == "postgresql":
            return value
        return value.isoformat(timespec="microseconds")[:26] + "Z"

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if isinstance(value, str):
            return datetime.fromisoformat(value)
        return value.astimezone(UTC) if isinstance(value, datetime) else None


class Uuid(TypeDecorator[uuid.UUID]):
    """A uuid.UUID: ``uuid`` on PostgreSQL, its 36 characters on SQLite."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(types.UUID(as_uuid=True))
        return dialect.type_descriptor(String(36))

    def process_bind_param(self, value: uuid.UUID | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> uuid.UUID | None:
        if value is None or isinstance(value, uuid.UUID):
            return value
        return uuid.UUID(value)


class Text(TypeDecorator[str]):
    """Text of at most *length* characters that both databases can hold."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or (value.isascii() and "\0" not in value and self._fits(value)):
            return value
        if "\0" in value:
            raise ValueRefused("text with a NUL character, which PostgreSQL does not store")
        if not self._fits(value):
            raise ValueRefused(f"text of {len(value)} characters in a column of {self._length}")
        _check_unicode(value)
        return value

    def _fits(self, value: str) -> bool:
        return self._length is None or len(value) <= self._length

    @property
    def _length(self) -> int | None:
        return self.impl_instance.length  # type: ignore[attr-defined,no-any-return]


class Number(TypeDecorator[float]):
    """A finite 64-bit float, stored to the last bit."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        if value is None:
            return None
        number = float(value)
        if not math.isfinite(number):
            raise ValueRefused(f"{number} is not a finite number")
        return number


class Numeric(TypeDecorator[Decimal]):
    """A decimal number of at most *precision* digits, *scale* of them after the point; exact.

    ``numeric`` on PostgreSQL; on SQLite the digits as text, in a column that sorts and compares
    as numbers do. Sums and products that SQLite itself makes are 64-bit floats: add up
    in the application what has more than 15 digits.
    """

    impl = types.Numeric
    cache_ok = True

    def __init__(self, precision: int | None = None, scale: int = 0) -> None:
        """Raises ValueError for digits that PostgreSQL's numeric cannot have."""
        if precision is not None and not 0 <= scale <= precision <= _MOST_DIGITS:
            raise ValueError(f"Numeric({precision}, {scale}): say Numeric(12, 2) or the like")
        super().__init__(precision, scale)
        # Beside the underlying type: what tells two such types apart in SQLAlchemy's cache.
        self.precision = precision
        self.scale = scale

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(NumericText(self.precision, self.scale))
        return dialect.type_descriptor(types.Numeric(self.precision, self.scale))

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        if value is None:
            return None
        number = self._exact(value)
        return f"{number:f}" if dialect.name == "sqlite" else number

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        if value is None or isinstance(value, Decimal):
            return value
        return Decimal(value if isinstance(value, str | int) else repr(value))

    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:
        # What a column is compared with may have more digits than the column.
        return Numeric()

    def _exact(self, value: Any) -> Decimal:
        try:
            number = Decimal(repr(value) if isinstance(value, float) else value)
        except (InvalidOperation, TypeError, ValueError):
            raise ValueRefused(f"{value!r:.60} is no decimal number") from None
        if not number.is_finite():
            raise ValueRefused(f"{number} is not a finite number")
        if self.precision is None:
            return number
        whole = self.precision - self.scale
        if number.adjusted() >= whole and number:
            raise ValueRefused(f"{number} has more than {whole} digits before the point")
        try:
            number = number.quantize(Decimal(1).scaleb(-self.scale), context=_EXACT)
        except Inexact:
            raise ValueRefused(f"{number} has more than {self.scale} after the point") from None
        return number or abs(number)  # PostgreSQL knows no negative zero


class Json(TypeDecorator[Any]):
    """A JSON document: ``jsonb``, or text with sorted keys (equal documents are equal text)."""

    impl = types.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            # Here, since it costs a box on SQLite 2 MiB.
            from sqlalchemy.dialects.postgresql import JSONB

            return dialect.type_descriptor(JSONB(none_as_null=True))
        return dialect.type_descriptor(types.Text())

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        # On PostgreSQL the engine's own serialiser comes after this; it is dump_json as well.
        if value is None or dialect.name == "postgresql":
            return value
        return dump_json(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return json.loads(value) if isinstance(value, str) and dialect.name == "sqlite" else value


def dump_json(value: Any) -> str:
    """Return compact JSON; ValueError for what jsonb refuses (NaN, NUL, lone surrogates)."""
    try:
        text = json.dumps(
            value, allow_nan=False, sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
    except ValueError as error:
        raise ValueRefused(f"no JSON document: {error}") from None
    if "\\u0000" in text and "\0" in _all_text(value):
        raise ValueRefused("JSON with a NUL character, which PostgreSQL does not store")
    _check_unicode(text)
    return text


def _check_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueRefused("text with lone surrogates, which is not valid Unicode") from None


def _all_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "".join(_all_text(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple):
        return "".join(map(_all_text, value))
    return ""
