# SPDX-License-Identifier: Apache-2.0
"""Column types that hold the same value on SQLite and on PostgreSQL.

What PostgreSQL would refuse later, when a row is delivered, they refuse now: NUL and lone
surrogates in text, text that is too long, numbers that are not finite, times without a
zone. The refusal is a ValueError; SQLAlchemy hands it on as the ``orig`` of a StatementError.

Another type that is forwarded begins here; :mod:`edgepaas.database.column_kinds` names the
other places, in order.
"""

import json
import math
import uuid
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import TIMESTAMP, Dialect, Double, String, types
from sqlalchemy.types import TypeDecorator, TypeEngine

#: Length of ``2026-01-31T12:00:00.000000Z``.
_TIME_LENGTH = 27


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
            raise ValueError(f"{value.isoformat()} has no time zone")
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
            raise ValueError("text with a NUL character, which PostgreSQL does not store")
        if not self._fits(value):
            raise ValueError(f"text of {len(value)} characters in a column of {self._length}")
        value.encode("utf-8")  # UnicodeEncodeError, a ValueError, for a lone surrogate
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
            raise ValueError(f"{number} is not a finite number")
        return number


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
    text = json.dumps(
        value, allow_nan=False, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    if "\\u0000" in text and "\0" in _all_text(value):
        raise ValueError("JSON with a NUL character, which PostgreSQL does not store")
    text.encode("utf-8")
    return text


def _all_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "".join(_all_text(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple):
        return "".join(map(_all_text, value))
    return ""
