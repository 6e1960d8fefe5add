# SPDX-License-Identifier: Apache-2.0
"""A table of PostgreSQL is dropped and made anew, its marks intact: its rows are lost, not deleted.

The client's own list says what there has to be in the end.
"""

import contextlib
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgepaas.outbox import ledger
from tests.integration.test_sync_back_in_time import on_hub, places, settle
from tests.support.forwarding import TestBox, TestHub
from tests.support.hub_database import HubDatabase
from tests.support.live_box import LiveBox, request
from tests.support.service_process import until
from tests.support.weaken import weakened


def make_anew(execute: Callable[[str], object], table: str, rows: str = "") -> None:
    """Have a table of the same definition in its place, without its rows, or with *rows*."""
    execute(f"CREATE TABLE anew (LIKE {table} INCLUDING ALL)")
    if rows:
        execute(f"INSERT INTO anew {rows}")
    execute(f"DROP TABLE {table} CASCADE")
    execute(f"ALTER TABLE anew RENAME TO {table}")


def post(box: LiveBox, count: int, device: str) -> set[str]:
    """Write *count* readings; returns what the client knows of them: their ids."""
    ids = [str(uuid.uuid4()) for _ in range(count)]
    content = [
        {"id": one, "device": device, "metric": "m", "value": n} for n, one in enumerate(ids)
    ]
    status, body = request(box.port, "POST", "/api/v1/readings", content)
    assert status == 201, body
    return set(ids)


@pytest.mark.parametrize("mode", ["local-first", "primary"])
def test_rows_of_a_table_that_was_made_anew_come_home(
    tmp_path: Path, hub_database: HubDatabase, mode: str
) -> None:
    """Facts by the audit that runs by itself, shared rows by the mirror."""
    with LiveBox(
        tmp_path, weak=("audit-soon",), DATABASE_URL=hub_database.url, AUDIT_INTERVAL="1",
        USE_SQLITE=str(mode == "local-first").lower(),
    ) as box:  # fmt: skip
        box.wait_state(mode)
        acknowledged = {one for name in "abc" for one in post(box, 10, name)}

        def in_file(sql: str) -> set[str]:
            with (
                closing(sqlite3.connect(box.paths.sqlite, timeout=10)) as file,
                contextlib.suppress(sqlite3.OperationalError),  # there is no such table yet
            ):
                return {str(row[0]) for row in file.execute(sql)}
            return set()

        def devices_here() -> set[str]:
            return in_file("SELECT name FROM devices")

        def devices_there() -> set[str]:
            return {str(row[0]) for row in hub_database.execute("SELECT name FROM devices")}

        def readings_there() -> set[str]:
            return {str(row[0]) for row in hub_database.execute("SELECT id::text FROM readings")}

        until(lambda: readings_there() == acknowledged, "the readings")
        until(lambda: devices_here() == devices_there() == set("abc"), "the devices")
        until(lambda: in_file("SELECT tbl FROM outbox_hub_tables"), "a pass of the mirror")
        make_anew(hub_database.execute, "devices")
        until(lambda: devices_there() == set("abc"), "the devices to come home", 120)
        assert devices_here() == set("abc")
        make_anew(hub_database.execute, "readings")
        until(lambda: readings_there() == acknowledged, "the readings to come home", 120)
        assert hub_database.number("SELECT count(*) FROM readings") == len(acknowledged)
        acknowledged |= post(box, 1, "d")
        until(lambda: readings_there() == acknowledged, "the new one")
        until(lambda: devices_here() == devices_there() == set("abcd"), "its device", 120)


@pytest.fixture
def mirrored(box: TestBox, hub: TestHub) -> Iterator[TestBox]:
    """A box that has two places of its own and one of another box, as the hub has them."""
    box.place("hall", note="1")
    box.place("attic", note="1")
    hub.ask(f"INSERT INTO places (id, name, note) VALUES ('{uuid.uuid4()}', 'cellar', '1')")
    settle(box, hub)
    assert places(box) == [("attic", "1"), ("cellar", "1"), ("hall", "1")]
    yield box


def test_nothing_is_deleted_on_the_word_of_a_table_that_was_made_anew(
    mirrored: TestBox, hub: TestHub
) -> None:
    make_anew(hub.ask, "places")
    settle(mirrored, hub)
    assert places(mirrored) == on_hub(hub) == [("attic", "1"), ("cellar", "1"), ("hall", "1")]
    accepted = ledger.read(mirrored.file)["accepted"]
    settle(mirrored, hub)
    assert ledger.read(mirrored.file)["accepted"] == accepted, "once"
    # From now on this is the table, and what is deleted there is deleted.
    hub.ask("DELETE FROM places WHERE name = 'cellar'")
    settle(mirrored, hub)
    assert places(mirrored) == [("attic", "1"), ("hall", "1")]


def test_a_build_that_takes_any_table_for_the_same_is_found_out(
    mirrored: TestBox, hub: TestHub
) -> None:
    with weakened("any-table"):
        make_anew(hub.ask, "places")
        settle(mirrored, hub)
    assert places(mirrored) == []


def test_a_table_that_goes_and_comes_later_is_not_the_same(mirrored: TestBox, hub: TestHub) -> None:
    """A pass finds it missing in between."""
    hub.ask("CREATE TABLE shape (LIKE places INCLUDING ALL)")
    hub.ask("DROP TABLE places CASCADE")
    settle(mirrored, hub)
    hub.ask("ALTER TABLE shape RENAME TO places")
    settle(mirrored, hub)
    assert places(mirrored) == on_hub(hub) == [("attic", "1"), ("cellar", "1"), ("hall", "1")]


def test_what_an_older_copy_of_a_table_lost_is_kept_as_a_conflict(
    mirrored: TestBox, hub: TestHub
) -> None:
    """A table is restored by itself: its rows come back, and its newer values are not forgotten."""
    hub.ask("CREATE TABLE backup AS SELECT * FROM places WHERE name <> 'attic'")
    mirrored.write("UPDATE places SET note = '2' WHERE name = 'hall'")
    settle(mirrored, hub)
    make_anew(hub.ask, "places", "SELECT * FROM backup")
    settle(mirrored, hub)
    assert [name for name, _ in on_hub(hub)] == ["attic", "cellar", "hall"]
    ((box_has,),) = hub.ask("SELECT box::jsonb ->> 'note' FROM sync_conflicts")
    assert box_has == "2"


def test_a_database_that_was_moved_has_what_its_marks_say(mirrored: TestBox, hub: TestHub) -> None:
    """Dumped and restored whole, each table is another one; what was deleted since is deleted."""
    for table in ("places", "sensors", "samples", "sync_histories"):
        make_anew(hub.ask, table, f"SELECT * FROM {table}")
    hub.ask("DELETE FROM places WHERE name = 'cellar'")
    settle(mirrored, hub)
    assert places(mirrored) == [("attic", "1"), ("hall", "1")]


def test_a_copy_with_the_same_rows_is_the_table_from_then_on(
    mirrored: TestBox, hub: TestHub
) -> None:
    make_anew(hub.ask, "places", "SELECT * FROM places")
    settle(mirrored, hub)
    hub.ask("DELETE FROM places WHERE name = 'cellar'")
    settle(mirrored, hub)
    assert places(mirrored) == [("attic", "1"), ("hall", "1")]
