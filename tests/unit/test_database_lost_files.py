# SPDX-License-Identifier: Apache-2.0
"""A SQLite file that is taken away, or cannot be written, while it is open."""

import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from os import geteuid
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.database.sqlite.database import EmbeddedDatabase
from edgepaas.errors import DatabaseUnavailable
from tests.support.databases import (
    adding,
    create_sqlite_file,
    open_embedded,
    reading,
    values_in,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is."""
    return tmp_path / "edgepaas.db"


@pytest.fixture
def told() -> list[BaseException]:
    """What the service heard."""
    return []


@pytest.fixture
def database(path: Path, told: list[BaseException]) -> Iterator[EmbeddedDatabase]:
    """An open database that stores one reading."""
    opened = open_embedded(path)
    opened.write(adding(reading(1.0)))
    opened.on_unavailable = told.append
    yield opened
    opened.close()


def beside(path: Path, suffix: str) -> Path:
    """Return the file that SQLite has beside *path*."""
    return path.with_name(path.name + suffix)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_nothing_is_acknowledged_once_a_file_is_deleted(
    database: EmbeddedDatabase, path: Path, told: list[BaseException], suffix: str
) -> None:
    """It would be gone with the process; the service hears of it at once."""
    beside(path, suffix).unlink()
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable, match="deleted while it was open"):
            database.write(adding(reading(2.0)))
        with pytest.raises(DatabaseUnavailable, match="deleted while it was open"):
            database.ping()
    assert len(told) == 1
    assert not beside(path, suffix).exists()


@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_a_write_is_not_acknowledged_when_the_file_goes_in_its_middle(
    database: EmbeddedDatabase, path: Path, suffix: str
) -> None:
    """What counts is that the file is there when the commit is done."""

    def work(session: Session) -> None:
        adding(reading(2.0))(session)
        beside(path, suffix).unlink()

    with pytest.raises(DatabaseUnavailable, match="deleted"):
        database.write(work)


@pytest.mark.parametrize("notice", ["write", "ping", "read"])
def test_what_a_deleted_wal_held_is_brought_into_the_file(
    database: EmbeddedDatabase, path: Path, tmp_path: Path, notice: str
) -> None:
    """It was acknowledged: it is there even when the process is killed right then."""
    database.write(adding(*(reading(float(n)) for n in range(2, 50))))
    beside(path, "-wal").unlink()
    ways: dict[str, Callable[[], object]] = {
        "write": lambda: database.write(adding(reading(99.0))),
        "ping": database.ping,
        "read": lambda: values_in(database),  # its connection would be the first one
    }
    with pytest.raises(DatabaseUnavailable, match="deleted"):
        ways[notice]()
    subprocess.run(["cp", path, tmp_path / "copy.db"], check=True)
    copy = open_embedded(tmp_path / "copy.db")
    assert values_in(copy) == [float(n) for n in range(1, 50)]
    copy.close()


def test_a_replaced_file_takes_no_write(database: EmbeddedDatabase, path: Path) -> None:
    """Neither the old one, which has no name, nor the new one, which is not ours."""
    create_sqlite_file(path.with_name("other.db"))
    path.with_name("other.db").rename(path)
    with pytest.raises(DatabaseUnavailable, match="replaced"):
        database.write(adding(reading()))


def test_a_file_that_was_moved_and_is_back_is_used_again(
    database: EmbeddedDatabase, path: Path
) -> None:
    """It is the same one."""
    shutil.move(path, path.with_name("elsewhere"))
    with pytest.raises(DatabaseUnavailable, match="deleted"):
        database.ping()
    shutil.move(path.with_name("elsewhere"), path)
    database.ping()
    database.write(adding(reading(2.0)))
    assert values_in(database) == [1.0, 2.0]


def test_a_folder_in_the_place_of_the_shm_is_found_by_a_ping(path: Path) -> None:
    """SQLite then reads and does not write."""
    create_sqlite_file(path)
    beside(path, "-shm").mkdir()
    database = open_embedded(path)
    assert values_in(database) == []
    with pytest.raises(DatabaseUnavailable):
        database.write(adding(reading()))
    with pytest.raises(DatabaseUnavailable, match="cannot be written"):
        database.ping()
    database.close()


_READ_ONLY = """
import sys
from pathlib import Path
from edgepaas.errors import DatabaseUnavailable
from tests.support.databases import adding, open_embedded, reading, values_in

path = Path(sys.argv[1])
database = open_embedded(path)
for attempt in (lambda: database.write(adding(reading())), database.ping, database.ping):
    try:
        attempt()
    except DatabaseUnavailable as error:
        print("refused", error)
for file in path.parent.glob(path.name + "*"):  # SQLite gives those beside it the same rights
    file.chmod(0o600)
database.ping()
print(database.write(adding(reading(5.0))), values_in(database))
"""


def test_a_file_without_the_right_to_write_is_found_by_a_ping(path: Path) -> None:
    """Also when nobody wrote; once the right is back, so is the database."""
    create_sqlite_file(path)
    path.chmod(0o400)
    without_rights = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if not geteuid() else []
    run = subprocess.run(
        [*without_rights, sys.executable, "-c", _READ_ONLY, str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    lines = run.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["refused", "refused", "refused", "1"], run
    assert lines[-1] == "1 [5.0]"


def test_a_disk_that_takes_no_more_is_found_by_a_ping_until_it_does(
    database: EmbeddedDatabase, path: Path, told: list[BaseException]
) -> None:
    """Reading and beginning a transaction go on as ever: only a real write shows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    database.write(adding(*(reading() for _ in range(500))))
    resource.setrlimit(resource.RLIMIT_FSIZE, (beside(path, "-wal").stat().st_size, hard))
    try:
        database.ping()  # nobody has had trouble yet
        with pytest.raises(DatabaseUnavailable):
            database.write(adding(reading(2.0)))
        assert told
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable, match="cannot be written"):
                database.ping()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    database.ping()
    database.write(adding(reading(3.0)))
    stored = values_in(database)
    assert 2.0 not in stored
    assert 3.0 in stored


def test_a_ping_passes_while_somebody_else_writes(database: EmbeddedDatabase, path: Path) -> None:
    """Another process, or our own writer: the file can be written then."""
    other = open_sqlite(path)
    other.execute("BEGIN IMMEDIATE")
    database.ping()
    assert other.in_transaction, "it wrote all the time"
    other.execute("ROLLBACK")
    other.close()

    def ping_and_write(session: Session) -> int:
        database.ping()
        return adding(reading(7.0))(session)

    assert database.write(ping_and_write) == 1
    assert 7.0 in values_in(database)


def test_a_ping_leaves_no_trace(database: EmbeddedDatabase, path: Path) -> None:
    """An idle box must not wear out its disk."""
    before = beside(path, "-wal").stat()
    for _ in range(5):
        database.ping()
    after = beside(path, "-wal").stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)


def test_a_write_may_be_waited_for_without_end(path: Path) -> None:
    """DB_STATEMENT_TIMEOUT=off."""
    database = open_embedded(path, patience=None)
    assert database.write(adding(reading())) == 1
    database.close()
