# SPDX-License-Identifier: Apache-2.0
"""Files of an older or a newer release: migrated, or left as they are and reported."""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgepaas.alerts.catalogue import SYNC_FILE
from edgepaas.decision.waiting import is_sound_and_empty, rows_waiting
from edgepaas.files.paths import Paths
from edgepaas.outbox import capture, fence, tables, versions
from edgepaas.outbox.ledger import pending
from edgepaas.outbox.salvage.salvage import salvage
from edgepaas.outbox.space.shedding import LowValue, shed
from edgepaas.outbox.versions import UnknownOutbox
from edgepaas.schema.open_problems import open_problem
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from edgepaas.sync.audit.box import BoxUnreadable, opened_for_audit, read_box
from edgepaas.sync.box_file import open_box_file
from edgepaas.sync.failures import classify
from tests.support.chains import connected, hub_contract, sell, shop
from tests.support.outbox import NODE, captured_file, changes, document, ops

NEWER = tables.VERSION + 1
NAMED = f"is of version {NEWER}, and this build knows {tables.VERSION}"


def of_newer_release(path: Path) -> None:
    """Have the file *path* say what a newer release wrote: its version, a column of its own."""
    with connected(path) as connection:
        connection.execute("ALTER TABLE outbox ADD COLUMN origin TEXT")
        connection.execute("ALTER TABLE outbox_state ADD COLUMN compressed INTEGER DEFAULT 0")
        connection.execute("UPDATE outbox_state SET version = ?", (NEWER,))


def of_older_release(connection: sqlite3.Connection) -> None:
    """Have the file say what an older release wrote: its version, columns that it lacked."""
    for name in ("reclaimed_seq", "forked_from", "inflight_seq"):
        connection.execute(f"ALTER TABLE outbox_state DROP COLUMN {name}")
    connection.execute("ALTER TABLE outbox_batches DROP COLUMN conflicts")
    connection.execute("UPDATE outbox_state SET version = ?", (tables.VERSION - 1,))


def outbox_of(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return all that the outbox's tables hold, and how they are made."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        found = {
            name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in tables.NAMES
        }
        found["schema"] = connection.execute(
            "SELECT name, sql FROM sqlite_schema WHERE name LIKE 'outbox%' ORDER BY name"
        ).fetchall()
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "edgepaas.db"


@pytest.fixture
def file(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a file with capture, where one row waits."""
    with captured_file(path) as connection:
        connection.execute("INSERT INTO parents VALUES ('p', 'press', NULL, '{}')")
        yield connection


def stage(paths: Paths, tmp_path: Path, head: str = "0001") -> str:
    """Run the schema stage of a box with a hub; returns its message."""
    application = shop(tmp_path, head)
    settings = Settings.of(EDGEPAAS_APP="shop")
    return prepare_database(hub_contract(paths), settings, paths, application).message


@pytest.fixture
def captured(paths: Paths, tmp_path: Path) -> Paths:
    """A box of the shop, where rows wait for the hub."""
    stage(paths, tmp_path)
    sell(paths)
    return paths


# -- Newer --


USES: dict[str, Callable[[sqlite3.Connection], object]] = {
    "install": lambda c: capture.install(c, document(), node_id=NODE),
    "install anew": lambda c: capture.install(c, document(), node_id="another box"),
    "remove": capture.remove,
    "shed": lambda c: shed(c, [LowValue("facts", "", "")]),
    "migrate": versions.bring_to_current,
}


@pytest.mark.parametrize("use", USES)
def test_a_newer_outbox_is_changed_by_nothing(
    file: sqlite3.Connection, path: Path, use: str
) -> None:
    """It is refused by name; what it holds, its version first of all, is as it was."""
    file.execute("INSERT INTO facts VALUES ('f', 1.0, 2, x'00', 'text')")
    of_newer_release(path)
    before = outbox_of(path)
    with pytest.raises(UnknownOutbox, match=NAMED):
        USES[use](file)
    assert outbox_of(path) == before


def test_a_newer_outbox_is_a_problem_of_capture(file: sqlite3.Connection, path: Path) -> None:
    """The doctor names it."""
    of_newer_release(path)
    (found,) = capture.problems(file, document())
    assert NAMED in found
    assert "install the release that wrote it" in found


@pytest.mark.parametrize("version", [NEWER, -1, "two", 1.5])
def test_a_version_that_is_none_is_refused(
    file: sqlite3.Connection, path: Path, version: object
) -> None:
    """Whatever it is."""
    file.execute("UPDATE outbox_state SET version = ?", (version,))
    before = outbox_of(path)
    with pytest.raises(UnknownOutbox, match="its rows are kept"):
        capture.install(file, document(), node_id=NODE)
    assert outbox_of(path) == before


def test_a_state_without_a_version_is_refused(file: sqlite3.Connection) -> None:
    """No release made such a one."""
    file.execute("ALTER TABLE outbox_state RENAME COLUMN version TO layout")
    with pytest.raises(UnknownOutbox, match="'missing'"):
        versions.bring_to_current(file)


def test_the_box_serves_a_newer_file_and_reports_it(captured: Paths, tmp_path: Path) -> None:
    """The stage ends well and degraded; the file stays, its triggers go on capturing."""
    with connected(captured.sqlite) as connection:
        fence.put(connection, 3600)
        waiting = pending(connection)
    of_newer_release(captured.sqlite)
    message = stage(captured, tmp_path)
    assert NAMED in message
    assert NAMED in open_problem(captured)
    assert not list(captured.quarantine.glob("*/*"))
    with connected(captured.sqlite) as connection:
        assert versions.problem(connection)
        connection.execute("INSERT INTO items (id, name) VALUES ('new', 'cup')")
        assert pending(connection) == waiting + 1
        # The newer release is installed again: nothing is left to report.
        connection.execute("UPDATE outbox_state SET version = ?", (tables.VERSION,))
    stage(captured, tmp_path)
    assert open_problem(captured) == ""


def test_a_newer_file_whose_fence_is_another_serves_as_well(
    captured: Paths, tmp_path: Path
) -> None:
    """What cannot be lifted is in the log; the box starts."""
    of_newer_release(captured.sqlite)
    with connected(captured.sqlite) as connection:
        capture.drop_triggers(connection)
        connection.execute("ALTER TABLE outbox_state RENAME COLUMN fence TO barrier")
    assert NAMED in stage(captured, tmp_path)


def test_a_migration_of_a_newer_file_is_refused_and_no_fresh_one_made(
    captured: Paths, tmp_path: Path
) -> None:
    """An empty database is never ready while rows lie elsewhere."""
    of_newer_release(captured.sqlite)
    before = outbox_of(captured.sqlite)
    message = stage(captured, tmp_path, "0002")
    assert "REFUSED" in message
    assert NAMED in message
    assert outbox_of(captured.sqlite) == before
    assert not list(captured.quarantine.glob("*/*"))


def test_a_box_that_went_back_a_release_serves_its_newer_schema(
    captured: Paths, tmp_path: Path
) -> None:
    """Both are newer, the application's tables and the outbox: the tables fit, and serve."""
    stage(captured, tmp_path, "0002")
    of_newer_release(captured.sqlite)
    before = outbox_of(captured.sqlite)
    message = stage(captured, tmp_path, "0001")
    assert "which a newer build made" in message
    assert NAMED in message
    assert outbox_of(captured.sqlite) == before


def test_rows_of_a_newer_file_keep_the_box_on_sqlite(captured: Paths) -> None:
    """The decision counts them by name; what has another name may be rows that wait."""
    of_newer_release(captured.sqlite)
    found = rows_waiting(captured.sqlite, captured.database_lock)
    assert (found.readable, found.rows, found.may_hold_unsent_rows) == (True, 6, True)
    assert not is_sound_and_empty(captured.sqlite)
    with connected(captured.sqlite) as connection:
        connection.execute("ALTER TABLE outbox_state RENAME COLUMN confirmed_seq TO delivered_seq")
    found = rows_waiting(captured.sqlite, captured.database_lock)
    assert (found.readable, found.may_hold_unsent_rows) == (False, True)
    assert "confirmed_seq" in found.problem


def test_the_drainer_opens_no_newer_file(captured: Paths) -> None:
    """It holds, raises the alert, and changes nothing."""
    of_newer_release(captured.sqlite)
    before = outbox_of(captured.sqlite)
    with pytest.raises(UnknownOutbox, match=f"{captured.sqlite}: .*{NAMED}") as raised:
        open_box_file(captured.sqlite, captured)
    assert outbox_of(captured.sqlite) == before
    found = classify(raised.value, drifts=0)
    assert (found.state, found.hub, found.alert) == ("blocked", None, SYNC_FILE)
    with connected(captured.sqlite) as connection:
        connection.execute("UPDATE outbox_state SET version = ?", (tables.VERSION,))
    file = open_box_file(captured.sqlite, captured)
    assert file is not None, "its lock was released"
    file.close()


def test_a_newer_file_is_not_audited(captured: Paths) -> None:
    """Its counters may mean something else."""
    of_newer_release(captured.sqlite)
    with (
        opened_for_audit(captured.sqlite, captured.database_lock) as connection,
        pytest.raises(BoxUnreadable, match=NAMED),
    ):
        read_box(connection)


@pytest.mark.parametrize("readable", [True, False], ids=["through SQLite", "page by page"])
def test_a_newer_damaged_file_is_kept_for_its_release(
    file: sqlite3.Connection, path: Path, tmp_path: Path, readable: bool
) -> None:
    """Nothing is brought in, and nothing noted as done: the newer release does it later."""
    of_newer_release(path)
    file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damaged = tmp_path / "quarantine" / "box.db"
    damaged.parent.mkdir()
    shutil.copy(path, damaged)
    if not readable:
        with damaged.open("r+b") as content:
            content.write(b"\xff" * 100)
    before = damaged.read_bytes()
    with captured_file(tmp_path / "fresh.db") as fresh:
        with pytest.raises(UnknownOutbox, match=NAMED):
            salvage(damaged, fresh, document())
        assert changes(fresh) == []
        assert fresh.execute("SELECT count(*) FROM outbox_salvaged").fetchone() == (0,)
        assert not fresh.in_transaction
    assert damaged.read_bytes() == before


# -- Older --


def test_an_older_outbox_gets_what_it_lacks(file: sqlite3.Connection, path: Path) -> None:
    """What waits still does; the next change is captured, and the version is this release's."""
    of_older_release(file)
    capture.install(file, document(), node_id=NODE)
    file.execute("INSERT INTO parents VALUES ('q', 'quern', NULL, '{}')")
    assert ops(file) == [("insert", "parents")] * 2
    assert capture.problems(file, document()) == []
    row = file.execute(
        "SELECT version, reclaimed_seq, forked_from, inflight_seq FROM outbox_state"
    ).fetchone()
    assert row == (tables.VERSION, 0, "", 0)
    before = outbox_of(path)
    assert not versions.bring_to_current(file)
    assert outbox_of(path) == before


def test_a_missing_column_alone_is_an_older_outbox(file: sqlite3.Connection) -> None:
    """Of a build between two releases."""
    file.execute("ALTER TABLE outbox_batches DROP COLUMN conflicts")
    assert versions.bring_to_current(file)
    assert file.execute("SELECT conflicts FROM outbox_batches").fetchall() == []


def test_the_drainer_migrates_an_older_file(captured: Paths) -> None:
    """The stage could not, where PostgreSQL served."""
    with connected(captured.sqlite) as connection:
        waiting = len(changes(connection))
        of_older_release(connection)
    file = open_box_file(captured.sqlite, captured)
    assert file is not None
    with contextlib.closing(file):
        assert file.captures
        assert len(changes(file.connection)) == waiting
        assert file.connection.execute("SELECT version FROM outbox_state").fetchone() == (1,)


def test_a_migration_is_done_whole_or_not_at_all(
    file: sqlite3.Connection, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the next release will bring one."""

    def change(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE outbox_ledger ADD COLUMN unit TEXT NOT NULL DEFAULT ''")
        if broken:
            raise sqlite3.OperationalError("the power went")

    broken = True
    before = outbox_of(path)
    monkeypatch.setattr(tables, "VERSION", NEWER)
    monkeypatch.setitem(versions._MIGRATIONS, NEWER - 1, change)
    with pytest.raises(sqlite3.OperationalError, match="the power went"):
        versions.bring_to_current(file)
    assert outbox_of(path) == before
    broken = False
    assert versions.bring_to_current(file)
    assert file.execute("SELECT version FROM outbox_state").fetchone() == (NEWER,)
    assert file.execute("SELECT unit FROM outbox_ledger").fetchall() == []


def test_a_column_between_the_values_is_none_of_them(file: sqlite3.Connection) -> None:
    """The values are counted by name."""
    width = tables.width(file)
    file.execute("ALTER TABLE outbox ADD COLUMN origin TEXT")
    assert tables.width(file) == width
    tables.widen(file, width + 1)
    assert tables.width(file) == width + 1
