# SPDX-License-Identifier: Apache-2.0
"""Counting what waits in the SQLite file, without changing it and without ever failing."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edgepaas.decision import waiting
from edgepaas.decision.waiting import Waiting, rows_waiting
from edgepaas.files.locks import held


def make(path: Path, rows: int) -> None:
    """Create a file in WAL mode whose outbox holds *rows* rows."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE outbox (seq INTEGER PRIMARY KEY, payload TEXT)")
        connection.executemany("INSERT INTO outbox (payload) VALUES (?)", [("x",)] * rows)
        connection.commit()


def test_no_file_and_no_outbox_are_no_rows(tmp_path: Path) -> None:
    """A fresh box, and one that never had a hub."""
    path = tmp_path / "edgepaas.db"
    assert rows_waiting(path) == Waiting(0)
    assert not path.exists()
    path.touch()
    assert rows_waiting(path) == Waiting(0)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE reading (id TEXT)")
    assert rows_waiting(path) == Waiting(0)


def fill(path: Path) -> None:
    """Create a file as an application without forwarding leaves it: five rows."""
    with closing(sqlite3.connect(path)) as connection:
        for table in ('"odd ""name"', "readings", "alembic_version", "_alembic_tmp_readings"):
            connection.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY AUTOINCREMENT)")
        connection.executemany('INSERT INTO "odd ""name" VALUES (?)', [(1,), (2,)])
        connection.executemany("INSERT INTO readings VALUES (?)", [(7,), (8,), (9,)])
        connection.execute("INSERT INTO alembic_version VALUES (1)")
        connection.execute("INSERT INTO _alembic_tmp_readings VALUES (1)")
        connection.commit()


def test_without_an_outbox_the_rows_of_the_application_are_unsent(tmp_path: Path) -> None:
    """Nothing sends them, so they are no reason to drain; the version is no row of anybody's."""
    path = tmp_path / "edgepaas.db"
    fill(path)
    found = rows_waiting(path)
    assert found == Waiting(unsent=5)
    assert (found.may_hold_unsent_rows, found.total) == (False, 5)


def test_the_rows_of_a_large_file_are_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The boot does not wait for a count."""
    monkeypatch.setattr(waiting, "_COUNTED_BYTES", 100)
    path = tmp_path / "edgepaas.db"
    fill(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE pairs (id TEXT PRIMARY KEY) WITHOUT ROWID")
        connection.execute("INSERT INTO pairs VALUES ('x')")
        connection.commit()
    assert rows_waiting(path) == Waiting(unsent=2 + 9 + 1, estimated=True)


def test_the_rows_of_the_outbox_are_counted(tmp_path: Path) -> None:
    """Also those that are only in the write-ahead log, and in a path with odd characters."""
    path = tmp_path / "a b%20?#.db"
    make(path, 3)
    assert rows_waiting(path, tmp_path / "db.lock") == Waiting(3)
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("INSERT INTO outbox (payload) VALUES ('y')")
        writer.commit()
        assert Path(f"{path}-wal").stat().st_size > 0
        assert rows_waiting(path) == Waiting(4)
        writer.execute("BEGIN IMMEDIATE")  # somebody writing does not keep a reader away
        assert rows_waiting(path) == Waiting(4)


def test_a_file_that_cannot_be_read_is_reported_and_left_as_it_is(tmp_path: Path) -> None:
    """Garbage, a folder, a damaged page: what to do is for the schema stage."""
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"this is not a database" * 500)
    found = rows_waiting(garbage)
    assert (found.readable, found.may_hold_unsent_rows) == (False, True)
    assert "not a database" in found.problem
    assert garbage.read_bytes() == b"this is not a database" * 500
    assert not rows_waiting(tmp_path).readable
    damaged = tmp_path / "damaged.db"
    make(damaged, 2000)
    content = bytearray(damaged.read_bytes())
    content[100:4096] = b"\xff" * 3996
    damaged.write_bytes(content)
    assert not rows_waiting(damaged).readable


def test_a_file_that_is_being_swapped_counts_as_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is short: the boot goes on with SQLite."""
    monkeypatch.setattr(waiting, "_LOCK_TIMEOUT", 0.05)
    path, lock = tmp_path / "edgepaas.db", tmp_path / "db.lock"
    make(path, 1)
    with held(lock):
        assert "locked" in rows_waiting(path, lock).problem
    with held(lock, shared=True):
        assert rows_waiting(path, lock) == Waiting(1)
