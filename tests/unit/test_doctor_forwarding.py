# SPDX-License-Identifier: Apache-2.0
"""The preflight on the rows' way home: each finding, and what it tells one to do."""

import contextlib
import json
import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from edgepaas.doctor import forwarding
from edgepaas.files.paths import Paths
from edgepaas.outbox import capture
from edgepaas.settings import Settings
from edgepaas.sync import status as sync_status
from tests.support.boxes import contract

HUB = "postgresql://edge@127.0.0.1:9/edge"
DOCUMENT: dict[str, Any] = {
    "revision": ["1"],
    "tables": {
        "facts": {
            "kind": "facts",
            "columns": [{"name": "id", "type": "TEXT", "storage": "TEXT", "nullable": False}],
            "key": ["id"],
        }
    },
}


@pytest.fixture
def file(paths: Paths) -> Path:
    """A box in fallback whose file captures one table."""
    contract(paths, hub_url=HUB, db_state="fallback").write(paths.db_contract)
    paths.tables.write_text(json.dumps(DOCUMENT), encoding="utf-8")
    with contextlib.closing(sqlite3.connect(paths.sqlite, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE facts (id TEXT PRIMARY KEY)")
        capture.install(connection, DOCUMENT, node_id="1b4e28ba-2fa1-41d2-883f-0016d3cca427")
    return paths.sqlite


def change(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def alive(paths: Paths, **values: Any) -> None:
    """Have a drainer (this process) report."""
    sync_status.write(paths, sync_status.stamped({"hub": "ok", **values}, 1_700_000_000.0))


def test_a_box_without_a_hub_needs_none_of_it(paths: Paths) -> None:
    settings = Settings.of()
    found = [
        *forwarding.drainer(paths),
        forwarding.captured(paths, settings),
        forwarding.ledger(paths, settings),
        forwarding.budget(paths, settings),
        forwarding.ballast(paths, settings),
        forwarding.hub_schema(paths, settings),
    ]
    assert {finding.level for finding in found} == {"ok"}


def test_a_drainer_that_does_not_run_is_a_failure(paths: Paths, file: Path) -> None:
    (finding,) = forwarding.drainer(paths)
    assert (finding.level, finding.name) == ("fail", "sync")
    assert "edgepaas-sync" in finding.advice


@pytest.mark.parametrize(
    ("values", "level"),
    [
        ({"state": "idle"}, "ok"),
        ({"state": "held", "hub": "away"}, "ok"),
        ({"state": "idle", "open_dead_letters": 2}, "warn"),
        ({"state": "blocked", "reason": "no column"}, "fail"),
        ({"state": "held", "hub": "misconfigured"}, "fail"),
    ],
)
def test_what_the_drainer_says_is_judged(
    paths: Paths, file: Path, values: dict[str, Any], level: str
) -> None:
    alive(paths, **values)
    assert forwarding.drainer(paths)[0].level == level


def test_the_wake_up_is_a_socket(paths: Paths, file: Path) -> None:
    alive(paths, state="idle")
    assert forwarding.drainer(paths)[1].level == "warn"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wake:
        wake.bind(str(paths.sync_wake))
        assert forwarding.drainer(paths)[1].level == "ok"


def test_a_trigger_that_is_gone_is_named(paths: Paths, file: Path) -> None:
    """A write that is not captured never gets home."""
    assert forwarding.captured(paths, Settings.of()).level == "ok"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        ((name,), *_) = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
        ).fetchall()
    change(file, f'DROP TRIGGER "{name}"')
    finding = forwarding.captured(paths, Settings.of())
    assert finding.level == "fail"
    assert f"the trigger {name} is missing" in finding.message


def test_a_ledger_that_does_not_add_up_is_a_failure(paths: Paths, file: Path) -> None:
    change(file, "INSERT INTO facts VALUES ('a'), ('b'), ('c')")
    assert forwarding.ledger(paths, Settings.of()).level == "ok"
    change(file, "DELETE FROM outbox WHERE seq = 2")
    finding = forwarding.ledger(paths, Settings.of())
    assert finding.level == "fail"
    assert "the outbox lacks row 2," in finding.message


def test_a_budget_that_is_nearly_used_up_warns_and_one_that_is_fails(
    paths: Paths, file: Path
) -> None:
    size = file.stat().st_size
    levels = [
        forwarding.budget(paths, Settings.of(DISK_BUDGET=str(int(size / share)))).level
        for share in (0.5, 0.8, 0.99)
    ]
    assert levels == ["ok", "warn", "fail"]


def test_a_ballast_that_is_not_there_is_a_warning(paths: Paths, file: Path) -> None:
    assert forwarding.ballast(paths, Settings.of()).level == "warn"
    assert forwarding.ballast(paths, Settings.of(BALLAST="0")).level == "ok"
    paths.ballast.write_bytes(b"\0" * 1024)
    assert forwarding.ballast(paths, Settings.of()).level == "ok"


def test_a_hub_that_is_away_is_not_judged(paths: Paths, file: Path) -> None:
    """That it is away is another finding's business."""
    finding = forwarding.hub_schema(paths, Settings.of())
    assert finding.level == "ok"
    assert "not examined" in finding.message
