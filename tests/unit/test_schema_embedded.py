# SPDX-License-Identifier: Apache-2.0
"""Bringing an SQLite file to head: fresh, older, damaged, foreign; nothing is ever lost."""

import errno
import json
import logging
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Column, String, Table

from edgepaas.app import Application
from edgepaas.database import open_database
from edgepaas.database.model import new_metadata
from edgepaas.errors import DatabaseFull, EdgePaaSError
from edgepaas.files.locks import LockHeld, held
from edgepaas.files.paths import Paths
from edgepaas.hosting.loading import metadata_of
from edgepaas.schema import open_problems
from edgepaas.schema.at_head import schema_at_head
from edgepaas.schema.chain import chain_of
from edgepaas.schema.errors import OfAnotherApplication, SchemaError
from edgepaas.schema.open_problems import open_refusal
from edgepaas.schema.repair.sqlite_file import repair_sqlite
from edgepaas.schema.sqlite import error_classes
from edgepaas.schema.sqlite import file_operations as files
from edgepaas.schema.sqlite import inspection as looking
from edgepaas.schema.sqlite import migrate as embedded
from edgepaas.schema.sqlite.quarantine import list_quarantined
from edgepaas.settings import Settings
from tests.support.chains import (
    REPOSITORY,
    SHOP,
    bring,
    connected,
    migrations_folder,
    rows_in,
    sell,
    shop,
    shop_models,
    sqlite_contract,
    upgrade_body,
    version_of,
    write_revision,
)
from tests.support.weaken import weakened


def quarantined(paths: Paths) -> list[Path]:
    """Return the folders in quarantine, oldest first."""
    return sorted(paths.quarantine.iterdir()) if paths.quarantine.is_dir() else []


@pytest.fixture
def old(paths: Paths, tmp_path: Path) -> Paths:
    """A box whose file an older build made, with three sales in it."""
    bring(paths, shop(tmp_path, "0001"))
    sell(paths)
    return paths


def test_a_fresh_file_is_created_and_stamped(paths: Paths, tmp_path: Path) -> None:
    """From the models, private to its owner, with nothing left beside it."""
    report = bring(paths, shop(tmp_path, "0002"))
    assert (report.action, report.after) == ("created", ("0002",))
    assert version_of(paths.sqlite) == "0002"
    assert rows_in(paths.sqlite, "items") == []
    assert paths.sqlite.stat().st_mode & 0o077 == 0
    assert {f.name for f in paths.state.iterdir()} == {
        "edgepaas.db",
        "db.lock",
        "tables-cache.json",
    }


def test_a_second_run_changes_nothing(old: Paths, tmp_path: Path) -> None:
    """Every boot runs the stage."""
    before = old.sqlite.stat()
    report = bring(old, shop(tmp_path, "0001"))
    assert report.action == "nothing"
    assert old.sqlite.stat().st_ino == before.st_ino
    assert len(rows_in(old.sqlite, "sales")) == 3


def test_at_head_it_needs_neither_sqlalchemy_nor_the_application(paths: Paths) -> None:
    """A boot with nothing new to do is to be quick on a slow box."""
    environ = {**os.environ, "EDGEPAAS_HOME": str(paths.state.parent)}
    for stage in ("env", "dbdecide", "schema"):
        subprocess.run(
            [sys.executable, "-m", "edgepaas", stage], cwd=REPOSITORY, env=environ, check=True
        )
    again = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from edgepaas.cli import main; code = main(['schema']);"
            "print(sorted({m.partition('.')[0] for m in sys.modules}"
            " & {'sqlalchemy', 'alembic', 'pg8000', 'flask'})); sys.exit(code)",
        ],
        cwd=REPOSITORY,
        env=environ,
        check=True,
        capture_output=True,
        text=True,
    )
    assert again.stdout.splitlines()[-1] == "[]"
    assert "at head" in again.stdout


def test_tables_json_says_what_lean_processes_need(paths: Paths, tmp_path: Path) -> None:
    """Kind, columns, key; and a fingerprint that changes with them."""
    bring(paths, shop(tmp_path, "0001"))
    first = json.loads(paths.tables.read_text())
    assert first["revision"] == ["0001"]
    assert first["tables"]["items"] == {
        "kind": "shared",
        "columns": [
            {
                "name": "id",
                "type": "VARCHAR(36)",
                "storage": "VARCHAR(36)",
                "nullable": False,
                "primary_key": True,
                "merge": "",
                "filled_from": "",
                "values": [],
            },
            {
                "name": "name",
                "type": "VARCHAR(100)",
                "storage": "VARCHAR(100)",
                "nullable": False,
                "primary_key": False,
                "merge": "",
                "filled_from": "",
                "values": [],
            },
        ],
        "key": ["id"],
        "foreign": [],
        "checks": [],
        "unique": [],
    }
    assert first["tables"]["sales"]["foreign"] == ["items"]
    assert list(first["tables"]) == ["items", "sales"]
    bring(paths, shop(tmp_path, "0002"))
    second = json.loads(paths.tables.read_text())
    assert second["fingerprint"] != first["fingerprint"]
    assert "price" in {column["name"] for column in second["tables"]["items"]["columns"]}


def test_a_torn_cache_or_tables_json_is_made_again(old: Paths, tmp_path: Path) -> None:
    """A cache may be anything after a power cut."""
    good = old.tables.read_text()
    for text in ("", "{", "null", '{"sources": 3}', "\0"):
        old.tables.write_text(text)
        (old.state / "tables-cache.json").write_text(text)
        bring(old, shop(tmp_path, "0001"))
        assert old.tables.read_text() == good


def test_a_cache_that_cannot_be_written_does_not_fail_the_stage(
    old: Paths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk refuses it as well; the tables are made from the models instead."""
    cache = old.state / "tables-cache.json"
    cache.unlink()
    cache.mkdir()
    bring(old, shop(tmp_path, "0002"))
    assert "price" in old.tables.read_text()
    assert "tables-cache.json is not written" in caplog.text


def test_an_older_file_is_migrated_and_keeps_its_rows(old: Paths, tmp_path: Path) -> None:
    """Batch mode drops the parent table: its children's rows must not cascade away."""
    report = bring(old, shop(tmp_path, "0002"))
    assert (report.action, report.before, report.after) == ("migrated", ("0001",), ("0002",))
    assert version_of(old.sqlite) == "0002"
    assert rows_in(old.sqlite, "items") == [(f"i{n}", "tea", None) for n in range(3)]
    assert rows_in(old.sqlite, "sales") == [(f"s{n}", f"i{n}") for n in range(3)]
    with connected(old.sqlite) as connection:
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_the_file_as_it_was_is_kept(old: Paths, tmp_path: Path) -> None:
    """And later migrations or writes do not touch it."""
    report = bring(old, shop(tmp_path, "0002"))
    assert report.kept is not None
    sell_more = "INSERT INTO items(id, name) VALUES ('later', 'coffee')"
    with connected(old.sqlite) as connection:
        connection.execute(sell_more)
    assert version_of(report.kept) == "0001"
    assert len(rows_in(report.kept, "items")) == 3


def test_rows_that_are_still_in_the_wal_are_migrated_too(old: Paths, tmp_path: Path) -> None:
    """After a crash the newest rows are nowhere else."""
    script = (
        "import os, sys; from pathlib import Path;"
        "from edgepaas.database.sqlite.connection import open_sqlite;"
        "c = open_sqlite(Path(sys.argv[1]));"
        "c.execute(\"INSERT INTO items(id, name) VALUES ('w', 'wal')\"); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", script, str(old.sqlite)], cwd=REPOSITORY, check=False)
    assert old.sqlite.with_name("edgepaas.db-wal").stat().st_size > 0
    bring(old, shop(tmp_path, "0002"))
    assert ("w", "wal", None) in rows_in(old.sqlite, "items")


def failing(folder: Path, body: str = upgrade_body('raise ValueError("bug")')) -> Application:
    """Return the shop at 0002, whose migration does *body* and fails."""
    application = shop(folder, "0002")
    assert application.migrations is not None
    write_revision(application.migrations, "0002", "0001", body)
    return application


def assert_refused(paths: Paths, application: Application, reason: str) -> str:
    """Run the stage: the file has to stay as it is, and the box to answer 503; the message."""
    tables = {name: rows_in(paths.sqlite, name) for name in ("items", "sales")}
    inode = paths.sqlite.stat().st_ino
    report = bring(paths, application)
    assert report.action == "refused"
    assert reason in report.message
    assert reason in open_refusal(paths)
    assert paths.sqlite.stat().st_ino == inode
    assert {name: rows_in(paths.sqlite, name) for name in tables} == tables
    assert quarantined(paths) == []
    assert list(paths.state.glob(".edgepaas.db.*")) == []
    return report.message


def test_a_failing_migration_is_refused_and_costs_no_row(
    old: Paths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An empty database never serves in the place of one with rows; a human is told."""
    body = upgrade_body('op.execute("UPDATE items SET name = 1")', 'raise ValueError("bug")')
    with caplog.at_level(logging.CRITICAL, "edgepaas.alerts"):
        message = assert_refused(old, failing(tmp_path, body), "from 0001 to 0002 failed: bug")
    assert "\n" not in message
    assert "install a release that works on it" in message
    assert "schema-refused" in caplog.text
    assert version_of(old.sqlite) == "0001"


def test_a_build_that_serves_an_empty_file_is_found_out(old: Paths, tmp_path: Path) -> None:
    """As the releases before did."""
    with weakened("serves-empty"), pytest.raises(AssertionError):
        assert_refused(old, failing(tmp_path), "from 0001 to 0002 failed: bug")


def test_a_migration_that_was_mended_goes_on_from_where_the_file_is(
    old: Paths, tmp_path: Path
) -> None:
    """The rows are where they were, and the refusal is over."""
    application = failing(tmp_path)
    assert_refused(old, application, "bug")
    assert application.migrations is not None
    write_revision(application.migrations, "0002", *SHOP["0002"])
    report = bring(old, application)
    assert (report.action, report.before) == ("migrated", ("0001",))
    assert len(rows_in(old.sqlite, "items")) == len(rows_in(old.sqlite, "sales")) == 3
    assert open_refusal(old) == ""


def test_what_was_refused_is_copied_again_only_once_something_has_changed(
    old: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chain goes round each minute, and a copy is as large as the file."""
    copies = 0
    original = files.copy_database

    def counted(source: Path, target: Path) -> None:
        nonlocal copies
        copies += 1
        original(source, target)

    monkeypatch.setattr(files, "copy_database", counted)
    application = failing(tmp_path)
    assert bring(old, application).action == "refused"
    first = copies
    for _ in range(3):
        assert "bug" in bring(old, application).message
    assert copies == first
    with connected(old.sqlite) as connection:
        connection.execute("INSERT INTO items(id, name) VALUES ('new', 'cup')")
    assert bring(old, application).action == "refused"
    assert copies == 2 * first
    assert bring(old, application).action == "refused"
    assert copies == 2 * first
    monkeypatch.setattr(open_problems, "TRIED_AGAIN_AFTER", 0.0)
    assert bring(old, application).action == "refused"
    assert copies == 3 * first


def test_a_migration_that_breaks_a_key_is_not_swapped_in(old: Paths, tmp_path: Path) -> None:
    """Foreign keys are off while it runs, so they are checked after it."""
    body = SHOP["0002"][1] + upgrade_body("op.execute(\"DELETE FROM items WHERE id = 'i0'\")")
    assert assert_refused(old, failing(tmp_path, body), "points to none")


def test_a_file_that_belongs_to_another_user_is_no_damaged_one(
    old: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root restored it from a backup; it was moved away, and an empty one served."""

    def denied(*_: object, **__: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    with monkeypatch.context() as patched:
        patched.setattr(looking, "open_sqlite", denied)
        patched.setattr(os, "access", lambda *_: False)
        report = bring(old, shop(tmp_path, "0001"))
    assert report.action == "refused"
    assert "Permission denied" in report.message
    assert quarantined(old) == []
    old.sqlite.touch()  # as a new owner or mode changes it
    assert bring(old, shop(tmp_path, "0001")).action == "nothing"
    assert len(rows_in(old.sqlite, "sales")) == 3


SEEDS = upgrade_body(
    "op.execute(\"INSERT INTO items (id, name) VALUES ('seed', 'tea')\")",
    'op.execute("CREATE VIEW cheap AS SELECT id FROM items")',
    "op.execute(\"CREATE UNIQUE INDEX one_name ON items (name) WHERE id LIKE 'seed%'\")",
)


def seeding(folder: Path) -> Application:
    """Return the shop at 0001 whose migration also makes a row, a view and an index."""
    application = shop(folder, "0001")
    assert application.migrations is not None
    write_revision(application.migrations, "0001", None, SHOP["0001"][1] + "\n" + SEEDS)
    return application


def test_a_fresh_file_has_what_the_migrations_make(paths: Paths, tmp_path: Path) -> None:
    """There is one source of the schema: rows, views and indexes are in no model."""
    assert bring(paths, seeding(tmp_path)).action == "created"
    assert rows_in(paths.sqlite, "items") == [("seed", "tea")]
    assert rows_in(paths.sqlite, "cheap") == [("seed",)]
    with connected(paths.sqlite) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT INTO items VALUES ('seed-2', 'tea')")
    assert bring(paths, seeding(tmp_path)).action == "nothing"


def test_a_build_that_makes_a_fresh_file_from_the_models_is_found_out(
    paths: Paths, tmp_path: Path
) -> None:
    """The row, the view and the index are missing."""
    with weakened("fresh-from-models"), pytest.raises(AssertionError):
        test_a_fresh_file_has_what_the_migrations_make(paths, tmp_path)


def test_migrations_that_leave_out_what_the_models_need_make_no_file(
    paths: Paths, tmp_path: Path
) -> None:
    """It worked on a fresh box alone, and on no older one."""
    older = shop(tmp_path, "0001")
    newer = Application(name="shop", models=shop_models("0002"), migrations=older.migrations)
    report = bring(paths, newer)
    assert report.action == "refused"
    assert "items.price is missing" in report.message
    assert "--revision" in report.message
    assert not paths.sqlite.exists()
    assert bring(paths, older).action == "created"


def test_a_migration_that_fails_on_a_fresh_file_leaves_none(paths: Paths, tmp_path: Path) -> None:
    """No half of one either."""
    report = bring(paths, failing(tmp_path))
    assert report.action == "refused"
    assert "no fresh file: bug" in report.message
    assert not paths.sqlite.exists()
    assert list(paths.state.glob(".edgepaas.db.*")) == []


@pytest.mark.parametrize(
    "damage",
    [b"", b"not a database at all" * 100, b"\xff" * 8192, b"SQLite format 3\0" + b"\x7f" * 8000],
    ids=["empty", "text", "ones", "header"],
)
def test_a_file_that_is_no_database_is_replaced(
    paths: Paths, tmp_path: Path, damage: bytes
) -> None:
    """An empty file holds nothing and is just filled; the rest goes to quarantine."""
    paths.sqlite.write_bytes(damage)
    report = bring(paths, shop(tmp_path, "0002"))
    assert report.action == ("replaced" if damage else "created")
    assert version_of(paths.sqlite) == "0002"
    if damage:
        assert (quarantined(paths)[0] / "edgepaas.db").read_bytes() == damage


def test_a_directory_in_the_files_place_is_moved_away(paths: Paths, tmp_path: Path) -> None:
    """A volume mounted by mistake is such a thing."""
    paths.sqlite.mkdir()
    (paths.sqlite / "file").touch()
    assert bring(paths, shop(tmp_path, "0002")).action == "replaced"
    assert version_of(paths.sqlite) == "0002"


def test_a_damaged_file_goes_to_quarantine_with_its_wal(old: Paths, tmp_path: Path) -> None:
    """Whoever salvages it needs both."""
    with connected(old.sqlite) as connection:
        connection.executemany(
            "INSERT INTO items(id, name) VALUES (?, ?)", [(f"x{n}", "y" * 90) for n in range(3000)]
        )
    with old.sqlite.open("r+b") as file:
        for page in range(2, old.sqlite.stat().st_size // 4096, 3):
            file.seek(page * 4096)
            file.write(os.urandom(3000))
    wal = old.sqlite.with_name("edgepaas.db-wal")
    wal.write_bytes(b"whatever it held")
    report = bring(old, shop(tmp_path, "0001"))
    assert report.action == "replaced"
    assert "edgepaas.db" in {file.name for file in quarantined(old)[0].iterdir()}
    assert rows_in(old.sqlite, "items") == []


def test_a_wal_without_its_file_never_meets_a_fresh_one(old: Paths, tmp_path: Path) -> None:
    """SQLite would replay it into the wrong database."""
    old.sqlite.unlink()
    wal = old.sqlite.with_name("edgepaas.db-wal")
    wal.write_bytes(b"rows of another file")
    assert bring(old, shop(tmp_path, "0001")).action == "created"
    assert not wal.exists()
    assert any((folder / wal.name).exists() for folder in old.quarantine.iterdir())


def test_a_file_of_a_newer_build_that_fits_is_served_as_it_is(old: Paths, tmp_path: Path) -> None:
    """A rollback of the build must not cost the data: migrations expand first."""
    bring(old, shop(tmp_path, "0002"))
    report = bring(old, shop(tmp_path, "0001"))
    assert report.action == "ahead"
    assert version_of(old.sqlite) == "0002"
    assert len(rows_in(old.sqlite, "sales")) == 3
    assert list(old.state.glob(".edgepaas.db.*")) == []


def test_an_older_release_that_meets_a_newer_file_does_not_touch_it(
    old: Paths, tmp_path: Path
) -> None:
    """It lacks what the older one needs; the newer one goes on with it."""
    with connected(old.sqlite) as connection:
        connection.execute("UPDATE alembic_version_shop SET version_num = '9999'")
        connection.execute("ALTER TABLE items RENAME COLUMN name TO title")
    message = assert_refused(old, shop(tmp_path, "0001"), "its revision 9999 is unknown")
    assert "items.name is missing" in message
    assert version_of(old.sqlite) == "9999"


def test_tables_without_a_version_are_known_by_their_looks(old: Paths, tmp_path: Path) -> None:
    """They are taken for the revision that they are, and migrated from there."""
    with connected(old.sqlite) as connection:
        connection.execute("DROP TABLE alembic_version_shop")
    report = bring(old, shop(tmp_path, "0002"))
    assert report.action == "adopted"
    assert version_of(old.sqlite) == "0002"
    assert len(rows_in(old.sqlite, "items")) == 3


def test_a_file_in_use_is_not_swapped(
    old: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows would go into a file that has no name any more."""
    monkeypatch.setattr(embedded, "LOCK_TIMEOUT", 0.1)
    with held(old.database_lock, shared=True), pytest.raises(LockHeld):
        bring(old, shop(tmp_path, "0002"))
    assert version_of(old.sqlite) == "0001"


def test_a_full_disk_never_costs_the_file(
    old: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a migration that does not fit nor a file that cannot be opened counts as damage."""
    monkeypatch.setattr(error_classes, "disk_is_full", lambda _path: True)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "copy_database", fail)
    with pytest.raises(SchemaError, match="too full"):
        bring(old, shop(tmp_path, "0002"))
    assert version_of(old.sqlite) == "0001"
    assert len(rows_in(old.sqlite, "items")) == 3
    assert quarantined(old) == []
    monkeypatch.setattr(
        looking, "is_empty", lambda _path: (_ for _ in ()).throw(sqlite3.OperationalError("io"))
    )
    with pytest.raises(DatabaseFull):
        bring(old, shop(tmp_path, "0002"))
    assert quarantined(old) == []


def test_an_application_with_a_broken_model_is_told_so(paths: Paths, tmp_path: Path) -> None:
    """By the table's name, not by a traceback."""
    application = shop(tmp_path, "0001")
    metadata = metadata_of(application)
    assert metadata is not None
    metadata.tables["items"].info.clear()
    broken = Application(name="shop", models=metadata, migrations=application.migrations)
    with pytest.raises(EdgePaaSError, match="items has no kind"):
        bring(paths, broken)


def test_an_application_without_migrations_gets_its_tables(paths: Paths, tmp_path: Path) -> None:
    """Missing ones are added, present ones left alone."""
    metadata = metadata_of(shop(tmp_path, "0001"))
    assert metadata is not None
    application = Application(name="shop", models=metadata)
    assert bring(paths, application).action == "created"
    sell(paths)
    with connected(paths.sqlite) as connection:
        connection.execute("DROP TABLE sales")
    bring(paths, application)
    assert rows_in(paths.sqlite, "sales") == []
    assert len(rows_in(paths.sqlite, "items")) == 3


def test_an_application_without_tables_gets_an_empty_file(paths: Paths) -> None:
    """The box has a database all the same."""
    assert bring(paths, Application(name="none")).action == "created"
    assert json.loads(paths.tables.read_text())["tables"] == {}
    assert bring(paths, Application(name="none")).after == ()


def without_revisions(folder: Path, models: str = "0001") -> Application:
    """The shop as a developer begins it: models, an env.py, no migration."""
    scripts = folder / "begun"
    if not scripts.exists():
        migrations_folder(scripts, [])
    return Application(name="shop", models=lambda: shop_models(models), migrations=scripts)


def with_first_revision(folder: Path, models: str = "0001") -> Application:
    """The same application with its first migration."""
    application = without_revisions(folder, models)
    assert application.migrations is not None
    write_revision(application.migrations, "0001", *SHOP["0001"])
    return application


def test_the_first_migration_takes_over_the_tables_that_the_models_made(
    paths: Paths, tmp_path: Path
) -> None:
    """The rows of the time before it stay; the message of the fresh file names the way."""
    report = bring(paths, without_revisions(tmp_path))
    assert report.action == "created"
    assert "--revision" in report.message
    sell(paths)
    assert bring(paths, without_revisions(tmp_path)).action == "nothing"
    report = bring(paths, with_first_revision(tmp_path))
    assert (report.action, report.after) == ("adopted", ("0001",))
    assert version_of(paths.sqlite) == "0001"
    assert len(rows_in(paths.sqlite, "sales")) == 3
    assert quarantined(paths) == []


def test_a_first_migration_that_knows_more_than_the_file_rebuilds_its_tables(
    paths: Paths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The models grew between the first boot and the first migration."""
    bring(paths, without_revisions(tmp_path))
    sell(paths)
    application = without_revisions(tmp_path, "0002")
    assert application.migrations is not None
    body = SHOP["0001"][1] + SHOP["0002"][1]
    write_revision(application.migrations, "0001", None, body)
    report = bring(paths, application)
    assert report.action == "repaired"
    assert rows_in(paths.sqlite, "items") == [(f"i{n}", "tea", None) for n in range(3)]
    assert version_of(paths.sqlite) == "0001"
    assert report.kept is not None
    assert len(rows_in(report.kept, "items")) == 3
    assert quarantined(paths) == []
    assert "sqlite-rebuilt" in caplog.text
    assert bring(paths, application).action == "nothing"


def test_an_application_without_revisions_gets_the_tables_that_it_lacks(
    paths: Paths, tmp_path: Path
) -> None:
    """And a version that another build wrote stays."""
    bring(paths, without_revisions(tmp_path))
    with connected(paths.sqlite) as connection:
        connection.execute("DROP TABLE sales")
        connection.execute("INSERT INTO alembic_version_shop VALUES ('9999')")
    bring(paths, without_revisions(tmp_path))
    assert rows_in(paths.sqlite, "sales") == []
    assert version_of(paths.sqlite) == "9999"


def test_a_failing_migration_leaves_a_file_that_fits_in_service(
    old: Paths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is put aside that the application can work on; a human is told, in one line."""
    application = shop(tmp_path, "0001")
    assert application.migrations is not None
    body = upgrade_body('op.execute("INSERT INTO items(nonsense) VALUES (1)")')
    write_revision(application.migrations, "0002", "0001", body)
    with caplog.at_level(logging.INFO):
        report = bring(old, application)
    assert (report.action, report.after) == ("unmigrated", ("0001",))
    assert len(rows_in(old.sqlite, "sales")) == 3
    assert quarantined(old) == []
    assert "nonsense" in report.message
    assert "sqlalche.me" not in caplog.text + report.message
    assert "\n" not in report.message
    assert not any(record.exc_info for record in caplog.records)
    assert "sqlite-unmigrated" in caplog.text
    database = open_database(sqlite_contract(old), Settings.of(), old)
    state = schema_at_head(database, application)
    database.close()
    assert (state.at_head, state.fits) == (False, True)
    assert "--repair" in state.message


def test_the_traceback_of_a_migration_is_for_debugging(
    old: Paths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """LOG_LEVEL=DEBUG shows it."""
    application = shop(tmp_path, "0001")
    assert application.migrations is not None
    write_revision(application.migrations, "0002", "0001", upgrade_body('raise ValueError("bug")'))
    with caplog.at_level(logging.DEBUG, "edgepaas.schema"):
        bring(old, application)
    assert any(record.exc_info for record in caplog.records)


def test_a_quarantine_with_rows_is_seen_until_it_is_removed(old: Paths, tmp_path: Path) -> None:
    """Its rows are counted, and the reason is kept; one without rows is no matter."""
    with connected(old.sqlite) as connection:
        connection.execute("UPDATE alembic_version_shop SET version_num = '9999'")
        connection.execute("ALTER TABLE items RENAME COLUMN name TO title")
    files.move_to_quarantine(old.sqlite, old.quarantine, "a bug")
    assert "cannot be taken back yet" in bring(old, shop(tmp_path, "0001")).message
    (found,) = list_quarantined(old, old.sqlite)
    assert found.rows == 6
    assert "bug" in found.reason
    assert str(found.folder) in found.line
    (found.folder / "edgepaas.db").rename(tmp_path / "taken.db")
    assert list_quarantined(old, old.sqlite) == []


def test_a_quarantine_without_a_note_may_hold_rows(old: Paths) -> None:
    """It is an older build's, or the power went."""
    folder = old.quarantine / "000001.x"
    folder.mkdir(parents=True)
    (folder / "edgepaas.db").touch()
    (found,) = list_quarantined(old, old.sqlite)
    assert found.rows is None
    (folder / "why.json").write_text('{"rows": 0, "reason": "x"}')
    assert list_quarantined(old, old.sqlite) == []


def notes(folder: Path) -> Application:
    """Return another application, whose first revision bears the same name as the shop's."""
    models = new_metadata()
    Table("notes", models, Column("id", String(36), primary_key=True), info={"kind": "facts"})
    scripts = folder / "notes"
    if not scripts.exists():
        migrations_folder(scripts, [])
        body = 'op.create_table("notes", sa.Column("id", sa.String(36), primary_key=True))'
        write_revision(scripts, "0001", None, upgrade_body(body))
    return Application(name="notes", models=models, migrations=scripts)


def test_the_file_of_another_application_is_refused_by_name(
    old: Paths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It was taken for one at head, and got a second application's tables."""
    message = assert_refused(old, notes(tmp_path), "of the application shop")
    assert "this box is to run notes" in message
    assert "DATABASE_URL_SQLITE" in message
    assert "sqlite-foreign" in caplog.text
    with pytest.raises(OfAnotherApplication):
        application = notes(tmp_path)
        repair_sqlite(old.sqlite, old, chain_of(application), lambda: metadata_of(application))
    assert len(rows_in(old.sqlite, "sales")) == 3
    assert bring(old, shop(tmp_path, "0001")).action == "nothing"
    assert open_refusal(old) == ""


def test_the_file_of_another_application_is_known_when_the_state_folder_was_lost(
    old: Paths, tmp_path: Path
) -> None:
    """The name stands in the file."""
    (old.state / "tables-cache.json").unlink()
    assert assert_refused(old, notes(tmp_path), "of the application shop")


def test_a_file_without_a_row_gives_way_to_another_application(
    paths: Paths, tmp_path: Path
) -> None:
    """A fresh box ran telemetry before its operator named an application."""
    bring(paths, shop(tmp_path, "0001"))
    report = bring(paths, notes(tmp_path))
    assert report.action == "created"
    assert "was the application shop's, and holds no row" in report.message
    assert rows_in(paths.sqlite, "notes") == []
    assert list_quarantined(paths, paths.sqlite) == []
    assert bring(paths, notes(tmp_path)).message == "at head (0001)"


def test_an_application_that_was_renamed_goes_on_with_its_file(old: Paths, tmp_path: Path) -> None:
    """It says which name it had."""
    store = replace(shop(tmp_path, "0002"), name="store")
    assert_refused(old, store, "of the application shop")
    report = bring(old, replace(store, formerly=("shop",)))
    assert (report.action, report.before) == ("migrated", ("0001",))
    assert len(rows_in(old.sqlite, "sales")) == 3
    assert bring(old, replace(store, formerly=("shop",))).message == "at head (0002)"


def of_an_earlier_release(path: Path) -> None:
    """Make *path* a file of the time when every application had the same version table."""
    with connected(path) as connection:
        connection.execute("ALTER TABLE alembic_version_shop RENAME TO alembic_version")
        connection.execute("DROP TABLE edgepaas_applications")


def revisions_in(path: Path, table: str) -> list[str]:
    """Return what the version table *table* says."""
    return [str(version) for (version,) in rows_in(path, table)]


def test_a_file_of_an_earlier_release_gets_a_name_and_stays_usable_for_that_release(
    old: Paths, tmp_path: Path
) -> None:
    """Its version table is kept in step: that release may be installed again."""
    of_an_earlier_release(old.sqlite)
    assert bring(old, shop(tmp_path, "0001")).message == "at head (0001)"
    assert version_of(old.sqlite) == "0001"
    report = bring(old, shop(tmp_path, "0002"))
    assert (report.action, report.before) == ("migrated", ("0001",))
    assert version_of(old.sqlite) == "0002"
    assert revisions_in(old.sqlite, "alembic_version") == ["0002"]
    assert len(rows_in(old.sqlite, "sales")) == 3
    assert_refused(old, notes(tmp_path), "of the application shop")


def test_a_file_of_an_earlier_release_and_another_application_is_known_by_its_last_user(
    old: Paths, tmp_path: Path
) -> None:
    """There is no name in it; the state folder has it."""
    of_an_earlier_release(old.sqlite)
    assert_refused(old, notes(tmp_path), "of the application shop")
    assert bring(old, shop(tmp_path, "0002")).action == "migrated"


def test_a_missing_migrations_folder_is_named(paths: Paths, tmp_path: Path) -> None:
    """In a line, with the way out."""
    application = Application(name="shop", migrations=tmp_path / "nowhere")
    with pytest.raises(SchemaError, match=r"nowhere, which is no folder: make it"):
        bring(paths, application)


def test_a_missing_env_py_is_named_and_costs_no_row(old: Paths, tmp_path: Path) -> None:
    """No file is to blame for it: neither a fresh one nor one that has to be migrated."""
    application = shop(tmp_path, "0002")
    assert application.migrations is not None
    (application.migrations / "env.py").unlink()
    with pytest.raises(SchemaError, match=r"env\.py is not there: .*run\(context\)"):
        bring(old, application)
    assert len(rows_in(old.sqlite, "sales")) == 3
    old.sqlite.unlink()
    with pytest.raises(SchemaError, match=r"env\.py is not there"):
        bring(old, application)


def test_a_read_only_state_folder_says_what_to_do(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel leaves a failing card so."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(paths.database_lock))

    monkeypatch.setattr(embedded, "held", fail)
    with pytest.raises(SchemaError, match=r"db\.lock cannot be written .*remount") as raised:
        bring(paths, shop(tmp_path, "0001"))
    assert "Errno" not in str(raised.value)


def test_a_failure_is_one_that_a_person_can_read(
    old: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the file system says, it comes as an expected error."""
    old.sqlite.unlink()

    def fail(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(files, "swap_in", fail)
    with pytest.raises(EdgePaaSError, match="Read-only file system"):
        bring(old, shop(tmp_path, "0001"))
