# SPDX-License-Identifier: Apache-2.0
"""The journal of a service: opened, kept small, and what follows where it cannot be written."""

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgepaas.errors import DatabaseBusy, DatabaseFull
from edgepaas.files.locks import held
from edgepaas.files.paths import Paths
from edgepaas.health.checks import CheckFailed
from edgepaas.health.journal import journal_line
from edgepaas.health.state import StateBoard
from edgepaas.outbox.journal.entries import Change
from edgepaas.outbox.journal.journal import Journal
from edgepaas.outbox.journal.tables import journal_path, lock_of
from edgepaas.outbox.layout import TABLES_RECORD
from edgepaas.service.journal import RefusingJournal
from edgepaas.service.watches import journal as watched
from edgepaas.service.watches.journal import JournalWatch
from edgepaas.settings import Settings
from tests.support.outbox import document
from tests.support.telemetry_box import contract_for
from tests.unit.test_journal_access import tear

URL = "postgresql://hub/edge"


class Alert:
    """Stands in for the catalogue's entry."""

    def __init__(self) -> None:
        self.raised: list[str] = []
        self.resolved: list[str] = []

    def raise_alert(self, text: str) -> None:
        self.raised.append(text)

    def resolve_alert(self, text: str) -> None:
        self.resolved.append(text)


class Keeper:
    owner = "this process"
    journal: Any = None


class Server:
    """What of a ServerDatabase the watch uses."""

    def __init__(self) -> None:
        self.marks = Keeper()

    @property
    def journal(self) -> Any:
        return self.marks.journal

    def use_journal(self, journal: Any) -> None:
        self.marks.journal = journal


class Watching:
    """A watch, and what it acts upon."""

    def __init__(self, paths: Paths, **settings: str) -> None:
        contract = contract_for(paths, URL)
        self.path = journal_path(contract.sqlite_path)
        self.state = StateBoard(contract)
        self.server = Server()
        database: Any = self.server
        self.watch = JournalWatch(database, contract, Settings.of(**settings), paths, self.state)

    def write(self, number: int, text: str = "") -> None:
        self.server.journal.confirm(
            self.server.journal.ahead(
                "s", number, [Change("facts", "I", (f"f{number}", None, number, None, text))]
            )
        )


@pytest.fixture
def alert(monkeypatch: pytest.MonkeyPatch) -> Alert:
    made = Alert()
    monkeypatch.setattr(watched, "JOURNAL_UNUSABLE", made)
    return made


@pytest.fixture
def in_use(monkeypatch: pytest.MonkeyPatch) -> Alert:
    made = Alert()
    monkeypatch.setattr(watched, "JOURNAL_IN_USE", made)
    return made


@pytest.fixture
def watching(paths: Paths, alert: Alert, in_use: Alert) -> Iterator[Watching]:
    paths.create()
    TABLES_RECORD.write(paths.tables, document())
    found = Watching(paths)
    yield found
    if found.server.journal is not None:
        found.server.journal.close()


def test_a_journal_that_can_be_written_is_used(watching: Watching, alert: Alert) -> None:
    watching.watch.open()
    watching.write(1)
    watching.watch.look()
    with contextlib.closing(sqlite3.connect(watching.path)) as connection:
        assert connection.execute("SELECT state FROM journal").fetchall() == [(1,)]
    assert not watching.state.is_noted("journal") and not alert.raised


def test_without_forwarded_tables_there_is_no_journal(watching: Watching, paths: Paths) -> None:
    TABLES_RECORD.write(paths.tables, {**document(), "tables": {}})
    watching.watch.open()
    watching.watch.look()
    assert watching.server.journal is None and not watching.path.exists()
    assert not watching.state.is_noted("journal")


def test_a_journal_that_cannot_be_opened_refuses_writes_until_it_can(
    watching: Watching,
    alert: Alert,
    in_use: Alert,
    paths: Paths,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another process has it: no disk is to blame."""
    monkeypatch.setattr("edgepaas.outbox.journal.opening.LOCK_TIMEOUT", 0.1)
    watching.watch.open()
    with contextlib.closing(watching.server.journal):
        with contextlib.closing(sqlite3.connect(watching.path)) as connection:
            connection.execute("PRAGMA user_version=99")
        another = Watching(paths)
        another.watch.open()  # the first one has it open, so that it is not set aside
        refusing: Any = another.server.journal
        assert isinstance(refusing, RefusingJournal)
        with pytest.raises(DatabaseBusy, match="another process has it open"):
            refusing.write("s", 1, [])
        assert another.state.is_noted("journal")
        another.watch.look()
        assert len(in_use.raised) == 1 and not alert.raised  # said once
        assert "another process has it open" in in_use.raised[0]
    another.watch.look()
    opened: Any = another.server.journal
    assert isinstance(opened, Journal)
    assert not another.state.is_noted("journal")
    assert len(alert.raised) == 1 and "is set aside as" in alert.raised[0]
    assert len(alert.resolved) == len(in_use.resolved) == 1
    another.server.journal.close()
    watching.server.use_journal(None)


def test_a_journal_that_is_being_set_aside_is_in_use(
    watching: Watching, alert: Alert, in_use: Alert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepaas.outbox.journal.opening.LOCK_TIMEOUT", 0.1)
    watching.path.parent.mkdir(parents=True, exist_ok=True)
    with held(lock_of(watching.path)):
        watching.watch.open()
        with pytest.raises(DatabaseBusy, match="is locked by another process"):
            watching.server.journal.write("s", 1, [])
        assert len(in_use.raised) == 1 and not alert.raised
    watching.watch.look()
    watching.write(1)
    assert len(in_use.resolved) == 1 and not watching.state.is_noted("journal")


def test_an_alert_follows_its_cause(
    watching: Watching, alert: Alert, in_use: Alert, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First another process has the journal, then the disk is full."""
    monkeypatch.setattr("edgepaas.outbox.journal.opening.LOCK_TIMEOUT", 0.1)
    with held(lock_of(watching.path)):
        watching.watch.open()
    with monkeypatch.context() as patch:
        patch.setattr("edgepaas.service.journal.Journal", no_room)
        watching.watch.look()
    assert [len(one.raised) for one in (in_use, alert)] == [1, 1]
    assert len(in_use.resolved) == 1 and "No space left" in alert.raised[0]
    watching.watch.look()
    assert not watching.state.is_noted("journal") and len(alert.resolved) == 1


def no_room(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_said_to_be_full(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepaas.service.journal.Journal", no_room)
    watching.watch.open()
    with pytest.raises(DatabaseFull, match="No space left"):
        watching.server.journal.write("s", 1, [])


@pytest.mark.parametrize("running", [False, True])
def test_on_a_disk_that_takes_no_write_postgresql_serves_without_a_journal(
    watching: Watching, alert: Alert, monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    def dead(_folder: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def refuse(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("attempt to write a readonly database")

    if running:
        watching.watch.open()
        watching.write(1)
    monkeypatch.setattr("edgepaas.service.journal.require_writable", dead)
    monkeypatch.setattr(watched, "require_writable", dead)
    if running:
        monkeypatch.setattr("edgepaas.outbox.journal.entry_rows.EntryRows.apply", refuse)
        watching.watch.look()
    else:
        monkeypatch.setattr("edgepaas.service.journal.Journal", refuse)
        watching.watch.open()
    assert watching.server.journal is None
    assert watching.state.is_noted("journal")
    assert len(alert.raised) == 1 and "PostgreSQL serves without a journal" in alert.raised[0]


def test_an_error_that_passes_is_reported_and_withdrawn(
    watching: Watching, alert: Alert, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching.watch.open()
    watching.write(1)
    with monkeypatch.context() as broken:

        def refuse(*_: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        broken.setattr("edgepaas.outbox.journal.entry_rows.EntryRows.apply", refuse)
        watching.watch.look()
        assert watching.state.is_noted("journal") and len(alert.raised) == 1
    watching.watch.look()
    assert not watching.state.is_noted("journal") and len(alert.resolved) == 1
    assert isinstance(watching.server.journal, Journal)


def test_a_journal_that_is_damaged_while_it_is_used_is_set_aside(
    watching: Watching, alert: Alert, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes were refused until the service was started again."""
    watching.watch.open()
    watching.write(1)
    with contextlib.closing(sqlite3.connect(watching.path)) as file:
        file.execute("PRAGMA user_version=99")
    with monkeypatch.context() as broken:

        def refuse(*_: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        broken.setattr("edgepaas.outbox.journal.entry_rows.EntryRows.apply", refuse)
        watching.watch.look()
    watching.watch.look()
    assert watching.state.is_noted("journal")
    with pytest.raises(DatabaseBusy, match="is closed"):
        watching.write(2)
    watching.watch.look()
    assert not watching.state.is_noted("journal") and len(alert.resolved) == 1
    assert len(alert.raised) == 2 and "is set aside as" in alert.raised[1]
    watching.write(2)


def test_the_journal_takes_half_of_the_disk_budget(
    paths: Paths, alert: Alert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "PRUNE_ROWS", 20)
    monkeypatch.setattr(watched, "PRUNE_EVERY", 0.0)
    paths.create()
    TABLES_RECORD.write(paths.tables, document())
    watching = Watching(paths, DISK_BUDGET="1MiB")
    watching.watch.open()
    for number in range(1, 901):
        watching.write(number, "x" * 1_000)
    watching.watch.look()
    reach = watching.server.journal.reach()
    assert reach.bytes <= 512 * 1024
    assert reach.dropped_rows == 900 - reach.rows > 300
    watching.server.journal.close()


# -- what every status shows --


def test_every_status_shows_how_far_back_the_journal_reaches(watching: Watching) -> None:
    assert journal_line(watching.path, enabled=True) == "nothing was written to PostgreSQL yet"
    watching.watch.open()
    assert journal_line(watching.path, enabled=True).startswith("empty (")
    watching.write(1)
    watching.write(2)
    line = journal_line(watching.path, enabled=True)
    assert line.startswith("2 rows, back to 20") and line.endswith(" MiB)")
    assert "cannot be sent again" in journal_line(watching.path, enabled=False)


def test_a_journal_that_cannot_be_read_keeps_no_traffic_away(paths: Paths) -> None:
    paths.create()
    path = journal_path(paths.sqlite)
    path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(CheckFailed, match="cannot be read") as caught:
        journal_line(path, enabled=True)
    assert caught.value.ready


def test_a_torn_page_refuses_writes_until_another_journal_is_there(
    watching: Watching, alert: Alert
) -> None:
    watching.watch.open()
    for number in range(1, 40):
        watching.write(number, "x" * 500)
    watching.watch.look()
    tear(watching.path)
    watching.server.journal._writer._file.connection.execute("PRAGMA cache_size=0")
    with pytest.raises(DatabaseBusy, match="malformed"):
        watching.write(40)
    for _ in range(3):
        watching.watch.look()
    watching.write(41)
    assert not watching.state.is_noted("journal")
    assert any("is set aside as" in line for line in alert.raised) and alert.resolved
