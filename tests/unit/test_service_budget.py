# SPDX-License-Identifier: Apache-2.0
"""The disk budget in the service: room is made, somebody is told, and writes are refused last."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgepaas.alerts import catalogue_entry
from edgepaas.database import open_database
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.database.sqlite.database import EmbeddedDatabase
from edgepaas.errors import DatabaseFull
from edgepaas.files.paths import Paths
from edgepaas.health.state import StateBoard
from edgepaas.outbox import capture, ledger
from edgepaas.outbox.journal.entries import Change
from edgepaas.outbox.journal.journal import Journal
from edgepaas.outbox.journal.tables import journal_path
from edgepaas.outbox.layout import forwarded_layouts
from edgepaas.outbox.resending.own_history import copy_history
from edgepaas.outbox.space import vacuum
from edgepaas.outbox.space.shedding import LowValue
from edgepaas.outbox.stream import Counts, confirm, set_inflight
from edgepaas.service.watches import disk_budget as budget
from edgepaas.service.watches.disk_budget import BudgetWatch, Limits
from edgepaas.settings import Settings
from tests.support.telemetry_box import contract_for
from tests.unit.test_outbox_budget import DOCUMENT, NODE, write

MIB = 1024**2


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The fingerprints of what is raised, and of what is resolved with a minus in front."""
    told: list[str] = []

    def raised(message: str, *, fingerprint: str, **_: object) -> None:
        told.append(fingerprint)

    def resolved(message: str, *, fingerprint: str, **_: object) -> None:
        told.append(f"-{fingerprint}")

    monkeypatch.setattr(catalogue_entry, "raise_alert", raised)
    monkeypatch.setattr(catalogue_entry, "resolve_alert", resolved)
    return told


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


def watch(
    paths: Paths, database: EmbeddedDatabase, size: int, *low_value: str, ballast: int = 0
) -> tuple[BudgetWatch, StateBoard]:
    limits = Limits(size, ballast, tuple(map(LowValue.read, low_value)))
    state = StateBoard(contract_for(paths, None))
    made = BudgetWatch(paths.sqlite, paths, limits, state=state, refuse=database.refuse_writes)
    return made, state


def fill(path: Path, metric: str, start: int, rows: int) -> None:
    with closing(open_sqlite(path)) as connection:
        write(connection, metric, range(start, start + rows))


def deliver(path: Path) -> None:
    with closing(open_sqlite(path)) as connection:
        last = connection.execute("SELECT max(seq) FROM outbox").fetchone()[0]
        waiting = ledger.read(connection)["pending"]
        set_inflight(connection, "33333333-3333-4333-8333-333333333333", last)
        counts = Counts(delivered=waiting, dead=0, conflicts=0)
        confirm(connection, "33333333-3333-4333-8333-333333333333", last, counts)


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM readings").fetchone()[0])


def pages(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA page_count").fetchone()[0])


def test_rows_that_the_application_lets_nobody_delete_do_not_hide_a_full_budget(
    paths: Paths, database: EmbeddedDatabase, told: list[str]
) -> None:
    """A trigger that keeps facts append-only refuses us as well."""
    with closing(open_sqlite(paths.sqlite)) as connection:
        connection.execute(
            "CREATE TRIGGER kept BEFORE DELETE ON readings BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    looked, _ = watch(paths, database, MIB, "readings")
    fill(paths.sqlite, "heat", 0, 10_000)
    deliver(paths.sqlite)
    fill(paths.sqlite, "heat", 10_000, 10_000)
    assert looked.look() == "full"
    assert told == ["disk-budget"]


def test_what_postgresql_acknowledged_makes_room_for_what_it_is_still_to_get(
    paths: Paths, database: EmbeddedDatabase, told: list[str]
) -> None:
    """The journal of the time when PostgreSQL served is a part of the budget."""
    layouts = forwarded_layouts(DOCUMENT)
    path = journal_path(paths.sqlite)
    with closing(Journal(path, NODE, layouts)) as journal:
        for number in range(1, 501):
            change = Change("readings", "I", (f"old-{number}", "x" * 1_500, 1.0))
            journal.record("s", number, [change])
        before = journal.reach()
    looked, _ = watch(paths, database, MIB)
    fill(paths.sqlite, "heat", 0, 2_000)
    assert looked.look() == "ok" and told == []
    with closing(Journal(path, NODE, layouts)) as journal:
        after = journal.reach()
        kept = [one.mark for one in journal.lacking({})]
    assert kept == list(range(501 - len(kept), 501)) and 0 < len(kept) < 500
    assert after.bytes < before.bytes and after.dropped_rows == 500 - len(kept)
    assert count(paths.sqlite) == 2_000


def test_copies_of_what_postgresql_has_leave_before_a_write_is_refused(
    paths: Paths, database: EmbeddedDatabase, told: list[str]
) -> None:
    """However young they are; what waits stays."""
    layouts = forwarded_layouts(DOCUMENT)
    looked, _ = watch(paths, database, MIB)
    fill(paths.sqlite, "heat", 0, 500)
    with closing(Journal(journal_path(paths.sqlite), NODE, layouts)) as journal:
        for number in range(1, 501):
            change = Change("readings", "I", (f"old-{number}", "x" * 1_500, 1.0))
            journal.record("s", number, [change])
        with (
            journal._writer.reading() as beside,
            closing(open_sqlite(paths.sqlite)) as connection,
        ):
            assert copy_history(connection, beside, seconds=60) == 500
        journal.prune(budget=0, limit=1_000)
    assert looked.look() == "ok" and told == []
    with closing(open_sqlite(paths.sqlite)) as connection:
        kept = connection.execute(
            "SELECT count(*) FILTER (WHERE id LIKE 'old-%'), "
            "count(*) FILTER (WHERE id NOT LIKE 'old-%') FROM readings"
        ).fetchone()
    assert kept[0] < 500 and kept[1] == 500
    assert looked.look() == "ok"


def test_beyond_the_budget_writes_are_refused_and_taken_again_when_rows_have_left(
    paths: Paths, database: EmbeddedDatabase, told: list[str]
) -> None:
    looked, state = watch(paths, database, MIB)
    state.phase = "running"
    assert looked.look() == "ok"
    fill(paths.sqlite, "heat", 0, 20_000)
    assert looked.look() == "full"
    assert state.state().state == "full"
    with pytest.raises(DatabaseFull, match="disk budget"):
        database.write(lambda session: None)
    assert count(paths.sqlite) == 20_000  # unsent rows that nobody called low value stay
    before = pages(paths.sqlite)
    deliver(paths.sqlite)
    assert looked.look() == "ok"
    assert state.state().state == "standalone"
    database.write(lambda session: None)
    assert pages(paths.sqlite) < before / 2
    assert told[:2] == ["disk-budget", "-disk-budget"]


def test_low_value_rows_go_before_writes_are_refused(
    paths: Paths, database: EmbeddedDatabase, told: list[str]
) -> None:
    looked, _ = watch(paths, database, 3 * MIB, "readings:metric=debug")
    fill(paths.sqlite, "heat", 0, 8_000)
    fill(paths.sqlite, "debug", 0, 22_000)
    assert looked.look() in ("shed", "alert")
    assert "rows-shed" in told
    left = count(paths.sqlite)
    assert 8_000 < left < 30_000
    with closing(open_sqlite(paths.sqlite)) as connection:
        found = ledger.read(connection)
        assert found["shed"] == 30_000 - left
        assert found["accepted"] == found["pending"] + found["shed"]
    database.write(lambda session: None)


def test_a_full_disk_costs_the_ballast_which_comes_back_with_the_room(
    paths: Paths, database: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "_SPARE", 0)
    looked, _ = watch(paths, database, 100 * MIB, ballast=MIB)
    looked.look()
    assert paths.ballast.stat().st_size == MIB
    database.on_full = looked.disk_full
    database._noticed(sqlite3.OperationalError("full"), DatabaseFull("no room"))
    looked.look()
    assert not paths.ballast.exists()
    looked.look()
    assert paths.ballast.exists()


def test_what_cannot_be_measured_is_logged_once_and_refuses_nothing(
    paths: Paths, database: EmbeddedDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    made = BudgetWatch(
        paths.state / "nowhere" / "box.db",
        paths,
        Limits(MIB, 0, ()),
        state=StateBoard(contract_for(paths, None)),
        refuse=database.refuse_writes,
    )
    assert [made.look(), made.look()] == ["ok", "ok"]
    assert sum("budget cannot be measured" in line for line in caplog.messages) == 1


def test_entries_of_low_value_that_cannot_be_read_are_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = Limits.of(Settings.of(LOW_VALUE="readings,:x=1"))
    assert limits.low_value == (LowValue("readings"),)
    assert any("LOW_VALUE: :x=1" in line for line in caplog.messages)
