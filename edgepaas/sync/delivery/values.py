# SPDX-License-Identifier: Apache-2.0
"""Values of SQLite as they are sent to PostgreSQL, and as the hub's own tables store them.

Sent: as text that the type's input function reads, one array literal for the values of a column.
Stored (``sync_dead_letters``, ``sync_conflicts``): JSON null or a text; what jsonb cannot hold
as ``{"hex": …}`` for bytes and ``{"text": …}`` for text with a NUL or invalid UTF-8, each with
the bytes in hexadecimal.

Values arrive as SQLite stores them (None, int, float, str, bytes), so this module knows no
column types but bytea. To forward another column type, see ``edgepaas/database/types.py`` (the
model's type and its form in SQLite) and ``edgepaas/sync/mirror/stored_values.py`` (reading it
back from PostgreSQL). Here it needs work only if PostgreSQL's input function does not read the
text of that form. ``tests/support/forwarding.py`` has a table with a column of every type.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

#: As stored: None, a text, or a mapping with one name.
Stored = None | str | dict[str, str]

#: The SQLSTATE of text that PostgreSQL cannot hold (character_not_in_repertoire).
INVALID_CHARACTER = "22021"


class UnsendableValue(ValueError):
    """PostgreSQL can never hold this value in this column."""


def encode(value: Any) -> Stored:
    """Return *value* (None, int, float, str, bytes) as the hub's own tables store it."""
    if value is None:
        return None
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if not isinstance(value, str):
        return _number(value)
    if "\0" in value or not _is_unicode(value):
        return {"text": value.encode("utf-8", "surrogateescape").hex()}
    return value


def decode(stored: Any) -> str | bytes | None:
    """Return the value that :func:`encode` was given; a number as its text.

    Raises ValueError for anything else.
    """
    if stored is None or isinstance(stored, str):
        return stored
    if isinstance(stored, Mapping) and len(stored) == 1:
        if "hex" in stored:
            return bytes.fromhex(stored["hex"])
        if "text" in stored:
            return bytes.fromhex(stored["text"]).decode("utf-8", "surrogateescape")
    raise ValueError(f"{stored!r} is not a stored value")


def encode_row(names: Sequence[str], row: Sequence[Any] | None) -> str | None:
    """Return *row* as the JSON object that the hub's own tables store; None for None."""
    if row is None:
        return None
    stored = {name: encode(value) for name, value in zip(names, row, strict=True)}
    return json.dumps(stored, ensure_ascii=False, separators=(",", ":"))


def array(values: Sequence[Any], *, is_bytea: bool = False) -> bytes:
    """Return *values* as the literal of a one-dimensional array (PostgreSQL manual, 8.15).

    *is_bytea*: its elements are of type bytea. Raises UnsendableValue for a value that the type
    cannot hold; the server's error would not tell which one it was.
    """
    if is_bytea:
        return _joined([_bytes_element(value) for value in values])
    try:
        # Strings in JSON are written as in an array literal, but for the backslash; numbers and
        # null as well.
        literal = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    except TypeError:
        raise UnsendableValue("bytes in a column of another type") from None
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
    # repr() of a float is the shortest text that reads back as the same bits; infinity is "inf".
    return repr(value)


def _joined(elements: Sequence[str]) -> bytes:
    return _encoded("{" + ",".join(elements) + "}")


def _encoded(literal: str) -> bytes:
    try:
        return literal.encode("utf-8")
    except UnicodeEncodeError:
        raise UnsendableValue("text that is not valid UTF-8") from None


def _is_unicode(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
