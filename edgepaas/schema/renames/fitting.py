# SPDX-License-Identifier: Apache-2.0
"""Whether a value, as SQLite stores it, fits into a type of PostgreSQL without being changed.

For the types that a model may declare; of any other type it is not known, and nothing is held
against it.
"""

import json
import math
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

_INTEGERS = {"SMALLINT": 15, "INTEGER": 31, "BIGINT": 63}
_LENGTH = re.compile(r"\((\d+)\)")
_PRECISION = re.compile(r"\((\d+)(?:,\s*(-?\d+))?\)")


def fits(value: Any, kind: str) -> bool:
    """Whether *value* (None, int, float, str, bytes) goes into *kind*, such as ``VARCHAR(20)``."""
    if value is None:
        return True
    name = kind.upper()
    word = name.partition("(")[0].strip()
    if word in _INTEGERS:
        return _is_integer(value, _INTEGERS[word])
    for start, check in _CHECKS:
        if word.startswith(start):
            with suppress(ValueError, TypeError, OverflowError, InvalidOperation, AttributeError):
                return check(value, name)
            return False
    return True


def _is_integer(value: Any, bits: int) -> bool:
    if isinstance(value, str):
        with suppress(ValueError):
            value = int(value)
    return isinstance(value, int) and -(1 << bits) <= value < 1 << bits


def _fits_length(value: Any, kind: str) -> bool:
    found = _LENGTH.search(kind)
    text = value if isinstance(value, str) else str(value)
    return not isinstance(value, bytes) and (found is None or len(text) <= int(found[1]))


def _fits_precision(value: Any, kind: str) -> bool:
    number = Decimal(str(value))
    found = _PRECISION.search(kind)
    if found is None or not number.is_finite():
        return found is None or number.is_nan()
    scale = int(found[2] or 0)
    scaled = number.scaleb(scale)
    return scaled == scaled.to_integral_value() and abs(scaled) < Decimal(10) ** int(found[1])


def _is_single(value: Any, _kind: str) -> bool:
    number = float(value)
    return math.isnan(number) or struct.unpack("<f", struct.pack("<f", number))[0] == number


def _is_double(value: Any, _kind: str) -> bool:
    return float(value) is not None and not isinstance(value, bytes)


def _parses(parse: Callable[[Any], Any]) -> Callable[[Any, str], bool]:
    def check(value: Any, _kind: str) -> bool:
        parse(value)
        return True

    return check


_CHECKS: tuple[tuple[str, Callable[[Any, str], bool]], ...] = (
    ("VARCHAR", _fits_length),
    ("CHAR", _fits_length),
    ("TEXT", lambda value, _: not isinstance(value, bytes)),
    ("NUMERIC", _fits_precision),
    ("DECIMAL", _fits_precision),
    ("REAL", _is_single),
    ("DOUBLE", _is_double),
    ("FLOAT", _is_double),
    ("BOOL", lambda value, _: value in (0, 1)),
    ("BYTEA", lambda value, _: isinstance(value, bytes)),
    ("UUID", _parses(UUID)),
    ("JSON", _parses(json.loads)),
    ("TIMESTAMP", _parses(datetime.fromisoformat)),
    ("DATE", _parses(date.fromisoformat)),
)


#: Types that hold each other's values, the narrower first.
_WIDENING: tuple[tuple[str, ...], ...] = (
    ("smallint", "integer", "bigint", "numeric"),
    ("real", "double precision"),
    ("date", "timestamp without time zone"),
    ("json", "jsonb"),
    ("uuid", "text"),
)


def is_narrower(old: str, new: str) -> bool:
    """Whether a value of PostgreSQL's type *old* may not fit into *new*, as ``format_type`` names.

    A type that is not known to take every value counts as narrower.
    """
    if old == new:
        return False
    old_word, new_word = (kind.partition("(")[0].strip() for kind in (old, new))
    if new in {"text", "character varying"}:
        return old_word == "bytea"
    if old_word == new_word:
        return _is_narrower_within(old, new)
    return not any(
        old_word in kinds and new in kinds and kinds.index(old_word) < kinds.index(new)
        for kinds in _WIDENING
    )


def _is_narrower_within(old: str, new: str) -> bool:
    """Compare two types that differ in length or precision alone; none of it is the widest."""
    before, after = _PRECISION.search(old), _PRECISION.search(new)
    if after is None:
        return False
    if before is None:
        return True
    scales = int(before[2] or 0), int(after[2] or 0)
    digits = int(before[1]) - scales[0], int(after[1]) - scales[1]
    return digits[1] < digits[0] or scales[1] < scales[0]
