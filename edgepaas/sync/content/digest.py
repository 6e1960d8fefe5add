# SPDX-License-Identifier: Apache-2.0
"""Digests of rows that are equal on both sides where the content is, to the bit.

A row's digest is the first 64 bits of sha256 over its columns, each with its length before it.
A column becomes the bytes that PostgreSQL sends for it in its binary format
(https://www.postgresql.org/docs/current/protocol-overview.html#PROTOCOL-FORMAT-CODES), which
``struct`` makes of the box's value; what has several forms there is brought to one: NaN, JSON,
decimal numbers. The digests of many rows are added, never XORed: pairs would cancel.

:mod:`edgepaas.database.column_kinds` names all that another column type needs; here it is one
entry of ``_FORMS``.
"""

import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

from edgepaas.database.column_kinds import ColumnKind, column_kind
from edgepaas.sync.delivery.column_mapping import ColumnMapping

#: What stands for the length of NULL.
_NULL = b"\xff\xff\xff\xff"
_NAN = bytes.fromhex("7ff8000000000000")
#: Days before 2000-01-01, where PostgreSQL's times begin, in Python's proleptic calendar.
_EPOCH_DAY = date(2000, 1, 1).toordinal()
_DAY = 86_400_000_000

#: What stands for the length of a value that a box filled in from another column.
_FILLED_IN = b"\xff\xff\xff\xfe"

_UUID_LENGTH = 36
#: Documents of so many characters, such as labels, are the same in many rows.
_SMALL_DOCUMENT = 200

Encoder = Callable[[Any], bytes]


class NoDigest(ValueError):
    """The box's value is none that the column's type has."""


class _Encoded(NamedTuple):
    """A column: where it stands, where that stands which it may be filled in from (-1: never)."""

    position: int
    source: int
    encode: Encoder


@dataclass(frozen=True)
class RowDigest:
    """How the rows of one table become digests.

    ``sql`` is an expression of PostgreSQL over the row ``t``, of type bigint;
    ``incomparable`` names the columns whose kind differs on the hub, which take no part.
    """

    sql: str
    encoders: tuple[_Encoded, ...]
    incomparable: tuple[str, ...] = ()

    def of(self, row: Sequence[Any]) -> int:
        """Return the digest of *row*, the box's values by the layout's positions.

        Raises NoDigest for a value that the hub cannot have.
        """
        parts = []
        for position, source, encode in self.encoders:
            value = row[position]
            if source >= 0 and value == row[source]:
                parts.append(_FILLED_IN)
                continue
            if value is None:
                parts.append(_NULL)
                continue
            try:
                data = encode(value)
            except (ValueError, TypeError, RecursionError, ArithmeticError, struct.error) as error:
                raise NoDigest(f"position {position}: {error}") from error
            parts.append(struct.pack("!i", len(data)))
            parts.append(data)
        return int.from_bytes(sha256(b"".join(parts)).digest()[:8], "big", signed=True)


def row_digest(mapping: ColumnMapping, *, whole: bool = False) -> RowDigest:
    """Return how rows of *mapping* become digests: by their key and the columns of content.

    *whole*: by all columns, those with ``merge`` and ``filled_from`` too, of a row that is the same
    on both sides.
    """
    parts: list[str] = []
    encoders: list[_Encoded] = []
    incomparable: list[str] = []
    for mapped in mapping.columns:
        if mapped.merge and not mapped.in_key and not whole:
            continue  # what stays there is the hub's choice
        declared = mapping.layout.columns[mapped.position].type
        kind = column_kind(declared)
        on_hub = column_kind(mapped.column.base)
        if on_hub is not kind and not {on_hub, kind} <= _FRACTIONS:
            incomparable.append(mapped.column.name)
            continue
        filled_in = mapped.filled_from >= 0 and not whole
        source = mapping.at(mapped.filled_from) if filled_in else None
        form = _FORMS[kind]
        data = form.sql.format(f"t.{mapped.name}")
        part = f"coalesce(int4send(octet_length({data})) || {data}, '\\xffffffff'::bytea)"
        if source is not None:
            filled = f"t.{mapped.name} IS NOT DISTINCT FROM t.{source.name}"
            part = f"CASE WHEN {filled} THEN '\\x{_FILLED_IN.hex()}'::bytea ELSE {part} END"
        parts.append(part)
        other = -1 if source is None else source.position
        encoders.append(_Encoded(mapped.position, other, form.encoder(declared)))
    row = " || ".join(parts)
    sql = f"('x' || encode(substr(sha256({row}), 1, 8), 'hex'))::bit(64)::bigint"
    return RowDigest(sql, tuple(encoders), tuple(incomparable))


@dataclass(frozen=True)
class _Form:
    """How the values of one kind become bytes: ``{0}`` is the column on the hub."""

    sql: str
    encode: Encoder
    #: By the beginning of the type's name, what is done otherwise.
    special: tuple[tuple[str, Encoder], ...] = ()

    def encoder(self, declared: str) -> Encoder:
        name = declared.upper()
        return next((one for start, one in self.special if name.startswith(start)), self.encode)


def _boolean(value: Any) -> bytes:
    return struct.pack("!?", _integer_of(value) != 0)


def _integer(value: Any) -> bytes:
    return struct.pack("!q", _integer_of(value))


def _integer_of(value: Any) -> int:
    number = int(value)
    if isinstance(value, str | bytes) or number != value:
        raise NoDigest(f"{value!r:.60} is no whole number")
    return number


def _float(value: Any) -> bytes:
    number = _float_of(value)
    return _NAN if math.isnan(number) else struct.pack("!d", number)


def _real(value: Any) -> bytes:
    """As a column of 32 bits stores it."""
    (number,) = struct.unpack("!f", struct.pack("!f", _float_of(value)))
    return _float(number)


def _float_of(value: Any) -> float:
    if isinstance(value, str | bytes):
        raise NoDigest(f"{value!r:.60} is no number")
    return float(value)


def _number(value: Any) -> bytes:
    if not isinstance(value, str):
        raise NoDigest(f"{value!r:.60} is no decimal number")
    return (value.rstrip("0").rstrip(".") if "." in value else value).encode()


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if not isinstance(value, bytes):
        raise NoDigest("a number in a column of bytes")
    return value


def _text(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8")
    if isinstance(value, bytes):
        raise NoDigest("bytes in a column of text")
    return repr(value).encode()


def _padded(value: Any) -> bytes:
    """PostgreSQL pads ``char(n)`` with spaces that mean nothing."""
    return _text(value).rstrip(b" ")


def _uuid(value: Any) -> bytes:
    return (value.lower() if len(value) == _UUID_LENGTH else str(UUID(value))).encode()


def _json(value: Any) -> bytes:
    """Return the document as PostgreSQL writes a jsonb: keys by length, numbers as decimals."""
    if isinstance(value, str) and len(value) <= _SMALL_DOCUMENT:
        return _small_json(value)
    return _written(json.loads(value, parse_float=_Number, parse_int=_Number)).encode("utf-8")


@lru_cache(maxsize=512)
def _small_json(value: str) -> bytes:
    return _written(json.loads(value, parse_float=_Number, parse_int=_Number)).encode("utf-8")


class _Number(str):
    """A number of a JSON document, as it stands there."""


def _written(value: Any) -> str:
    if isinstance(value, _Number):
        return _decimal(value)
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: (len(name.encode()), name.encode()))
        inside = (f"{_quoted(name)}: {_written(value[name])}" for name in names)
        return "{" + ", ".join(inside) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    return _quoted(value)


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _decimal(text: str) -> str:
    """Return a JSON number as a decimal one, without exponent and without a negative zero."""
    number = Decimal(text)
    written = format(number, "f")
    return written if number else written.lstrip("-")


def _moment(value: Any) -> bytes:
    found = datetime.fromisoformat(_time_text(value))
    if found.tzinfo is None:
        raise NoDigest(f"{value!r:.60} has no time zone")
    offset = found.utcoffset()
    microseconds = _since_epoch(found.replace(tzinfo=None))
    if offset:
        microseconds -= (offset.days * 86400 + offset.seconds) * 1_000_000 + offset.microseconds
    return struct.pack("!q", microseconds)


def _local_time(value: Any) -> bytes:
    found = datetime.fromisoformat(_time_text(value))
    if found.tzinfo is not None:
        raise NoDigest(f"{value!r:.60} has a time zone")
    return struct.pack("!q", _since_epoch(found))


def _time_of_day(value: Any) -> bytes:
    found = time.fromisoformat(_time_text(value))
    if found.tzinfo is not None:
        raise NoDigest(f"{value!r:.60} has a time zone")
    return struct.pack("!q", _of_day(found))


def _time_text(value: Any) -> str:
    if not isinstance(value, str):
        raise NoDigest(f"{value!r:.60} is no time")
    return value


def _since_epoch(moment: datetime) -> int:
    return (moment.toordinal() - _EPOCH_DAY) * _DAY + _of_day(moment)


def _of_day(moment: datetime | time) -> int:
    seconds = (moment.hour * 60 + moment.minute) * 60 + moment.second
    return seconds * 1_000_000 + moment.microsecond


#: Each is cast to the box's own kind: a column that was made the other one rounds, or does not.
_FRACTIONS = {ColumnKind.FLOAT, ColumnKind.DECIMAL}

_FORMS: dict[ColumnKind, _Form] = {
    ColumnKind.BOOLEAN: _Form("boolsend({0})", _boolean),
    ColumnKind.INTEGER: _Form("int8send({0}::bigint)", _integer),
    # Every NaN is one: which bits it has is the processor's choice.
    ColumnKind.FLOAT: _Form(
        f"CASE WHEN {{0}}::float8 = 'NaN' THEN '\\x{_NAN.hex()}'::bytea "
        "ELSE float8send({0}::float8) END",
        _float,
        (("REAL", _real),),
    ),
    # Its value: a column with another scale writes other zeros.
    ColumnKind.DECIMAL: _Form("convert_to(trim_scale({0}::numeric)::text, 'UTF8')", _number),
    ColumnKind.BYTES: _Form("{0}", _bytes),
    ColumnKind.JSON: _Form("convert_to({0}::jsonb::text, 'UTF8')", _json),
    ColumnKind.MOMENT: _Form("timestamptz_send({0}::timestamptz)", _moment),
    ColumnKind.LOCAL_TIME: _Form("timestamp_send({0}::timestamp)", _local_time),
    ColumnKind.TIME_OF_DAY: _Form("time_send({0}::time)", _time_of_day),
    ColumnKind.TEXT: _Form(
        "convert_to({0}::text, 'UTF8')",
        _text,
        (("UUID", _uuid), ("CHARACTER VARYING", _text), ("CHAR", _padded)),
    ),
}
