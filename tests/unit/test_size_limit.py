# SPDX-License-Identifier: Apache-2.0
"""The disk budget is kept by each transaction, not by a look every few seconds."""

import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from edgepaas.database import open_database
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.database.sqlite.database import EmbeddedDatabase
from edgepaas.errors import DatabaseFull
from edgepaas.files import size_limit
from edgepaas.files.paths import Paths
from edgepaas.files.sqlite_file import wal_of
from edgepaas.health.state import StateBoard
from edgepaas.outbox import capture
from edgepaas.outbox.journal.space import usage_of_both
from edgepaas.outbox.space import budget, vacuum
from edgepaas.service.watches import disk_budget as budget_watch
from edgepaas.service.watches.disk_budget import BudgetWatch, Limits
from edgepaas.settings import Settings
from tests.support.telemetry_box import contract_for
from tests.unit.test_outbox_budget import DOCUMENT, NODE

MIB = 1024**2
#: Writers at a time, as many as a service with THREADS=8 has, and more writes than fit.
_WRITERS = 8
_MOST = 400


@pytest.fixture
def database(paths: Paths) -> Iterator[EmbeddedDatabase]:
    """A served file with a table of facts that is captured."""
    with closing(open_sqlite(paths.sqlite, create=True)) as connection:
        vacuum.prepare(connection)
        connection.execute("CREATE TABLE readings (id TEXT PRIMARY KEY, metric TEXT, value REAL)")
        connection.execute("CREATE TABLE devices (id TEXT PRIMARY KEY, name TEXT)")
        capture.install(connection, DOCUMENT, node_id=NODE)
    opened = open_database(contract_for(paths, None), Settings.of(), paths)
    assert isinstance(opened, EmbeddedDatabase)
    yield opened
    opened.close()


def watched(paths: Paths, database: EmbeddedDatabase, size: int) -> BudgetWatch:
    """Return a watch that has looked once; the next look is five seconds away."""
    made = BudgetWatch(
        paths.sqlite,
        paths,
        Limits(size, 0, ()),
        state=StateBoard(contract_for(paths, None)),
        refuse=database.refuse_writes,
        size_limit=database.size_limit,
    )
    made.look()
    return made


def used(path: Path) -> int:
    """Return what the rows of the file take."""
    with closing(open_sqlite(path)) as connection:
        return budget.usage(connection, MIB).used


def store(database: EmbeddedDatabase, name: str, rows: int) -> None:
    """Write *rows* in one write."""

    def work(session: Session) -> None:
        session.execute(
            text("INSERT INTO readings VALUES (:id, 'heat', 1.5)"),
            [{"id": f"{name}-{number}"} for number in range(rows)],
        )

    database.write(work)


def fill(database: EmbeddedDatabase, rows: int) -> list[int]:
    """Write by several threads until each is refused; return the rows of what was stored."""
    stored: list[int] = []

    def run(writer: int) -> None:
        for number in range(_MOST):
            try:
                store(database, f"{writer}-{number}", rows)
            except DatabaseFull:
                return
            stored.append(rows)

    threads = [threading.Thread(target=run, args=(one,)) for one in range(_WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive()
    return stored


def count(path: Path) -> int:
    """Return how many rows the file has."""
    with closing(open_sqlite(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM readings").fetchone()[0])


@pytest.mark.parametrize(
    ("mib", "rows"), [(1, 20), (1, 2_000), (3, 50), (3, 5_000), (8, 500), (8, 10_000)]
)
def test_writes_at_once_stop_at_the_budget(
    paths: Paths, database: EmbeddedDatabase, mib: int, rows: int
) -> None:
    """Between two looks, with small and large writes; what was acknowledged is there."""
    looked = watched(paths, database, mib * MIB)
    stored = fill(database, rows)
    assert used(paths.sqlite) <= mib * MIB
    assert count(paths.sqlite) == sum(stored)
    assert stored
    assert wal_of(paths.sqlite).stat().st_size <= size_limit.WAL_ALLOWANCE
    if rows <= 500:
        assert looked.look() == "full"


def test_looks_while_writes_go_on_leave_the_limit_where_it_is(
    paths: Paths, database: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written between two measurements of one look counted as room."""
    looked = watched(paths, database, 4 * MIB)
    measured = usage_of_both
    numbers = iter(range(_MOST))

    def written_meanwhile(*arguments: Any) -> budget.Usage:
        found = measured(*arguments)
        with suppress(DatabaseFull):
            store(database, f"meanwhile-{next(numbers)}", 5_000)
        return found

    monkeypatch.setattr(budget_watch, "usage_of_both", written_meanwhile)
    for number in range(6):
        looked.look()
        with suppress(DatabaseFull):
            store(database, str(number), 5_000)
    assert used(paths.sqlite) <= 4 * MIB


def test_a_look_is_asked_for_when_writes_come_near_the_budget(
    paths: Paths, database: EmbeddedDatabase
) -> None:
    """So that the state is ``full``, and the alert raised, before somebody is refused."""
    looked = watched(paths, database, 2 * MIB)
    asked = threading.Event()
    database.size_limit.on_crowded = asked.set
    store(database, "a", 100)
    assert not asked.is_set()
    with pytest.raises(DatabaseFull):
        for number in range(_MOST):
            store(database, f"b{number}", 100)
    assert asked.is_set()
    assert looked.look() == "full"


def test_what_makes_the_file_smaller_is_never_refused(
    paths: Paths, database: EmbeddedDatabase
) -> None:
    """Also far beyond a budget that was lowered."""
    store(database, "a", 20_000)
    before = used(paths.sqlite)
    database.size_limit.set(MIB, crowded_from=MIB, used=before)
    with pytest.raises(DatabaseFull, match="disk budget"):
        store(database, "b", 5_000)
    database.write(lambda session: session.execute(text("DELETE FROM readings WHERE id < 'a-5'")))
    assert 0 < count(paths.sqlite) < 20_000


def test_one_write_that_does_not_fit_leaves_the_others_their_room(
    paths: Paths, database: EmbeddedDatabase
) -> None:
    """In one group with it they are stored all the same."""
    watched(paths, database, 3 * MIB)
    with pytest.raises(DatabaseFull):
        store(database, "large", 50_000)
    store(database, "small", 10)
    assert count(paths.sqlite) == 10


def test_a_log_that_a_reader_holds_counts_beyond_its_allowance(
    paths: Paths, database: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be cut back while somebody reads an old state; afterwards a look does it."""
    monkeypatch.setattr(size_limit, "WAL_ALLOWANCE", MIB)
    looked = watched(paths, database, 3 * MIB)
    with closing(open_sqlite(paths.sqlite, read_only=True)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM readings").fetchone()
        changed = 0
        with pytest.raises(DatabaseFull):
            for _ in range(_MOST):
                database.write(
                    lambda session: session.execute(
                        text("INSERT OR REPLACE INTO devices VALUES ('a', hex(randomblob(50000)))")
                    )
                )
                changed += 1
        assert changed
        assert wal_of(paths.sqlite).stat().st_size <= 5 * MIB
    looked.look()
    assert wal_of(paths.sqlite).stat().st_size <= MIB
    store(database, "again", 10)


def test_a_weakened_build_is_found_out(
    paths: Paths, database: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With looks alone, the budget is passed several times over between two of them."""
    watched(paths, database, MIB)
    monkeypatch.setattr(database.size_limit, "_most", 0)
    for number in range(4):
        store(database, str(number), 10_000)
    assert used(paths.sqlite) > 2 * MIB
