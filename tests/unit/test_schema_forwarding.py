# SPDX-License-Identifier: Apache-2.0
"""With a hub no SQLite file serves uncaptured; what waits in it outlives every migration."""

import contextlib
import random
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from edgepaas.app import Application
from edgepaas.files.node_identity import node_identity
from edgepaas.files.paths import Paths
from edgepaas.hosting.loading import metadata_of
from edgepaas.outbox import capture, fence, ledger, stream
from edgepaas.outbox.space import vacuum
from edgepaas.schema.open_problems import open_problem
from edgepaas.schema.report import SchemaReport
from edgepaas.schema.sqlite.quarantine import list_quarantined
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from tests.support.chains import (
    bring,
    connected,
    hub_contract,
    rows_in,
    sell,
    shop,
    upgrade_body,
    write_revision,
)
from tests.support.outbox import changes, ops


def bring_with_hub(paths: Paths, application: Application) -> SchemaReport:
    """Run the stage."""
    return prepare_database(
        hub_contract(paths), Settings.of(EDGEPAAS_APP="shop"), paths, application
    )


@pytest.fixture
def captured(paths: Paths, tmp_path: Path) -> Paths:
    """A box with the shop at 0001, three items and their sales waiting for the hub."""
    bring_with_hub(paths, shop(tmp_path, "0001"))
    sell(paths)
    return paths


def stream_of(paths: Paths) -> stream.Stream:
    """Return what the file knows of its stream."""
    with connected(paths.sqlite) as connection:
        found = stream.read_stream(connection)
    assert found is not None
    return found


def test_a_fresh_file_captures_and_can_give_space_back(paths: Paths, tmp_path: Path) -> None:
    """From its first row on; the stage that finds it so has nothing to do."""
    report = bring_with_hub(paths, shop(tmp_path, "0001"))
    assert report.action == "created"
    sell(paths, 1)
    with connected(paths.sqlite) as connection:
        assert ops(connection) == [("insert", "items"), ("insert", "sales")]
        assert vacuum.is_prepared(connection)
    before = stream_of(paths)
    assert before.node_id == node_identity(paths).node_id
    assert bring_with_hub(paths, shop(tmp_path, "0001")).message == "at head (0001)"
    assert stream_of(paths) == before
    assert open_problem(paths) == ""


def test_the_first_hub_gets_what_is_there_and_no_hub_costs_nothing(
    paths: Paths, tmp_path: Path
) -> None:
    """A baseline once; a hub that is taken away and comes back gets it again, as resent."""
    bring(paths, shop(tmp_path, "0001"))
    sell(paths)
    assert "6 rows queued" in bring_with_hub(paths, shop(tmp_path, "0001")).message
    assert "queued" not in bring_with_hub(paths, shop(tmp_path, "0001")).message
    bring(paths, shop(tmp_path, "0001"))
    with connected(paths.sqlite) as connection:
        assert not capture.is_installed(connection)
        connection.execute("INSERT INTO items(id, name) VALUES ('x', 'tea')")
        assert len(changes(connection)) == 6
    bring_with_hub(paths, shop(tmp_path, "0001"))
    with connected(paths.sqlite) as connection:
        assert [change.resent for change in changes(connection)] == [False] * 6 + [True] * 7


def test_a_migration_keeps_what_waits_as_it_was_captured(captured: Paths, tmp_path: Path) -> None:
    """Rows of the old layout are understood; nothing of the migration itself is captured."""
    before = stream_of(captured)
    report = bring_with_hub(captured, shop(tmp_path, "0002"))
    assert report.action == "migrated"
    after = stream_of(captured)
    assert after == before
    with connected(captured.sqlite) as connection:
        connection.execute("INSERT INTO items(id, name, price) VALUES ('new', 'cup', 3)")
        connection.execute("UPDATE items SET price = 4 WHERE id = 'i0'")
        found = changes(connection)
        assert ledger.read(connection)["accepted"] == 8
    assert [change.op for change in found] == ["insert"] * 7 + ["update"]
    assert found[0].layout.names == ("id", "name")
    assert found[0].layout.revision == "0001"
    assert found[-1].layout.names == ("id", "name", "price")
    assert found[-1].layout.revision == "0002"


def test_a_migration_may_drop_a_column_that_is_captured(captured: Paths, tmp_path: Path) -> None:
    """SQLite drops none that a trigger names."""
    application = shop(tmp_path, "0002")
    bring_with_hub(captured, application)
    assert application.migrations is not None
    body = upgrade_body(
        'op.drop_index("ix_items_price", "items")',
        'op.execute("ALTER TABLE items DROP COLUMN price")',
    )
    write_revision(application.migrations, "0003", "0002", body)
    newest = replace(shop(tmp_path, "0001"), migrations=application.migrations)
    assert bring_with_hub(captured, newest).action == "migrated"
    with connected(captured.sqlite) as connection:
        connection.execute("DELETE FROM items WHERE id = 'i2'")
        assert ops(connection)[-2:] == [("delete", "sales"), ("delete", "items")]


def test_a_failing_migration_keeps_capture_and_what_waits(captured: Paths, tmp_path: Path) -> None:
    """The file serves as it was."""
    application = shop(tmp_path, "0001")
    assert application.migrations is not None
    body = upgrade_body('op.execute("DELETE FROM items")', "raise RuntimeError('no')")
    write_revision(application.migrations, "0002", "0001", body)
    before = stream_of(captured)
    assert bring_with_hub(captured, replace(application)).action == "unmigrated"
    assert stream_of(captured) == before
    with connected(captured.sqlite) as connection:
        connection.execute("INSERT INTO items(id, name) VALUES ('new', 'cup')")
        assert len(changes(connection)) == 7


def test_rows_that_a_migration_changes_are_not_sent(captured: Paths, tmp_path: Path) -> None:
    """The hub migrates its own."""
    application = shop(tmp_path, "0001")
    assert application.migrations is not None
    body = upgrade_body("op.execute(\"UPDATE items SET name = 'coffee'\")")
    write_revision(application.migrations, "0002", "0001", body)
    assert bring_with_hub(captured, replace(application)).action == "migrated"
    with connected(captured.sqlite) as connection:
        assert len(changes(connection)) == 6
        assert connection.execute("SELECT DISTINCT name FROM items").fetchall() == [("coffee",)]


def test_a_fence_that_was_left_is_lifted(captured: Paths, tmp_path: Path) -> None:
    """Whoever put it has died, or was handed back from."""
    with connected(captured.sqlite) as connection:
        fence.put(connection, 3600)
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("DELETE FROM sales")
    bring_with_hub(captured, shop(tmp_path, "0001"))
    with connected(captured.sqlite) as connection:
        connection.execute("DELETE FROM sales")


def test_dropped_triggers_come_back(captured: Paths, tmp_path: Path) -> None:
    """Somebody meant well."""
    with connected(captured.sqlite) as connection:
        connection.execute("DROP TRIGGER outbox_insert_items")
    bring_with_hub(captured, shop(tmp_path, "0001"))
    with connected(captured.sqlite) as connection:
        connection.execute("INSERT INTO items(id, name) VALUES ('new', 'cup')")
        assert ops(connection)[-1] == ("insert", "items")


def damage_in_the_middle(path: Path) -> None:
    """Overwrite pages with noise, the schema's aside."""
    with connected(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(random.Random(3).randbytes(4096 * 3))


def test_a_damaged_file_gives_what_waits_to_its_successor(captured: Paths, tmp_path: Path) -> None:
    """A new stream; what cannot be read is counted; a clean salvage leaves nothing to do."""
    old = stream_of(captured)
    with connected(captured.sqlite) as connection:
        connection.execute("UPDATE items SET name = 'cup'")
        waiting = len(changes(connection))
    damage_in_the_middle(captured.sqlite)
    report = bring_with_hub(captured, shop(tmp_path, "0001"))
    assert report.action == "replaced"
    assert stream_of(captured).stream_id != old.stream_id
    with connected(captured.sqlite) as connection:
        counters = ledger.read(connection)
        found = changes(connection)
    assert counters["salvaged"] + counters["lost_in_damage"] >= waiting
    assert all(change.resent for change in found)
    assert rows_in(captured.sqlite, "items") == []
    again = bring_with_hub(captured, shop(tmp_path, "0001"))
    assert again.action == "nothing"
    with connected(captured.sqlite) as connection:
        assert ledger.read(connection) == counters


def test_a_file_whose_last_page_is_damaged_loses_nothing_that_waits(
    captured: Paths, tmp_path: Path
) -> None:
    """Here the damage hits none of the outbox: nothing is left for a person to do."""
    with connected(captured.sqlite) as connection:
        connection.execute("CREATE TABLE local_things (a)")
        connection.execute("INSERT INTO local_things VALUES (zeroblob(3000))")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'local_things'"
        ).fetchone()
    with captured.sqlite.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    report = bring_with_hub(captured, shop(tmp_path, "0001"))
    assert "6 rows that wait for the hub were saved" in report.message
    assert list_quarantined(captured, captured.sqlite) == []
    assert report.kept is not None
    assert (report.kept / "edgepaas.db").exists()


def test_a_power_cut_before_the_salvage_delays_it(captured: Paths, tmp_path: Path) -> None:
    """The fresh file is there, and at the next boot nothing else would say so."""
    damage_in_the_middle(captured.sqlite)
    bring(captured, shop(tmp_path, "0001"))  # without a hub nothing is salvaged yet
    assert "rows" in bring_with_hub(captured, shop(tmp_path, "0001")).message
    with connected(captured.sqlite) as connection:
        assert ledger.read(connection)["salvaged"] > 0


def test_a_file_of_another_box_is_another_stream(captured: Paths, tmp_path: Path) -> None:
    """A card was copied: the state folder's node is not the file's."""
    old = stream_of(captured)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copytree(captured.state, other / "state")
    (other / "state" / "node.json").unlink()
    moved = replace(captured, state=other / "state", runtime=other / "run")
    moved.create()
    bring_with_hub(moved, shop(tmp_path, "0001"))
    new = stream_of(moved)
    assert (new.stream_id != old.stream_id, new.forked_from) == (True, old.stream_id)


def test_what_cannot_be_captured_is_said_and_the_box_serves(
    captured: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Degraded; and over with the next run that succeeds."""
    monkeypatch.setattr(capture, "problems", lambda *_: ["the trigger x is missing"])
    with connected(captured.sqlite) as connection:
        connection.execute("DROP TRIGGER outbox_insert_items")
    report = bring_with_hub(captured, shop(tmp_path, "0001"))
    assert "the trigger x is missing" in report.message
    assert "the trigger x is missing" in open_problem(captured)
    monkeypatch.undo()
    monkeypatch.setenv("EDGEPAAS_HOME", captured.home)
    bring_with_hub(captured, shop(tmp_path, "0001"))
    assert open_problem(captured) == ""


def test_a_repair_puts_capture_back(captured: Paths, tmp_path: Path) -> None:
    """The tables are others then; what waits is as it was."""
    from edgepaas.schema.chain import chain_of
    from edgepaas.schema.repair.sqlite_file import repair_sqlite

    with connected(captured.sqlite) as connection:
        connection.execute("ALTER TABLE items ADD COLUMN colour TEXT")
        connection.execute("DROP TABLE alembic_version_shop")
    application = shop(tmp_path, "0001")
    report = repair_sqlite(
        captured.sqlite, captured, chain_of(application), lambda: metadata_of(application)
    )
    assert report.action == "repaired"
    bring_with_hub(captured, application)
    with connected(captured.sqlite) as connection:
        connection.execute("DELETE FROM sales WHERE id = 's0'")
        assert len(changes(connection)) == 7
        with contextlib.suppress(sqlite3.Error):
            connection.execute("SELECT colour FROM items")
            pytest.fail("the column is only in the kept file")
