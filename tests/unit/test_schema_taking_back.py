# SPDX-License-Identifier: Apache-2.0
"""A file that was set aside comes back by itself once what was wrong with it was mended."""

import contextlib
import errno
import itertools
import os
import shutil
import sqlite3
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import String
from sqlalchemy.exc import StatementError

from edgepaas.app import Application
from edgepaas.errors import DatabaseUnavailable
from edgepaas.files import atomic
from edgepaas.files.locks import LockHeld
from edgepaas.files.paths import Paths
from edgepaas.hosting.loading import metadata_of
from edgepaas.outbox import capture
from edgepaas.schema.chain import chain_of
from edgepaas.schema.errors import SchemaError
from edgepaas.schema.repair.sqlite_file import repair_sqlite
from edgepaas.schema.report import SchemaReport
from edgepaas.schema.sqlite import file_operations as files
from edgepaas.schema.sqlite import merging, quarantine, taking_back
from edgepaas.schema.sqlite.quarantine import list_quarantined
from edgepaas.schema.sqlite.taking_back import TakenBack, take_back
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from tests.support.chains import (
    SHOP,
    bring,
    connected,
    hub_contract,
    rows_in,
    sell,
    shop,
    upgrade_body,
    write_revision,
)
from tests.support.outbox import changes
from tests.support.revised_shop import DROPPED, Box, first_shop
from tests.support.weaken import weakened


def bring_with_hub(paths: Paths, application: Application) -> SchemaReport:
    """Run the stage with a hub that is away."""
    return prepare_database(
        hub_contract(paths), Settings.of(EDGEPAAS_APP="shop"), paths, application
    )


def set_aside(paths: Paths) -> Path:
    """Set the file aside as earlier releases did when a migration failed; the folder."""
    return files.move_to_quarantine(paths.sqlite, paths.quarantine, "a migration", salvage=True)


@pytest.fixture
def aside(paths: Paths, tmp_path: Path) -> Paths:
    """A box whose file of 0001 with three sales was set aside; nothing is in its place yet."""
    bring(paths, shop(tmp_path, "0001"))
    sell(paths)
    set_aside(paths)
    return paths


def add(paths: Paths, *statements: str) -> None:
    """Run *statements* on the file in use."""
    with connected(paths.sqlite) as connection:
        for statement in statements:
            connection.execute(statement)


SOLD = [(f"s{n}", f"i{n}") for n in range(3)]


def test_the_rows_come_back_beside_those_that_were_made_since(aside: Paths, tmp_path: Path) -> None:
    """They stayed aside for good, and a repair found nothing to do."""
    older = shop(tmp_path, "0001")
    broken = upgrade_body('raise ValueError("bug")')
    application = shop(tmp_path, "0002")
    assert application.migrations is not None
    # The release before took the migrated schema for the fresh file and failed on the old one.
    write_revision(
        application.migrations,
        "0002",
        "0001",
        upgrade_body('if op.get_bind().exec_driver_sql("SELECT 1 FROM items").first():')
        + "\n    "
        + broken
        + "\n"
        + SHOP["0002"][1],
    )
    assert older.name == application.name
    report = bring(aside, application)
    assert report.action == "created"
    assert "cannot be taken back yet: bug" in report.message
    add(aside, "INSERT INTO items(id, name, price) VALUES ('new', 'cup', 3)")
    write_revision(application.migrations, "0002", *SHOP["0002"])
    report = bring(aside, application)
    assert "6 rows of" in report.message
    assert rows_in(aside.sqlite, "items") == [
        *[(f"i{n}", "tea", None) for n in range(3)],
        ("new", "cup", 3),
    ]
    assert rows_in(aside.sqlite, "sales") == SOLD
    assert list_quarantined(aside, aside.sqlite) == []
    assert list(aside.state.glob(".edgepaas.db.*")) == []
    assert bring(aside, application).message == "at head (0002)"


def test_what_was_tried_in_vain_waits_for_another_build_or_for_a_person(
    aside: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy and a check of a large file at each boot would cost minutes."""
    tried = 0

    def fails(*_: object) -> merging.Merged:
        nonlocal tried
        tried += 1
        raise sqlite3.IntegrityError("NOT NULL constraint failed: items.name")

    application = shop(tmp_path, "0001")
    with monkeypatch.context() as patched:
        patched.setattr(merging, "merge", fails)
        for _ in range(3):
            bring(aside, application)
    assert tried == 1
    bring(aside, application)
    assert rows_in(aside.sqlite, "sales") == []
    report = repair_sqlite(
        aside.sqlite, aside, chain_of(application), lambda: metadata_of(application)
    )
    assert report.action == "repaired"
    assert "6 rows of" in " ".join(report.steps)
    assert rows_in(aside.sqlite, "sales") == SOLD


def _full_disk() -> Exception:
    return OSError(errno.ENOSPC, "No space left on device")


def _lost_server() -> Exception:
    error = SchemaError("a migration failed")
    error.__cause__ = DatabaseUnavailable("PostgreSQL is away")
    return error


def _busy_file() -> Exception:
    with contextlib.closing(sqlite3.connect(":memory:")) as first:
        try:
            first.execute("ATTACH 'file:/nowhere/at-all?mode=ro' AS other")
        except sqlite3.OperationalError as error:  # unable to open database file
            return StatementError("a statement", "SELECT 1", (), error)
    raise AssertionError("it was opened")


@pytest.mark.parametrize(
    "cause", [_full_disk, _lost_server, _busy_file, lambda: LockHeld("the mirror holds it")]
)
def test_what_failed_for_a_passing_cause_is_tried_again_at_the_next_start(
    aside: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: Callable[[], Exception]
) -> None:
    """It was noted as tried, and the rows stayed aside until the next release."""
    application = shop(tmp_path, "0001")

    def fails(*_: object) -> merging.Merged:
        raise cause()

    with monkeypatch.context() as patched:
        patched.setattr(merging, "merge", fails)
        assert "cannot be taken back yet" in bring(aside, application).message
    assert "6 rows of" in bring(aside, application).message
    assert rows_in(aside.sqlite, "sales") == SOLD


def test_a_build_that_notes_passing_causes_as_tried_is_found_out(
    aside: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking_back, "passes_by_itself", lambda _: False)
    with pytest.raises(AssertionError):
        test_what_failed_for_a_passing_cause_is_tried_again_at_the_next_start(
            aside, tmp_path, monkeypatch, _full_disk
        )


def test_a_disk_without_room_for_the_copy_is_a_passing_cause(
    aside: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    application = shop(tmp_path, "0001")
    with monkeypatch.context() as patched:
        patched.setattr(taking_back, "_ROOM", 1 << 50)
        assert "are free on the disk" in bring(aside, application).message
    assert "6 rows of" in bring(aside, application).message


def test_what_is_in_use_wins_and_what_differs_is_told_of(aside: Paths, tmp_path: Path) -> None:
    """Nothing is overwritten, and nothing is forgotten."""
    (folder,) = aside.quarantine.iterdir()
    moved = folder.rename(tmp_path / "elsewhere")
    bring(aside, shop(tmp_path, "0001"))
    add(
        aside, "INSERT INTO items VALUES ('i0', 'coffee')", "INSERT INTO items VALUES ('i1', 'tea')"
    )
    moved.rename(folder)
    report = bring(aside, shop(tmp_path, "0001"))
    assert "4 rows of" in report.message
    assert "1 more differ from those in use" in report.message
    assert rows_in(aside.sqlite, "items") == [("i0", "coffee"), ("i1", "tea"), ("i2", "tea")]
    assert rows_in(aside.sqlite, "sales") == SOLD
    (left,) = list_quarantined(aside, aside.sqlite)
    assert left.rows == 1
    assert bring(aside, shop(tmp_path, "0001")).message == "at head (0001)"


def test_a_build_that_overwrites_what_is_in_use_is_found_out(aside: Paths, tmp_path: Path) -> None:
    """The test above sees it."""
    with weakened("takes-back-over"), pytest.raises(AssertionError):
        test_what_is_in_use_wins_and_what_differs_is_told_of(aside, tmp_path)


def test_rows_that_an_earlier_release_accepted_come_back_without_a_hub(
    aside: Paths, tmp_path: Path
) -> None:
    """SQLite took any length then; one such row kept the whole file aside."""
    (folder,) = aside.quarantine.iterdir()
    long = "x" * 101
    with connected(folder / aside.sqlite.name) as connection:
        triggers = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'")
        for (name,) in triggers.fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.execute("INSERT INTO items VALUES ('long', ?)", (long,))
    report = bring(aside, shop(tmp_path, "0001"))
    assert "7 rows of" in report.message
    assert ("long", long) in rows_in(aside.sqlite, "items")
    with pytest.raises(sqlite3.IntegrityError, match="at most 100 characters"):
        add(aside, f"INSERT INTO items VALUES ('longer', '{long}')")


@pytest.mark.parametrize("named", [True, False])
def test_the_rows_of_another_application_are_not_taken_for_taken_back(
    paths: Paths, tmp_path: Path, *, named: bool
) -> None:
    """Earlier releases set its file aside; it was noted as empty then, and pruned in time."""
    with contextlib.closing(sqlite3.connect(paths.sqlite, isolation_level=None)) as connection:
        version = "alembic_version_meters" if named else "alembic_version"
        connection.execute(f"CREATE TABLE {version} (version_num TEXT PRIMARY KEY)")
        connection.execute(f"INSERT INTO {version} VALUES ('0001')")
        if named:
            connection.execute(
                "CREATE TABLE edgepaas_applications (name TEXT, version_table TEXT, "
                "keeps_shared INTEGER)"
            )
            connection.execute(
                "INSERT INTO edgepaas_applications VALUES ('meters', ?, 0)", (version,)
            )
        connection.execute("CREATE TABLE meters (id TEXT PRIMARY KEY)")
        connection.execute("CREATE TABLE items (id TEXT PRIMARY KEY, name TEXT, colour TEXT)")
        connection.execute("INSERT INTO meters VALUES ('m1'), ('m2')")
        connection.execute("INSERT INTO items VALUES ('i1', 'tea', 'green'), ('i2', 'tea', NULL)")
    folder = set_aside(paths)
    (folder / quarantine.SALVAGE).unlink()  # nothing of it waits for a hub
    said = bring(paths, shop(tmp_path, "0001")).message
    assert ("it is the application meters's" if named else "3 more differ") in said
    assert not quarantine.content_of(folder).nothing
    if not named:
        assert [one.rows for one in list_quarantined(paths, paths.sqlite)] == [3]


def test_a_row_without_its_parent_stays_aside(aside: Paths, tmp_path: Path) -> None:
    """Its parent has no place: another row has its name."""
    (folder,) = aside.quarantine.iterdir()
    moved = folder.rename(tmp_path / "elsewhere")
    application = shop(tmp_path, "0001")
    assert application.migrations is not None
    body = SHOP["0001"][1] + upgrade_body(
        "op.execute(\"CREATE UNIQUE INDEX one ON items (name) WHERE id IN ('i0', 'x')\")"
    )
    write_revision(application.migrations, "0001", None, body)
    bring(aside, application)
    add(aside, "INSERT INTO items VALUES ('x', 'tea')")
    moved.rename(folder)
    assert "4 rows of" in bring(aside, application).message
    assert rows_in(aside.sqlite, "sales") == SOLD[1:]
    (left,) = list_quarantined(aside, aside.sqlite)
    assert left.rows == 2
    with connected(aside.sqlite) as connection:
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_a_damaged_file_stays_aside(paths: Paths, tmp_path: Path) -> None:
    """What its damage hides would be missed in silence."""
    bring(paths, shop(tmp_path, "0001"))
    rows = [(f"x{number}", "y" * 90) for number in range(3000)]
    with connected(paths.sqlite) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO items(id, name) VALUES (?, ?)", rows)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with paths.sqlite.open("r+b") as file:
        file.seek(4096 * 8)
        file.write(os.urandom(4096 * 8))
    report = bring(paths, shop(tmp_path, "0001"))
    assert report.action == "replaced"
    assert "cannot be taken back yet" in report.message
    assert rows_in(paths.sqlite, "items") == []
    assert len(list_quarantined(paths, paths.sqlite)) == 1


def test_rows_that_were_salvaged_keep_no_revision_from_the_file_that_held_them(
    tmp_path: Path,
) -> None:
    """Its own outbox is never sent: a revision that waited for it would wait for ever."""
    revised = first_shop(tmp_path)
    revised.revision("0002", {"c": String(20)}, DROPPED)
    (tmp_path / "box").mkdir()
    box = Box(revised, tmp_path / "box", "postgresql://u:p@127.0.0.1:1/hub")
    box.upgrade("0001")
    kept = {box.add(a=f"a{n}", c=f"c{n}"): f"c{n}" for n in range(3)}
    set_aside(box.paths)
    report = box.upgrade("0002")
    assert "rows of" in report.message
    assert "were taken back" in report.message
    assert {str(key): value for key, value in rows_in(box.paths.sqlite, "goods")} == kept
    assert box.counts()["pending"] == 3


def test_numbers_that_the_database_gave_do_not_keep_rows_aside(
    paths: Paths, tmp_path: Path
) -> None:
    """Both files gave the number one to a row; they are different rows."""
    application = shop(tmp_path, "0001")
    assert application.migrations is not None
    notes = 'op.execute("CREATE TABLE notes (n INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT)")'
    body = SHOP["0001"][1] + upgrade_body(notes)
    write_revision(application.migrations, "0001", None, body)
    for text in ("before", "since"):
        bring(paths, application)
        add(paths, f"INSERT INTO notes(text) VALUES ('{text}'), ('both')")
        if text == "before":
            set_aside(paths)
            moved = next(paths.quarantine.iterdir()).rename(tmp_path / "elsewhere")
    moved.rename(paths.quarantine / "000001.x")
    assert "1 rows of" in bring(paths, application).message
    found = rows_in(paths.sqlite, "notes")
    assert found == [(1, "since"), (2, "both"), (3, "before")]
    assert list_quarantined(paths, paths.sqlite) == []


def test_what_waited_is_sent_once_and_what_was_deleted_stays_so(
    paths: Paths, tmp_path: Path
) -> None:
    """The outbox of the old file was salvaged; its tables are not captured a second time."""
    application = shop(tmp_path, "0001")
    bring_with_hub(paths, application)
    sell(paths)
    set_aside(paths)
    moved = next(paths.quarantine.iterdir()).rename(tmp_path / "elsewhere")
    bring_with_hub(paths, application)
    add(paths, "INSERT INTO items VALUES ('i1', 'tea')", "DELETE FROM items WHERE id = 'i1'")
    moved.rename(paths.quarantine / "000001.x")
    report = bring_with_hub(paths, application)
    assert "6 rows that wait for the hub were saved" in report.message
    assert rows_in(paths.sqlite, "items") == [("i0", "tea"), ("i2", "tea")]
    assert rows_in(paths.sqlite, "sales") == [SOLD[0], SOLD[2]]
    with connected(paths.sqlite) as connection:
        found = changes(connection)
    assert [change.op for change in found] == ["insert", "delete", *["insert"] * 6]
    assert [change.resent for change in found] == [False] * 2 + [True] * 6


def test_rows_that_were_never_captured_are_queued_for_the_hub(aside: Paths, tmp_path: Path) -> None:
    """They are of the time before the box had one."""
    application = shop(tmp_path, "0001")
    (folder,) = aside.quarantine.iterdir()
    (folder / quarantine.SALVAGE).unlink()
    moved = folder.rename(tmp_path / "elsewhere")
    bring_with_hub(aside, application)
    add(aside, "INSERT INTO items VALUES ('new', 'cup')")
    moved.rename(folder)
    bring_with_hub(aside, application)
    with connected(aside.sqlite) as connection:
        assert capture.is_installed(connection)
        sent = [(change.layout.table, change.resent) for change in changes(connection)]
    assert sent.count(("items", True)) == 4
    assert sent.count(("sales", True)) == 3


_STEPS: tuple[tuple[Any, str], ...] = (
    (files, "copy_database"), (files, "check_copy"), (files, "discard"), (merging, "_bring"),
    (merging, "_drop_orphans"), (quarantine, "write_note"), (quarantine, "write_atomic"),
    (atomic, "sync_folder"), (os, "replace"), (os, "unlink"),
)  # fmt: skip
_KILLED, _FINISHED, _FAILED = 9, 0, 1


def _run_killed(run: Callable[[], object], step: int) -> int:
    """Do *run* in a fork that ends itself, as a power cut would, at the *step*-th step."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        calls = itertools.count(1)

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                if next(calls) == step:
                    os._exit(_KILLED)
                return function(*arguments, **options)

            return call

        for module, name in _STEPS:
            setattr(module, name, counted(getattr(module, name)))
        run()
        os._exit(_FINISHED)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(_FAILED)


def test_a_kill_at_any_step_loses_and_doubles_nothing(paths: Paths, tmp_path: Path) -> None:
    """The failure point moves forward until a run gets through."""
    notes = 'op.execute("CREATE TABLE notes (n INTEGER PRIMARY KEY, text TEXT)")'
    older, newer = shop(tmp_path, "0001"), shop(tmp_path, "0002")
    for application in (older, newer):
        assert application.migrations is not None
        body = SHOP["0001"][1] + upgrade_body(notes)
        write_revision(application.migrations, "0001", None, body)
    bring(paths, older)
    sell(paths)
    add(paths, "INSERT INTO notes VALUES (1, 'before')")
    folder = set_aside(paths)
    kept = folder.rename(tmp_path / "kept")
    bring(paths, newer)
    add(paths, "INSERT INTO notes VALUES (1, 'since')")
    fresh = shutil.copyfile(paths.sqlite, tmp_path / "fresh.db")

    def take() -> TakenBack:
        return take_back(paths.sqlite, paths, chain_of(newer), lambda: metadata_of(newer))

    for step in itertools.count(1):
        assert step < 80
        for leftover in (paths.sqlite, *paths.state.glob("edgepaas.db-*")):
            leftover.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
        shutil.copyfile(fresh, paths.sqlite)
        ended = _run_killed(take, step)
        assert ended in (_FINISHED, _KILLED), "its traceback is in the captured output"
        files.sweep(paths.sqlite)
        take()
        assert rows_in(paths.sqlite, "sales") == SOLD
        assert len(rows_in(paths.sqlite, "items")) == 3
        assert rows_in(paths.sqlite, "notes") == [(1, "since"), (2, "before")]
        assert take() == TakenBack()
        if ended == _FINISHED:
            break
    assert step > 6
