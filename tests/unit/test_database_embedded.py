# SPDX-License-Identifier: Apache-2.0
"""SQLite behind the Database interface: pragmas, durable writes in groups, and their faults."""

import contextvars
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import CursorResult, insert, select, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.database.sqlite.database import EmbeddedDatabase
from edgepaas.errors import DatabaseBusy, DatabaseFull, DatabaseUnavailable
from edgepaas.files.locks import LockHeld, held
from edgepaas.telemetry.models import Reading
from tests.support.databases import (
    adding,
    count_in,
    create_sqlite_file,
    open_embedded,
    reading,
    table_of,
    values_in,
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    """An open database with the telemetry tables."""
    opened = open_embedded(tmp_path / "edgepaas.db")
    yield opened
    opened.close()


class Stage:
    """Holds the writer busy, so that what comes meanwhile becomes one group."""

    def __init__(self, database: EmbeddedDatabase) -> None:
        self._gate = threading.Event()
        self._started = threading.Event()
        self._database = database
        self._threads: list[threading.Thread] = []
        self.results: dict[int, object] = {}

    def __enter__(self) -> "Stage":
        self._start(-1, self._wait)
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._gate.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    def add(self, work: Callable[[Session], object]) -> None:
        """Queue *work*; its result or exception comes to ``results`` under its number."""
        number = len(self._threads) - 1
        self._start(number, work)
        deadline = time.monotonic() + 10
        while self._database._writer._queue.qsize() <= number:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def _start(self, number: int, work: Callable[[Session], object]) -> None:
        def run() -> None:
            try:
                self.results[number] = self._database.write(work)
            except BaseException as error:
                self.results[number] = error

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def _wait(self, _session: Session) -> None:
        self._started.set()
        assert self._gate.wait(20)


def test_every_connection_has_the_pragmas_of_the_design(tmp_path: Path) -> None:
    """WAL, FULL, foreign keys, recursive triggers, a busy timeout."""
    connection = open_sqlite(tmp_path / "new.db", create=True)
    values = {
        name: connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in (
            "journal_mode",
            "synchronous",
            "foreign_keys",
            "recursive_triggers",
            "busy_timeout",
        )
    }
    connection.close()
    assert values == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "recursive_triggers": 1,
        "busy_timeout": 5000,
    }


def test_a_missing_file_is_not_made_by_opening_it(tmp_path: Path) -> None:
    """Only the schema stage creates it; the message says so."""
    with pytest.raises(DatabaseUnavailable, match="edgepaas schema"):
        EmbeddedDatabase(tmp_path / "none.db", lock=tmp_path / "db.lock", readers=1, patience=1)
    assert not (tmp_path / "none.db").exists()


def test_a_written_row_is_read_back(database: EmbeddedDatabase) -> None:
    """And the work's result is handed out."""
    assert database.write(adding(reading(1.5), reading(2.5))) == 2
    assert values_in(database) == [1.5, 2.5]
    database.ping()


def test_what_was_loaded_stays_usable_after_the_session(database: EmbeddedDatabase) -> None:
    """A view may render what a read or a write gave it."""
    stored = database.write(lambda session: session.merge(reading(3.0)))
    assert stored.value == 3.0
    with database.read() as session:
        found = session.scalars(select(Reading)).one()
    assert found.id == stored.id


def test_work_that_raises_leaves_nothing(database: EmbeddedDatabase) -> None:
    """Its exception comes out as it is."""

    def work(session: Session) -> None:
        adding(reading())(session)
        raise LookupError("no such device")

    with pytest.raises(LookupError, match="no such device"):
        database.write(work)
    assert count_in(database) == 0
    assert database.write(adding(reading())) == 1


def test_a_broken_constraint_comes_out_as_it_is(database: EmbeddedDatabase) -> None:
    """IntegrityError is the application's to judge."""
    row = reading()
    database.write(adding(row))
    with pytest.raises(IntegrityError):
        database.write(adding(reading(id=row.id)))
    assert count_in(database) == 1


def test_a_session_for_reading_writes_nothing(database: EmbeddedDatabase) -> None:
    """It would bypass the writer."""
    with pytest.raises(OperationalError, match="readonly"), database.read() as session:
        session.add(reading())
        session.flush()
    assert count_in(database) == 0


def test_a_block_of_reading_sees_one_snapshot(database: EmbeddedDatabase) -> None:
    """Two questions in one answer agree."""
    with database.read() as session:
        before = len(session.scalars(select(Reading.id)).all())
        database.write(adding(reading()))
        after = len(session.scalars(select(Reading.id)).all())
    assert before == after == 0
    assert count_in(database) == 1


def test_work_does_not_end_the_transaction_itself(database: EmbeddedDatabase) -> None:
    """In a group it is not its own."""
    with pytest.raises(TypeError, match="does not commit"):
        database.write(lambda session: session.commit())
    with pytest.raises(TypeError, match="does not roll back"):
        database.write(lambda session: session.rollback())


def test_a_write_inside_a_write_is_refused(database: EmbeddedDatabase) -> None:
    """It would wait for itself."""
    with pytest.raises(RuntimeError, match="inside"):
        database.write(lambda _session: database.write(adding(reading())))


def test_work_sees_the_callers_context_variables(database: EmbeddedDatabase) -> None:
    """The log lines of a request carry its id in the writer's thread, too."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    variable.set("mine")
    assert database.write(lambda _session: variable.get()) == "mine"


def test_a_list_of_rows_travels_as_few_statements(database: EmbeddedDatabase) -> None:
    """One statement a row is what makes a driver slow."""
    rows = [
        {c.name: getattr(row, c.name) for c in Reading.__table__.columns if c.name != "received_at"}
        for row in (reading(float(n)) for n in range(5000))
    ]
    statements: list[str] = []

    def work(session: Session) -> int:
        driver: Any = session.connection().connection.dbapi_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.set_trace_callback(statements.append)
        try:
            inserted = session.execute(insert(table_of(Reading)), rows)
            assert isinstance(inserted, CursorResult)
            return inserted.rowcount
        finally:
            driver.set_trace_callback(None)

    assert database.write(work) == 5000
    assert count_in(database) == 5000
    assert len(statements) < 10


def test_a_job_sees_no_stale_object_of_its_neighbour(database: EmbeddedDatabase) -> None:
    """They share a transaction, not what each has loaded."""
    row = reading(1.0)
    database.write(adding(row))
    change = text("UPDATE readings SET value = 2.0")
    with Stage(database) as stage:
        stage.add(lambda session: session.get_one(Reading, row.id).value)
        stage.add(lambda session: session.execute(change).close())
        stage.add(lambda session: session.get_one(Reading, row.id).value)
    assert (stage.results[0], stage.results[2]) == (1.0, 2.0)


def test_what_waits_is_committed_as_one_group(database: EmbeddedDatabase) -> None:
    """One commit for all of them; each gets its own result."""
    seen: list[int] = []

    def note(session: Session, number: int) -> int:
        driver: Any = session.connection().connection.dbapi_connection
        assert isinstance(driver, sqlite3.Connection)
        seen.append(driver.total_changes)
        adding(reading(float(number)))(session)
        return number

    with Stage(database) as stage:
        for number in range(8):
            stage.add(lambda session, number=number: note(session, number))  # type: ignore[misc]
    assert [stage.results[number] for number in range(8)] == list(range(8))
    assert values_in(database) == [float(number) for number in range(8)]


@pytest.mark.parametrize("culprit", [0, 3, 7])
def test_a_job_that_fails_in_a_group_fails_alone(database: EmbeddedDatabase, culprit: int) -> None:
    """In a flush, in the work's own code, whichever place it has."""
    row = reading(99.0)
    database.write(adding(row))
    with Stage(database) as stage:
        for number in range(8):
            same = {"id": row.id} if number == culprit else {}
            stage.add(adding(reading(float(number), **same)))
    assert isinstance(stage.results[culprit], IntegrityError)
    others = [float(n) for n in range(8) if n != culprit]
    assert values_in(database) == [*others, 99.0]


def test_a_job_that_ends_the_groups_transaction_harms_nobody_else(
    database: EmbeddedDatabase,
) -> None:
    """Nobody may be told that his row is stored when a neighbour has rolled it back."""
    with Stage(database) as stage:
        stage.add(adding(reading(1.0)))
        stage.add(lambda session: session.execute(text("ROLLBACK")))
        stage.add(adding(reading(3.0)))
    assert (stage.results[0], stage.results[2]) == (1, 1)
    assert isinstance(stage.results[1], RuntimeError)
    assert values_in(database) == [1.0, 3.0]


def test_a_commit_that_fails_is_the_culprits_alone(database: EmbeddedDatabase) -> None:
    """A deferred constraint breaks only there, when each job had seemed fine."""
    database.write(
        lambda session: session.execute(
            text(
                "CREATE TABLE child (parent TEXT REFERENCES readings(id) "
                "DEFERRABLE INITIALLY DEFERRED)"
            )
        )
    )
    with Stage(database) as stage:
        stage.add(adding(reading(1.0)))
        stage.add(lambda session: session.execute(text("INSERT INTO child VALUES ('none')")))
        stage.add(adding(reading(3.0)))
    assert (stage.results[0], stage.results[2]) == (1, 1)
    assert isinstance(stage.results[1], IntegrityError)
    assert values_in(database) == [1.0, 3.0]
    assert database.write(adding(reading())) == 1


@pytest.mark.parametrize("grouped", [False, True])
def test_a_full_database_says_so_and_recovers(database: EmbeddedDatabase, grouped: bool) -> None:
    """SQLITE_FULL: nothing of it is stored; when there is room again, writing goes on."""

    def fill(session: Session) -> None:
        session.execute(text("PRAGMA max_page_count=1"))  # no more than there are by now
        for _ in range(50):
            adding(*(reading(7.0) for _ in range(50)))(session)

    with Stage(database) as stage:
        stage.add(fill)
        if grouped:
            stage.add(adding(reading(1.0)))
    assert isinstance(stage.results[0], DatabaseFull)
    stored = values_in(database)
    assert 7.0 not in stored
    assert stored == ([1.0] if stage.results.get(1) == 1 else [])
    assert database.write(adding(reading(2.0))) == 1


def test_a_database_locked_by_another_process_is_busy(
    database: EmbeddedDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the busy timeout; nothing was written."""
    monkeypatch.setattr(
        "edgepaas.database.sqlite.database.open_sqlite",
        lambda path, **options: open_sqlite(path, **{**options, "busy_timeout": 0.05}),
    )
    other = open_sqlite(tmp_path / "edgepaas.db")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseBusy, match="locked"):
        database.write(adding(reading()))
    assert values_in(database) == []
    other.execute("ROLLBACK")
    other.close()
    assert database.write(adding(reading())) == 1


def test_a_writer_that_gets_no_turn_is_told_so(tmp_path: Path) -> None:
    """And what was given up is not written later."""
    database = open_embedded(tmp_path / "edgepaas.db", patience=0.1)
    gate, started, told = threading.Event(), threading.Event(), threading.Event()

    def wait(_session: Session) -> None:
        started.set()
        gate.wait(20)

    def hold_up() -> None:
        with pytest.raises(DatabaseUnavailable, match="unknown"):
            database.write(wait)
        told.set()

    slow = threading.Thread(target=hold_up)
    slow.start()
    assert started.wait(10)
    with pytest.raises(DatabaseBusy, match="turn"):
        database.write(adding(reading()))
    assert told.wait(10)
    gate.set()
    slow.join(20)
    assert count_in(database) == 0
    database.close()


def test_a_damaged_page_is_noticed_told_and_kept_in_mind(tmp_path: Path) -> None:
    """The service learns of it, and a ping confirms it."""
    path = tmp_path / "edgepaas.db"
    database = open_embedded(path)
    database.write(adding(*(reading(float(n)) for n in range(500))))
    database.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        # What the tables are stands in the first pages: without it the file would not even open.
        for page in range(size // 8192, size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 200)
    database = open_embedded(path)
    told: list[BaseException] = []
    database.on_unavailable = told.append
    with pytest.raises(DatabaseUnavailable, match="damaged"):
        values_in(database)
    with pytest.raises(DatabaseUnavailable, match="damaged"):
        database.ping()
    assert len(told) == 1
    database.close()


def test_a_file_that_was_replaced_is_noticed_by_a_ping(tmp_path: Path) -> None:
    """Rows written now would go into a file that has no name any more."""
    path = tmp_path / "edgepaas.db"
    database = open_embedded(path)
    create_sqlite_file(tmp_path / "other.db")
    (tmp_path / "other.db").rename(path)
    with pytest.raises(DatabaseUnavailable, match="replaced"):
        database.ping()
    database.close()


def test_an_open_database_keeps_the_file_from_being_swapped(tmp_path: Path) -> None:
    """And a closed one does not."""
    database = open_embedded(tmp_path / "edgepaas.db")
    with pytest.raises(LockHeld), held(tmp_path / "db.lock", timeout=0.05):
        pass
    database.close()
    database.close()
    with held(tmp_path / "db.lock", timeout=0.05):
        pass


def test_a_closed_database_refuses_work(database: EmbeddedDatabase) -> None:
    """Instead of waiting for a thread that has ended."""
    database.close()
    with pytest.raises(DatabaseUnavailable):
        database.write(adding(reading()))
    with pytest.raises(DatabaseUnavailable):
        database.ping()


def test_closing_finishes_what_is_queued(tmp_path: Path) -> None:
    """A drained service has answered everybody."""
    database = open_embedded(tmp_path / "edgepaas.db")
    with Stage(database) as stage:
        for number in range(20):
            stage.add(adding(reading(float(number))))
        closer = threading.Thread(target=database.close)
        closer.start()
    closer.join(20)
    reopened = open_embedded(tmp_path / "edgepaas.db")
    assert count_in(reopened) == 20
    reopened.close()


_KILLED = """
import sys
from pathlib import Path
from concurrent.futures import ThreadPoolExecutor
from tests.support.databases import adding, open_embedded, reading

database = open_embedded(Path(sys.argv[1]))

def post(number):
    database.write(adding(reading(float(number))))
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()

with ThreadPoolExecutor(8) as pool:
    list(pool.map(post, range(20_000)))
"""


def test_every_acknowledged_row_survives_a_kill(tmp_path: Path) -> None:
    """Kill -9 among eight writers: what was acknowledged is there, once."""
    path = tmp_path / "edgepaas.db"
    create_sqlite_file(path)
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    acknowledged = [process.stdout.readline() for _ in range(300)]
    process.send_signal(signal.SIGKILL)
    acknowledged += process.stdout.readlines()
    process.stdout.close()
    process.wait(20)
    numbers = [float(line) for line in acknowledged if line.endswith("\n")]
    database = open_embedded(path)
    stored = values_in(database)
    database.close()
    assert len(stored) == len(set(stored))
    assert set(numbers) <= set(stored)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; only root can have one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_on_a_full_disk_no_acknowledged_row_is_lost(small_disk: Path) -> None:
    """ENOSPC of a real file system: 507 for whoever comes, and all is well once there is room."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 200_000)
    database = open_embedded(small_disk / "edgepaas.db")
    acknowledged: list[float] = []
    with pytest.raises(DatabaseFull):
        for number in range(10_000):
            database.write(adding(reading(float(number))))
            acknowledged.append(float(number))
    assert acknowledged
    assert values_in(database) == acknowledged
    with pytest.raises(DatabaseFull):
        database.write(adding(reading(-1.0)))
    database.ping()
    ballast.unlink()
    database.write(adding(reading(10_000.0)))
    acknowledged.append(10_000.0)
    assert values_in(database) == acknowledged
    database.close()
    again = open_embedded(small_disk / "edgepaas.db")
    assert values_in(again) == acknowledged
    again.close()
