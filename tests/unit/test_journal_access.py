# SPDX-License-Identifier: Apache-2.0
"""A journal that is not there is told from one that cannot be read now, by each who reads it."""

import contextlib
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgepaas.errors import DatabaseBusy
from edgepaas.files.locks import held
from edgepaas.files.paths import Paths
from edgepaas.files.sqlite_file import damage_noted
from edgepaas.outbox.journal import access, opening
from edgepaas.outbox.journal.access import (
    JournalUnreadable,
    of_the_journal,
    opened_if_there,
    youngest_order,
)
from edgepaas.outbox.journal.entries import Change
from edgepaas.outbox.journal.journal import Journal
from edgepaas.outbox.journal.space import shrink, usage_of_both
from edgepaas.outbox.journal.tables import journal_path, lock_of
from edgepaas.outbox.layout import forwarded_layouts
from edgepaas.outbox.resending.switches import Switches, note_switch
from edgepaas.schema.capture_setup import capture
from edgepaas.sync.audit.journal_rows import JournalRows
from edgepaas.sync.mirror.ordered_rows import MirrorPostponed
from edgepaas.sync.turns.history import HistoryTurn, SharedCopier
from tests.support.outbox import NODE, captured_file, document
from tests.support.weaken import weakened

Hide = Callable[[Path], "contextlib.AbstractContextManager[None]"]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process is setting it aside."""
    with held(lock_of(path)):
        yield


@contextlib.contextmanager
def of_a_newer_release(path: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute("PRAGMA user_version=99")
        yield
        connection.execute(f"PRAGMA user_version={version}")


@contextlib.contextmanager
def no_database(path: Path) -> Iterator[None]:
    whole = path.read_bytes()
    path.write_bytes(b"no database at all" * 1000)
    yield
    path.write_bytes(whole)


@contextlib.contextmanager
def no_file(path: Path) -> Iterator[None]:
    """A FIFO lies in its place."""
    aside = path.rename(path.with_name("aside"))
    os.mkfifo(path)
    yield
    path.unlink()
    aside.rename(path)


@contextlib.contextmanager
def failing_disk(path: Path) -> Iterator[None]:
    def fail(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(access, "connected", fail)
        yield


HIDING = [locked, of_a_newer_release, no_database, no_file, failing_disk]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "LOCK_TIMEOUT", 0.05)
    monkeypatch.setattr(opening, "LOCK_TIMEOUT", 0.05)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return journal_path(tmp_path / "edgepaas.db")


def fact(number: int, text: str = "") -> Change:
    return Change("facts", "I", (f"fact-{number}", None, number, None, text))


def written(path: Path, *numbers: int, text: str = "") -> int:
    """Write facts; returns the order of the last one."""
    with contextlib.closing(Journal(path, NODE, forwarded_layouts(document()))) as journal:
        entries = [journal.record("s", one, [fact(one, text)]) for one in numbers]
    return entries[-1].order


@pytest.mark.parametrize("hide", HIDING)
def test_what_cannot_be_read_now_is_not_taken_for_missing(path: Path, hide: Hide) -> None:
    assert youngest_order(path) == 0
    order = written(path, 1)
    with hide(path), pytest.raises(JournalUnreadable):
        youngest_order(path)
    assert youngest_order(path) == order


def test_an_empty_file_is_a_journal_in_the_making(path: Path) -> None:
    path.touch()
    assert youngest_order(path) == 0


def test_an_empty_journal_tells_what_it_had(path: Path) -> None:
    """All entries have left for their age; the orders go on."""
    order = written(path, 1, 2)
    with contextlib.closing(Journal(path, NODE, wall=lambda: 4e9)) as journal:
        assert journal.prune(budget=1 << 30, older_than=1.0) == 2
    assert youngest_order(path) == order


def test_who_reads_it_keeps_it_from_being_set_aside(path: Path) -> None:
    """Closing it would delete the -wal of the one in its place."""
    written(path, 1)
    with (
        opened_if_there(path) as connection,
        pytest.raises(Exception, match="is locked by another process"),
        held(lock_of(path), timeout=0.05),
    ):
        assert connection is not None


# -- the place in time of what the outbox has --


@pytest.mark.parametrize("hide", HIDING)
def test_places_in_time_outlive_a_journal_that_cannot_be_read(
    paths: Paths, tmp_path: Path, hide: Hide
) -> None:
    """PostgreSQL, SQLite, PostgreSQL, SQLite: each place is the one that it would be else."""
    paths.create()
    with captured_file(paths.sqlite) as file:
        file.execute("DELETE FROM outbox")
    path = journal_path(paths.sqlite)
    orders: list[int] = []
    rows: list[int] = []

    def start() -> None:
        capture(paths.sqlite, paths, document())

    def write() -> None:
        with contextlib.closing(sqlite3.connect(paths.sqlite)) as file, file:
            file.execute("INSERT INTO facts (id) VALUES (?)", (str(uuid.uuid4()),))
            rows.append(file.execute("SELECT max(seq) FROM outbox").fetchone()[0])

    start()
    write()
    start()
    orders.append(written(path, 1))
    start()
    write()
    with hide(path):
        start()
    orders.append(written(path, 2))
    start()
    write()
    start()
    orders.append(written(path, 3))
    with contextlib.closing(sqlite3.connect(paths.sqlite)) as file:
        places = Switches(file)
        assert [places.row_before(one) for one in orders] == rows


def test_a_build_that_takes_it_for_missing_is_found_out(tmp_path: Path, paths: Paths) -> None:
    with weakened("unreadable-is-missing"), pytest.raises(AssertionError):
        test_places_in_time_outlive_a_journal_that_cannot_be_read(paths, tmp_path, locked)


def test_another_journal_begins_anew(tmp_path: Path) -> None:
    with captured_file(tmp_path / "box.db") as file:
        note_switch(file, 1000)
        note_switch(file, None)
        assert file.execute("SELECT count(*) FROM outbox_switches").fetchone() == (1,)
        note_switch(file, 10)
        assert file.execute("SELECT ord FROM outbox_switches").fetchall() == [(10,)]


# -- others that read it --


@pytest.mark.parametrize("hide", HIDING)
def test_history_is_copied_once_the_journal_can_be_read(
    path: Path, tmp_path: Path, hide: Hide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delivery goes on meanwhile: nothing is raised."""
    monkeypatch.setattr("edgepaas.sync.turns.history.AGAIN_AFTER", 0.0)
    written(path, 1)
    with captured_file(tmp_path / "edgepaas.db") as connection:
        file: Any = SimpleNamespace(connection=connection, captures=True)
        turn = HistoryTurn(path, wanted=True)
        with hide(path):
            turn.take(file)
            turn.take(file)
        assert connection.execute("SELECT count(*) FROM facts").fetchone() == (0,)
        turn.take(file)
        assert connection.execute("SELECT id FROM facts").fetchall() == [("fact-1",)]
        turn.close()


def test_an_error_of_the_journal_in_mid_copy_holds_nothing_up(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepaas.sync.turns.history.AGAIN_AFTER", 0.0)
    written(path, 1, 2)

    def torn(*_: object) -> Iterator[object]:
        yield from ()
        raise sqlite3.DatabaseError("database disk image is malformed")

    with captured_file(tmp_path / "edgepaas.db") as connection:
        file: Any = SimpleNamespace(connection=connection, captures=True)
        turn = HistoryTurn(path, wanted=True)
        with monkeypatch.context() as patch:
            patch.setattr("edgepaas.outbox.resending.own_history.changes_between", torn)
            turn.take(file)
            assert not connection.in_transaction
        turn.take(file)
        assert connection.execute("SELECT count(*) FROM facts").fetchone() == (2,)
        turn.close()


@pytest.mark.parametrize("hide", HIDING)
def test_the_mirror_waits_for_what_only_the_journal_knows(
    path: Path, tmp_path: Path, hide: Hide
) -> None:
    written(path, 1)
    with captured_file(tmp_path / "edgepaas.db") as connection:
        with hide(path), pytest.raises(MirrorPostponed):
            SharedCopier(path)(connection)
        assert SharedCopier(path)(connection) == 0


@pytest.mark.parametrize("hide", HIDING)
def test_the_disk_budget_counts_a_journal_that_cannot_be_read(
    path: Path, tmp_path: Path, hide: Hide
) -> None:
    written(path, *range(1, 200), text="x" * 1000)
    with captured_file(tmp_path / "edgepaas.db") as connection:
        alone = usage_of_both(connection, tmp_path / "nothing.db", 1 << 30).used
        both = usage_of_both(connection, tmp_path / "edgepaas.db", 1 << 30).used
        assert both - alone > 200_000
        with hide(path):
            hidden = usage_of_both(connection, tmp_path / "edgepaas.db", 1 << 30).used
            assert hidden - alone == (0 if hide is no_file else path.stat().st_size)
            with pytest.raises(JournalUnreadable):
                shrink(tmp_path / "edgepaas.db", 1000, busy_timeout=0.1)


@pytest.mark.parametrize("hide", HIDING)
def test_the_audit_does_not_take_it_for_missing(path: Path, hide: Hide) -> None:
    """What it has would not be missed, and what was changed there would be taken for a fault."""
    written(path, 1)
    rows = JournalRows(path)
    with hide(path):
        for ask in (
            lambda: list(rows.inserted(rows=10)),
            lambda: rows.has_more_than(1),
            lambda: rows.changed("facts", [("fact-1",)]),
        ):
            with pytest.raises(JournalUnreadable):
                ask()
    assert [len(found) for _, found in rows.inserted(rows=10)] == [1]


def test_changes_of_facts_are_found_by_an_index(path: Path) -> None:
    """Also in a file that an earlier build made."""
    written(path, 1)
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("DROP INDEX journal_changes")
    with contextlib.closing(Journal(path, NODE, forwarded_layouts(document()))) as journal:
        journal.record("s", 2, [Change("facts", "D", ("fact-2", None, 2, None, None))])
    statements: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        original = opening.connected

        def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection = original(*arguments, **options)
            connection.set_trace_callback(statements.append)
            return connection

        patch.setattr(access, "connected", traced)
        assert JournalRows(path).changed("facts", [("fact-1",), ("fact-2",)]) == {("fact-2",)}
    (asked,) = (one for one in statements if "FROM journal WHERE" in one)
    with contextlib.closing(sqlite3.connect(path)) as file:
        ((*_, plan),) = file.execute(f"EXPLAIN QUERY PLAN {asked}")
    assert "journal_changes" in plan


# -- one moment --


def test_what_leaves_meanwhile_is_read_all_the_same(path: Path) -> None:
    with contextlib.closing(Journal(path, NODE, forwarded_layouts(document()))) as journal:
        for number in range(1, 6):
            journal.record("s", number, [fact(number)])
        with journal.at_one_moment() as seen:
            found = seen.lacking({})
            while journal.prune(budget=0, limit=2):
                pass
            journal.record("t", 1, [fact(9)])  # numbers are given out again
            again = [seen.with_changes(one).changes[0].key for one in found]
        assert again == [(f"fact-{number}",) for number in range(1, 6)]
        assert [one.stream_id for one in journal.lacking({})] == ["t"]


# -- a torn page --


def tear(path: Path) -> None:
    """Damage all pages but the first ones, as a card does; what is in the -wal is brought in."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'journal'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)


def test_a_torn_page_sets_the_journal_aside(path: Path) -> None:
    """It shows with the next entry, and not when the file is opened."""
    written(path, *range(1, 50), text="x" * 500)
    lines: list[str] = []
    journal = Journal(path, NODE, forwarded_layouts(document()), set_aside=lines.append)
    tear(path)
    journal._writer._file.connection.execute("PRAGMA cache_size=0")
    with contextlib.closing(journal), pytest.raises(DatabaseBusy, match="malformed"):
        for number in range(50, 60):
            journal.record("s", number, [fact(number)])
    assert damage_noted(path)
    written(path, 60)
    assert not damage_noted(path)
    (aside,) = path.parent.glob(f"{path.name}.[0-9]*")
    assert aside.stat().st_size > 4096


def test_a_suspicion_that_proves_wrong_costs_nothing(path: Path) -> None:
    order = written(path, 1)
    with pytest.raises(JournalUnreadable), of_the_journal(path):
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error
    assert damage_noted(path)
    with contextlib.closing(Journal(path, NODE)):
        assert not damage_noted(path)
    assert youngest_order(path) == order
    assert list(path.parent.glob(f"{path.name}.[0-9]*")) == []
