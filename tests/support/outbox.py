# SPDX-License-Identifier: Apache-2.0
"""Captured files for tests: tables of every shape, and a replay of what was captured."""

import contextlib
import functools
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import ForeignKey, Integer, LargeBinary, MetaData, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import StaticPool

from edgepaas.database.ids import uuid7
from edgepaas.database.model import KindedModel, new_metadata
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.database.types import Json, Number, Text, Uuid
from edgepaas.outbox import capture
from edgepaas.outbox.layout import forwarded_layouts
from edgepaas.outbox.reading import Change, exact_rows, next_batch
from edgepaas.outbox.tables import quoted
from edgepaas.schema.table_contract import describe

NODE = "0b7c8a52-3f0e-4d7a-9a86-0d2f0c4a9e11"


class Model(KindedModel, DeclarativeBase):
    """Base of the tables below."""

    metadata = new_metadata()


class Parent(Model, kind="shared"):
    """A shared table with a natural key."""

    __tablename__ = "parents"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid7)
    name: Mapped[str] = mapped_column(Text(50), unique=True)
    note: Mapped[str | None] = mapped_column(Text())
    labels: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)


class Child(Model, kind="shared"):
    """Goes with its parent."""

    __tablename__ = "children"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid7)
    parent_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("parents.id", ondelete="CASCADE"))


class Fact(Model, kind="facts"):
    """Append-only, with a blob."""

    __tablename__ = "facts"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid7)
    value: Mapped[float | None] = mapped_column(Number)
    count: Mapped[int | None] = mapped_column(Integer)
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    text: Mapped[str | None] = mapped_column(Text())


class Odd(Model, kind="shared"):
    """A table WITHOUT ROWID, with a key of two columns and names that need quoting."""

    __tablename__ = 'od"d table'
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 (as SQLAlchemy declares it)

    first: Mapped[str] = mapped_column("fir'st", Text(), primary_key=True)
    second: Mapped[int] = mapped_column("select", Integer, primary_key=True, autoincrement=False)
    value: Mapped[str | None] = mapped_column(Text())


class Note(Model, kind="local"):
    """Never leaves the box."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    text: Mapped[str | None] = mapped_column(Text())


def document(metadata: MetaData = Model.metadata, revision: str = "r1") -> dict[str, Any]:
    """Return what run/tables.json says of *metadata*."""
    return {"fingerprint": "f", "revision": [revision], "tables": describe(metadata)}


def create_file(path: Path, metadata: MetaData = Model.metadata) -> None:
    """Create the tables in the file *path*, without capture."""
    with contextlib.closing(open_sqlite(path, create=True)) as connection:
        connection.executescript(f"BEGIN; {_script(metadata)}; COMMIT")


@functools.cache
def _script(metadata: MetaData) -> str:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    metadata.create_all(engine)
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")
        script = "; ".join(row[0] for row in found)
    engine.dispose()
    return script


@contextlib.contextmanager
def captured_file(path: Path) -> Iterator[sqlite3.Connection]:
    """Create the file *path* with capture, and give a connection to it."""
    create_file(path)
    with contextlib.closing(open_sqlite(path)) as connection:
        capture.install(connection, document(), node_id=NODE)
        yield connection


def changes(connection: sqlite3.Connection, after: int = 0) -> list[Change]:
    """Return everything that was captured above *after*."""
    batch = next_batch(connection, after, rows=1_000_000)
    return [] if batch is None else [change for chunk in batch.chunks() for change in chunk]


def ops(connection: sqlite3.Connection, after: int = 0) -> list[tuple[str, str]]:
    """Return op and table of everything that was captured above *after*."""
    return [(change.op, change.layout.table) for change in changes(connection, after)]


def contents(connection: sqlite3.Connection, metadata: MetaData = Model.metadata) -> dict[str, Any]:
    """Return the forwarded tables' rows, with each value's type, to the bit."""
    found = {}
    for layout in forwarded_layouts(document(metadata)):
        columns = ", ".join(quoted(name) for name in layout.names)
        rows = exact_rows(connection, f"SELECT {columns} FROM {quoted(layout.table)}", ())
        found[layout.table] = sorted([tuple(map(exact, row)) for row in rows], key=repr)
    return found


def exact(value: object) -> tuple[str, object]:
    """Return *value* so that two are equal only when they are the same to the bit."""
    return type(value).__name__, value.hex() if isinstance(value, float) else value


def replay(captured: list[Change], path: Path) -> dict[str, Any]:
    """Apply *captured* to an empty copy of the tables at *path*; return its contents."""
    create_file(path)
    with contextlib.closing(open_sqlite(path)) as connection:
        connection.execute("PRAGMA foreign_keys=OFF")  # cascades are captured one by one
        connection.execute("PRAGMA ignore_check_constraints=ON")
        for change in captured:
            _apply(connection, change)
        return contents(connection)


def _apply(connection: sqlite3.Connection, change: Change) -> None:
    table = quoted(change.layout.table)
    same_key = " AND ".join(f"{quoted(name)} IS ?" for name in change.layout.key)
    key = [_bound(value) for value in change.key]
    if change.op == "insert":
        assert change.new is not None
        marks = ", ".join(_mark(value) for value in change.new)
        connection.execute(
            f"INSERT INTO {table} VALUES ({marks})", [_bound(value) for value in change.new]
        )
        return
    if change.op == "delete":
        cursor = connection.execute(f"DELETE FROM {table} WHERE {same_key}", key)
    else:
        assert change.new is not None
        for position in change.changed:
            column, value = change.layout.names[position], change.new[position]
            cursor = connection.execute(
                f"UPDATE {table} SET {quoted(column)} = {_mark(value)} WHERE {same_key}",
                [_bound(value), *key],
            )
            assert cursor.rowcount == 1, change
        return
    assert cursor.rowcount == 1, change


def _bound(value: Any) -> Any:
    return value.encode("utf-8", "surrogateescape") if _torn(value) else value


def _mark(value: Any) -> str:
    return "CAST(? AS TEXT)" if _torn(value) else "?"


def _torn(value: Any) -> bool:
    """Whether *value* is a text that is no UTF-8, which Python's driver cannot bind."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False
