# SPDX-License-Identifier: Apache-2.0
"""Trying the application's own write path: an INSERT into its table that is undone again.

A row that is there already is inserted under a new key, so that triggers, policies, constraints
and NOT NULL columns judge values that were accepted once: what refuses it refuses every row.
A table without rows, or one that may not be read, gets made-up values instead.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from edgepaas.errors import RowNotStored
from edgepaas.outcomes.causes import KnownTable, Refusal, refusal_of
from edgepaas.pgdriver.failures import sqlstate

#: Runs a query and returns its rows; raises the error of the driver, or one raised from it.
Read = Callable[[str], list[list[object]]]
#: Runs a statement, then undoes it; returns how many rows it returned; raises likewise.
Attempt = Callable[[str], int]

_NO_RIGHT = "42501"
#: unique_violation, exclusion_violation.
_IN_THE_WAY = frozenset({"23505", "23P01"})

_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, -1), t.typtype = 'e', EXISTS (
  SELECT FROM pg_index i
  WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey))
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = to_regclass(quote_ident('$table')) AND a.attnum > 0
AND NOT a.attisdropped AND a.attgenerated = ''"""

#: Without its length a cast shortens nothing.
_LENGTH = re.compile(r"\s*\([^)]*\)")
_PLAIN_TYPE = re.compile(
    r"(?i:text|varchar|character varying|char|uuid|boolean|smallint|integer|bigint|real|float"
    r"|double precision|numeric|bytea|jsonb?|date|time(stamp)?( with(out)? time zone)?)"
)

#: Made-up values by type (``format_type`` without a length), as expressions.
_VALUES = {
    "uuid": "gen_random_uuid()",
    "text": "'0'",
    "character varying": "'0'",
    "character": "'0'",
    "boolean": "false",
    "json": "'{}'::json",
    "jsonb": "'{}'::jsonb",
    "bytea": "''::bytea",
    "date": "current_date",
    "timestamp with time zone": "now()",
    "timestamp without time zone": "localtimestamp",
    "time without time zone": "localtime",
    "time with time zone": "current_time",
    **dict.fromkeys(("smallint", "integer", "bigint", "real", "double precision", "numeric"), "0"),
}


class Rehearsal(NamedTuple):
    """How it went: the *error* that refused the row, None where it was accepted.

    *copied*: it was a row that the table holds, which had been accepted before.
    """

    error: Exception | None
    copied: bool


def rehearse(table: str, columns: Mapping[str, str], *, read: Read, attempt: Attempt) -> Rehearsal:
    """Try to insert a row with these *columns*, the ones that the box sends, into *table*.

    Each has the type that the box knows it by, in PostgreSQL's words; none at all: those of the
    table are taken. The error may be that of a
    constraint which judges single rows (a unique one: the copied row is there twice). Raises
    nothing for what PostgreSQL answers.
    """
    copied = False
    try:
        there = _columns(read(_columns_query(table)))
        wanted = sorted(columns) or sorted(there)
        copied = bool(wanted) and _has_rows(table, read)
        if copied:
            try:
                _try(attempt, table, _insert(table, wanted, there, columns, copying=True))
                return Rehearsal(None, copied)
            except Exception as error:
                if sqlstate(error) != _NO_RIGHT:
                    raise
        _try(attempt, table, _insert(table, wanted, there, columns, copying=False))
    except Exception as error:  # noqa: BLE001 - handed to the caller, who judges it
        return Rehearsal(error, copied)
    return Rehearsal(None, copied)


def _try(attempt: Attempt, table: str, insert: str) -> None:
    """Attempt *insert*, of one row; raises RowNotStored where none was stored."""
    if not attempt(f"{insert} RETURNING true"):
        raise RowNotStored(f"a row of {table} was accepted and not stored: a trigger removed it")


def shown_refusal(found: Rehearsal, table: str, known: KnownTable | None = None) -> Refusal | None:
    """Return what a rehearsal shows of *table*: that it refuses every row, or None.

    It shows nothing where a unique constraint met the row that was copied, and where made-up
    values broke a constraint.
    """
    if found.error is None:
        return None
    refusal = refusal_of(found.error, [table], None if known is None else {table: known})
    if refusal is None or refusal.sqlstate in _IN_THE_WAY:
        return None
    return None if refusal.constraint and not found.copied else refusal


def quoted(name: str) -> str:
    """Return *name* as an identifier."""
    return '"' + name.replace('"', '""') + '"'


def _columns_query(table: str) -> str:
    return _COLUMNS.replace("$table", table.replace("'", "''"))


class _Column(NamedTuple):
    """A column of the server's table."""

    type: str
    is_enum: bool
    in_key: bool


#: What stands for a column that the server's table does not have: an INSERT shall name it.
_NO_COLUMN = _Column("", False, False)


def _columns(rows: list[list[object]]) -> dict[str, _Column]:
    return {
        str(name): _Column(str(base), bool(is_enum), bool(in_key))
        for name, base, is_enum, in_key in rows
    }


def _has_rows(table: str, read: Read) -> bool:
    try:
        return bool(read(f"SELECT EXISTS (SELECT FROM {quoted(table)})")[0][0])  # noqa: S608
    except Exception as error:
        if sqlstate(error) != _NO_RIGHT:
            raise
        return False


def _insert(
    table: str,
    names: Collection[str],
    columns: Mapping[str, _Column],
    types: Mapping[str, str],
    *,
    copying: bool,
) -> str:
    """Return the INSERT; where nothing is known of the table, one of its defaults."""
    if not names:
        return f"INSERT INTO {quoted(table)} DEFAULT VALUES"
    values = [
        _typed(_value(name, columns.get(name, _NO_COLUMN), copying=copying), types.get(name, ""))
        for name in names
    ]
    source = f" FROM {quoted(table)} LIMIT 1" if copying else ""
    listed = ", ".join(map(quoted, names))
    return f"INSERT INTO {quoted(table)} ({listed}) SELECT {', '.join(values)}{source}"


def _typed(value: str, type_name: str) -> str:
    """Return *value* as the box sends it: a column of another type may refuse that."""
    base = _LENGTH.sub("", type_name)
    # Types of the application's own have other names on each side.
    return f"({value})::{base}" if _PLAIN_TYPE.fullmatch(base) else value


def _value(name: str, column: _Column, *, copying: bool) -> str:
    # A copy gets a key of its own; what points to another row points to one that is there.
    if copying and not (column.in_key and column.type == "uuid"):
        return quoted(name)
    if column.type.endswith("[]"):
        return f"'{{}}'::{column.type}"
    if column.is_enum:
        return f"(enum_range(NULL::{column.type}))[1]"
    return _VALUES.get(column.type, "NULL")
