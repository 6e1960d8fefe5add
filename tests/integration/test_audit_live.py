# SPDX-License-Identifier: Apache-2.0
"""A whole box whose rows, or whose state folder, somebody deletes: it finds out by itself."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgepaas.alerts.conditions.listing import list_conditions
from edgepaas.files.paths import Paths
from edgepaas.sync import status as sync_status
from tests.support.hub_database import HubDatabase
from tests.support.live_box import LiveBox, request
from tests.support.relay import Relay
from tests.support.service_process import until

WAITING = 85


def post(box: LiveBox, count: int, device: str) -> list[str]:
    """Write *count* readings in one request; returns what the client knows of them: their ids."""
    content = [{"device": device, "metric": "m", "value": n} for n in range(count)]
    status, body = request(box.port, "POST", "/api/v1/readings", content)
    assert status == 201, body
    with closing(sqlite3.connect(box.paths.sqlite, timeout=10)) as file:
        rows = file.execute("SELECT id FROM readings WHERE device = ?", (device,)).fetchall()
    assert len(rows) >= count
    return [row[0] for row in rows]


def raised(paths: Paths, fingerprint: str) -> list[dict[str, Any]]:
    return [
        one
        for one in list_conditions(paths, everything=True)
        if one["fingerprint"] == fingerprint and one["state"] != "resolved"
    ]


def audit(box: LiveBox) -> tuple[int, list[str]]:
    status, text = box.run("audit", "--deep", "--json")
    return status, json.loads(text)["discrepancies"]


def test_rows_that_are_deleted_in_postgresql_come_home_again_by_themselves(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """By the client's own list of what was acknowledged: none is missing in the end."""
    with LiveBox(
        tmp_path, weak=("audit-soon",), DATABASE_URL=hub_database.url, USE_SQLITE="true",
        AUDIT_INTERVAL="0.5",
    ) as box:  # fmt: skip
        acknowledged = post(box, 40, "a")
        box.wait_drained()
        hub_database.execute("DELETE FROM readings WHERE value < 10")
        listed = ", ".join(f"'{one}'" for one in acknowledged)
        there = f"SELECT count(*) FROM readings WHERE id::text IN ({listed})"
        until(lambda: hub_database.number(there) == 40, "every row that was acknowledged")
        assert hub_database.number("SELECT count(*) FROM readings") == 40
        until(lambda: not raised(box.paths, "audit-discrepancy"), "the end of the alert")
        assert audit(box) == (0, [])
        # What was changed stays as it is, and an operator is notified until it is acknowledged.
        hub_database.execute("UPDATE readings SET value = -1 WHERE value = 20")
        found = until(lambda: raised(box.paths, "audit-discrepancy"), "the alert")
        assert "1 rows of this box are not in PostgreSQL as they were written" in str(found[0])
        assert audit(box)[0] == 1
        assert box.run("audit", "--acknowledge")[0] == 0
        until(lambda: not raised(box.paths, "audit-discrepancy"), "the end of the alert")
        assert hub_database.number("SELECT count(*) FROM readings WHERE value = -1") == 1


@contextmanager
def without_its_state(
    folder: Path, hub: HubDatabase, weak: str = ""
) -> Iterator[tuple[LiveBox, Relay]]:
    """Give a box that has started again after its state folder, where rows waited, was deleted.

    PostgreSQL is away until the test heals the relay.
    """
    with Relay(hub.server.port, seed=1) as relay:
        box = LiveBox(folder, weak=(weak,), DATABASE_URL=relay.reroute(hub.url), USE_SQLITE="true")
        with box:
            post(box, 3, "home")
            box.wait_drained()
            until(lambda: hub.number("SELECT count(*) FROM nodes") == 1, "a heartbeat")
            relay.cut()
            post(box, WAITING, "home")

            def waits() -> bool:
                status = sync_status.read(box.paths)
                return status is not None and status.rows_waiting == WAITING

            until(waits, "the drainer to know of them")
            box.kill_everything()
            shutil.rmtree(box.paths.state)
            box.start()
            yield box, relay


def test_a_state_folder_that_was_deleted_with_rows_waiting_is_a_critical_alert(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    """With their number, and with what PostgreSQL knows; the audit does not add up any more."""
    with without_its_state(tmp_path, hub_database) as (box, relay):
        (found,) = until(lambda: raised(box.paths, "state-lost"), "the alert")
        assert found["severity"] == "critical"
        assert f"{WAITING} rows waited there for PostgreSQL" in str(found)
        relay.heal()
        until(
            lambda: "PostgreSQL has its rows up to" in str(raised(box.paths, "state-lost")),
            "what PostgreSQL knows",
        )
        status, discrepancies = audit(box)
        assert status == 1
        assert f"{WAITING} rows waited there" in discrepancies[0]
        assert "'edgepaas sync acknowledge'" in discrepancies[0]
        assert box.run("sync", "acknowledge")[0] == 0
        assert audit(box) == (0, [])
        _, said = box.run("audit")
        assert f"it adds up, but for {WAITING} rows that are not in place" in said


def test_a_build_that_takes_any_state_folder_is_found_out(
    tmp_path: Path, hub_database: HubDatabase
) -> None:
    with without_its_state(tmp_path, hub_database, "any-state") as (box, relay):
        relay.heal()
        post(box, 1, "later")
        box.wait_drained()
        assert audit(box) == (0, []), "it says that it adds up"
        assert not raised(box.paths, "state-lost")
        rows = hub_database.number("SELECT count(*) FROM readings")
        with pytest.raises(AssertionError):
            assert rows == 3 + WAITING + 1
