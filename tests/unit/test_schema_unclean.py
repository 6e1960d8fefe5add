# SPDX-License-Identifier: Apache-2.0
"""After a power cut the file is checked to its end: by the boot if there is time, else later."""

from pathlib import Path

import pytest

from edgepaas.database.sqlite import integrity as soundness
from edgepaas.database.sqlite.database import EmbeddedDatabase
from edgepaas.errors import DatabaseUnavailable
from edgepaas.files.paths import Paths
from edgepaas.files.sqlite_file import (
    check_is_due,
    damage_noted,
    note_due_check,
    note_use,
    stopped_uncleanly,
)
from edgepaas.schema.sqlite import file_operations as files
from tests.support.chains import bring, connected, rows_in, sell, shop
from tests.support.service_process import until


@pytest.fixture
def sold(paths: Paths, tmp_path: Path) -> Paths:
    """A box with a few rows."""
    bring(paths, shop(tmp_path, "0001"))
    sell(paths)
    return paths


def cut_the_power(paths: Paths) -> None:
    """Leave what a box leaves that stopped while its service ran."""
    note_use(paths.sqlite).write_text("another boot")


def damage_an_index(path: Path) -> None:
    """Change a byte in an index: quick_check does not compare it with its table."""
    with connected(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_items_1'"
        ).fetchone()
    data = bytearray(path.read_bytes())
    place = data.index(b"i1", (page - 1) * 4096)
    assert place < page * 4096
    data[place] = ord("h")
    path.write_bytes(data)


def opened(paths: Paths) -> EmbeddedDatabase:
    """Open the file as the service does."""
    return EmbeddedDatabase(paths.sqlite, lock=paths.database_lock, readers=1, patience=None)


def marks(paths: Paths) -> list[Path]:
    """Return the marks of use."""
    return list(paths.state.glob("edgepaas.db.in-use-*"))


def test_a_file_in_use_is_marked_until_it_is_closed(sold: Paths) -> None:
    """So a power cut is told from an orderly stop."""
    database = opened(sold)
    assert len(marks(sold)) == 1
    assert not stopped_uncleanly(sold.sqlite)
    database.close()
    assert marks(sold) == []


def test_a_killed_process_is_no_power_cut(sold: Paths, tmp_path: Path) -> None:
    """What it had written is the kernel's to keep: a crash loop checks nothing."""
    mark = note_use(sold.sqlite)
    mark.rename(mark.with_name("edgepaas.db.in-use-999999999.x"))
    damage_an_index(sold.sqlite)
    assert bring(sold, shop(tmp_path, "0001")).action == "nothing"
    assert marks(sold) == []


@pytest.mark.parametrize("left", ["another boot", ""])
def test_after_a_power_cut_indexes_are_checked_too(sold: Paths, tmp_path: Path, left: str) -> None:
    """Only then: it takes longer. The word may not have reached the disk."""
    note_use(sold.sqlite).write_text(left)
    assert bring(sold, shop(tmp_path, "0001")).action == "nothing"
    assert marks(sold) == []
    damage_an_index(sold.sqlite)
    assert bring(sold, shop(tmp_path, "0001")).action == "nothing"
    cut_the_power(sold)
    assert bring(sold, shop(tmp_path, "0001")).action == "replaced"
    assert marks(sold) == []
    assert rows_in(sold.sqlite, "items") == []


def test_what_takes_too_long_is_done_beside_the_service(
    sold: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not forgotten over a restart."""
    monkeypatch.setattr(files, "CHECK_SECONDS", -1.0)
    monkeypatch.setattr(files, "_INSTRUCTIONS", 1)
    cut_the_power(sold)
    assert bring(sold, shop(tmp_path, "0001")).action == "nothing"
    assert check_is_due(sold.sqlite)
    database = opened(sold)  # for a moment: it begins only after a while
    database.close()
    assert check_is_due(sold.sqlite)
    checked = soundness.IntegrityCheck(sold.sqlite, lambda _problem: None, delay=0.0)
    checked.start()
    until(lambda: not check_is_due(sold.sqlite), "the check is done")
    checked.stop()
    assert not damage_noted(sold.sqlite)


def test_damage_found_in_use_ends_the_service_and_is_dealt_with(
    sold: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database counts as lost, so that the chain runs again."""
    damage_an_index(sold.sqlite)
    note_due_check(sold.sqlite)
    monkeypatch.setattr(soundness.IntegrityCheck.__init__, "__kwdefaults__", {"delay": 0.0})
    database = opened(sold)
    until(lambda: database._damage is not None, "damage is found")
    assert damage_noted(sold.sqlite)
    with pytest.raises(DatabaseUnavailable, match="damaged"):
        database.ping()
    database.close()
    assert bring(sold, shop(tmp_path, "0001")).action == "replaced"
    assert not check_is_due(sold.sqlite)
    assert not damage_noted(sold.sqlite)
