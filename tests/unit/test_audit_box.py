# SPDX-License-Identifier: Apache-2.0
"""The box's side of the ledger: what adds up, and what a file that lost something says."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgepaas.cli import main
from edgepaas.files.paths import Paths
from edgepaas.outbox import capture, stream
from edgepaas.outbox.space import shedding
from edgepaas.outbox.stream import Counts
from edgepaas.settings import Settings
from edgepaas.sync.audit.audit import audit
from edgepaas.sync.audit.box import BoxSide, opened_for_audit, read_box
from edgepaas.sync.errors import HubUnreachable
from tests.support.boxes import contract

DOCUMENT: dict[str, Any] = {
    "revision": ["1"],
    "tables": {
        "facts": {
            "kind": "facts",
            "columns": [
                {"name": "id", "type": "TEXT", "storage": "TEXT", "nullable": False},
                {"name": "value", "type": "BIGINT", "storage": "BIGINT", "nullable": True},
            ],
            "key": ["id"],
        }
    },
}
HUB = "postgresql://edge@hub.example/edge"


@pytest.fixture
def file(paths: Paths) -> Iterator[sqlite3.Connection]:
    """The box's file with one captured table."""
    with contextlib.closing(sqlite3.connect(paths.sqlite, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE facts (id TEXT PRIMARY KEY, value BIGINT)")
        capture.install(connection, DOCUMENT, node_id="1b4e28ba-2fa1-41d2-883f-0016d3cca427")
        yield connection


def write(connection: sqlite3.Connection, *numbers: int) -> None:
    connection.executemany("INSERT INTO facts VALUES (?, ?)", [(f"f{n}", n) for n in numbers])


def side(path: Path) -> BoxSide:
    with opened_for_audit(path, path.with_name("db.lock")) as connection:
        return read_box(connection)


def test_rows_that_wait_were_delivered_and_given_up_add_up(
    paths: Paths, file: sqlite3.Connection
) -> None:
    """Ten accepted and a gap row: four delivered, one dead, three shed, the rest pending."""
    write(file, *range(10))
    stream.set_inflight(file, "b1", 5)
    stream.confirm(file, "b1", 5, Counts(delivered=4, dead=1))
    assert shedding.shed(file, [shedding.LowValue("facts", "value", "6")]) == 1
    box = side(paths.sqlite)
    assert box.discrepancies() == []
    assert box.shed_between(1, 100) == 1
    counters = {name: box.counters[name] for name in ("accepted", "delivered", "dead", "shed")}
    assert counters == {"accepted": 11, "delivered": 4, "dead": 1, "shed": 1}
    assert box.counters["pending"] == 5


def test_a_row_that_is_gone_from_the_outbox_is_named(
    paths: Paths, file: sqlite3.Connection
) -> None:
    """Its number was given out, and it was neither sent nor given up."""
    write(file, *range(10))
    file.execute("DELETE FROM outbox WHERE seq IN (3, 7, 8)")
    found = side(paths.sqlite).discrepancies()
    assert "pending 7 make 7" in found[0]
    assert found[1].startswith("the outbox lacks row 3,")
    assert found[2].startswith("the outbox lacks row 7 to 8,")


def test_the_last_row_cannot_go_unnoticed_either(paths: Paths, file: sqlite3.Connection) -> None:
    write(file, 1, 2, 3)
    file.execute("DELETE FROM outbox WHERE seq = 3")
    assert side(paths.sqlite).holes == ((3, 3),)


def test_a_gap_explains_its_own_numbers_and_no_others(
    paths: Paths, file: sqlite3.Connection
) -> None:
    write(file, *range(10))
    shedding.shed(file, [shedding.LowValue("facts", "value", "4")])  # row 5
    file.execute("DELETE FROM outbox WHERE seq IN (4, 6)")
    assert side(paths.sqlite).holes == ((4, 4), (6, 6))


def test_a_counter_that_lies_is_a_discrepancy(paths: Paths, file: sqlite3.Connection) -> None:
    write(file, 1, 2)
    stream.confirm(file, "b1", 2, Counts(delivered=1))
    assert "the box accepted 2 rows" in side(paths.sqlite).discrepancies()[0]


def test_a_fork_and_reclaiming_leave_it_adding_up(paths: Paths, file: sqlite3.Connection) -> None:
    """Numbers are given anew, delivered rows go."""
    from edgepaas.outbox.space.retention import reclaim

    write(file, *range(6))
    stream.confirm(file, "b1", 4, Counts(delivered=4))
    stream.fork(file, "a test")
    write(file, 7)
    assert reclaim(file, older_than=-5).rows == 4
    box = side(paths.sqlite)
    assert box.discrepancies() == []
    assert (box.counters["accepted"], box.counters["pending"]) == (7, 3)


def test_a_box_without_a_hub_has_one_side(
    paths: Paths, file: sqlite3.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """0, and says that there is nobody to ask."""
    Settings.of().write(paths.env_contract)
    contract(paths).write(paths.db_contract)
    write(file, 1)
    assert main(["audit"]) == 0
    said = capsys.readouterr().out
    assert "no PostgreSQL is configured" in said
    assert main(["audit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["box"]["accepted"] == 1


def test_a_hub_that_cannot_be_asked_is_status_2_with_the_boxs_side(
    paths: Paths, file: sqlite3.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """And 1 where the box's own side is wrong already."""
    Settings.of().write(paths.env_contract)
    away = "postgresql://edge@127.0.0.1:9/edge"
    contract(paths, hub_url=away, db_state="fallback").write(paths.db_contract)
    write(file, 1, 2, 3)
    assert main(["audit"]) == 2
    said = capsys.readouterr().out
    assert "PostgreSQL cannot be read" in said
    assert "pending" in said
    file.execute("DELETE FROM outbox WHERE seq = 2")
    assert main(["audit"]) == 1
    assert "the outbox lacks row 2," in capsys.readouterr().out


def test_a_hub_that_goes_away_in_the_middle_leaves_the_boxs_side(
    paths: Paths, file: sqlite3.Connection
) -> None:
    @contextlib.contextmanager
    def gone(*_: object) -> Iterator[Any]:
        class Reader:
            def has_sync_tables(self) -> bool:
                raise HubUnreachable("reset")

        yield Reader()

    write(file, 1)
    decided = contract(paths, hub_url=HUB, db_state="fallback")
    found = audit(decided, Settings.of(), paths, open_reader=gone)
    assert (found.hub_error, found.adds_up, found.complete) == ("reset", True, False)
    assert found.box.counters["pending"] == 1
