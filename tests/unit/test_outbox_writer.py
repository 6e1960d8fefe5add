# SPDX-License-Identifier: Apache-2.0
"""The group-commit writer and the outbox: markers per job, the drainer's wake, the fence."""

import contextlib
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from edgepaas.database.sqlite.capture_guard import Capture
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.database.sqlite.database import EmbeddedDatabase
from edgepaas.database.sqlite.sync_wakeup import Waker, address_of
from edgepaas.errors import DatabaseBusy
from edgepaas.outbox import capture, fence
from tests.support.databases import in_one_group
from tests.support.outbox import Fact, Note, captured_file, changes, create_file, document
from tests.support.weaken import weakened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "edgepaas.db"


@pytest.fixture
def file(path: Path) -> Iterator[sqlite3.Connection]:
    with captured_file(path) as connection:
        yield connection


@pytest.fixture
def woken() -> list[int]:
    """One entry for each time that the drainer was woken."""
    return []


@pytest.fixture
def database(path: Path, file: sqlite3.Connection, woken: list[int]) -> Iterator[EmbeddedDatabase]:
    with opened(path, woken) as database:
        yield database


@contextlib.contextmanager
def opened(path: Path, woken: list[int]) -> Iterator[EmbeddedDatabase]:
    database = EmbeddedDatabase(
        path,
        lock=path.with_name("db.lock"),
        readers=1,
        patience=20,
        on_commit=lambda: woken.append(1),
    )
    try:
        yield database
    finally:
        database.close()


def facts(count: int, prefix: str = "f") -> Callable[[Session], object]:
    """Return work that stores *count* facts."""
    return lambda session: session.execute(
        text("INSERT INTO facts (id) VALUES (:id)"),
        [{"id": f"{prefix}{number}"} for number in range(count)],
    )


def test_each_job_of_a_group_is_a_transaction_of_its_own(
    database: EmbeddedDatabase, file: sqlite3.Connection
) -> None:
    """Only those of more than one row need a marker; jobs that capture nothing leave none."""
    in_one_group(
        database,
        facts(1, "a"),
        facts(3, "b"),
        lambda session: session.execute(insert(Note).values(text="local")),
        facts(2, "c"),
        facts(1, "d"),
    )
    assert [c.transaction for c in changes(file)] == [1, 2, 2, 2, 5, 5, 7]
    assert file.execute("SELECT * FROM outbox_transactions").fetchall() == [(2, 4), (5, 6)]


def test_a_failed_job_leaves_neither_rows_nor_markers(
    database: EmbeddedDatabase, file: sqlite3.Connection
) -> None:
    """The others of its group are run again, and are whole transactions as ever."""
    errors = in_one_group(database, facts(2, "a"), facts(2, "a"), facts(2, "b"))
    assert [type(error) for error in errors] == [type(None), IntegrityError, type(None)]
    assert [(c.key_text, c.transaction) for c in changes(file)] == [
        ("a0", 1),
        ("a1", 1),
        ("b0", 3),
        ("b1", 3),
    ]


def test_rows_of_other_writers_between_two_groups_are_not_taken_for_its_own(
    database: EmbeddedDatabase, file: sqlite3.Connection
) -> None:
    database.write(facts(2, "a"))
    file.execute("INSERT INTO facts (id) VALUES ('shell')")
    database.write(facts(2, "b"))
    assert [c.transaction for c in changes(file)] == [1, 1, 3, 4, 4]


def test_only_a_commit_with_rows_for_the_hub_wakes_the_drainer(
    database: EmbeddedDatabase, woken: list[int]
) -> None:
    database.write(lambda session: session.execute(insert(Note).values(text="local")))
    with pytest.raises(IntegrityError):
        database.write(lambda session: [facts(1)(session), facts(1)(session)])
    assert woken == []
    database.write(facts(1))
    database.write(facts(1, "g"))  # comes after the first group's wake in the same thread
    assert len(woken) >= 1


def test_a_write_behind_the_fence_is_told_to_come_again(
    database: EmbeddedDatabase, file: sqlite3.Connection
) -> None:
    """Which is a 503 with Retry-After; once the fence is lifted it passes."""
    fence.put(file, 3)
    with pytest.raises(DatabaseBusy, match="writes wait while PostgreSQL takes over") as caught:
        database.write(facts(1))
    assert caught.value.retry_after > 0
    with pytest.raises(DatabaseBusy):
        database.write(lambda session: session.add(Fact()))
    errors = in_one_group(database, facts(1), facts(1, "g"))
    assert [type(error) for error in errors] == [DatabaseBusy] * 2
    fence.lift(file)
    database.write(facts(1))
    assert len(changes(file)) == 1


def test_a_standalone_file_is_written_without_stamps(path: Path, woken: list[int]) -> None:
    create_file(path)
    with opened(path, woken) as database:
        database.write(facts(3))
    assert woken == []
    with contextlib.closing(open_sqlite(path)) as connection:
        found = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'outbox%'")
        assert found.fetchone() == (0,)


@pytest.mark.parametrize("depth", [0, 3])
def test_a_waker_reaches_a_socket_however_deep_and_survives_its_absence(
    depth: int, tmp_path: Path
) -> None:
    """Nobody listening, somebody who left, a full queue: a write never notices."""
    folder = tmp_path.joinpath(*["a-folder-with-a-rather-long-name-" + "x" * 30] * depth)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sync.wake"
    waker = Waker(path)
    waker()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        with address_of(path) as address:
            listener.bind(address)
        listener.settimeout(20)
        waker()
        assert listener.recv(10)
        for _ in range(2000):
            waker()
    waker()
    waker.close()
    waker()
    waker.close()


@pytest.fixture
def restored() -> list[str]:
    """What was put back."""
    return []


@pytest.fixture
def guarded(database: EmbeddedDatabase, restored: list[str]) -> EmbeddedDatabase:
    """A database that lets nothing be written without capture."""
    database.guard_capture(
        Capture(lambda connection: capture.restore(connection, document()), restored.extend)
    )
    return database


def waiting(file: sqlite3.Connection) -> list[str]:
    return [change.key_text for change in changes(file)]


@pytest.mark.parametrize(
    "harm",
    [
        "DROP TRIGGER outbox_insert_facts",
        "DROP TRIGGER outbox_insert_facts; CREATE TRIGGER outbox_insert_facts "
        "AFTER INSERT ON facts BEGIN SELECT 1; END",
    ],
)
def test_what_is_written_after_a_trigger_was_dropped_is_captured(
    guarded: EmbeddedDatabase, file: sqlite3.Connection, restored: list[str], harm: str
) -> None:
    """It is put back in the very transaction that would have gone without."""
    guarded.write(facts(1, "before"))
    file.executescript(harm)
    guarded.write(facts(2, "after"))
    guarded.write(facts(1, "later"))
    assert waiting(file) == ["before0", "after0", "after1", "later0"]
    assert len(restored) == 1 and "outbox_insert_facts" in restored[0]
    assert capture.problems(file, document()) == []


def test_a_build_that_looks_at_no_trigger_is_found_out(
    guarded: EmbeddedDatabase, file: sqlite3.Connection
) -> None:
    with weakened("unguarded-file"):
        file.execute("DROP TRIGGER outbox_insert_facts")
        guarded.write(facts(1))
    assert waiting(file) == []


def test_a_failed_write_does_not_keep_the_triggers_from_coming_back(
    guarded: EmbeddedDatabase, file: sqlite3.Connection
) -> None:
    """What was put back in its transaction was undone with it."""
    file.execute("DROP TRIGGER outbox_insert_facts")

    def fail(_session: Session) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        guarded.write(fail)
    guarded.write(facts(1))
    assert waiting(file) == ["f0"]


def test_a_write_that_drops_a_trigger_itself_is_undone(
    guarded: EmbeddedDatabase, file: sqlite3.Connection
) -> None:
    def drop(session: Session) -> None:
        session.execute(text("DROP TRIGGER outbox_insert_facts"))
        facts(1, "hidden")(session)

    with pytest.raises(RuntimeError, match="has removed what captures changes"):
        guarded.write(drop)
    guarded.write(facts(1, "seen"))
    assert waiting(file) == ["seen0"]
    assert file.execute("SELECT id FROM facts").fetchall() == [("seen0",)]


def test_a_write_may_make_tables_of_its_own(
    guarded: EmbeddedDatabase, file: sqlite3.Connection, restored: list[str]
) -> None:
    def make(session: Session) -> None:
        session.execute(text("CREATE TABLE cache (n)"))
        facts(1)(session)

    guarded.write(make)
    assert waiting(file) == ["f0"] and restored == []


def test_without_capture_nothing_is_put_back(
    guarded: EmbeddedDatabase, file: sqlite3.Connection, restored: list[str]
) -> None:
    """The hub was taken away, and with it the triggers."""
    capture.remove(file)
    guarded.write(facts(1))
    assert restored == [] and waiting(file) == []
