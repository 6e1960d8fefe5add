# SPDX-License-Identifier: Apache-2.0
"""The disk budget: levels, the ballast, and what is given up when nothing else makes room."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.outbox import capture, ledger
from edgepaas.outbox.reading import next_batch
from edgepaas.outbox.space import ballast, budget, vacuum
from edgepaas.outbox.space.shedding import LowValue, read_low_value, shed
from edgepaas.outbox.stream import set_inflight

NODE = "11111111-1111-4111-8111-111111111111"


def column(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "type": kind, "storage": kind, "nullable": True}


DOCUMENT = {
    "revision": ["0001"],
    "tables": {
        "readings": {
            "kind": "facts",
            "columns": [column("id", "TEXT"), column("metric", "TEXT"), column("value", "REAL")],
            "key": ["id"],
        },
        "devices": {
            "kind": "shared",
            "columns": [column("id", "TEXT"), column("name", "TEXT")],
            "key": ["id"],
        },
    },
}


@pytest.fixture
def file(tmp_path: Path) -> sqlite3.Connection:
    """A file with the two tables, captured."""
    connection = open_sqlite(tmp_path / "box.db", create=True)
    vacuum.prepare(connection)
    connection.execute("CREATE TABLE readings (id TEXT PRIMARY KEY, metric TEXT, value REAL)")
    connection.execute("CREATE TABLE devices (id TEXT PRIMARY KEY, name TEXT)")
    capture.install(connection, DOCUMENT, node_id=NODE)
    return connection


def write(connection: sqlite3.Connection, metric: str, ids: range) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(
        "INSERT INTO readings VALUES (?, ?, ?)", [(f"{metric}-{i}", metric, float(i)) for i in ids]
    )
    connection.execute("COMMIT")


@pytest.mark.parametrize(
    ("share", "before", "level"),
    [
        (0.0, "ok", "ok"),
        (0.6999, "ok", "ok"),
        (0.70, "ok", "alert"),
        (0.69, "alert", "alert"),
        (0.679, "alert", "ok"),
        (0.85, "alert", "shed"),
        (0.84, "shed", "shed"),
        (0.829, "shed", "alert"),
        (0.95, "ok", "full"),
        (0.94, "full", "full"),
        (0.929, "full", "shed"),
        (2.5, "ok", "full"),
    ],
)
def test_a_level_begins_at_its_share_and_ends_a_little_below(
    share: float, before: budget.Level, level: budget.Level
) -> None:
    assert budget.level(share, before) == level


def test_without_a_setting_the_budget_is_the_smaller_of_a_gibibyte_and_a_fifth_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for total, expected in ((10 * 1024**3, 2 * 1024**3), (2 * 1024**3, 2 * 1024**3 // 5)):
        usage = type("Usage", (), {"total": total})
        monkeypatch.setattr("edgepaas.outbox.space.budget.shutil.disk_usage", lambda _, u=usage: u)
        assert budget.budget_of(tmp_path / "box.db", 0) == min(1024**3, int(expected))
    assert budget.budget_of(tmp_path / "box.db", 4711) == 4711


def test_pages_of_deleted_rows_are_room(file: sqlite3.Connection) -> None:
    write(file, "heat", range(3000))
    before = budget.usage(file, 10**9).used
    file.execute("DELETE FROM outbox")
    assert budget.usage(file, 10**9).used < before


def test_the_ballast_is_taken_once_given_up_and_not_taken_from_a_disk_without_room(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ballast"
    assert ballast.reserve(path, 65536, spare=0)
    assert path.stat().st_blocks * 512 >= 65536  # real blocks, no hole
    assert ballast.reserve(path, 65536, spare=0)
    assert ballast.release(path)
    assert not ballast.release(path)
    assert not ballast.reserve(path, 65536, spare=1 << 60)
    assert not path.exists()
    assert ballast.reserve(path, 4096, spare=0)
    assert not ballast.reserve(path, 0, spare=0)
    assert not path.exists()
    assert not ballast.reserve(tmp_path / "nowhere" / "ballast", 4096, spare=0)


def test_low_value_rows_are_given_up_oldest_first_with_a_gap_row_that_counts_them(
    file: sqlite3.Connection,
) -> None:
    write(file, "heat", range(3))
    write(file, "debug", range(700))
    write(file, "heat", range(3, 6))
    wanted = [LowValue.read("readings:metric=debug")]
    assert [shed(file, wanted) for _ in range(3)] == [500, 200, 0]
    kept = [row[0] for row in file.execute("SELECT id FROM readings ORDER BY value")]
    assert kept == [f"heat-{i}" for i in range(6)]
    batch = next_batch(file, 0, rows=5000)
    assert batch is not None
    changes = [change for chunk in batch.chunks() for change in chunk]
    assert [change.op for change in changes] == ["insert"] * 6 + ["gap"] * 2
    gaps = [change.gap for change in changes if change.gap is not None]
    assert [(gap["table"], gap["rows"], gap["ranges"]) for gap in gaps] == [
        ("readings", 500, [[4, 503]]),
        ("readings", 200, [[504, 703]]),
    ]
    counted = ledger.read(file)
    assert counted["shed"] == 700
    assert counted["accepted"] == counted["pending"] + counted["shed"]


def test_what_may_be_on_its_way_and_shared_rows_are_never_given_up(
    file: sqlite3.Connection,
) -> None:
    write(file, "debug", range(4))
    file.execute("INSERT INTO devices VALUES ('d', 'debug')")
    set_inflight(file, "22222222-2222-4222-8222-222222222222", 3)
    assert shed(file, [LowValue("readings"), LowValue("devices")]) == 1
    left = [row[0] for row in file.execute("SELECT id FROM readings ORDER BY id")]
    assert left == ["debug-0", "debug-1", "debug-2"]
    assert file.execute("SELECT count(*) FROM devices").fetchone()[0] == 1


def test_an_entry_of_low_value_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    wanted, wrong = read_low_value(["readings", "a:b=c=d", ":x=1", "t:x", "t:=1"])
    assert wanted == [LowValue("readings"), LowValue("a", "b", "c=d")]
    assert [text.split(" ")[0] for text in wrong] == [":x=1", "t:x", "t:=1"]


def test_a_file_without_an_outbox_gives_nothing_up(tmp_path: Path) -> None:
    connection = open_sqlite(tmp_path / "plain.db", create=True)
    connection.execute("CREATE TABLE readings (id TEXT PRIMARY KEY)")
    connection.execute("INSERT INTO readings VALUES ('a')")
    assert shed(connection, [LowValue("readings")]) == 0
    assert json.dumps(connection.execute("SELECT id FROM readings").fetchall()) == '[["a"]]'
