# SPDX-License-Identifier: Apache-2.0
"""Decimal numbers in SQLite: exact text, sorted and compared as numbers.

SQLite has no decimal numbers: a column of type NUMERIC rounds to 64 bits. So the column type
:class:`edgepaas.database.types.Numeric` stores the digits as text, in a column whose collation
compares what the text says (https://sqlite.org/datatype3.html#collating_sequences). Every
connection needs the collation; SQLite refuses to compare such a column without it, so that a
program that does not know it gets an error and no wrong order.
"""

import sqlite3
from typing import Final

#: The collation, and the type by which such a column is declared (its affinity is TEXT).
COLLATION: Final = "edgepaas_numeric"
TYPE: Final = "NUMERIC_TEXT"


def register(connection: sqlite3.Connection) -> None:
    """Make the collation known to *connection*; costs nothing until it is used."""
    connection.create_collation(COLLATION, compare)


def compare(one: str, other: str) -> int:
    """Return -1, 0 or 1 as the number *one* is less than, equal to or greater than *other*.

    Text that is no number comes after all numbers, in the order of its characters.
    """
    if one == other:
        return 0
    left, right = _parts(one), _parts(other)
    return (left > right) - (left < right)


def _parts(text: str) -> tuple[int, int, str, str]:
    """Return *text* in a form that sorts as the numbers do: sign, length, digits, fraction."""
    negative = text.startswith("-")
    whole, _, fraction = text[negative:].partition(".")
    whole, fraction = whole.lstrip("0"), fraction.rstrip("0")
    if not _is_digits(whole + fraction) or text.strip("-.") == "":
        return 2, 0, text, ""
    if not negative:
        return 1, len(whole), whole, fraction
    if not whole and not fraction:
        return 1, 0, "", ""
    # Of two negative numbers the greater one is the one with the smaller digits; what comes
    # after the fraction's last digit is above every digit.
    return 0, -len(whole), whole.translate(_OPPOSITE), fraction.translate(_OPPOSITE) + ":"


def _is_digits(text: str) -> bool:
    return text == "" or (text.isascii() and text.isdecimal())


_OPPOSITE = str.maketrans("0123456789", "9876543210")
