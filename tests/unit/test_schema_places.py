# SPDX-License-Identifier: Apache-2.0
"""Whatever lies in the place of the SQLite file or beside it: it starts, and no row is lost."""

import logging
import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from edgepaas.database import open_database
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.decision.waiting import is_sound_and_empty, rows_waiting
from edgepaas.errors import DatabaseUnavailable
from edgepaas.files.paths import Paths
from edgepaas.files.sqlite_file import damage_noted, note_damage
from edgepaas.hosting.loading import metadata_of
from edgepaas.schema import stage
from edgepaas.schema.errors import SchemaError
from edgepaas.schema.repair.sqlite_file import repair_sqlite
from edgepaas.schema.sqlite import file_operations as files
from edgepaas.schema.sqlite import housekeeping
from edgepaas.schema.sqlite import inspection as looking
from edgepaas.schema.sqlite.housekeeping import tidy
from edgepaas.schema.sqlite.quarantine import list_quarantined
from edgepaas.settings import Settings
from tests.support.chains import (
    bring,
    connected,
    rows_in,
    sell,
    shop,
    sqlite_contract,
    version_of,
)


@pytest.fixture
def old(paths: Paths, tmp_path: Path) -> Paths:
    """A box with three sales."""
    bring(paths, shop(tmp_path, "0001"))
    sell(paths)
    return paths


def quarantined(paths: Paths) -> list[Path]:
    """Return the folders in quarantine, oldest first."""
    return sorted(paths.quarantine.iterdir()) if paths.quarantine.is_dir() else []


def ruin(path: Path) -> None:
    """Make *path* a file that is no database."""
    for sidecar in path.parent.glob(f"{path.name}-*"):
        sidecar.unlink()
    path.write_bytes(b"no database" * 500)


def leave_in_wal(path: Path) -> bytes:
    """Make *path* zero bytes long beside its filled -wal, whose content is returned."""
    wal = path.with_name(f"{path.name}-wal")
    with closing(open_sqlite(path)) as connection:
        connection.execute("INSERT INTO items(id, name) VALUES ('w', 'wal')")
        content = wal.read_bytes()
    path.write_bytes(b"")
    wal.write_bytes(content)
    return content


def test_no_count_of_corruptions_costs_the_file_with_the_data(old: Paths, tmp_path: Path) -> None:
    """It was the first that was set aside, and four more were after it."""
    with old.sqlite.open("r+b") as file:
        file.write(b"\0" * 16)
    damaged = old.sqlite.read_bytes()
    application = shop(tmp_path, "0001")
    for _ in range(5):
        assert bring(old, application).action == "replaced"
        ruin(old.sqlite)
    kept = [(folder / "edgepaas.db").read_bytes() for folder in quarantined(old)]
    assert kept[0] == damaged
    assert len(kept) == 5


def test_of_files_without_a_row_the_newest_two_are_kept(paths: Paths, tmp_path: Path) -> None:
    """A box whose migration fails at each boot does not fill its disk."""
    application = shop(tmp_path, "0001")
    for _ in range(4):
        bring(paths, application)
        files.move_to_quarantine(paths.sqlite, paths.quarantine, "a test")
    tidy(paths, paths.sqlite)
    assert [folder.name[:6] for folder in quarantined(paths)] == ["000003", "000004"]


def test_a_full_disk_costs_those_with_the_fewest_rows_and_says_so(
    old: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Down to two; one whose rows could not be counted goes last."""
    monkeypatch.setattr(stage, "to_be_taken_back", lambda *_: [])
    application = shop(tmp_path, "0001")
    for extra in (5, 0, None):
        if extra is None:
            ruin(old.sqlite)
        else:
            with connected(old.sqlite) as connection:
                connection.executemany(
                    "INSERT INTO items(id, name) VALUES (?, 'x')",
                    [(f"x{number}",) for number in range(extra + 1)],
                )
        files.move_to_quarantine(old.sqlite, old.quarantine, "a test")
        bring(old, application)
    tidy(old, old.sqlite, least_free=1)
    assert len(quarantined(old)) == 3
    monkeypatch.setattr(housekeeping, "_free", lambda _folder: 0)
    tidy(old, old.sqlite, least_free=1)
    assert [folder.name[:6] for folder in quarantined(old)] == ["000001", "000003"]
    assert "quarantine-pruned" in caplog.text
    assert "1 unsent rows" in caplog.text


def test_a_file_whose_rows_were_all_sent_is_not_empty(tmp_path: Path) -> None:
    """Nothing waits in it, and yet it is not to be thrown away."""
    path = tmp_path / "edgepaas.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE outbox (seq INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE readings (id INTEGER PRIMARY KEY)")
        connection.commit()
        assert is_sound_and_empty(path)
        connection.execute("INSERT INTO readings VALUES (1)")
        connection.commit()
    assert rows_waiting(path).total == 0
    assert not is_sound_and_empty(path)


def io_error() -> sqlite3.OperationalError:
    """Return what SQLite raises when the disk answers with an error."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = 266  # SQLITE_IOERR_READ
    return error


def test_a_disk_error_is_no_proof_against_the_file(
    old: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage fails with a line and is tried again; the file stays."""

    def fail(*_: object, **__: object) -> None:
        raise io_error()

    for module, name in ((looking, "open_sqlite"), (files, "copy_database")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, fail)
            with pytest.raises(SchemaError, match=r"the disk fails .*dmesg"):
                bring(old, shop(tmp_path, "0002"))
    assert quarantined(old) == []
    assert len(rows_in(old.sqlite, "sales")) == 3
    assert version_of(old.sqlite) == "0001"


def test_a_disk_error_that_passes_goes_unnoticed(
    old: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried once more at once."""
    failures = [io_error(), io_error()]  # the first look, and that of the long way
    original = open_sqlite

    def flaky(path: Path) -> sqlite3.Connection:
        if failures:
            raise failures.pop()
        return original(path)

    monkeypatch.setattr(looking, "open_sqlite", flaky)
    assert bring(old, shop(tmp_path, "0001")).action == "nothing"


def test_a_file_of_no_bytes_is_set_aside_with_its_filled_wal(
    old: Paths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Opening it would delete the -wal; the decision before does not open it either."""
    content = leave_in_wal(old.sqlite)
    assert not rows_waiting(old.sqlite).readable
    report = bring(old, shop(tmp_path, "0001"))
    assert report.action == "replaced"
    assert "it has no bytes, while edgepaas.db-wal has some" in report.message
    (folder,) = quarantined(old)
    assert (folder / "edgepaas.db-wal").read_bytes() == content
    assert "sqlite-replaced" in caplog.text
    assert [found.rows for found in list_quarantined(old, old.sqlite)] == [None]


def test_a_repair_does_not_open_a_file_of_no_bytes_either(old: Paths, tmp_path: Path) -> None:
    """A person who runs it wants the rows most of all."""
    from edgepaas.schema.chain import chain_of

    content = leave_in_wal(old.sqlite)
    application = shop(tmp_path, "0001")
    repair_sqlite(old.sqlite, old, chain_of(application), lambda: metadata_of(application))
    assert (quarantined(old)[0] / "edgepaas.db-wal").read_bytes() == content


def test_a_file_that_lost_its_bytes_is_told_of(
    old: Paths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The box was in use, so that an empty file is no fresh one."""
    for sidecar in old.state.glob("edgepaas.db-*"):
        sidecar.unlink()
    old.sqlite.write_bytes(b"")
    report = bring(old, shop(tmp_path, "0001"))
    assert report.action == "replaced"
    assert "no bytes, though shop has used it" in caplog.text


@pytest.mark.parametrize("name", ["edgepaas.db", "edgepaas.db-wal"])
def test_a_fifo_is_never_opened_and_moved_away(old: Paths, tmp_path: Path, name: str) -> None:
    """Opening it would wait for ever; a sound file beside it stays."""
    place = old.state / name
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    found = rows_waiting(old.sqlite)
    assert "is a FIFO, no file" in found.problem
    report = bring(old, shop(tmp_path, "0001"))
    own = name == "edgepaas.db"
    assert report.action == ("replaced" if own else "nothing")
    assert len(rows_in(old.sqlite, "sales")) == (0 if own else 3)
    assert (quarantined(old)[0] / name).is_fifo()
    assert list_quarantined(old, old.sqlite) == []


@pytest.mark.parametrize("name", ["edgepaas.db-wal", "edgepaas.db-shm", "db.lock", "backups"])
def test_a_thing_of_the_wrong_kind_costs_neither_the_start_nor_the_rows(
    old: Paths, tmp_path: Path, name: str
) -> None:
    """It is moved to quarantine, and the file is migrated."""
    place = old.state / name
    place.unlink(missing_ok=True)
    if name == "backups":
        place.write_text("a file")
    else:
        place.mkdir()
        (place / "something").touch()
    assert bring(old, shop(tmp_path, "0002")).action == "migrated"
    assert len(rows_in(old.sqlite, "sales")) == 3
    assert len(quarantined(old)) == 1


def test_a_file_in_the_place_of_the_quarantine_leads_to_another_name(
    old: Paths, tmp_path: Path
) -> None:
    """What is set aside there is seen like the rest."""
    old.quarantine.write_text("a file")
    ruin(old.sqlite)
    report = bring(old, shop(tmp_path, "0001"))
    assert report.kept is not None
    assert report.kept.parent == old.state / "quarantine-2"
    assert [found.folder for found in list_quarantined(old, old.sqlite)] == [report.kept]
    assert old.quarantine.read_text() == "a file"


def damage_inside(path: Path) -> None:
    """Ruin pages of *path* in a way that only reading them shows."""
    with connected(path) as connection:
        connection.executemany(
            "INSERT INTO items(id, name) VALUES (?, ?)", [(f"x{n}", "y" * 90) for n in range(3000)]
        )
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        for page in range(24, path.stat().st_size // 4096, 2):
            file.seek(page * 4096)
            file.write(os.urandom(3000))


def test_damage_that_the_quick_check_has_no_time_for_is_found_after_its_use(
    old: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service leaves a note; the next stage checks to the end, and the one after does not."""
    monkeypatch.setattr(files, "CHECK_SECONDS", -1.0)
    monkeypatch.setattr(files, "_INSTRUCTIONS", 1)
    damage_inside(old.sqlite)
    application = shop(tmp_path, "0001")
    assert bring(old, application).action == "nothing"
    from sqlalchemy import text

    database = open_database(sqlite_contract(old), Settings.of(), old)
    try:
        with pytest.raises(DatabaseUnavailable), database.read() as session:
            session.execute(text("SELECT sum(length(name)) FROM items")).fetchall()
    finally:
        database.close()
    assert damage_noted(old.sqlite)
    assert bring(old, application).action == "replaced"
    assert not damage_noted(old.sqlite)
    assert bring(old, application).action == "nothing"


def test_a_false_alarm_is_forgotten_after_the_whole_check(old: Paths, tmp_path: Path) -> None:
    """The file is sound and stays."""
    note_damage(old.sqlite, "database disk image is malformed")
    assert bring(old, shop(tmp_path, "0001")).action == "nothing"
    assert not damage_noted(old.sqlite)
    assert len(rows_in(old.sqlite, "sales")) == 3


def test_a_note_goes_with_its_file(old: Paths, tmp_path: Path) -> None:
    """A fresh file has nothing to do with it."""
    note_damage(old.sqlite, "malformed")
    for file in old.state.glob("edgepaas.db*"):
        if "suspected" not in file.name:
            file.unlink()
    assert bring(old, shop(tmp_path, "0001")).action == "created"
    assert not damage_noted(old.sqlite)


def test_temporaries_of_killed_writes_are_swept_when_they_are_old(
    paths: Paths, tmp_path: Path
) -> None:
    """A fresh one is somebody's who is writing."""
    shutil.rmtree(paths.runtime, ignore_errors=True)
    aged, fresh = [], []
    for folder in (paths.runtime, paths.state):
        folder.mkdir(parents=True, exist_ok=True)
        aged.append(folder / ".env.0123456789ab.tmp")
        fresh.append(folder / ".env.ba9876543210.tmp")
    for file in (*aged, *fresh):
        file.touch()
    for file in aged:
        os.utime(file, (time.time() - 4000,) * 2)
    bring(paths, shop(tmp_path, "0001"))
    assert not any(file.exists() for file in aged)
    assert all(file.exists() for file in fresh)


def test_what_is_put_in_order_is_logged(paths: Paths, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing goes silently."""
    paths.state.mkdir(parents=True, exist_ok=True)
    paths.database_lock.mkdir()
    with caplog.at_level(logging.INFO):
        tidy(paths, paths.sqlite)
    assert "a directory was in the place of the lock file" in caplog.text
