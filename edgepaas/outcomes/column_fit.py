# SPDX-License-Identifier: Apache-2.0
"""Whether a column of PostgreSQL takes every value of a declared type and keeps it as it is.

An assignment casts in silence: a number is rounded to ``real`` or to the scale of ``numeric``,
a moment to the precision of its column, a text is padded in ``character``
(PostgreSQL manual, 10.4 "Value Storage", and chapter 8 for the types).
"""

import re
from collections.abc import Callable
from typing import NamedTuple


class SqlType(NamedTuple):
    """A type by PostgreSQL's own name of it, in lower case, and what stood in parentheses."""

    name: str
    arguments: tuple[int, ...] = ()


_ARGUMENTS = re.compile(r"\s*\(\s*(-?\d+)\s*(?:,\s*(-?\d+)\s*)?\)")
#: Other words for a type, as compilers of SQL and people write them.
_NAMES = {
    "varchar": "character varying",
    "char": "character",
    "bpchar": "character",
    "int": "integer",
    "int4": "integer",
    "int8": "bigint",
    "int2": "smallint",
    "bool": "boolean",
    "decimal": "numeric",
    "float4": "real",
    "float8": "double precision",
    "double": "double precision",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "time": "time without time zone",
    "timetz": "time with time zone",
}
#: ``float(n)`` up to so many bits is ``real``.
_REAL_BITS = 24
#: Digits of a second's fraction that a moment or a time of day has where nothing is said.
_FRACTION = 6
#: Decimal digits of the largest number.
_DIGITS = {"smallint": 5, "integer": 10, "bigint": 19}
#: Whole numbers up to so many digits are exact in it.
_EXACT_DIGITS = {"real": 6, "double precision": 15}

_ROUNDED = "values would be rounded"
_OTHER = "values would be refused or changed"


def parse_type(text: str) -> SqlType:
    """Return the type that *text* names, as SQLAlchemy or ``format_type`` writes it."""
    found = _ARGUMENTS.search(text)
    arguments = () if found is None else tuple(int(one) for one in found.groups() if one)
    name = " ".join(_ARGUMENTS.sub("", text).lower().split())
    if name == "float":
        single = bool(arguments) and arguments[0] <= _REAL_BITS
        return SqlType("real" if single else "double precision")
    return SqlType(_NAMES.get(name, name), arguments)


def column_misfit(declared: str, there: str) -> str:
    """Return what would become of values of the type *declared* in a column of the type *there*.

    Both in PostgreSQL's words, *there* without domains. Empty where each of them is kept as it
    is; also for a type that this module does not know, such as one of an extension.
    """
    ours, theirs = parse_type(declared), parse_type(there)
    if ours == theirs:
        return ""
    judge = _JUDGES.get(ours.name)
    return "" if judge is None else judge(ours, theirs)


def _text(ours: SqlType, theirs: SqlType) -> str:
    if theirs.name in ("text", "citext"):
        return ""
    if theirs.name == "character varying":
        if not theirs.arguments or (ours.arguments and ours.arguments[0] <= theirs.arguments[0]):
            return ""
        return "longer texts would be refused"
    return "texts would be padded or cut" if theirs.name in ("character", "name") else _OTHER


def _whole(ours: SqlType, theirs: SqlType) -> str:
    digits = _DIGITS[ours.name]
    if theirs.name in _DIGITS:
        return "" if digits <= _DIGITS[theirs.name] else "larger numbers would be refused"
    if theirs.name == "numeric":
        return _decimal(SqlType("numeric", (digits, 0)), theirs)
    if theirs.name in _EXACT_DIGITS:
        return "" if digits <= _EXACT_DIGITS[theirs.name] else _ROUNDED
    return _OTHER


def _float(_ours: SqlType, theirs: SqlType) -> str:
    # numeric has neither a negative zero nor, before PostgreSQL 14, infinity.
    return _ROUNDED if theirs.name in ("real", "numeric", *_DIGITS) else _OTHER


def _real(_ours: SqlType, theirs: SqlType) -> str:
    return "" if theirs.name == "double precision" else _float(_ours, theirs)


def _decimal(ours: SqlType, theirs: SqlType) -> str:
    if theirs.name != "numeric":
        return _ROUNDED if theirs.name in (*_DIGITS, *_EXACT_DIGITS) else _OTHER
    if not theirs.arguments:
        return ""
    if not ours.arguments:
        return _ROUNDED
    (precision, scale), (wide, fine) = (
        (one[0], one[1] if len(one) > 1 else 0) for one in (ours.arguments, theirs.arguments)
    )
    if fine < scale:
        return _ROUNDED
    return "" if precision - scale <= wide - fine else "larger numbers would be refused"


def _moment(ours: SqlType, theirs: SqlType) -> str:
    if ours.name != theirs.name:
        return _OTHER
    (finest,) = ours.arguments or (_FRACTION,)
    (fraction,) = theirs.arguments or (_FRACTION,)
    return "" if finest <= fraction else _ROUNDED


def _document(_ours: SqlType, theirs: SqlType) -> str:
    return "" if theirs.name in ("json", "jsonb") else _OTHER


def _itself(ours: SqlType, theirs: SqlType) -> str:
    return "" if ours.name == theirs.name else _OTHER


_JUDGES: dict[str, Callable[[SqlType, SqlType], str]] = {
    **dict.fromkeys(("text", "character varying"), _text),
    **dict.fromkeys(_DIGITS, _whole),
    "double precision": _float,
    "real": _real,
    "numeric": _decimal,
    **dict.fromkeys(
        (
            "timestamp with time zone",
            "timestamp without time zone",
            "time with time zone",
            "time without time zone",
        ),
        _moment,
    ),
    **dict.fromkeys(("json", "jsonb"), _document),
    **dict.fromkeys(("boolean", "bytea", "uuid", "date"), _itself),
}
