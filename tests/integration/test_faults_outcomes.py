# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL that answers and refuses the application's writes: SQLite serves, rows come home."""

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgepaas.alerts.conditions.listing import list_conditions
from edgepaas.decision.contract import DatabaseContract
from edgepaas.files.contract import ContractMissing
from edgepaas.files.paths import Paths
from tests.support.checker import check, summary
from tests.support.history import History
from tests.support.hub_database import HubDatabase
from tests.support.live_box import Clients, LiveBox, request
from tests.support.postgres_server import PostgresServer
from tests.support.refusals import CASES, Guest, RefusalCase, may_mount
from tests.support.service_process import until

SOAK = bool(os.environ.get("EDGEPAAS_SOAK"))
#: What 'make test' has time for: a right, and what is found out by a rehearsal alone.
SHORT = {"insert-revoked", "trigger-raises"}
#: Seconds of WRITE_PATIENCE: the shipped one, where there is time.
PATIENCE = "10" if SOAK else "1"


@pytest.fixture
def guest(hub_database: HubDatabase) -> Iterator[Guest]:
    """The box's role on a PostgreSQL of its own."""
    with Guest.of(hub_database) as found:
        yield found


def alerts_of_refusals(paths: Paths) -> list[dict[str, Any]]:
    found = list_conditions(paths, everything=True)
    return [one for one in found if one["fingerprint"].startswith("writes-refused:")]


@pytest.mark.parametrize(
    "case", [case for case in CASES if SOAK or case.name in SHORT], ids=lambda case: case.name
)
def test_what_refuses_every_write_leads_to_sqlite_and_back(
    tmp_path: Path, guest: Guest, case: RefusalCase
) -> None:
    """No client gets a 500, one alert names table and cause, and nothing is lost or doubled."""
    if case.mounts and not may_mount(tmp_path):
        pytest.skip("a small file system has to be mounted, which takes root")
    history = History()
    settings: dict[str, Any] = {
        "WRITE_PATIENCE": PATIENCE, "HANDBACK_ROWS": "100000",
    } | case.settings  # fmt: skip
    with (
        LiveBox(tmp_path, DATABASE_URL=guest.url, **settings) as box,
        Clients(box.port, history, pause=0.05).writing() as clients,
    ):
        box.wait_state("primary")
        clients.wait_for(20)
        began = time.monotonic()
        with case.bring(guest):
            box.wait_state("fallback", "draining", "degraded", limit=90)
            until(lambda: sqlite_serves(box), f"SQLite\n{box.output()[-3000:]}", 90)
            clients.wait_for(3)
            taken = time.monotonic() - began
            alerts = alerts_of_refusals(box.paths)
            until(
                lambda: box.waiting() > 0 and forwarding(box) in ("blocked", "held"),
                "rows that wait",
                90,
            )
        ended = time.monotonic()
        box.wait_state("primary", limit=180)
        home = time.monotonic() - ended
        clients.wait_for(20)
        clients.stop()
        box.wait_drained()
        found = guest.database.witness.look()
        print(f"{case.name}: SQLite after {taken:.1f} s, home after {home:.1f} s; "
              f"{summary(history, found)}")  # fmt: skip
        statuses = {int(text.split(": ")[1][:3]) for text in clients.surprises}
        assert statuses <= case.statuses, clients.surprises[:3]
        assert check(history, found, conflicts=None) == []
        if case.said:
            (alert,) = alerts
            assert all(word in alert["message"] for word in case.said), alert["message"]
            (alert,) = alerts_of_refusals(box.paths)
            assert alert["state"] != "raised", alert
        status, text = box.run("audit")
        assert status == 0, text


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"] if SOAK else ["LATIN1"])
def test_a_client_whose_text_the_servers_encoding_lacks_moves_nothing(
    tmp_path: Path, postgres: PostgresServer, encoding: str
) -> None:
    """It is told so; the box stays with PostgreSQL, whoever else writes."""
    history = History()
    name = f"t_{secrets.token_hex(6)}"
    postgres.execute(
        f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' "
        "TEMPLATE template0"
    )
    with LiveBox(tmp_path, DATABASE_URL=postgres.url(name), WRITE_PATIENCE="0.5") as box:
        box.wait_state("primary")
        decided = DatabaseContract.read(box.paths.db_contract).generation
        answers = refused_texts(box.port)
        with Clients(box.port, history, count=2, pause=0.02).writing() as clients:
            clients.wait_for(10)
            answers += refused_texts(box.port)
            clients.wait_for(10)
        assert box.state() == "primary"
        assert DatabaseContract.read(box.paths.db_contract).generation == decided
        assert alerts_of_refusals(box.paths) == []
        assert clients.surprises == []
        assert {status for status, _ in answers} == {422}, answers[0]
        assert b"U+20AC" in answers[0][1]
    postgres.drop_database(name)


def refused_texts(port: int) -> list[tuple[int, bytes]]:
    """Post a character that Unicode has and the server lacks, for three times WRITE_PATIENCE."""
    answers: list[tuple[int, bytes]] = []
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline or len(answers) < 10:
        body = {"device": "other", "metric": "price", "value": 1, "unit": "\u20ac"}
        answers.append(request(port, "POST", "/api/v1/readings", body))
        time.sleep(0.02)
    return answers


def test_a_build_that_never_gives_postgresql_up_is_found_out(tmp_path: Path, guest: Guest) -> None:
    (case,) = (case for case in CASES if case.name == "insert-revoked")
    history = History()
    weak = LiveBox(tmp_path, weak=("never-gives-up",), DATABASE_URL=guest.url, WRITE_PATIENCE="0.5")
    with weak as box, Clients(box.port, history, pause=0.05).writing() as clients:
        box.wait_state("primary")
        clients.wait_for(10)
        with case.bring(guest):
            box.wait_state("degraded")
            refused = clients.refused
            until(lambda: clients.refused > refused + 100, "requests that are refused", 60)
            assert not sqlite_serves(box)
            assert alerts_of_refusals(box.paths) == []
            clients.stop()


def sqlite_serves(box: LiveBox) -> bool:
    try:
        return DatabaseContract.read(box.paths.db_contract).sqlite_active
    except ContractMissing:
        return False  # the decision is being made


def forwarding(box: LiveBox) -> str:
    from edgepaas.sync.status import read

    found = read(box.paths)
    return "" if found is None else found.state
