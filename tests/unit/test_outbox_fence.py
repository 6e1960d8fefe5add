# SPDX-License-Identifier: Apache-2.0
"""The fence: no forwarded table takes a write while it stands, by whatever way."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.outbox import capture, fence, tables
from edgepaas.timing.moment import Moment
from tests.support.outbox import captured_file, changes

NOW = Moment(wall=1_000.0, since_boot=50.0, boot_id="this")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "edgepaas.db"


@pytest.fixture
def file(path: Path) -> Iterator[sqlite3.Connection]:
    with captured_file(path) as connection:
        connection.execute("INSERT INTO parents VALUES ('p', 'p', NULL, '{}')")
        connection.execute("INSERT INTO children VALUES ('c', 'p')")
        connection.execute("INSERT INTO facts (id) VALUES ('f')")
        yield connection


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO facts (id) VALUES ('x')",
        "INSERT OR IGNORE INTO facts (id) VALUES ('x')",
        "INSERT OR REPLACE INTO facts (id) VALUES ('f')",
        "INSERT OR FAIL INTO facts (id) VALUES ('x')",
        "INSERT INTO facts (id) VALUES ('f') ON CONFLICT (id) DO UPDATE SET count = 1",
        "UPDATE facts SET count = 1",
        "UPDATE OR IGNORE facts SET id = 'other'",
        "DELETE FROM facts",
        "DELETE FROM parents",
        "INSERT INTO children SELECT 'k', id FROM parents",
    ],
)
def test_a_write_is_refused_and_leaves_nothing(
    statement: str, path: Path, file: sqlite3.Connection
) -> None:
    """Also on a plain connection of another process's kind, in the midst of a transaction."""
    before = tables.last_seq(file)
    fence.put(file, 3)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA foreign_keys=ON")
        with pytest.raises(sqlite3.IntegrityError, match=fence.FENCED):
            other.execute(statement)
        other.commit()
    assert tables.last_seq(file) == before
    assert fence.lift(file)
    file.execute("PRAGMA recursive_triggers=ON")
    file.execute(statement)
    assert tables.last_seq(file) > before


def test_what_is_not_for_the_hub_passes(file: sqlite3.Connection) -> None:
    """Local tables, and the mirror, which captures nothing."""
    fence.put(file, 3)
    file.execute("INSERT INTO notes (text) VALUES ('x')")
    file.execute("BEGIN IMMEDIATE")
    with capture.paused(file):
        file.execute("INSERT INTO facts (id) VALUES ('mirrored')")
    file.execute("COMMIT")
    assert len(changes(file)) == 3


def test_a_write_under_way_ends_before_the_fence_stands(
    path: Path, file: sqlite3.Connection
) -> None:
    """Who has the write lock finishes; the fence waits for it and no row slips by."""
    with closing(open_sqlite(path)) as writer, closing(open_sqlite(path, busy_timeout=0)) as other:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO facts (id) VALUES ('x')")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            fence.put(other, 3)
        writer.execute("COMMIT")
        fence.put(other, 3)
    assert len(changes(file)) == 4
    assert fence.fenced(file)


def test_an_expired_fence_is_lifted_and_one_that_stands_is_not(file: sqlite3.Connection) -> None:
    assert fence.fenced(file) is None
    assert not fence.lift_if_expired(file)
    assert not fence.lift(file)
    fence.put(file, 3, NOW)
    soon, late = Moment(1_002.0, 52.0, "this"), Moment(1_003.5, 53.5, "this")
    found = fence.fenced(file, soon)
    assert found and found.remaining == pytest.approx(1.0) and not found.expired
    assert not fence.lift_if_expired(file, soon)
    assert fence.lift_if_expired(file, late)
    file.execute("INSERT INTO facts (id) VALUES ('x')")


@pytest.mark.parametrize(
    ("now", "expired"),
    [
        (Moment(wall=0.0, since_boot=51.0, boot_id="this"), False),  # the wall clock was set back
        (Moment(wall=9e9, since_boot=51.0, boot_id="this"), False),  # or leapt ahead
        (Moment(wall=1_000.5, since_boot=2.0, boot_id="next"), True),  # whoever put it is gone
    ],
)
def test_a_fence_keeps_its_time_whatever_the_wall_clock_does(
    now: Moment, expired: bool, file: sqlite3.Connection
) -> None:
    fence.put(file, 3, NOW)
    assert fence.lift_if_expired(file, now) is expired


def test_a_fence_that_nobody_understands_does_not_stand(file: sqlite3.Connection) -> None:
    file.execute("UPDATE outbox_state SET fence = 'garbage'")
    assert fence.lift_if_expired(file)


def test_removing_capture_takes_the_fence_along(file: sqlite3.Connection) -> None:
    fence.put(file, 3)
    capture.remove(file)
    file.execute("INSERT INTO facts (id) VALUES ('x')")
    assert fence.fenced(file) is None
