# SPDX-License-Identifier: Apache-2.0
"""Whole tables queued at once: rows in an order that PostgreSQL takes."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from edgepaas.database.model import KindedModel, new_metadata
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.database.types import Text
from edgepaas.outbox import capture
from tests.support.outbox import NODE, changes, create_file, document


class Model(KindedModel, DeclarativeBase):
    """Base of the tables below."""

    metadata = new_metadata()


class Place(Model, kind="shared"):
    """Lies in others; stored in the order of its key, whichever was there first."""

    __tablename__ = 'the "places"'
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012 (as SQLAlchemy declares it)

    name: Mapped[str] = mapped_column(Text(), primary_key=True)
    within: Mapped[str | None] = mapped_column(ForeignKey('the "places".name'))
    near: Mapped[str | None] = mapped_column(ForeignKey('the "places".name'))


class Door(Model, kind="shared"):
    """Belongs to one."""

    __tablename__ = "doors"

    name: Mapped[str] = mapped_column(Text(), primary_key=True)
    place: Mapped[str] = mapped_column(ForeignKey('the "places".name'))


@pytest.fixture
def file(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    path = tmp_path / "edgepaas.db"
    create_file(path, Model.metadata)
    with contextlib.closing(open_sqlite(path)) as connection:
        yield connection


def place(
    file: sqlite3.Connection, name: str, within: str | None = None, near: str | None = None
) -> None:
    file.execute('INSERT INTO "the ""places""" VALUES (?, ?, ?)', (name, within, near))


def test_a_row_comes_after_those_that_it_points_to(file: sqlite3.Connection) -> None:
    place(file, "z")
    place(file, "m", "z")
    place(file, "a", "m")
    place(file, "b", "m", "a")
    place(file, "own", "own")
    file.execute("INSERT INTO doors VALUES ('d', 'a')")
    installed = capture.install(file, document(Model.metadata), node_id=NODE)
    assert installed.baseline_rows == 6
    names = [change.key_text for change in changes(file)]
    assert sorted(names) == ["a", "b", "d", "m", "own", "z"]
    assert [name for name in names if name in "zmab"] == ["z", "m", "a", "b"]
    assert names[-1] == "d"


def test_rows_in_a_circle_are_queued_as_well(file: sqlite3.Connection) -> None:
    place(file, "a")
    place(file, "b", "a")
    file.execute("""UPDATE "the ""places\""" SET within = 'b' WHERE name = 'a'""")
    assert capture.install(file, document(Model.metadata), node_id=NODE).baseline_rows == 2
