# SPDX-License-Identifier: Apache-2.0
"""What leaves the box: nothing that another row still needs, and not by a clock that was wrong."""

import contextlib
import sqlite3
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

import pytest
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from edgepaas.database.model import KindedModel, new_metadata
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.database.types import Text, Uuid
from edgepaas.outbox import capture, ledger, stream, tables
from edgepaas.outbox.space import shedding
from edgepaas.outbox.space.retention import reclaim
from edgepaas.outbox.stream import Counts
from tests.support.outbox import NODE, create_file, document


class Model(KindedModel, DeclarativeBase):
    """Base of the tables below."""

    metadata = new_metadata()


class Order(Model, kind="facts"):
    """A fact that others point to."""

    __tablename__ = "orders"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    before: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("orders.id"))


class Line(Model, kind="facts"):
    """A fact that points to one."""

    __tablename__ = "lines"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    order_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("orders.id"))


class Note(Model, kind="local"):
    """Never leaves the box, nor may it vanish with what does."""

    __tablename__ = "notes"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    order_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"))
    text: Mapped[str | None] = mapped_column(Text())


@pytest.fixture
def file(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    path = tmp_path / "edgepaas.db"
    create_file(path, Model.metadata)
    with contextlib.closing(open_sqlite(path)) as connection:
        capture.install(connection, document(Model.metadata), node_id=NODE)
        yield connection


def order(file: sqlite3.Connection, name: str, before: str | None = None) -> None:
    file.execute("INSERT INTO orders (id, before) VALUES (?, ?)", (name, before))


def line(file: sqlite3.Connection, name: str, of: str) -> None:
    file.execute("INSERT INTO lines (id, order_id) VALUES (?, ?)", (name, of))


def deliver(file: sqlite3.Connection, batch: str) -> None:
    """Have the hub confirm all that waits."""
    waiting = stream.pending(file)
    stream.confirm(file, batch, tables.last_seq(file), Counts(waiting))


def left(file: sqlite3.Connection, table: str) -> list[str]:
    return [row[0] for row in file.execute(f"SELECT id FROM {table} ORDER BY id")]


def test_a_fact_that_others_point_to_goes_with_the_last_of_them(file: sqlite3.Connection) -> None:
    """Refused, its deletion would hold up everything else that the drainer does."""
    order(file, "a")
    order(file, "b")
    line(file, "a1", "a")
    deliver(file, "one")
    line(file, "a2", "a")
    assert reclaim(file, older_than=0).facts == 2
    assert (left(file, "orders"), left(file, "lines")) == (["a"], ["a2"])
    deliver(file, "two")
    assert reclaim(file, older_than=0).facts == 2
    assert (left(file, "orders"), left(file, "lines")) == ([], [])
    assert stream.pending(file) == 0, "nothing of it was captured"


def test_facts_of_one_table_that_point_to_each_other_go_together(file: sqlite3.Connection) -> None:
    names = [f"{n:03}" for n in range(700)]
    for before, name in zip([None, *names], names, strict=False):
        order(file, name, before)
    deliver(file, "one")
    assert reclaim(file, older_than=0).facts == 700
    assert left(file, "orders") == []


def test_no_local_row_goes_with_a_fact(file: sqlite3.Connection) -> None:
    """ON DELETE CASCADE is the application's word for its own deletes, not for ours."""
    order(file, "a")
    file.execute("INSERT INTO notes (id, order_id, text) VALUES ('n', 'a', 'mine')")
    deliver(file, "one")
    assert reclaim(file, older_than=0).rows == 1
    assert (left(file, "orders"), left(file, "notes")) == (["a"], ["n"])


def test_shedding_leaves_what_others_point_to_until_they_are_gone(
    file: sqlite3.Connection,
) -> None:
    order(file, "a")
    line(file, "a1", "a")
    orders, lines = shedding.LowValue("orders"), shedding.LowValue("lines")
    assert shedding.shed(file, [orders]) == 0
    assert shedding.shed(file, [orders, lines]) == 1
    assert shedding.shed(file, [orders, lines]) == 1
    assert (left(file, "orders"), left(file, "lines")) == ([], [])
    assert ledger.read(file)["shed"] == 2


def test_what_was_delivered_in_a_year_to_come_leaves_all_the_same(
    file: sqlite3.Connection,
) -> None:
    """Else one jump of the clock would keep the box from ever making room again."""
    order(file, "a")
    deliver(file, "one")
    ahead = (datetime.now(UTC) + timedelta(days=3650)).isoformat(timespec="seconds")
    file.execute("UPDATE outbox_batches SET confirmed_at = ?", (ahead,))
    order(file, "b")
    deliver(file, "two")
    assert reclaim(file, older_than=3600).rows == 0
    assert file.execute("SELECT max(confirmed_at) FROM outbox_batches").fetchone()[0] < ahead
    file.execute("UPDATE outbox_batches SET confirmed_at = ?", (ahead,))
    assert reclaim(file, older_than=0).rows == 2, "room is made whatever the clock said"


def test_what_is_delivered_before_the_clock_is_set_is_not_old(
    file: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A box without a clock battery boots in 1970, with a batch under way."""
    order(file, "a")
    deliver(file, "one")

    class Unset(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls(1970, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(stream, "_ENTRY_ROWS", 1)
    monkeypatch.setattr(stream, "datetime", Unset)
    order(file, "b")
    deliver(file, "two")
    assert file.execute("SELECT count(*) FROM outbox_batches").fetchone() == (2,)
    assert reclaim(file, older_than=3600).rows == 0
