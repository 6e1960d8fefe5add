# SPDX-License-Identifier: Apache-2.0
"""One value of SQLite, as PostgreSQL is sent it and as the hub's own tables keep it.

As sent: text that the type's input function reads, many at a time as an array's literal.
As kept (``sync_dead_letters``, ``sync_conflicts``): JSON's null or a text; what jsonb cannot
hold as ``{"hex": …}`` for bytes, ``{"text": …}`` for text with a NUL or that is no UTF-8,
each with the bytes in hexadecimal.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

#: As kept: None, a text, or a mapping of one name.
Kept = None | str | dict[str, str]

#: What PostgreSQL says of text that it cannot hold (character_not_in_repertoire).
INVALID_CHARACTER = "22021"


class UnsendableValue(ValueError):
    """PostgreSQL cannot hold this value in this column, whatever is done about it."""


def encode(value: Any) -> Kept:
    """Return *value* (None, int, float, str, bytes) as the hub's own tables keep it."""
    if value is None:
        return None
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if not isinstance(value, str):
        return _number(value)
    if "\0" in value or not _is_unicode(value):
        return {"text": value.encode("utf-8", "surrogateescape").hex()}
    return value


def decode(kept: Any) -> str | bytes | None:
    """Return what :func:`encode` was given; a number as the text that PostgreSQL reads.

    Raises ValueError for anything else.
    """
    if kept is None or isinstance(kept, str):
        return kept
    if isinstance(kept, Mapping) and len(kept) == 1:
        if "hex" in kept:
            return bytes.fromhex(kept["hex"])
        if "text" in kept:
            return bytes.fromhex(kept["text"]).decode("utf-8", "surrogateescape")
    raise ValueError(f"{kept!r} is no value of these tables")


def encode_row(names: Sequence[str], row: Sequence[Any] | None) -> str | None:
    """Return *row* as the JSON object that the hub's own tables keep; None for None."""
    if row is None:
        return None
    kept = {name: encode(value) for name, value in zip(names, row, strict=True)}
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":"))


def array(values: Sequence[Any], *, is_bytea: bool = False) -> bytes:
    """Return *values* as the literal of a one-dimensional array (PostgreSQL manual, 8.15).

    *is_bytea*: the array is one of bytea. Raises UnsendableValue for a value that the elements'
    type cannot hold: the server would not know which one it was.
    """
    if is_bytea:
        return _joined([_bytes_element(value) for value in values])
    try:
        # JSON's strings are an array's, but for the backslash; numbers and null as well.
        literal = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    except TypeError:
        raise UnsendableValue("bytes in a column that holds none") from None
    if "\\" in literal:
        return _joined([_element(value) for value in values])
    return _encoded("{" + literal[1:-1] + "}")


def fits(value: Any, *, is_bytea: bool = False) -> bool:
    """Whether :func:`array` takes *value*."""
    try:
        array((value,), is_bytea=is_bytea)
    except UnsendableValue:
        return False
    return True


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if not isinstance(value, str):
        return _number(value)
    if "\0" in value:
        raise UnsendableValue("text with a NUL character")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _bytes_element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    if not isinstance(value, bytes):
        raise UnsendableValue("a number in a column of bytes")
    return f'"\\\\x{value.hex()}"'


def _number(value: Any) -> str:
    # repr() of a float is the shortest text that is read as the same bits; of infinity "inf".
    return repr(value)


def _joined(elements: Sequence[str]) -> bytes:
    return _encoded("{" + ",".join(elements) + "}")


def _encoded(literal: str) -> bytes:
    try:
        return literal.encode("utf-8")
    except UnicodeEncodeError:
        raise UnsendableValue("text that is no UTF-8") from None


def _is_unicode(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
