# SPDX-License-Identifier: Apache-2.0
"""Which tables a statement writes and reads, by its text.

A look at the words, not a parser: the outcome of a write is counted for the table that it
names, and a statement of an unusual form is counted for none.
"""

import re
from functools import lru_cache
from typing import NamedTuple

#: ``schema.table``, each with or without quotes.
_NAME = r'(?:(?:"[^"]+"|\w+)\.)?("[^"]+"|\w+)'
_WRITES = re.compile(
    rf"\b(?:INSERT\s+INTO|MERGE\s+INTO|DELETE\s+FROM(?:\s+ONLY)?|(?<!FOR\s)UPDATE(?:\s+ONLY)?)\s+{_NAME}",
    re.IGNORECASE,
)
_READS = re.compile(rf"\b(?:FROM|JOIN)\s+(?:ONLY\s+)?{_NAME}", re.IGNORECASE)
#: An INSERT of rows that are given in it: each of them is stored, or it fails.
_INSERTS = re.compile(rf"\s*INSERT\s+INTO\s+{_NAME}[^()]*\([^()]*\)\s*VALUES\b", re.IGNORECASE)
_MAY_STORE_LESS = re.compile(r"\bON\s+CONFLICT\b|\bSELECT\b", re.IGNORECASE)
#: What follows UPDATE without being a table: ``ON CONFLICT … DO UPDATE SET``, ``FOR UPDATE OF``.
_NO_TABLE = frozenset({"set", "of", "nowait", "skip", "select", "only", "unnest", "lateral"})
#: Statements that are remembered; an application has a few hundred.
_KEPT = 1024
#: A multi-row INSERT is long, and names its table at its beginning.
_LOOKED_AT = 4096
#: Within so many characters an INSERT names itself.
_INSERT_INTO = 32


class Tables(NamedTuple):
    """The tables of one statement, in the order of its text, each once."""

    written: tuple[str, ...] = ()
    read: tuple[str, ...] = ()


def tables_of(statement: str) -> Tables:
    """Return the tables that *statement* writes, and those that it reads."""
    return _tables(statement[:_LOOKED_AT])


def inserted_table(statement: str) -> str:
    """Return the table in which *statement* stores rows that are given in it, at least one.

    Empty for any other statement, and for an INSERT that may rightly store none.
    """
    if len(statement) > _LOOKED_AT or "INTO" not in statement[:_INSERT_INTO].upper():
        return ""
    return _inserted_table(statement)


@lru_cache(maxsize=_KEPT)
def _inserted_table(text: str) -> str:
    match = _INSERTS.match(text)
    if match is None or _MAY_STORE_LESS.search(text):
        return ""
    name = match[1]
    return name[1:-1] if name.startswith('"') else name.lower()


@lru_cache(maxsize=_KEPT)
def _tables(text: str) -> Tables:
    written = _names(_WRITES, text)
    return Tables(written, tuple(name for name in _names(_READS, text) if name not in written))


def _names(pattern: re.Pattern[str], text: str) -> tuple[str, ...]:
    found = (match[1] for match in pattern.finditer(text))
    names = (name[1:-1] if name.startswith('"') else name.lower() for name in found)
    return tuple(dict.fromkeys(name for name in names if name not in _NO_TABLE))
