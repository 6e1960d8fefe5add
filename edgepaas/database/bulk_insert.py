# SPDX-License-Identifier: Apache-2.0
"""Inserting many rows, some of which may be there already, in a handful of statements."""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import islice
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Dialect,
    Insert,
    Select,
    Table,
    bindparam,
    cast,
    column,
    func,
    insert,
    select,
    types,
)
from sqlalchemy.orm import Session

from edgepaas.database.postgresql.json_values import Converter, is_sent_as_text, json_converters
from edgepaas.database.types import Uuid

#: Keys a statement.
_KEYS_AT_ONCE = 500
#: Variables a statement: SQLite takes 32,766 since 3.32 (https://sqlite.org/limits.html).
_SQLITE_VARIABLES = 8_000

#: A row by the names of its columns.
Row = Mapping[str, Any]


def insert_new(session: Session, table: Table, rows: Sequence[Row]) -> int:
    """Insert the *rows* of *table* that are not there yet; return how many those were.

    For ``database.write``. The rows name the same columns, and no key twice; the table's
    key is one column of type Uuid. Rows that are there already, by their key or by another
    unique constraint, stay as they are.
    """
    if not rows:
        return 0
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        return sum(_insert_into_sqlite(connection, table, some) for some in _slices(rows))
    names = tuple(rows[0])
    converters = json_converters(table, names, connection.dialect)
    result = connection.execute(
        _insert_from_json(table, names, connection.dialect),
        {"rows": [_as_json(row, converters) for row in rows]},
        execution_options={"preserve_rowcount": True},
    )
    return result.rowcount


def _insert_into_sqlite(connection: Connection, table: Table, rows: Sequence[Row]) -> int:
    """Insert *rows* with one step of SQLite: each step lets go of the interpreter's lock.

    SQLAlchemy would send an insert with ON CONFLICT row by row, since it cannot tell
    which of several rows were inserted; here their number is enough.
    """
    head, values, processors = _sqlite_insert(table, tuple(rows[0]), connection.dialect)
    parameters = [
        process(row[name]) if process is not None else row[name]
        for row in rows
        for name, process in processors
    ]
    statement = f"{head} {', '.join([values] * len(rows))} ON CONFLICT DO NOTHING"
    return connection.exec_driver_sql(statement, tuple(parameters)).rowcount


def insert_in_order(session: Session, table: Table, rows: Sequence[Row]) -> None:
    """Insert *rows* one by one: a number that the database gives out is their order."""
    connection = session.connection()
    on_sqlite = connection.dialect.name == "sqlite"
    for row in rows:
        if on_sqlite:  # as text at a third of the price, on the path of every request
            head, values, processors = _sqlite_insert(table, tuple(row), connection.dialect)
            parameters = [
                process(row[name]) if process is not None else row[name]
                for name, process in processors
            ]
            connection.exec_driver_sql(f"{head} {values}", tuple(parameters))
        else:
            connection.execute(_insert_one(table), dict(row))


def rows_by_id(
    session: Session, table: Table, identities: Iterable[uuid.UUID], columns: Sequence[str] = ()
) -> dict[uuid.UUID, Row]:
    """Return the stored rows with these *identities* by key: the key and the *columns* named."""
    key = key_of(table).name
    found: dict[uuid.UUID, Row] = {}
    # The connection, not the session: there are no objects to keep, and this is asked at
    # every write.
    connection, statement = session.connection(), _select_by_id(table, tuple(columns))
    for some in _chunks(identities):
        rows = connection.execute(statement, {"identities": some}).mappings()
        found.update((row[key], dict(row)) for row in rows)
    return found


def count_present(session: Session, table: Table, identities: Sequence[uuid.UUID]) -> int:
    """Return how many of these distinct *identities* are in *table*."""
    connection = session.connection()
    if connection.dialect.name != "sqlite" or len(identities) > _KEYS_AT_ONCE:
        return len(rows_by_id(session, table, identities))
    # Asked at every write, and as text a third of what it costs as an expression.
    statement = _sqlite_count(table, len(identities), connection.dialect)
    found = connection.exec_driver_sql(statement, tuple(map(str, identities))).scalar()
    return int(found or 0)


@cache
def _insert_one(table: Table) -> Insert:
    return insert(table).inline()


@cache
def key_of(table: Table) -> Column[Any]:
    """Return the table's key; raises TypeError where it is not one column of type Uuid."""
    columns = list(table.primary_key.columns)
    if len(columns) != 1 or not isinstance(columns[0].type, Uuid):
        raise TypeError(f"the key of {table.name} is not one column of type Uuid")
    return columns[0]


@lru_cache(maxsize=64)
def _sqlite_count(table: Table, number: int, dialect: Dialect) -> str:
    name = dialect.identifier_preparer.format_table(table)
    key = dialect.identifier_preparer.quote(key_of(table).name)
    return f"SELECT count(*) FROM {name} WHERE {key} IN ({', '.join('?' * number)})"  # noqa: S608


@cache
def _select_by_id(table: Table, columns: tuple[str, ...]) -> Select[Any]:
    key = key_of(table)
    wanted = [key, *(table.c[name] for name in columns)]
    return select(*wanted).where(key.in_(bindparam("identities", expanding=True)))


@cache
def _sqlite_insert(
    table: Table, names: tuple[str, ...], dialect: Dialect
) -> tuple[str, str, list[tuple[str, Any]]]:
    """Return the statement's head, one row's placeholders, and what each value passes through."""
    quote = dialect.identifier_preparer
    columns = ", ".join(quote.quote(name) for name in names)
    processors = [
        (name, table.c[name].type.dialect_impl(dialect).bind_processor(dialect)) for name in names
    ]
    head = f"INSERT INTO {quote.format_table(table)} ({columns}) VALUES"
    return head, f"({', '.join('?' * len(names))})", processors


@cache
def _insert_from_json(table: Table, names: tuple[str, ...], dialect: Dialect) -> Insert:
    """Return one statement for any number of rows.

    They travel as one JSON parameter: executemany runs a statement for each row, and
    a VALUES list is compiled anew for each number of rows and bounded by 65,535 variables.
    """
    from sqlalchemy.dialects import postgresql

    as_text = {name for name in names if is_sent_as_text(table.c[name].type, dialect)}
    columns = [
        column(name, types.Text() if name in as_text else table.c[name].type) for name in names
    ]
    rows = (
        func.jsonb_to_recordset(bindparam("rows", type_=postgresql.JSONB))
        .table_valued(*columns)
        .render_derived(with_types=True)
    )
    selected = select(
        *(
            cast(rows.c[name], table.c[name].type) if name in as_text else rows.c[name]
            for name in names
        )
    )
    return postgresql.insert(table).from_select(list(names), selected).on_conflict_do_nothing()


def _as_json(row: Row, converters: Sequence[tuple[str, Converter | None]]) -> dict[str, Any]:
    return {
        name: row[name] if convert is None else convert(row[name]) for name, convert in converters
    }


def _slices(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    size = max(1, _SQLITE_VARIABLES // len(rows[0]))
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _chunks(identities: Iterable[uuid.UUID]) -> Iterator[list[uuid.UUID]]:
    remaining = iter(identities)
    while some := list(islice(remaining, _KEYS_AT_ONCE)):
        yield some
